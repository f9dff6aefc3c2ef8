# SPDX-License-Identifier: Apache-2.0
"""A compute service on a compute host, which works on several requests."""

from concurrent import futures
import os
import pathlib
import signal
import subprocess
import threading
import typing as ty

from oslo_serialization import jsonutils
import psutil

from lab import compute
from lab import errors
from lab import process

_PROGRAM = pathlib.Path(__file__).with_name('trial.py')

# Seconds for it to start, and to end by itself.
_START = 120
_GRACE = 10


class Request:
    """Something the service was asked for.

    :ivar number: what the service knows it by
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._answer: futures.Future[dict[str, ty.Any]] = futures.Future()

    @property
    def done(self) -> bool:
        return self._answer.done()

    def set(self, answer: dict[str, ty.Any]) -> None:
        if not self.done:
            self._answer.set_result(answer)

    def answer(self, timeout: float = 120) -> dict[str, ty.Any]:
        """Wait for what the service says, an error included.

        :param timeout: in seconds
        :raises LabError: it says nothing, or has ended
        """
        try:
            answer = self._answer.result(timeout)
        except futures.TimeoutError:
            raise errors.LabError(
                f'No answer of the service in {timeout:.0f} s') from None
        if not answer:
            raise errors.LabError('The service has ended')
        return answer

    def fetched(self, timeout: float = 120) -> compute.Fetched:
        """Wait for the end of a fetch.

        :param timeout: in seconds
        :raises FetchFailed: when Nova raised an error
        """
        answer = dict(self.answer(timeout))
        del answer['id']
        if 'error' in answer:
            raise errors.FetchFailed(
                answer['error'], answer['message'], answer['log'])
        return compute.Fetched(
            **answer | {'path': pathlib.Path(answer['path'])})


class Service(process.LabFixture):
    """The program lab.trial on a host, by the service's user.

    :ivar log: path of the file with its standard error
    """

    def __init__(self, host: compute.ComputeHost, *, eventlet: bool = False,
                 prefix: tuple[process.Argument, ...] = ()) -> None:
        """Describe it; setUp() starts it.

        :param eventlet: run it in eventlet's mode
        :param prefix: a command that runs the command it is given
        """
        super().__init__()
        self._host = host
        self._eventlet = eventlet
        self._prefix = prefix
        self._requests: dict[int, Request] = {}
        self.log = host.directory / 'service.log'

    def _setUp(self) -> None:
        # -P: modules beside the program must not hide others.
        argv = self._host.enter_argv(
            *self._prefix, self._host.python, '-P', _PROGRAM, self._host.conf)
        mode = {'OS_NOVA_DISABLE_EVENTLET_PATCHING':
                'false' if self._eventlet else 'true'}
        with open(self.log, 'ab') as log:
            self._child: subprocess.Popen[str] = process.spawn(
                argv, cwd='/', text=True, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=log,
                env=self._host.environment() | mode |
                self._host.cloud.token_environment('demo'))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.addCleanup(self._stop)
        try:
            self.ask('reload').answer(_START)
        except errors.LabError as exc:
            raise errors.LabError(
                f'{exc}. End of {self.log}:\n'
                f'{process.tail(self.log)}') from exc

    def _read(self) -> None:
        assert self._child.stdout
        for line in self._child.stdout:
            answer = jsonutils.loads(line)
            self._requests[answer['id']].set(answer)
        for request in self._requests.values():
            request.set({})

    def _stop(self) -> None:
        assert self._child.stdin
        self._child.stdin.close()
        process.wait_for(lambda: self._child.poll() is not None, _GRACE)
        # The kernel then kills the service itself, whose output ends.
        self._child.kill()
        self._reader.join(_GRACE)
        process.end(self._child, grace=0, group=False)

    @property
    def alive(self) -> bool:
        return self._child.poll() is None

    @property
    def pid(self) -> int:
        """The pid of the service as seen from outside."""
        return psutil.Process(self._child.pid).children()[0].pid

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to the service only."""
        os.kill(self.pid, number)

    def ask(self, action: str, **arguments: ty.Any) -> Request:
        """Ask for one of the actions of lab.trial.

        :raises LabError: it has ended
        """
        request = Request(len(self._requests))
        self._requests[request.number] = request
        assert self._child.stdin
        try:
            self._child.stdin.write(jsonutils.dumps({
                'id': request.number, 'action': action, **arguments}) + '\n')
            self._child.stdin.flush()
        except BrokenPipeError as exc:
            raise errors.LabError('The service has ended') from exc
        return request

    def fetch(self, image_id: str, path: pathlib.Path,
              digest: bool = True) -> Request:
        """Start to download an image to a file.

        :param digest: report the SHA-256 of the file as well
        """
        return self.ask('fetch', image_id=image_id, path=str(path),
                        digest=digest)
