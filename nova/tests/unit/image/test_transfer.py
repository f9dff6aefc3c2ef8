# SPDX-License-Identifier: Apache-2.0

"""One pass from a byte source to a durable file: real files and threads."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import errno
import gc
import mmap
import os
import resource
import typing as ty
from unittest import mock
import weakref

import hypothesis
from hypothesis import strategies

from nova.image import compat
from nova.image import destination
from nova.image import transfer
from nova.tests.unit.image import fakes

SMALL = fakes.SMALL
HOLE = fakes.HOLE
PAGE = fakes.PAGE
MemorySource = fakes.MemorySource
HashVerifier = fakes.HashVerifier
RefusingVerifier = fakes.RefusingVerifier
digest = fakes.digest
noise = fakes.noise


_EDGES = strategies.sampled_from(sorted(
    near for edge in (0, PAGE, HOLE, SMALL, 2 * SMALL)
    for near in (edge - 1, edge, edge + 1) if near >= 0))
_LENGTHS = _EDGES | strategies.integers(0, 3 * SMALL)
_FILLS: dict[str, Callable[[int, int], bytes]] = {
    'noise': noise,
    'zeros': lambda length, _seed: bytes(length),
    'one byte': lambda length, seed: bytes(length // 2) + bytes(
        [1 + seed] * bool(length)) + bytes(max(0, length - length // 2 - 1)),
}


class TestBytes(fakes.TransferTestCase):
    """The file and the verifier receive the bytes of the image."""

    def setUp(self) -> None:
        super().setUp()
        self.useFixture(fakes.NoHypothesisFolder())

    @hypothesis.settings(
        max_examples=40, deadline=None, database=None, derandomize=True)
    @hypothesis.given(
        parts=strategies.lists(
            strategies.tuples(
                _LENGTHS, _LENGTHS, strategies.sampled_from(sorted(_FILLS))),
            max_size=5),
        gap=_LENGTHS,
        pieces=strategies.lists(
            strategies.integers(SMALL // 64, 2 * SMALL) | _EDGES.filter(bool),
            min_size=1, max_size=4),
        told=strategies.booleans())
    def test_any_image_in_any_pieces(self, parts: list[tuple[int, int, str]],
                                     gap: int, pieces: list[int],
                                     told: bool) -> None:
        extents, offset = [], 0
        for number, (before, length, fill) in enumerate(parts):
            data = _FILLS[fill](length, number)
            self.assertEqual(length, len(data))
            extents.append((offset + before, data))
            offset += before + length
        size = offset + gap if told else offset
        image = fakes.naive_image(size, extents)
        source = MemorySource(extents, size if told else None, pieces)
        verifier = HashVerifier()
        # Few blocks, so that most were used before and are full of noise.
        with (mock.patch.object(transfer, 'BLOCK', SMALL),
              mock.patch.object(transfer, 'BLOCKS', 2),
              mock.patch.object(transfer, '_ZEROS', bytes(SMALL))):
            report = transfer.transfer(source, self.path, verifier, size)

        self.assertEqual(digest(image), verifier.digest)
        self.assertEqual(digest(image), digest(self.content()))
        self.assertEqual((size, fakes.naive_written(image)),
                         (report.size, report.written))
        self.assertEqual(1, verifier.asked)
        self.assertEqual([source.taken], source.finished)

    def check(self, image: bytes, source: MemorySource,
              written: int | None = None) -> None:
        """Transfer it; by default, the image contains no holes."""
        verifier = HashVerifier()
        report = transfer.transfer(source, self.path, verifier, len(image))
        self.assertEqual(digest(image), digest(self.content()))
        self.assertEqual(digest(image), verifier.digest)
        self.assertEqual(
            (len(image), len(image) if written is None else written),
            (report.size, report.written))
        self.assertGreater(report.seconds, 0)

    def test_sizes(self) -> None:
        block = transfer.BLOCK
        for size in (0, 1, PAGE - 1, PAGE, PAGE + 1, block - 1, block,
                     block + 1, 2 * block, 2 * block + PAGE + 1):
            image = noise(size, size)
            self.check(image, MemorySource([(0, image)], endless=True))

    def test_more_blocks_than_there_are_buffers(self) -> None:
        self.use_small_blocks()
        image = noise(3 * transfer.BLOCKS * SMALL + 17)
        self.check(image, MemorySource([(0, image)], pieces=(70_001,)))

    def test_no_extent_at_all(self) -> None:
        size = 2 * transfer.BLOCK + 5
        self.check(bytes(size), MemorySource([], size), 0)
        self.assertEqual(0, os.stat(self.path).st_blocks)

    def test_size_from_the_source_only(self) -> None:
        report = transfer.transfer(MemorySource([(3, b'x')], 9), self.path)
        self.assertEqual(b'\0\0\0x\0\0\0\0\0', self.content())
        self.assertEqual(9, report.size)

    def test_gaps_are_holes(self) -> None:
        mib = 1024 * 1024
        extents = [(40 * mib, noise(mib)), (60 * mib, noise(mib, 1))]
        image = fakes.naive_image(90 * mib, extents)
        self.check(image, MemorySource(extents, len(image)), 2 * mib)
        self.assertEqual([(40 * mib, 41 * mib), (60 * mib, 61 * mib)],
                         self._data_of_file())

    def test_zeros_of_a_dense_stream_are_holes(self) -> None:
        image = (noise(HOLE) + bytes(3 * HOLE) + noise(HOLE, 1) +
                 bytes(transfer.BLOCK) + b'x')
        self.check(image, MemorySource([(0, image)], endless=True),
                   2 * HOLE + PAGE)
        self.assertEqual(
            [(0, HOLE), (4 * HOLE, 5 * HOLE),
             (5 * HOLE + transfer.BLOCK, len(image))],
            self._data_of_file())

    def test_a_hole_larger_than_any_memory(self) -> None:
        size = 1 << 40
        report = transfer.transfer(
            MemorySource([(size - 1, b'x')], size), self.path, size=size)
        self.assertEqual(size, os.stat(self.path).st_size)
        self.assertEqual(HOLE, report.written)
        with open(self.path, 'rb') as file:
            file.seek(-3, os.SEEK_END)
            self.assertEqual(b'\0\0x', file.read())

    def _data_of_file(self) -> list[tuple[int, int]]:
        """Start and end of each part of the file that is not a hole."""
        found, end = [], 0
        with open(self.path, 'rb') as file, contextlib.suppress(OSError):
            while True:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
                end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
                found.append((start, end))
        return found


class TestProgress(fakes.TransferTestCase):
    def test_once_for_each_block_and_gap(self) -> None:
        self.use_small_blocks()
        dense, sparse = 3 * SMALL + 5, 20 * SMALL
        for source, size, expected in (
            (MemorySource([(0, noise(dense))], pieces=(5000,)), dense,
             [(SMALL, dense), (2 * SMALL, dense), (3 * SMALL, dense),
              (dense, dense)]),
            (MemorySource([(10 * SMALL, b'x')], sparse), None,
             [(10 * SMALL, sparse), (11 * SMALL, sparse), (sparse, sparse)]),
            (MemorySource([(0, b'xy')], endless=True), None, [(2, None)]),
        ):
            calls: list[tuple[int, int | None]] = []
            transfer.transfer(source, self.path, size=size,
                              progress=lambda *args: calls.append(args))
            self.assertEqual(expected, calls)

    def test_its_failure_is_a_failure(self) -> None:
        progress = mock.Mock(side_effect=ValueError('from the callback'))
        self.assertRaisesRegex(
            ValueError, 'from the callback', transfer.transfer,
            MemorySource([(0, b'xy')]), self.path, progress=progress)
        self.assert_nothing_left()


def no_room(start: int = 0) -> ty.Any:
    """Return a patch that fails writes from this offset on."""
    pwrite = os.pwrite

    def full(fd: int, data: memoryview, offset: int) -> int:
        if offset >= start:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(fd, data, offset)

    return mock.patch('os.pwrite', full)


class TestFailures(fakes.TransferTestCase):
    """A failure leaves no file, no thread and no descriptor."""

    def setUp(self) -> None:
        super().setUp()
        self.use_small_blocks()

    def test_too_long(self) -> None:
        source = MemorySource([(0, noise(30 * SMALL))], endless=True)
        self.assert_fails(
            transfer.SourceError, 'more than the 131071 bytes', source,
            size=SMALL - 1)
        # An endless stream must not be read to its end.
        self.assertLessEqual(source.taken, SMALL)

    def test_source_contradicts_the_size_or_itself(self) -> None:
        class Short(MemorySource):
            def extents(self) -> Iterator[tuple[int, int | None]]:
                for offset, length in super().extents():
                    yield offset, (length or 0) + 1

        unordered = 'not in order'
        for reason, source, size in (
            ('9 bytes, the image has 10', MemorySource([(0, b'x')], 9), 10),
            ('11 bytes, the image has 10', MemorySource([(0, b'x')], 11), 10),
            ('12 bytes, the image has 10', MemorySource([(8, b'wxyz')], 10),
             None),
            (unordered, MemorySource([(4, b'abcd'), (0, b'abcd')]), None),
            (unordered, MemorySource([(0, b'abcd'), (3, b'abcd')]), None),
            (unordered, MemorySource([(0, noise(2 * SMALL)), (SMALL, b'x')]),
             None),
            ('ended early, after 9 bytes', Short([(5, b'abcd')], 20), None),
            ('131072 bytes, the image has 131073',
             MemorySource([(0, noise(SMALL))], endless=True), SMALL + 1),
        ):
            self.assert_fails(transfer.SourceError, reason, source, size=size)
            self.assertEqual([], source.finished)

    def test_extent_past_the_size(self) -> None:
        progress = mock.Mock()
        self.assertRaisesRegex(
            transfer.SourceError, 'more than the 10 bytes', transfer.transfer,
            MemorySource([(1 << 62, b'x')]), self.path, size=10,
            progress=progress)
        # The verifier does not have to hash all the zeros in between.
        progress.assert_not_called()

    def test_source_fails_on_the_way(self) -> None:
        for amount in (0, 1, SMALL, 20 * SMALL + 1):
            for failure in (fakes.broken_cable, RuntimeError):
                self.assert_fails(
                    type(failure()), str(failure()),
                    MemorySource([(0, noise(amount))], endless=True,
                                 failure=failure),
                    HashVerifier())

    def test_finish_fails(self) -> None:
        source = MemorySource([(0, noise(SMALL))])
        verifier = HashVerifier()
        with mock.patch.object(
                source, 'finish',
                side_effect=transfer.SourceError(reason='status 5')):
            self.assert_fails(
                transfer.SourceError, 'status 5', source, verifier)
        self.assertEqual(0, verifier.asked)

    def test_verifier_refuses_at_the_end(self) -> None:
        verifier = RefusingVerifier()
        self.assert_fails(ValueError, 'not these bytes',
                          MemorySource([(0, noise(3 * SMALL))]), verifier)
        self.assertEqual(3 * SMALL, verifier.count)

    def test_verifier_fails_on_the_way(self) -> None:
        for after in (1, 2 * SMALL, 40 * SMALL):
            verifier = RefusingVerifier(after)
            self.assert_fails(
                ValueError, 'not these bytes',
                MemorySource([(0, noise(40 * SMALL))], 80 * SMALL), verifier)
            self.assertEqual(0, verifier.asked)
            # A failed verifier is left alone.
            self.assertLess(verifier.count, after + SMALL)

    def test_no_room_on_the_disk(self) -> None:
        for amount in (4 * SMALL, 40 * SMALL):
            with no_room(3 * SMALL):
                self.assert_fails(
                    destination.DestinationError, 'No space left',
                    MemorySource([(0, noise(amount))]), HashVerifier())

    def test_file_grows_too_large(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        for limit, source in (
            (2 * SMALL, MemorySource([(0, noise(40 * SMALL))])),
            (2 * SMALL, MemorySource([(0, b'x')], 40 * SMALL)),
            # To hash all these zeros would take a thousand years.
            (SMALL, MemorySource([], 1 << 62)),
        ):
            with contextlib.ExitStack() as stack:
                stack.callback(resource.setrlimit, resource.RLIMIT_FSIZE,
                               (soft, hard))
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
                self.assert_fails(
                    destination.DestinationError, 'File too large', source,
                    HashVerifier())

    def test_size_that_no_file_can_have(self) -> None:
        self.make(b'left by an attempt that was killed')
        self.assertRaises(
            (destination.DestinationError, OverflowError), transfer.transfer,
            MemorySource([], (1 << 64) - 1), self.path)
        self.assert_nothing_left()

    def test_written_in_parts(self) -> None:
        pwrite = os.pwrite
        image = noise(3 * SMALL)
        with mock.patch('os.pwrite', lambda fd, data, offset: pwrite(
                fd, data[:5 * PAGE], offset)):
            report = transfer.transfer(MemorySource([(0, image)]), self.path)
        self.assertEqual(image, self.content())
        self.assertEqual(len(image), report.written)

    def test_thread_cannot_be_started(self) -> None:
        with fakes.no_thread(compat.native('threading'), 'image-verify'):
            self.assert_fails(RuntimeError, 'new thread',
                              MemorySource([(0, b'x')]), HashVerifier())


class TestMemory(fakes.TransferTestCase):
    """Few buffers, used by all threads at once, and gone afterwards."""

    def setUp(self) -> None:
        super().setUp()
        self.use_small_blocks()
        self.maps: list[weakref.ref[mmap.mmap]] = []
        real = mmap.mmap

        def counted(*args: ty.Any) -> mmap.mmap:
            buffer = real(*args)
            if args == (-1, SMALL):
                self.maps.append(weakref.ref(buffer))
            return buffer

        self.replace(mmap, 'mmap', counted)
        self.addCleanup(gc.enable)
        gc.disable()

    def test_freed(self) -> None:
        """All is freed, without the help of the garbage collector."""
        self.assertLessEqual(4 * 1024 * 1024 * transfer.BLOCKS, 64 << 20)
        long = noise(50 * SMALL)
        broken = MemorySource([(0, long)], endless=True,
                              failure=fakes.broken_cable)
        for error, kept, source, verifier in (
            (None, 0, MemorySource([(0, long)]), HashVerifier()),
            (transfer.SourceError, 2, broken, HashVerifier()),
            (ValueError, 0, MemorySource([(0, long)]), RefusingVerifier()),
            (ValueError, 2, MemorySource([(0, long)]), RefusingVerifier(1)),
            (destination.DestinationError, 2, MemorySource([(0, long)]),
             HashVerifier()),
        ):
            self.maps.clear()
            failed = None
            with contextlib.ExitStack() as stack:
                if error is destination.DestinationError:
                    stack.enter_context(no_room())
                # Unlike assertRaises, this keeps nothing of the error.
                try:
                    transfer.transfer(source, self.path, verifier)
                except (transfer.SourceError, destination.DestinationError,
                        ValueError) as exc:
                    failed = type(exc)
            self.assertIs(error, failed)
            self.assertEqual(transfer.BLOCKS, len(self.maps))
            # Eventlet keeps the traceback of an error, and so what is in its
            # frames, for the collector.
            if compat.eventlet() is None:
                kept = 0
            self.assertLessEqual(len([each for each in self.maps if each()]),
                                 kept, 'buffers are left to the collector')

    def test_reads_ahead_of_the_disk_as_far_as_buffers_go(self) -> None:
        source = MemorySource([(0, noise(20 * SMALL))])
        all_read = compat.native('threading').Event()
        ahead: list[int] = []
        pwrite = os.pwrite
        readinto = source.readinto

        def read(buffer: memoryview) -> int:
            count = readinto(buffer)
            if source.taken >= transfer.BLOCKS * SMALL:
                all_read.set()
            return count

        def write(fd: int, data: memoryview, offset: int) -> int:
            fakes.wait(all_read)
            ahead.append(source.taken - offset)
            return pwrite(fd, data, offset)

        source.readinto = read  # type: ignore[method-assign]
        with mock.patch('os.pwrite', write):
            transfer.transfer(source, self.path)
        self.assertEqual(20, len(ahead))
        self.assertEqual(transfer.BLOCKS * SMALL, max(ahead))

    def test_hashes_while_it_writes(self) -> None:
        native = compat.native('threading')
        hashed, written = native.Event(), native.Event()
        pwrite = os.pwrite

        class Waiting(HashVerifier):
            def update(self, data: memoryview, /) -> None:
                super().update(data)
                hashed.set()
                fakes.wait(written)

        def write(fd: int, data: memoryview, offset: int) -> int:
            fakes.wait(hashed)
            written.set()
            return pwrite(fd, data, offset)

        verifier = Waiting()
        with mock.patch('os.pwrite', write):
            transfer.transfer(MemorySource([(0, noise(SMALL))]), self.path,
                              verifier)
        self.assertEqual((SMALL, 1), (verifier.count, verifier.asked))


class Clock:
    """Stands in for the module time; time passes only in sleep()."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class TestRateLimit(fakes.TransferTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.rate = 0
        self.clock = Clock()
        self.limit = transfer.RateLimit(lambda: self.rate, self.clock)

    def passed(self, *counts: int) -> float:
        start = self.clock.now
        for count in counts:
            self.limit.wait(count, lambda: None)
        return round(self.clock.now - start, 6)

    def test_no_limit(self) -> None:
        self.assertEqual(0, self.passed(1 << 40))

    def test_limit(self) -> None:
        self.rate = 1000
        self.assertEqual(2.25, self.passed(1000, 250, 1000))
        self.rate = 500
        self.assertEqual(2, self.passed(1000))
        self.rate = 0
        self.assertEqual(0, self.passed(1000))

    def test_transfers_share_it(self) -> None:
        """Each waits for the bytes of the others."""
        self.rate = 1000
        second: list[float] = []

        def check() -> None:
            if not second:
                second.append(0)
                second[0] = self.passed(1000)

        self.limit.wait(1000, check)
        self.assertEqual([2], second)

    def test_idle_time_gives_no_credit(self) -> None:
        self.rate = 1000
        self.passed(1000)
        self.clock.now += 100
        self.assertEqual(1, self.passed(1000))

    def test_stopped(self) -> None:
        self.rate = 1

        def check() -> None:
            raise transfer.SourceError(reason='stopped')

        self.assertRaises(
            transfer.SourceError, self.limit.wait, 1 << 30, check)

    def test_slows_a_transfer_down(self) -> None:
        self.rate = 1 << 20
        image = noise(3 << 20)
        transfer.transfer(MemorySource([(0, image)], pieces=(65536,)),
                          self.path, limit=self.limit)
        self.assertEqual((digest(image), 3.0),
                         (digest(self.content()), round(self.clock.now, 6)))


class TestPriority(fakes.TransferTestCase):
    def test_threads_yield_to_guests(self) -> None:
        own = os.getpriority(os.PRIO_PROCESS, 0)
        seen: list[int] = []

        class Verifier(HashVerifier):
            def update(self, data: memoryview, /) -> None:
                seen.append(os.getpriority(os.PRIO_PROCESS, 0))

        transfer.transfer(
            MemorySource([(0, b'image')]), self.path, Verifier())
        self.assertEqual([max(own, 10)], seen)
        self.assertEqual(own, os.getpriority(os.PRIO_PROCESS, 0))

    def test_priority_cannot_be_changed(self) -> None:
        with mock.patch('os.setpriority', side_effect=PermissionError):
            transfer.transfer(MemorySource([(0, b'image')]), self.path)
        self.assertEqual(b'image', self.content())
