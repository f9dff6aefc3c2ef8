# SPDX-License-Identifier: Apache-2.0

"""One compute service for all classes of a process, and faults around it."""

import atexit
from collections.abc import Iterator
import contextlib
import functools
import os
import pathlib
import shutil
import signal
import time
from typing import Any
from typing import ClassVar

from lab import cloud as lab_cloud
from lab import compute
from lab import config
from lab import errors
from lab import process
from lab import service as lab_service
from lab.tests.functional import base

MIB = base.MIB

#: Seconds within which a time limit has to hold.
SLACK = 2.0

#: [glance] of nova.conf. The first byte may take long from a slow OSD.
USUAL: dict[str, Any] = {
    'rbd_connect_timeout': 20, 'rbd_stall_timeout': 2, 'num_retries': 0}

#: [nova_sys_admin] of nova.conf: what a host with two processors has.
_DAEMON = {'thread_pool_size': '2'}


class Site:
    """A host and the service on it, used by one class after another.

    To start all this takes longer than most of the tests. It ends with the
    process.

    :ivar host: the compute host
    :ivar service: the service that runs there now
    """

    def __init__(self, cloud: lab_cloud.Cloud, *, eventlet: bool) -> None:
        self._eventlet = eventlet
        self.host = compute.ComputeHost(
            cloud, name='eventlet' if eventlet else 'native')
        self.host.setUp()
        atexit.register(self.host.cleanUp)
        self.configure({})
        self.start_service()

    def configure(self, glance: dict[str, Any]) -> None:
        """Write nova.conf with these options in [glance]."""
        self.host.configure(
            {'nova_sys_admin': _DAEMON, 'glance': USUAL | glance})

    def start_service(self) -> None:
        """Start a service, after the one there was has ended."""
        self.service = lab_service.Service(
            self.host, eventlet=self._eventlet)
        self.service.setUp()
        atexit.register(self.service.cleanUp)


@functools.cache
def _images(cloud: lab_cloud.Cloud) -> pathlib.Path:
    """A folder with the files that tests upload."""
    folder = cloud.directory / 'images'
    folder.mkdir()
    (folder / 'image').write_bytes(os.urandom(8 * MIB + 511))
    (folder / 'large').write_bytes(os.urandom(64 * MIB))
    return folder


@functools.cache
def _shared_site(eventlet: bool) -> Site:
    return Site(base.shared_cloud(), eventlet=eventlet)


