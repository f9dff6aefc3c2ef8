# SPDX-License-Identifier: Apache-2.0

"""A transfer that is killed or interrupted, at every system call."""

from collections.abc import Callable
from concurrent import futures
import contextlib
import errno
import itertools
import os
import pathlib
import threading
import time
import typing as ty
from unittest import mock

import fixtures

from nova.image import compat
from nova.image import transfer
import nova.privsep.utils
from nova.tests.unit.image import fakes


class Killed(BaseException):
    """Ends a thread wherever it is, as a signal or eventlet's kill does."""


class Victim(threading.Thread):
    """A call in a thread that can be killed while it waits."""

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__(target=call, daemon=True)
        self.error: BaseException | None = None
        self.has_ended = False
        self.green: ty.Any = None
        self.killed = compat.native('threading').Event()

    def run(self) -> None:
        try:
            super().run()
        except BaseException as exc:
            self.error = exc
        self.has_ended = True

    def wait(self) -> None:
        wait_until(lambda: self.has_ended)


def wait_until(condition: Callable[[], object]) -> None:
    """Wait until the condition is true; let green threads run."""
    end = time.monotonic() + fakes.LIMIT
    while not condition():
        if time.monotonic() > end:
            raise AssertionError('the condition is still false')
        time.sleep(0.001)


def own_ident() -> int:
    return compat.native('threading').get_ident()


class Killing(fixtures.Fixture):
    """Starts calls in threads that can be killed while they wait.

    With eventlet, these are green threads. Native threads cannot be killed, so
    without eventlet this fixture replaces the wait for native work with one
    that kill() ends.
    """

    def _setUp(self) -> None:
        self._eventlet = compat.eventlet()
        self._started: list[threading.Thread] = []
        self._gate = compat.native('threading').Event()
        self._gate.set()
        if self._eventlet is None:
            self.useFixture(fixtures.MockPatchObject(
                compat, 'in_native_thread', self._in_thread))
        self.addCleanup(self.free)

    def start(self, call: Callable[[], object]) -> Victim:
        victim = Victim(call)
        self.addCleanup(victim.wait)
        if self._eventlet is not None:
            victim.green = self._eventlet.spawn(victim.run)
        else:
            victim.start()
            self.addCleanup(victim.join, fakes.LIMIT)
        return victim

    def kill(self, victim: Victim) -> None:
        """Kill it; its cleanup may still run after this returns."""
        if self._eventlet is not None:
            self._eventlet.kill(victim.green, Killed)
        victim.killed.set()

    def occupy(self) -> None:
        """Keep native work from starting until free() is called."""
        self._gate.clear()
        work = transfer._Work.run

        def late(transfer_: ty.Any) -> object:
            self._started.append(
                compat.native('threading').current_thread())
            fakes.wait(self._gate)
            return work(transfer_)

        self.useFixture(fixtures.MockPatchObject(
            transfer._Work, 'run', late))

    def free(self) -> None:
        """Let the work start, and wait until it has ended."""
        self._gate.set()
        for thread in self._started:
            thread.join(fakes.LIMIT)

    def _in_thread(self, work: Callable[[], ty.Any]) -> Callable[[], ty.Any]:
        def call() -> ty.Any:
            future: futures.Future[ty.Any] = futures.Future()

            def run() -> None:
                try:
                    future.set_result(work())
                except BaseException as exc:
                    future.set_exception(exc)

            thread = threading.Thread(target=run, daemon=True)
            thread.start()
            victim = threading.current_thread()
            assert isinstance(victim, Victim)
            while thread.is_alive():
                if victim.killed.is_set():
                    raise Killed
                time.sleep(0.001)
            return future.result()

        return call


#: The system calls of a transfer that can hang.
_CALLS = ('open', 'stat', 'fstat', 'unlink', 'pwrite', 'ftruncate', 'fsync',
          'link', 'replace', 'close')
