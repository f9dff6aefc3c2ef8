# SPDX-License-Identifier: Apache-2.0

"""Downloads images for a given time, with random faults.

``python -m lab.tests.functional.soak [MINUTES] [SEED]``, or
``tox -e soak -- MINUTES SEED``; not one of the tests that are always run. Up
to 50 minutes, since the service has one token, which lasts an hour.
"""

import collections
from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import os
import pathlib
import random
import signal
import sys
import time
import unittest

from lab import config
from lab import errors
from lab import process
from lab.tests.functional import service_base

MIB = service_base.MIB

#: In seconds; HTTP needs the OSD, too, which a fault lets go on before.
LONGEST = 40.0


class Soak(service_base.ServiceTestCase):
    """Each download: the right image or a clear error, and nothing left."""

    MINUTES = 10.0
    SEED = 0

    def setUp(self) -> None:
        super().setUp()
        self._act: Callable[[], object] = _nothing
        self.configure()

    def configure(self, **glance: config.Value | None) -> None:
        super().configure(rbd_connect_timeout=2, **glance)

    def test_soak(self) -> None:
        rng = random.Random(self.SEED)
        files = self.make_files(rng)
        faults = [name for name in dir(self) if name.startswith('fault_')]
        outcomes: collections.Counter[tuple[str, str]] = (
            collections.Counter())
        end = time.monotonic() + self.MINUTES * 60
        longest = 0.0
        while time.monotonic() < end:
            path, disk_format, image_id = rng.choice(files)
            fault = rng.choice(faults)
            begin = time.monotonic()
            outcome = self.attempt(fault, path, image_id, rng)
            longest = max(longest, time.monotonic() - begin)
            outcomes[fault.removeprefix('fault_'), outcome] += 1
            self.check(fault)
        self.tell(outcomes, longest)
        for path, _disk_format, image_id in files:
            self.assertEqual('by rbd', self.attempt(
                'fault_none', path, image_id, rng))
        # A daemon that died was started again, by other descriptors; those
        # of downloads are counted.
        before, now = (
            [target for target in descriptors if 'eventfd' in target or
             'stream' in target or '/#' in target]
            for descriptors in (self.before[1], self.resources()[1]))
        self.assertEqual(before, now)
        self.before = self.resources()

    def make_files(
        self, rng: random.Random,
    ) -> list[tuple[pathlib.Path, str, str]]:
        found = []
        for number, size in enumerate((4096, 7 * MIB + 1, 96 * MIB)):
            for disk_format in ('iso', 'raw'):
                path = self.files / ('%d.%s' % (number, disk_format))
                with open(path, 'wb') as file:
                    for offset in range(0, size, MIB):
                        if disk_format == 'iso' or rng.random() < 0.5:
                            file.seek(offset)
                            file.write(os.urandom(min(MIB, size - offset)))
                    file.truncate(size)
                found.append(
                    (path, disk_format, self.upload(path, disk_format)))
        return found

    def attempt(
        self, fault: str, path: pathlib.Path, image_id: str,
        rng: random.Random,
    ) -> str:
        delay = rng.uniform(0, 0.6)
        with getattr(self, fault)():
            request = self.service.fetch(image_id, self.out())
            time.sleep(delay)
            self.act()
            # The fault is over when its context is left.
            process.wait_for(lambda: request.done, rng.uniform(0.5, 6))
        try:
            fetched = request.fetched(LONGEST)
        except errors.FetchFailed as error:
            self.assertFalse(self.out().exists(), error)
            return 'error: %s' % error.kind
        self.assert_same(path, fetched)
        self.out().unlink()
        [line] = [line for line in fetched.log
                  if 'Image %s fetched by' % image_id in line]
        return 'by ' + line.split(' fetched by ')[1].split(':')[0]

    def check(self, fault: str) -> None:
        left: list[str] = []

        def clean() -> bool:
            left[:] = [*os.listdir(self.out().parent),
                       *os.listdir(self.shared_host.directory / 'tmp'),
                       *map(str, self.shared_host.pids('rbd')),
                       *(name for name in self.resources()[0]
                         if name.startswith('image-'))]
            return not left

        self.assertTrue(process.wait_for(clean, 12), (fault, left))

    def tell(
        self, outcomes: 'collections.Counter[tuple[str, str]]',
        longest: float,
    ) -> None:
        total = sum(outcomes.values())
        print('%d downloads in %.1f minutes, the longest %.1f s'
              % (total, self.MINUTES, longest), file=sys.stderr)
        for (fault, outcome), count in sorted(outcomes.items()):
            print('%5d  %-24s %s' % (count, fault, outcome), file=sys.stderr)

    def act(self) -> None:
        """Cause the fault during the download."""
        self._act()

    @contextlib.contextmanager
    def acting(self, act: Callable[[], object]) -> Iterator[None]:
        self._act = act
        try:
            yield
        finally:
            self._act = _nothing

    def signal_rbd(self, number: signal.Signals) -> None:
        for pid in self.shared_host.pids('rbd'):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    @contextlib.contextmanager
    def fault_none(self) -> Iterator[None]:
        yield

    @contextlib.contextmanager
    def fault_osd_stands_still(self) -> Iterator[None]:
        osd = self.cloud.ceph.osd.pid
        with self.acting(lambda: os.kill(osd, signal.SIGSTOP)):
            try:
                yield
            finally:
                os.kill(osd, signal.SIGCONT)

    @contextlib.contextmanager
    def fault_osd_stood_still_before(self) -> Iterator[None]:
        with self.stopped(self.cloud.ceph.osd.pid):
            yield

    @contextlib.contextmanager
    def fault_monitor_stands_still(self) -> Iterator[None]:
        with self.stopped(self.cloud.ceph.mon.pid):
            yield

    @contextlib.contextmanager
    def fault_rbd_dies(self) -> Iterator[None]:
        with self.acting(lambda: self.signal_rbd(signal.SIGKILL)):
            yield

    @contextlib.contextmanager
    def fault_rbd_stands_still(self) -> Iterator[None]:
        with self.acting(lambda: self.signal_rbd(signal.SIGSTOP)):
            yield

    @contextlib.contextmanager
    def fault_daemon_dies(self) -> Iterator[None]:
        def kill() -> None:
            # Not with a call on its way to it: oslo.privsep (3.12) would
            # never notice.
            process.wait_for(
                lambda: bool(self.shared_host.pids('rbd')), 1, 0.01)
            for pid in self.daemons():
                os.kill(pid, signal.SIGKILL)

        with self.acting(kill):
            yield

    @contextlib.contextmanager
    def fault_disk_is_full(self) -> Iterator[None]:
        # More than what the service writes into its log.
        self.service.ask('limit_files', size=32 * MIB).answer()
        try:
            yield
        finally:
            self.service.ask('limit_files', size=None).answer()

    @contextlib.contextmanager
    def fault_wrong_user(self) -> Iterator[None]:
        self.configure(rbd_user='stranger')
        try:
            yield
        finally:
            self.configure()


def _nothing() -> None:
    pass


def main(arguments: list[str]) -> int:
    if arguments:
        Soak.MINUTES = float(arguments[0])
    if arguments[1:]:
        Soak.SEED = int(arguments[1])
    print('Seed %s' % Soak.SEED, file=sys.stderr)
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(Soak)
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    return 0 if result.wasSuccessful() and result.testsRun else 1


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
