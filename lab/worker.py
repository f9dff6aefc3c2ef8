# SPDX-License-Identifier: Apache-2.0
"""A process on a compute host that fetches one image after another."""

import pathlib
import select
import subprocess
import typing as ty

from oslo_serialization import jsonutils

from lab import compute
from lab import errors
from lab import process

# Seconds for Nova to end by itself, which ends its privsep daemon, too.
_GRACE = 10


class Worker(process.LabFixture):
    """A running process that downloads images like nova-compute.

    Nova's start takes three seconds of processor time, so tests that fetch
    many images share one. All fetches have the same process and privsep
    daemon, and are independent of each other otherwise.

    :ivar log: path of the file with its standard error
    """

    def __init__(self, host: compute.ComputeHost, *,
                 user: str = 'demo') -> None:
        """Describe it; setUp() starts it.

        :param user: whose images it fetches
        """
        super().__init__()
        self._host = host
        self._user = user
        self.log = host.directory / 'worker.log'

    def _setUp(self) -> None:
        cloud = self._host.cloud
        argv = self._host.enter_argv(
            *self._host.program_argv(), '--start-privsep', '--serve')
        with open(self.log, 'ab') as log:
            self._child: subprocess.Popen[str] = process.spawn(
                argv, cwd='/', text=True, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=log,
                env=self._host.environment() |
                cloud.token_environment(self._user))
        self.addCleanup(self._stop)

    def _stop(self) -> None:
        assert self._child.stdin
        self._child.stdin.close()
        process.wait_for(lambda: self._child.poll() is not None, _GRACE)
        process.end(self._child, grace=0, group=False)

    def fetch(self, image_id: str, *,
              path: pathlib.Path | None = None,
              trusted_certs: list[str] | None = None,
              digest: bool = True,
              timeout: float = 120) -> compute.Fetched:
        """Fetch an image, with what nova.conf says now.

        :param path: download to this file, outside of the image cache
        :param trusted_certs: ids of certificates to verify with
        :param digest: report the SHA-256 of the file as well
        :param timeout: in seconds
        :raises FetchFailed: when Nova raised an error
        :raises LabError: when it got no answer
        """
        return compute.outcome(self._ask({
            'image_id': image_id, 'path': path and str(path),
            'trusted_certs': trusted_certs or [], 'digest': digest},
            timeout))

    def _ask(self, request: dict[str, ty.Any],
             timeout: float) -> dict[str, ty.Any]:
        assert self._child.stdin and self._child.stdout
        try:
            self._child.stdin.write(jsonutils.dumps(request) + '\n')
            self._child.stdin.flush()
        except BrokenPipeError:
            pass
        answer = ''
        if select.select([self._child.stdout], [], [], timeout)[0]:
            answer = self._child.stdout.readline()
        if not answer:
            raise errors.LabError(
                f'The worker gave no answer. End of {self.log}:\n'
                f'{process.tail(self.log)}')
        return jsonutils.loads(answer)