_NAMING = ('link', 'replace')


class Steps(fixtures.Fixture):
    """Records the system calls of a transfer, and acts at one of them."""

    def __init__(self, number: int = -1,
                 callback: Callable[[], None] = lambda: None,
                 after: bool = False, everywhere: bool = False) -> None:
        """Watch the system calls.

        :param number: number of the call, from 0; negative: none
        :param callback: called in the thread that makes the call
        :param after: whether to call it after the system call, not before
        :param everywhere: count the calls of the test's thread, too
        """
        self._number = number
        self._callback = callback
        self._after = after
        self._everywhere = everywhere
        self.calls: list[str] = []
        self.threads: set[int] = set()

    def _setUp(self) -> None:
        self._own = own_ident()
        self._lock = compat.native('threading').Lock()
        for name in _CALLS:
            self.useFixture(fixtures.MockPatchObject(
                os, name, self._watched(name, getattr(os, name))))

    @property
    def reached(self) -> str:
        """The chosen system call; '' if the transfer did not get there."""
        number = self._number
        return self.calls[number] if 0 <= number < len(self.calls) else ''

    def _watched(self, name: str,
                 real: Callable[..., ty.Any]) -> Callable[..., ty.Any]:
        def call(*args: ty.Any, **kwargs: ty.Any) -> ty.Any:
            ident = own_ident()
            if ident == self._own and not self._everywhere:
                return real(*args, **kwargs)
            with self._lock:
                number = len(self.calls)
                self.calls.append(name)
                self.threads.add(ident)
                if name == 'link' and args[1] not in ('image', 'other'):
                    self.calls[number] = 'link to a temporary name'
            chosen = number == self._number
            if chosen and not self._after:
                self._callback()
            try:
                return real(*args, **kwargs)
            finally:
                if chosen and self._after:
                    self._callback()

        return call


class KillableSource(fakes.MemorySource):
    """Records that it is interrupted, but continues."""

    def __init__(self, image: bytes) -> None:
        super().__init__([(0, image)], endless=True)
        self.interrupted = compat.native('threading').Event()

    def interrupt(self) -> None:
        self.interrupted.set()


class KilledTestCase(fakes.TransferTestCase):
    IMAGE = fakes.noise(fakes.SMALL + 5)

    def setUp(self) -> None:
        super().setUp()
        self.use_small_blocks()
        # Nova's function creates a file of its own, and removes it unless a
        # signal arrives at that moment. That file is not tested here.
        self.replace(nova.privsep.utils, 'supports_direct_io',
                     lambda _directory: True)
        self.event = compat.native('threading').Event

    def at_every_call(self, attempt: Callable[[int, bool, bool], str]) -> None:
        """Call attempt(number, after, replace) for each system call.

        It returns '' if the transfer has ended before this number of calls.
        """
        for has_tmpfile in (True, False):
            if not has_tmpfile:
                self.forbid(os.O_TMPFILE, errno.EOPNOTSUPP)
            for case in itertools.product((False, True), (True, False)):
                numbers = itertools.count()
                while attempt(next(numbers), *case):
                    self.assertEqual([], os.listdir(self.directory),
                                     str((has_tmpfile, numbers, case)))
                    self.leaks.check()
                self.assertGreater(next(numbers), 9)
                self.assertEqual(fakes.digest(self.IMAGE),
                                 fakes.digest(self.content()))
                os.unlink(self.path)
                self.assert_nothing_left()
                self.leaks.check()