class ServiceTestCase(base.LabTestCase):
    """All classes of a process have the same host and service, too.

    What a test changes there it changes back; that neither a process nor a
    file, thread or descriptor is left is looked at after each test.
    """

    EVENTLET: ClassVar[bool] = False

    site: ClassVar[Site]
    image: ClassVar[pathlib.Path]
    #: Long enough to be in the middle of it, where the OSD is slow.
    large_image: ClassVar[pathlib.Path]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.site = _shared_site(cls.EVENTLET)
        if not cls.site.service.alive:
            cls.site.start_service()
        cls.image = _images(cls.cloud) / 'image'
        cls.large_image = _images(cls.cloud) / 'large'

    @property
    def service(self) -> lab_service.Service:
        """The service that runs now."""
        return self.site.service

    @property
    def shared_host(self) -> compute.ComputeHost:
        """The host of the service."""
        return self.site.host

    def setUp(self) -> None:
        super().setUp()
        # A cluster that an earlier test has stopped is not left out.
        self.service.ask('reload').answer()
        self.before = self.resources()

    def make_host(self) -> compute.ComputeHost:
        """The host of the class, in place of one for each test."""
        return self.shared_host

    def _assert_nothing_left(self) -> None:
        self.assertTrue(process.wait_for(
            lambda: not self.shared_host.pids('rbd'), 10))
        self.assertTrue(process.wait_for(
            lambda: len(self.daemons()) <= 1, 10))
        self.assertEqual([], os.listdir(self.shared_host.directory / 'tmp'))
        self.assertEqual([], [name for name in self._instance_files()
                              if name.endswith('.partial')])
        shutil.rmtree(self.out().parent)
        process.wait_for(lambda: self.resources() == self.before, 10, 0.5)
        self.assertEqual(self.before, self.resources())

    def resources(self) -> tuple[list[str], list[str]]:
        """The threads and descriptors of the service."""
        answer = self.service.ask('resources').answer()
        # Connections to Glance and Keystone are kept for later.
        return answer['threads'], [
            target.partition('[')[0] for target in answer['descriptors']
            if not target.startswith('socket:')
            and target != 'anon_inode:[eventpoll]']

    def daemons(self) -> list[int]:
        """The pids of privsep daemons."""
        return self.shared_host.pids(
            str(self.shared_host.python.parent / 'privsep-helper'))

    def configure(self, **glance: config.Value | None) -> None:
        """Set options of [glance] until the end of the test."""
        self._reload(glance)
        self.addCleanup(self._reload, {})

    def _reload(self, glance: dict[str, config.Value | None]) -> None:
        self.site.configure(glance)
        self.service.ask('reload').answer()

    def write_ceph_conf(self, **options: config.Value | None) -> pathlib.Path:
        """Have a ceph.conf with other options used, until the test ends."""
        path = self.shared_host.directory / 'other.conf'
        known = self.cloud.ceph.client_options(self.shared_host.keyring)
        config.write(path, config.render(config.merge(
            known, {'global': {name.replace('_', ' '): value
                               for name, value in options.items()}})))
        self.addCleanup(path.unlink, missing_ok=True)
        self.configure(rbd_ceph_conf=path)
        return path

    def write_keyring(self, text: str) -> pathlib.Path:
        """Have another keyring used, until the test ends."""
        path = config.write(
            self.shared_host.directory / 'other.keyring', text, 0o600)
        self.addCleanup(path.unlink, missing_ok=True)
        self.write_ceph_conf(keyring=path)
        return path

    def fetch(self, image_id: str, name: str = 'out') -> compute.Fetched:
        """Download an image, from the first byte to the last."""
        return self.service.fetch(image_id, self.out(name)).fetched()

    def assert_by_http(
        self, reason: str, image_id: str, fetched: compute.Fetched,
        path: pathlib.Path | None = None,
    ) -> None:
        """It came by HTTP, and one warning says why."""
        self.assert_same(path or self.image, fetched)
        self.assert_fetched_by('http', image_id, fetched)
        [warning] = self.warnings(fetched.log)
        self.assertIn(
            'Image %s could not be fetched by rbd, the next source is tried: '
            % image_id, warning)
        self.assertRegex(warning, reason)

    def assert_by_rbd(
        self, image_id: str, fetched: compute.Fetched,
        path: pathlib.Path | None = None,
    ) -> None:
        """Assert that it was downloaded from Ceph, without a warning."""
        self.assert_same(path or self.image, fetched)
        self.assert_fetched_by('rbd', image_id, fetched)
        self.assertEqual([], self.warnings(fetched.log))

    @contextlib.contextmanager
    def slow_osd(self, seconds: float = 0.04) -> Iterator[None]:
        """Have the OSD take that long for each operation, one by one."""
        def delay(probability: float) -> None:
            option = '--osd-debug-inject-dispatch-delay-'
            self.cloud.ceph.ceph(
                'tell', 'osd.0', 'injectargs',
                f'{option}duration={seconds} '
                f'{option}probability={probability}')

        delay(1)
        try:
            yield
        finally:
            delay(0)

    @contextlib.contextmanager
    def stopped(self, pid: int) -> Iterator[None]:
        """Have a process stand still."""
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    @contextlib.contextmanager
    def program(self, script: str) -> Iterator[None]:
        """Have a shell script in place of rbd."""
        path = self.shared_host.directory / 'program'
        config.write(path, '#!/bin/sh\n' + script, 0o755)
        run = self.shared_host.run_as_root
        run('mount', '--bind', path, '/usr/bin/rbd')
        try:
            yield
        finally:
            run('umount', '/usr/bin/rbd')
            path.unlink()

    def rbd_pid(self, after: int = 0) -> int:
        """Wait until an export has written so many bytes; return its pid."""
        found: list[int] = []

        def runs() -> bool:
            found[:] = [pid for command in ('export', 'export-diff')
                        for pid in self.shared_host.pids('rbd', command)]
            return bool(found)

        # To look for processes takes long, to look at one does not.
        if not process.wait_for(runs, 60, 0.01) or not process.wait_for(
                lambda: _written(found[0]) >= after, 60, 0.005):
            raise errors.LabError('There is no rbd that has written %d bytes'
                                  % after)
        return found[0]

    @staticmethod
    def now() -> float:
        return time.monotonic()

    def wait_for_log(self, text: str, request: lab_service.Request) -> None:
        """Wait until the service has logged something."""
        if not process.wait_for(
                lambda: request.done or
                text in self.service.log.read_text(errors='replace'), 60,
                0.02):
            raise errors.LabError('The service does not log: %s' % text)


def _written(pid: int) -> int:
    try:
        text = pathlib.Path('/proc/%d/io' % pid).read_text(encoding='ascii')
    except OSError:
        return -1
    return int(text.partition('wchar:')[2].split()[0])