class TestKilled(KilledTestCase):
    """The waiting thread is killed; a native one does the work."""

    def setUp(self) -> None:
        super().setUp()
        self.killing = self.useFixture(Killing())

    def start(self, source: KillableSource, replace: bool = True,
              name: str = 'image') -> Victim:
        return self.killing.start(lambda: transfer.transfer(
            source, os.path.join(self.directory, name), fakes.HashVerifier(),
            replace=replace))

    def kill_at(self, number: int, after: bool, replace: bool) -> str:
        """Kill it at a system call that hangs until stop() was called."""
        reached, go_on = self.event(), self.event()

        def hang() -> None:
            reached.set()
            fakes.wait(go_on)

        source = KillableSource(self.IMAGE)
        with Steps(number, hang, after) as steps:
            victim = self.start(source, replace)
            wait_until(lambda: reached.is_set() or victim.has_ended)
            if reached.is_set():
                self.killing.kill(victim)
                wait_until(source.interrupted.is_set)
                # The caller waits, and so does not close the source.
                self.assertFalse(victim.has_ended)
                go_on.set()
            victim.wait()
        if not steps.reached:
            self.assertIsNone(victim.error)
            return ''
        self.assertIsInstance(victim.error, Killed)
        if not {*_NAMING} & {*steps.calls[:number + 1]}:
            self.assertFalse({*_NAMING} & {*steps.calls}, steps.calls)
        return steps.reached

    def test_at_every_call(self) -> None:
        self.at_every_call(self.kill_at)

    def test_while_it_waits(self) -> None:
        """The kill interrupts the source and waits until the work ends."""
        for name in ('readinto', 'finish', 'verify'):
            source, verifier = KillableSource(b'x'), fakes.HashVerifier()
            waits = self.event()

            def wait(*_args: object) -> int:
                waits.set()
                fakes.wait(source.interrupted)
                return 0

            where = verifier if name == 'verify' else source
            with (mock.patch.object(where, name, wait),
                  Steps() as steps):
                victim = self.killing.start(
                    lambda: transfer.transfer(source, self.path, verifier))
                wait_until(waits.is_set)
                self.killing.kill(victim)
                victim.wait()
            self.assertIsInstance(victim.error, Killed)
            self.assertNotIn('link', steps.calls)
            self.assert_nothing_left()

    def test_name_is_not_given_to_another_image(self) -> None:
        reached, go_on = self.event(), self.event()
        reads, finished = self.event(), self.event()
        real = os.link

        def slow(*args: ty.Any, **kwargs: ty.Any) -> None:
            if not reached.is_set():
                reached.set()
                fakes.wait(go_on)
            real(*args, **kwargs)

        class Unfinished(KillableSource):
            def readinto(self, buffer: memoryview) -> int:
                if self.taken:
                    reads.set()
                    fakes.wait(finished)
                return super().readinto(buffer[:fakes.SMALL])

        with mock.patch('os.link', slow):
            source = KillableSource(self.IMAGE)
            first = self.start(source)
            wait_until(reached.is_set)
            self.killing.kill(first)
            wait_until(source.interrupted.is_set)
            second = self.start(Unfinished(self.IMAGE), name='other')
            wait_until(reads.is_set)
            go_on.set()
            first.wait()
            self.assert_nothing_left()
            finished.set()
            second.wait()
        self.assertIsNone(second.error)
        self.assertEqual(['other'], os.listdir(self.directory))

    def test_before_the_start(self) -> None:
        """The kill arrives while the work is still in the queue."""
        self.make(b'not to be touched')
        self.killing.occupy()
        source = KillableSource(self.IMAGE)
        with Steps() as steps:
            victim = self.start(source)
            # Give the work time to enter the queue.
            for _number in range(20):
                time.sleep(0.001)
            self.killing.kill(victim)
            # The victim ends before the queue is free.
            victim.wait()
            self.killing.free()
        self.assertIsInstance(victim.error, Killed)
        self.assertEqual(([], 0), (steps.calls, source.taken))
        self.assertEqual(b'not to be touched', self.content())


class TestKilledLate(KilledTestCase):
    """The kill arrives after the work has ended."""

    def setUp(self) -> None:
        super().setUp()
        self.after_work: Callable[[], None] = lambda: None

        def kill_late(work: Callable[[], object]) -> Callable[[], None]:
            def call() -> None:
                thread = compat.native('threading').Thread(target=work)
                thread.start()
                thread.join(fakes.LIMIT)
                self.after_work()
                raise Killed

            return call

        self.replace(compat, 'in_native_thread', kill_late)

    def transfer(self) -> None:
        with Steps(everywhere=True) as steps:
            self.assertRaises(
                Killed, transfer.transfer, KillableSource(self.IMAGE),
                self.path)
        self.assertIn('link', steps.calls)
        self.assertNotIn(own_ident(), steps.threads)

    def test_name_is_removed(self) -> None:
        self.transfer()
        self.assert_nothing_left()

    def test_file_of_another_process_stays(self) -> None:
        def replace() -> None:
            # Both exist for a moment, so they have different inodes.
            other = os.path.join(self.directory, 'other')
            self.make(b'of another process', other)
            self.assertEqual(self.IMAGE, self.content())
            pathlib.Path(other).rename(self.path)

        self.after_work = replace
        self.transfer()
        self.assertEqual(b'of another process', self.content())


class TestKilledTwice(KilledTestCase):
    """Nothing ends the wait for the work before the work has ended."""

    def stop(self, pauses: list[Callable[[], None]],
             interrupt: Callable[[], None] = lambda: None) -> None:
        """Kill a transfer whose work goes on for a while.

        :param pauses: what the first waits of the killed thread do
        :param interrupt: what the source does when it is interrupted
        """
        reads, go_on = self.event(), self.event()
        threads: list[ty.Any] = []

        class Stubborn(KillableSource):
            def readinto(self, buffer: memoryview) -> int:
                reads.set()
                fakes.wait(go_on)
                raise transfer.SourceError(reason='at last')

            def interrupt(self) -> None:
                interrupt()

        def kill(work: Callable[[], object]) -> Callable[[], None]:
            def quiet() -> None:
                with contextlib.suppress(transfer.SourceError):
                    work()

            def call() -> None:
                threads.append(
                    compat.native('threading').Thread(target=quiet))
                threads[0].start()
                fakes.wait(reads)
                raise Killed('once')

            return call

        def pause() -> None:
            if pauses:
                pauses.pop()()
            go_on.set()
            time.sleep(0.001)

        self.addCleanup(go_on.set)
        self.replace(compat, 'in_native_thread', kill)
        self.replace(transfer, '_pause', pause)
        self.assertRaisesRegex(
            Killed, 'again', transfer.transfer, Stubborn(b'x'), self.path)
        self.assertTrue(go_on.is_set(), 'the work goes on')
        threads[0].join(fakes.LIMIT)
        self.assert_nothing_left()

    def kill_again(self) -> None:
        raise Killed('again')

    def test_second_kill(self) -> None:
        self.stop([self.kill_again])

    def test_source_cannot_be_interrupted(self) -> None:
        self.stop([], self.kill_again)


class TestInterrupted(KilledTestCase):
    """A signal ends the thread that does the work itself.

    nova-image-fetch has no other thread for it.
    """

    def setUp(self) -> None:
        super().setUp()
        self.replace(compat, 'in_native_thread', lambda work: work)

    def interrupt_at(self, number: int, after: bool, replace: bool) -> str:
        def fail() -> None:
            # Here the test itself, not the transfer, would leak a descriptor.
            if steps.reached != harmless:
                raise Killed

        harmless = 'open' if after else 'close'
        with Steps(number, fail, after, everywhere=True) as steps:
            with contextlib.suppress(Killed):
                transfer.transfer(KillableSource(self.IMAGE), self.path,
                                  fakes.HashVerifier(), replace=replace)
        if steps.reached == harmless:
            self.assertEqual(self.IMAGE, self.content())
            os.unlink(self.path)
        return steps.reached

    def test_at_every_call(self) -> None:
        self.at_every_call(self.interrupt_at)
