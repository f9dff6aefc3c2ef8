# SPDX-License-Identifier: Apache-2.0

"""One pass from a byte source to a durable file: real files and threads."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import errno
import gc
import hashlib
import itertools
import mmap
import os
import pathlib
import random
import resource
import stat
import threading
import time
import types
import typing as ty
from unittest import mock
import weakref

import fixtures
import hypothesis
from hypothesis import configuration
from hypothesis import strategies

from nova.image import compat
from nova.image import transfer
import nova.privsep.utils
from nova import test

#: For tests of many small images: what is 4 MiB otherwise.
SMALL = 128 * 1024
HOLE = 64 * 1024
PAGE = 4096

Extent = tuple[int, bytes]


class LeakCheck(fixtures.Fixture):
    """Fails a test that leaves a thread, a descriptor or a child behind."""

    def _setUp(self) -> None:
        # Under eventlet the first use makes threads that stay.
        compat.in_native_thread(os.getpid)()
        self._before = self._resources()
        self.addCleanup(self.check)

    def check(self) -> None:
        if left := self._resources() - self._before:
            raise AssertionError('left behind: %s' % sorted(left))

    @staticmethod
    def _resources() -> set[str]:
        found = set()
        for fd in os.listdir('/proc/self/fd'):
            # The descriptor that lists the others is gone by now.
            with contextlib.suppress(FileNotFoundError):
                target = os.readlink('/proc/self/fd/' + fd)
                # Of a hub, which eventlet gives to each thread of its pool.
                if target != 'anon_inode:[eventpoll]':
                    found.add('descriptor %s: %s' % (fd, target))
        for module in (threading, transfer.native('threading')):
            found.update('thread %s %s' % (thread.name, thread.ident)
                         for thread in module.enumerate())
        for task in pathlib.Path('/proc/self/task').iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.update('child ' + pid for pid in
                             (task / 'children').read_text().split())
        return found


class NoHypothesisFolder(fixtures.Fixture):
    """Has hypothesis keep its caches out of the working directory."""

    def _setUp(self) -> None:
        configuration.set_hypothesis_home_dir(
            self.useFixture(fixtures.TempDir()).path)
        self.addCleanup(configuration.set_hypothesis_home_dir, None)


class MemorySource:
    """An image in memory, as one stream that is read in pieces."""

    def __init__(
        self, extents: Sequence[Extent], size: int | None = None,
        pieces: Sequence[int] = (1 << 30,), endless: bool = False,
        failure: Callable[[], Exception] | None = None,
    ) -> None:
        """Make a source.

        :param size: what it says its size is
        :param pieces: how many bytes it gives at a time, over and over
        :param endless: whether it keeps the length of its extents to itself
        :param failure: makes what is raised where the data ends
        """
        self.size = size
        self.finished: list[int] = []
        self.taken = 0
        self._extents = extents
        self._endless = endless
        self._failure = failure
        self._pieces = itertools.cycle(pieces)
        # Whoever reads past the end of an extent gets the next one's bytes.
        self._rest = memoryview(b''.join(data for _offset, data in extents))

    def extents(self) -> Iterator[tuple[int, int | None]]:
        for offset, data in self._extents:
            yield offset, None if self._endless else len(data)
        if self._failure is not None:
            raise self._failure()

    def readinto(self, buffer: memoryview) -> int:
        count = min(len(buffer), len(self._rest), next(self._pieces))
        if not count and self._failure is not None:
            raise self._failure()
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        self.taken += count
        return count

    def finish(self) -> None:
        self.finished.append(self.taken)

    def interrupt(self) -> None:
        pass


class HashVerifier:
    """Remembers what it was given, and when it was asked."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.count = 0
        self.asked = 0

    def update(self, data: memoryview, /) -> None:
        self._hash.update(data)
        self.count += len(data)

    def verify(self) -> None:
        self.asked += 1

    @property
    def digest(self) -> tuple[int, str]:
        return self.count, self._hash.hexdigest()


class RefusingVerifier(HashVerifier):
    """Has something against the bytes, after so many of them."""

    def __init__(self, after: int | None = None) -> None:
        super().__init__()
        self._after = after

    def update(self, data: memoryview, /) -> None:
        super().update(data)
        if self._after is not None and self.count >= self._after:
            raise ValueError('not these bytes')

    def verify(self) -> None:
        super().verify()
        raise ValueError('not these bytes')


@contextlib.contextmanager
def no_thread(module: types.ModuleType, name: str) -> Iterator[None]:
    """Have threads of this name not start, as where there are too many."""
    start = module.Thread.start

    def limited(thread: threading.Thread) -> None:
        if thread.name == name:
            raise RuntimeError("can't start new thread")
        start(thread)

    with mock.patch.object(module.Thread, 'start', limited):
        yield


def digest(content: bytes) -> tuple[int, str]:
    """Short for content, where a difference would fill pages."""
    return len(content), hashlib.sha256(content).hexdigest()


def broken_cable() -> Exception:
    return transfer.SourceError(reason='the cable is broken')


def noise(length: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(length)


def naive_image(size: int, extents: Sequence[Extent]) -> bytes:
    image = bytearray(size)
    for offset, data in extents:
        image[offset:offset + len(data)] = data
    return bytes(image)


def naive_written(image: bytes) -> int:
    """How many bytes of an image are to be written, holes left out."""
    total = 0
    for start in range(0, len(image), HOLE):
        unit = image[start:start + HOLE]
        if any(unit):
            total += -(-len(unit) // PAGE) * PAGE
    return min(total, len(image))


class TransferTestCase(test.NoDBTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.leaks = self.useFixture(LeakCheck())
        self.directory = self.useFixture(fixtures.TempDir()).path
        self.path = os.path.join(self.directory, 'image')

    def use_small_blocks(self) -> None:
        self.replace(transfer, 'BLOCK', SMALL)
        self.replace(transfer, '_ZEROS', bytes(SMALL))

    def replace(self, where: object, name: str, new: object) -> None:
        self.useFixture(fixtures.MockPatchObject(where, name, new))

    def forbid(self, flag: int, code: int) -> None:
        """Have open(2) fail when it is called with this flag."""
        real = os.open

        def limited(path: str, flags: int, *args: ty.Any,
                    **kwargs: ty.Any) -> int:
            if flags & flag == flag:
                raise OSError(code, os.strerror(code), path)
            return real(path, flags, *args, **kwargs)

        self.replace(os, 'open', limited)

    def content(self) -> bytes:
        return pathlib.Path(self.path).read_bytes()

    def make(self, data: bytes, path: str | None = None) -> None:
        pathlib.Path(path or self.path).write_bytes(data)

    def assert_nothing_left(self) -> None:
        self.assertEqual([], os.listdir(self.directory))

    def assert_fails(
        self, error: type[Exception], reason: str, source: transfer.Source,
        verifier: transfer.Verifier | None = None, size: int | None = None,
    ) -> None:
        """The transfer fails, and nothing is there: not what was, either."""
        self.make(b'left by an attempt that was killed')
        self.assertRaisesRegex(
            error, reason, transfer.transfer, source, self.path, verifier,
            size)
        self.assert_nothing_left()


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


class TestBytes(TransferTestCase):
    """What is in the file, and what the verifier sees of it."""

    def setUp(self) -> None:
        super().setUp()
        self.useFixture(NoHypothesisFolder())

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
    def test_any_image_in_any_pieces(
        self, parts: list[tuple[int, int, str]], gap: int, pieces: list[int],
        told: bool,
    ) -> None:
        extents, offset = [], 0
        for number, (before, length, fill) in enumerate(parts):
            data = _FILLS[fill](length, number)
            self.assertEqual(length, len(data))
            extents.append((offset + before, data))
            offset += before + length
        size = offset + gap if told else offset
        image = naive_image(size, extents)
        source = MemorySource(extents, size if told else None, pieces)
        verifier = HashVerifier()
        # Few blocks, so that most were used before and are full of noise.
        with (mock.patch.object(transfer, 'BLOCK', SMALL),
              mock.patch.object(transfer, 'BLOCKS', 2),
              mock.patch.object(transfer, '_ZEROS', bytes(SMALL))):
            report = transfer.transfer(source, self.path, verifier, size)

        self.assertEqual(digest(image), verifier.digest)
        self.assertEqual(digest(image), digest(self.content()))
        self.assertEqual((size, naive_written(image)),
                         (report.size, report.written))
        self.assertEqual(1, verifier.asked)
        self.assertEqual([source.taken], source.finished)

    def test_sizes(self) -> None:
        block = transfer.BLOCK
        for size in (0, 1, PAGE - 1, PAGE, PAGE + 1, block - 1, block,
                     block + 1, 2 * block, 2 * block + PAGE + 1):
            image = noise(size, size)
            verifier = HashVerifier()
            report = transfer.transfer(
                MemorySource([(0, image)], endless=True), self.path, verifier,
                size)
            self.assertEqual(digest(image), digest(self.content()),
                             str(size))
            self.assertEqual(digest(image), verifier.digest, str(size))
            self.assertEqual((size, size), (report.size, report.written))
            self.assertGreater(report.seconds, 0)

    def test_more_blocks_than_there_are_buffers(self) -> None:
        self.use_small_blocks()
        image = noise(3 * transfer.BLOCKS * SMALL + 17)
        verifier = HashVerifier()
        transfer.transfer(
            MemorySource([(0, image)], pieces=(70_001,)), self.path, verifier)
        self.assertEqual(digest(image), digest(self.content()))
        self.assertEqual(digest(image), verifier.digest)

    def test_no_extent_at_all(self) -> None:
        size = 2 * transfer.BLOCK + 5
        verifier = HashVerifier()
        report = transfer.transfer(
            MemorySource([], size), self.path, verifier, size)
        self.assertEqual(bytes(size), self.content())
        self.assertEqual(digest(bytes(size)), verifier.digest)
        self.assertEqual((size, 0), (report.size, report.written))
        self.assertEqual(0, os.stat(self.path).st_blocks)

    def test_size_from_the_source_only(self) -> None:
        report = transfer.transfer(MemorySource([(3, b'x')], 9), self.path)
        self.assertEqual(b'\0\0\0x\0\0\0\0\0', self.content())
        self.assertEqual(9, report.size)

    def test_gaps_are_holes(self) -> None:
        mib = 1024 * 1024
        extents = [(40 * mib, noise(mib)), (60 * mib, noise(mib, 1))]
        size = 90 * mib
        verifier = HashVerifier()
        report = transfer.transfer(
            MemorySource(extents, size), self.path, verifier, size)
        self.assertEqual(2 * mib, report.written)
        self.assertEqual(digest(naive_image(size, extents)), verifier.digest)
        self.assertEqual([(40 * mib, 41 * mib), (60 * mib, 61 * mib)],
                         self._data_of_file())

    def test_zeros_of_a_dense_stream_are_holes(self) -> None:
        image = (noise(HOLE) + bytes(3 * HOLE) + noise(HOLE, 1) +
                 bytes(transfer.BLOCK) + b'x')
        report = transfer.transfer(
            MemorySource([(0, image)], endless=True), self.path)
        self.assertEqual(image, self.content())
        self.assertEqual(2 * HOLE + PAGE, report.written)
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
        with open(self.path, 'rb') as file:
            with contextlib.suppress(OSError):
                while True:
                    start = os.lseek(file.fileno(), end, os.SEEK_DATA)
                    end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
                    found.append((start, end))
        return found


class TestProgress(TransferTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.use_small_blocks()

    def test_told_once_for_a_block(self) -> None:
        calls: list[tuple[int, int | None]] = []
        size = 3 * SMALL + 5
        transfer.transfer(
            MemorySource([(0, noise(size))], pieces=(5000,)), self.path,
            size=size, progress=lambda *args: calls.append(args))
        self.assertEqual([(SMALL, size), (2 * SMALL, size), (3 * SMALL, size),
                          (size, size)], calls)

    def test_gap_counts(self) -> None:
        calls: list[tuple[int, int | None]] = []
        size = 20 * SMALL
        transfer.transfer(
            MemorySource([(10 * SMALL, b'x')], size), self.path,
            progress=lambda *args: calls.append(args))
        self.assertEqual([(10 * SMALL, size), (11 * SMALL, size),
                          (size, size)], calls)

    def test_total_may_be_unknown(self) -> None:
        calls: list[tuple[int, int | None]] = []
        transfer.transfer(
            MemorySource([(0, b'xy')], endless=True), self.path,
            progress=lambda *args: calls.append(args))
        self.assertEqual([(2, None)], calls)

    def test_its_failure_is_a_failure(self) -> None:
        progress = mock.Mock(side_effect=ValueError('from the callback'))
        self.assertRaisesRegex(
            ValueError, 'from the callback', transfer.transfer,
            MemorySource([(0, b'xy')]), self.path, progress=progress)
        self.assert_nothing_left()


class TestFailures(TransferTestCase):
    """Nothing at the path, no thread, no descriptor, whatever went wrong."""

    def setUp(self) -> None:
        super().setUp()
        self.use_small_blocks()

    def test_too_short(self) -> None:
        source = MemorySource([(0, noise(SMALL))], endless=True)
        self.assert_fails(
            transfer.SourceError, '131072 bytes, the image has 131073',
            source, size=SMALL + 1)
        self.assertEqual([], source.finished)

    def test_too_long(self) -> None:
        source = MemorySource([(0, noise(30 * SMALL))], endless=True)
        self.assert_fails(
            transfer.SourceError, 'more than the 131071 bytes', source,
            size=SMALL - 1)
        # An endless stream must not be read to its end.
        self.assertLessEqual(source.taken, SMALL)

    def test_source_is_of_another_size(self) -> None:
        for size, expected in ((9, 10), (11, 10)):
            self.assert_fails(
                transfer.SourceError,
                '%d bytes, the image has %d' % (size, expected),
                MemorySource([(0, b'x')], size), size=expected)

    def test_extent_past_the_size(self) -> None:
        self.assert_fails(
            transfer.SourceError, '12 bytes, the image has 10',
            MemorySource([(8, b'wxyz')], 10))
        progress = mock.Mock()
        self.assertRaisesRegex(
            transfer.SourceError, 'more than the 10 bytes', transfer.transfer,
            MemorySource([(1 << 62, b'x')]), self.path, size=10,
            progress=progress)
        # Nobody had to hash all the zeros in between.
        progress.assert_not_called()

    def test_extents_out_of_order(self) -> None:
        for extents in ([(4, b'abcd'), (0, b'abcd')],
                        [(0, b'abcd'), (3, b'abcd')],
                        [(0, noise(2 * SMALL)), (SMALL, b'x')]):
            self.assert_fails(transfer.SourceError, 'not in order',
                              MemorySource(extents))

    def test_extent_cut_short(self) -> None:
        class Short(MemorySource):
            def extents(self) -> Iterator[tuple[int, int | None]]:
                for offset, length in super().extents():
                    yield offset, (length or 0) + 1

        self.assert_fails(transfer.SourceError, 'ended early, after 9 bytes',
                          Short([(5, b'abcd')], 20))

    def test_source_fails_on_the_way(self) -> None:
        for amount in (0, 1, SMALL, 20 * SMALL + 1):
            for failure in (broken_cable, RuntimeError):
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
        pwrite = os.pwrite

        def full(fd: int, data: memoryview, offset: int) -> int:
            if offset >= 3 * SMALL:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return pwrite(fd, data, offset)

        for amount in (4 * SMALL, 40 * SMALL):
            with mock.patch('os.pwrite', full):
                self.assert_fails(
                    OSError, 'No space left',
                    MemorySource([(0, noise(amount))]), HashVerifier())

    def test_file_grows_too_large(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        for source in (MemorySource([(0, noise(40 * SMALL))]),
                       MemorySource([(0, b'x')], 40 * SMALL)):
            with contextlib.ExitStack() as stack:
                stack.callback(resource.setrlimit, resource.RLIMIT_FSIZE,
                               (soft, hard))
                resource.setrlimit(resource.RLIMIT_FSIZE, (2 * SMALL, hard))
                self.assert_fails(OSError, 'File too large', source,
                                  HashVerifier())

    def test_zeros_without_end(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        with contextlib.ExitStack() as stack:
            stack.callback(resource.setrlimit, resource.RLIMIT_FSIZE,
                           (soft, hard))
            resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, hard))
            # To hash them all would take a thousand years.
            self.assert_fails(OSError, 'File too large',
                              MemorySource([], 1 << 62), HashVerifier())

    def test_size_that_no_file_can_have(self) -> None:
        self.make(b'left by an attempt that was killed')
        self.assertRaises(
            (OSError, OverflowError), transfer.transfer,
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
        with no_thread(transfer.native('threading'), 'image-verify'):
            self.assert_fails(RuntimeError, 'new thread',
                              MemorySource([(0, b'x')]), HashVerifier())


class TestDestination(TransferTestCase):
    def fetch(self, image: bytes = b'image') -> None:
        transfer.transfer(MemorySource([(0, image)]), self.path)

    def test_leftover_file_is_replaced(self) -> None:
        self.make(b'an old one, and a longer one')
        inode = os.stat(self.path).st_ino
        with open(self.path, 'rb') as old:
            self.fetch()
            self.assertEqual(b'an old one, and a longer one', old.read())
            self.assertNotEqual(inode, os.stat(self.path).st_ino)
        self.assertEqual(b'image', self.content())

    def test_link_is_replaced_and_not_written_through(self) -> None:
        target = os.path.join(self.directory, 'target')
        self.make(b'precious', target)
        for where in (target, os.path.join(self.directory, 'nowhere')):
            os.symlink(where, self.path)
            self.fetch()
            self.assertFalse(os.path.islink(self.path))
            self.assertEqual(b'image', self.content())
            os.unlink(self.path)
        self.assertEqual(['target'], os.listdir(self.directory))
        self.assertEqual(b'precious', pathlib.Path(target).read_bytes())

    def test_hard_link_is_not_written_through(self) -> None:
        other = os.path.join(self.directory, 'other')
        self.make(b'precious', other)
        os.link(other, self.path)
        self.fetch()
        self.assertEqual(b'precious', pathlib.Path(other).read_bytes())

    def test_partial_file_of_a_killed_process_is_replaced(self) -> None:
        partial = os.path.join(self.directory, '.image.partial')
        precious = os.path.join(self.directory, 'precious')
        for make in (lambda: self.make(b'half', partial),
                     lambda: os.symlink(precious, partial)):
            make()
            self.fetch()
            self.assertEqual(['image'], os.listdir(self.directory))

    def test_mode(self) -> None:
        for mask in (0o022, 0o077, 0o002, 0o027):
            self.addCleanup(os.umask, os.umask(mask))
            self.fetch()
            self.assertEqual(0o666 & ~mask,
                             stat.S_IMODE(os.stat(self.path).st_mode))

    def test_mode_without_tmpfile(self) -> None:
        self.forbid(os.O_TMPFILE, errno.EOPNOTSUPP)
        self.addCleanup(os.umask, os.umask(0o002))
        self.fetch()
        self.assertEqual(0o664, stat.S_IMODE(os.stat(self.path).st_mode))

    def test_relative_path(self) -> None:
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.directory)
        transfer.transfer(MemorySource([(0, b'image')]), 'image')
        self.assertEqual(b'image', self.content())

    def test_name_in_any_bytes(self) -> None:
        name = os.fsdecode(b'no utf-8 \xff, no format %s \n')
        self.path = os.path.join(self.directory, name)
        self.fetch()
        self.assertEqual([name], os.listdir(self.directory))

    def test_no_directory(self) -> None:
        self.path = os.path.join(self.directory, 'no', 'image')
        self.assertRaises(FileNotFoundError, self.fetch)
        self.assert_nothing_left()

    def test_a_directory_is_in_the_way(self) -> None:
        os.mkdir(self.path)
        self.assertRaises(OSError, self.fetch)
        self.assertEqual(['image'], os.listdir(self.directory))

    def test_filesystem_without_tmpfile(self) -> None:
        image = noise(2 * transfer.BLOCK + 7)
        for code in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            with contextlib.ExitStack() as stack:
                stack.callback(self.replace, os, 'open', os.open)
                self.forbid(os.O_TMPFILE, code)
                self.fetch(image)
            self.assertEqual(digest(image), digest(self.content()),
                             errno.errorcode[code])
            self.assertEqual(['image'], os.listdir(self.directory))

    def test_failures_without_tmpfile(self) -> None:
        self.forbid(os.O_TMPFILE, errno.EOPNOTSUPP)
        self.assert_fails(
            transfer.SourceError, 'the cable is broken',
            MemorySource([(0, b'half')], failure=broken_cable))
        self.assert_fails(ValueError, 'not these',
                          MemorySource([(0, b'all')]), RefusingVerifier())

    def test_no_name_before_it_is_complete(self) -> None:
        seen: list[list[str]] = []
        for expected in ([], ['.image.partial']):
            if expected:
                self.forbid(os.O_TMPFILE, errno.EOPNOTSUPP)
            source = MemorySource([(0, b'image')])
            with mock.patch.object(source, 'finish', side_effect=lambda: (
                    seen.append(os.listdir(self.directory)))):
                transfer.transfer(source, self.path)
            self.assertEqual(expected, seen.pop())
            os.unlink(self.path)

    def test_not_allowed_to_make_a_file(self) -> None:
        self.forbid(os.O_TMPFILE, errno.EACCES)
        self.assertRaises(PermissionError, self.fetch)
        self.assert_nothing_left()

    def test_partial_name_is_taken_at_the_last_moment(self) -> None:
        self.forbid(os.O_TMPFILE, errno.EOPNOTSUPP)
        partial = os.path.join(self.directory, '.image.partial')
        precious = os.path.join(self.directory, 'precious')
        self.make(b'precious', precious)
        real = os.open
        for take in (os.symlink, os.link):
            def late(path: str, flags: int, *args: ty.Any,
                     **kwargs: ty.Any) -> int:
                if path == '.image.partial':
                    take(precious, partial)
                return real(path, flags, *args, **kwargs)

            with mock.patch('os.open', late):
                self.assertRaises(FileExistsError, self.fetch)
            self.assertEqual(b'precious',
                             pathlib.Path(precious).read_bytes())
            os.unlink(partial)

    def test_another_process_takes_the_partial_name(self) -> None:
        self.forbid(os.O_TMPFILE, errno.EOPNOTSUPP)
        partial = os.path.join(self.directory, '.image.partial')

        def intrude() -> None:
            os.unlink(partial)
            self.make(b'of another process', partial)

        source = MemorySource([(0, b'image')])
        with mock.patch.object(source, 'finish', side_effect=intrude):
            self.assertRaisesRegex(
                FileExistsError, 'Another process', transfer.transfer, source,
                self.path)
        self.assertEqual(['.image.partial'], os.listdir(self.directory))
        self.assertEqual(b'of another process',
                         pathlib.Path(partial).read_bytes())

    def test_error_names_the_file(self) -> None:
        def fail(*_args: ty.Any) -> int:
            # As the system calls on descriptors do: without a name.
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

        for name in ('pwrite', 'ftruncate', 'fsync'):
            with mock.patch.object(os, name, fail):
                error = self.assertRaises(OSError, self.fetch)
            self.assertEqual((errno.EDQUOT, self.path),
                             (error.errno, error.filename))
            self.assertIn(self.path, str(error))
            self.assertEqual([], os.listdir(self.directory))

    def test_leftover_goes_before_anything_is_written(self) -> None:
        # It may be what has filled the disk.
        pathlib.Path(self.path).write_bytes(b'leftover')

        def check(directory: str) -> bool:
            self.assertEqual([], os.listdir(directory))
            return False

        self.replace(nova.privsep.utils, 'supports_direct_io', check)
        self.fetch()

    def test_filesystem_without_direct_writes(self) -> None:
        self.replace(nova.privsep.utils, 'supports_direct_io',
                     lambda _directory: False)
        self.forbid(os.O_DIRECT, errno.EINVAL)
        image = noise(2 * transfer.BLOCK + 7) + bytes(transfer.BLOCK)
        self.fetch(image)
        self.assertEqual(digest(image), digest(self.content()))

    def test_direct_writes_where_they_are_to_be_had(self) -> None:
        self.replace(nova.privsep.utils, 'supports_direct_io',
                     lambda _directory: True)
        with mock.patch('os.open', wraps=os.open) as spy:
            self.fetch()
        self.assertEqual(1, len([
            call for call in spy.mock_calls if call.args[1] & os.O_DIRECT]))


class TestDurability(TransferTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.events: list[str] = []

    def spy(self, name: str, tell: Callable[..., str]) -> None:
        real = getattr(os, name)

        def call(*args: ty.Any, **kwargs: ty.Any) -> ty.Any:
            result = real(*args, **kwargs)
            self.events.append(tell(*args))
            return result

        self.replace(os, name, call)

    @staticmethod
    def fail_sync_of(kind: Callable[[int], bool], code: int) -> ty.Any:
        """Have fsync(2) fail for directories, or for files."""
        real = os.fsync

        def fsync(fd: int) -> None:
            if kind(os.fstat(fd).st_mode):
                raise OSError(code, os.strerror(code))
            real(fd)

        return mock.patch('os.fsync', fsync)

    def test_synced_before_it_has_a_name_and_before_return(self) -> None:
        self.spy('pwrite', lambda fd, *_: 'write')
        self.spy('ftruncate', lambda fd, size: 'size')
        self.spy('link', lambda *_: 'name')
        self.spy('fsync', lambda fd: 'sync %s' % (
            'directory' if stat.S_ISDIR(os.fstat(fd).st_mode) else 'file'))
        transfer.transfer(
            MemorySource([(0, noise(2 * transfer.BLOCK))]), self.path)
        self.assertEqual(
            ['write', 'write', 'size', 'sync file', 'name',
             'sync directory'], self.events)

    def test_file_cannot_be_synced(self) -> None:
        with self.fail_sync_of(stat.S_ISREG, errno.EIO):
            self.assert_fails(OSError, 'Input/output error',
                              MemorySource([(0, b'x')]), HashVerifier())

    def test_directory_cannot_be_synced(self) -> None:
        with self.fail_sync_of(stat.S_ISDIR, errno.EIO):
            self.assert_fails(OSError, 'Input/output error',
                              MemorySource([(0, b'x')]))

    def test_directory_has_no_sync(self) -> None:
        with self.fail_sync_of(stat.S_ISDIR, errno.EINVAL):
            transfer.transfer(MemorySource([(0, b'x')]), self.path)
        self.assertEqual(b'x', self.content())

    def test_cannot_be_given_its_name(self) -> None:
        for name in ('link', 'replace'):
            with mock.patch.object(os, name, side_effect=OSError(
                    errno.EIO, 'the disk')):
                self.assert_fails(OSError, 'the disk',
                                  MemorySource([(0, b'x')]))
            # The second time without O_TMPFILE, which uses os.replace().
            self.forbid(os.O_TMPFILE, errno.EOPNOTSUPP)


class TestFileAppearsDuringTransfer(TransferTestCase):
    """Another process creates a file at the path during the transfer."""

    OTHER = b'of another process'

    def setUp(self) -> None:
        super().setUp()
        self.source = MemorySource([(0, b'image')])
        self.useFixture(fixtures.MockPatchObject(
            self.source, 'finish', side_effect=lambda: self.make(self.OTHER)))

    def keep(self, source: MemorySource) -> None:
        error = self.assertRaises(
            FileExistsError, transfer.transfer, source, self.path,
            replace=False)
        self.assertEqual(
            f"[Errno {errno.EEXIST}] File exists: '{self.path}'", str(error))

    def test_kept(self) -> None:
        self.keep(self.source)
        self.assertEqual(self.OTHER, self.content())
        self.assertEqual(['image'], os.listdir(self.directory))

    def test_kept_without_tmpfile(self) -> None:
        self.forbid(os.O_TMPFILE, errno.EOPNOTSUPP)
        self.test_kept()

    def test_kept_when_it_existed_before(self) -> None:
        self.make(self.OTHER)
        self.keep(MemorySource([(0, b'image')]))
        self.assertEqual(self.OTHER, self.content())

    def test_link_is_kept(self) -> None:
        os.symlink('nowhere', self.path)
        self.keep(MemorySource([(0, b'image')]))
        self.assertEqual('nowhere', os.readlink(self.path))
        self.assertEqual(['image'], os.listdir(self.directory))

    def test_kept_when_the_source_fails(self) -> None:
        def fail() -> Exception:
            self.make(self.OTHER)
            return broken_cable()

        self.assertRaises(
            transfer.SourceError, transfer.transfer,
            MemorySource([(0, b'x')], failure=fail), self.path,
            replace=False)
        self.assertEqual(self.OTHER, self.content())

    def test_path_does_not_exist(self) -> None:
        for forbidden in (False, True):
            if forbidden:
                self.forbid(os.O_TMPFILE, errno.EOPNOTSUPP)
            transfer.transfer(
                MemorySource([(0, b'image')]), self.path, replace=False)
            self.assertEqual(b'image', self.content())
            self.assertEqual(['image'], os.listdir(self.directory))
            os.unlink(self.path)

    def test_replaced(self) -> None:
        transfer.transfer(self.source, self.path)
        self.assertEqual(b'image', self.content())
        self.assertEqual(['image'], os.listdir(self.directory))

    def test_replaced_without_tmpfile(self) -> None:
        self.forbid(os.O_TMPFILE, errno.EOPNOTSUPP)
        self.test_replaced()


class Killed(BaseException):
    """Ends a thread wherever it is, as a signal or eventlet's kill does."""


class Victim:
    """A call in a thread that can be killed while it waits."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self.error: BaseException | None = None
        self.has_ended = False
        self.killed = transfer.native('threading').Event()

    def run(self) -> None:
        self.ident = transfer.native('threading').get_ident()
        try:
            self._call()
        except BaseException as exc:
            self.error = exc
        self.has_ended = True

    def wait(self) -> None:
        wait_until(lambda: self.has_ended)


def wait_until(condition: Callable[[], object]) -> None:
    """Wait until the condition is true; let green threads run."""
    end = time.monotonic() + 60
    while not condition():
        if time.monotonic() > end:
            raise AssertionError('the condition is still false')
        time.sleep(0.001)


class Killing(fixtures.Fixture):
    """Starts calls in threads that can be killed while they wait.

    With eventlet, these are green threads. Native threads cannot be killed, so
    without eventlet this fixture replaces the wait for native work with one
    that kill() ends.
    """

    def _setUp(self) -> None:
        self._eventlet = compat.eventlet()
        self._green: dict[Victim, ty.Any] = {}
        self._threads: list[threading.Thread] = []
        self._gate = transfer.native('threading').Event()
        self._gate.set()
        if self._eventlet is None:
            self.useFixture(fixtures.MockPatchObject(
                compat, 'in_native_thread', self._in_thread))
        self.addCleanup(self.free)

    def start(self, call: Callable[[], object]) -> Victim:
        victim = Victim(call)
        self.addCleanup(victim.wait)
        if self._eventlet is not None:
            self._green[victim] = self._eventlet.spawn(victim.run)
        else:
            thread = threading.Thread(target=victim.run, daemon=True)
            thread.victim = victim  # type: ignore[attr-defined]
            thread.start()
            self.addCleanup(thread.join, 60)
        return victim

    def kill(self, victim: Victim) -> None:
        """Kill it; its cleanup may still run after this returns."""
        if self._eventlet is not None:
            self._eventlet.kill(self._green[victim], Killed)
        victim.killed.set()

    def occupy(self) -> None:
        """Keep native work in the queue until free() is called."""
        self._gate.clear()
        if self._eventlet is None:
            return
        tpool = self._eventlet.tpool
        started: list[int] = []

        def work() -> None:
            started.append(1)
            self._gate.wait(60)

        threads = [self._eventlet.spawn(tpool.execute, work)
                   for _number in range(tpool._nthreads)]
        self.addCleanup(lambda: [thread.wait() for thread in threads])
        self.addCleanup(self.free)
        wait_until(lambda: len(started) == len(threads))

    def free(self) -> None:
        """Let the queued work run, and wait until it has ended."""
        self._gate.set()
        for thread in self._threads:
            thread.join(60)
        if self._eventlet is not None:
            # This call waits in the queue behind that work.
            self._eventlet.tpool.execute(os.getpid)

    def _in_thread(self, work: Callable[[], ty.Any]) -> Callable[[], ty.Any]:
        results: list[ty.Any] = []
        errors: list[BaseException] = []

        def run() -> None:
            self._gate.wait(60)
            try:
                results.append(work())
            except BaseException as exc:
                errors.append(exc)

        def call() -> ty.Any:
            thread = threading.Thread(target=run, daemon=True)
            thread.start()
            self._threads.append(thread)
            victim = threading.current_thread().victim  # type: ignore
            while thread.is_alive():
                if victim.killed.is_set():
                    raise Killed
                time.sleep(0.001)
            if errors:
                raise errors[0]
            return results[0]

        return call


#: The system calls of a transfer that can hang.
_CALLS = ('open', 'stat', 'fstat', 'unlink', 'pwrite', 'ftruncate', 'fsync',
          'link', 'replace', 'close')
_NAMING = ('link', 'replace')


class Steps(fixtures.Fixture):
    """Calls a function at one of the system calls of a transfer.

    By default, it does not count the calls of the test's own thread.
    """

    def __init__(
        self, number: int, callback: Callable[[], None], after: bool = False,
        everywhere: bool = False,
    ) -> None:
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
        self._own = transfer.native('threading').get_ident()
        self._lock = transfer.native('threading').Lock()
        for name in _CALLS:
            self.useFixture(fixtures.MockPatchObject(
                os, name, self._watched(name, getattr(os, name))))

    @property
    def reached(self) -> str:
        """The chosen system call; '' if the transfer did not get there."""
        if 0 <= self._number < len(self.calls):
            return self.calls[self._number]
        return ''

    def _watched(
        self, name: str, real: Callable[..., ty.Any],
    ) -> Callable[..., ty.Any]:
        def call(*args: ty.Any, **kwargs: ty.Any) -> ty.Any:
            ident = transfer.native('threading').get_ident()
            if ident == self._own and not self._everywhere:
                return real(*args, **kwargs)
            with self._lock:
                number = len(self.calls)
                self.calls.append(name)
                self.threads.add(ident)
            chosen = number == self._number
            if chosen and not self._after:
                self._callback()
            try:
                return real(*args, **kwargs)
            finally:
                if chosen and self._after:
                    self._callback()

        return call


class KillableSource(MemorySource):
    """Records that it is interrupted, but continues."""

    def __init__(self, image: bytes) -> None:
        super().__init__([(0, image)], endless=True)
        self.interrupted = transfer.native('threading').Event()

    def interrupt(self) -> None:
        self.interrupted.set()


class KilledTestCase(TransferTestCase):
    IMAGE = noise(SMALL + 5)

    def setUp(self) -> None:
        super().setUp()
        self.use_small_blocks()
        # Nova's function creates a file of its own, and removes it unless a
        # signal arrives at that moment. That file is not tested here.
        self.replace(nova.privsep.utils, 'supports_direct_io',
                     lambda _directory: True)
        self.event = transfer.native('threading').Event


class TestKilled(KilledTestCase):
    """The waiting thread is killed; a native one does the work."""

    def setUp(self) -> None:
        super().setUp()
        self.killing = self.useFixture(Killing())

    def start(
        self, source: transfer.Source, replace: bool = True,
        name: str = 'image',
    ) -> Victim:
        return self.killing.start(lambda: transfer.transfer(
            source, os.path.join(self.directory, name), HashVerifier(),
            replace=replace))

    def kill_at(self, number: int, after: bool, replace: bool) -> Steps:
        """Kill it at a system call that hangs until stop() was called."""
        reached, go_on = self.event(), self.event()

        def hang() -> None:
            reached.set()
            if not go_on.wait(60):
                raise AssertionError('the hub does not run')

        with Steps(number, hang, after) as steps:
            source = KillableSource(self.IMAGE)
            victim = self.start(source, replace)
            wait_until(lambda: reached.is_set() or victim.has_ended)
            if reached.is_set():
                self.killing.kill(victim)
                wait_until(source.interrupted.is_set)
                # The caller waits, and so does not close the source.
                self.assertFalse(victim.has_ended)
                go_on.set()
            victim.wait()
            if steps.reached:
                self.assertIsInstance(victim.error, Killed)
                self.assert_not_named(steps, number, after)
            else:
                self.assertIsNone(victim.error)
        return steps

    def assert_not_named(
        self, steps: Steps, number: int, after: bool,
    ) -> None:
        before = steps.calls[:number + 1]
        if not {*_NAMING} & {*before}:
            self.assertFalse({*_NAMING} & {*steps.calls}, steps.calls)
        self.assertEqual([], os.listdir(self.directory),
                         str((number, steps.reached, after)))
        self.leaks.check()

    def kill_at_every_call(self, replace: bool) -> None:
        for after in (False, True):
            for number in itertools.count():
                steps = self.kill_at(number, after, replace)
                if not steps.reached:
                    break
            self.assertEqual(digest(self.IMAGE), digest(self.content()))
            self.assertGreater(number, 8, steps.calls)
            self.assertNotIn(
                transfer.native('threading').get_ident(), steps.threads)
            os.unlink(self.path)

    def test_at_every_call(self) -> None:
        for replace in (True, False):
            self.kill_at_every_call(replace)

    def test_at_every_call_without_tmpfile(self) -> None:
        self.forbid(os.O_TMPFILE, errno.EOPNOTSUPP)
        for replace in (True, False):
            self.kill_at_every_call(replace)

    def test_while_it_is_read(self) -> None:
        """The kill interrupts a waiting read, and waits until it ends."""
        reads = self.event()

        class Mute(KillableSource):
            def readinto(self, buffer: memoryview) -> int:
                reads.set()
                if not self.interrupted.wait(60):
                    raise AssertionError('the read is not interrupted')
                raise transfer.SourceError(reason='interrupted')

        victim = self.start(Mute(b'x'))
        wait_until(reads.is_set)
        self.killing.kill(victim)
        victim.wait()
        self.assertIsInstance(victim.error, Killed)
        self.assert_nothing_left()

    def test_while_it_is_verified(self) -> None:
        verifies, go_on = self.event(), self.event()

        class Slow(HashVerifier):
            def verify(self) -> None:
                verifies.set()
                go_on.wait(60)

        source = KillableSource(self.IMAGE)
        victim = self.killing.start(
            lambda: transfer.transfer(source, self.path, Slow()))
        wait_until(verifies.is_set)
        self.killing.kill(victim)
        wait_until(source.interrupted.is_set)
        with mock.patch('os.link') as link:
            go_on.set()
            victim.wait()
        link.assert_not_called()
        self.assert_nothing_left()

    def test_name_is_not_given_to_another_image(self) -> None:
        reached, go_on, finished = self.event(), self.event(), self.event()
        real = os.link

        def slow(*args: ty.Any, **kwargs: ty.Any) -> None:
            if not reached.is_set():
                reached.set()
                go_on.wait(60)
            real(*args, **kwargs)

        class Unfinished(MemorySource):
            def readinto(self, buffer: memoryview) -> int:
                if self.taken:
                    reads.set()
                    finished.wait(60)
                return super().readinto(buffer)

        reads = self.event()
        with mock.patch('os.link', slow):
            first_source = KillableSource(self.IMAGE)
            first = self.start(first_source)
            wait_until(reached.is_set)
            self.killing.kill(first)
            wait_until(first_source.interrupted.is_set)
            second = self.start(
                Unfinished([(0, b'2' * 3 * SMALL)], endless=True,
                           pieces=(SMALL,)), name='other')
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
        with Steps(-1, lambda: None) as steps:
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
                thread = transfer.native('threading').Thread(target=work)
                thread.start()
                thread.join(60)
                self.after_work()
                raise Killed

            return call

        self.replace(compat, 'in_native_thread', kill_late)

    def transfer(self) -> Steps:
        with Steps(-1, lambda: None, everywhere=True) as steps:
            self.assertRaises(
                Killed, transfer.transfer, MemorySource([(0, self.IMAGE)]),
                self.path)
        self.assertIn('link', steps.calls)
        self.assertNotIn(
            transfer.native('threading').get_ident(), steps.threads)
        return steps

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
        with Steps(-1, lambda: None):
            self.assertRaises(
                Killed, transfer.transfer, MemorySource([(0, self.IMAGE)]),
                self.path)
        self.assertEqual(b'of another process', self.content())


class TestKilledTwice(KilledTestCase):
    """Nothing ends the wait for the work before the work has ended."""

    def stop(self, sleeps: Callable[[int], None],
             interrupt: Callable[[], None] = lambda: None) -> None:
        """Kill a transfer whose work goes on for a while.

        :param sleeps: called each time that the killed thread waits
        :param interrupt: what the source does when it is interrupted
        """
        reads, go_on = self.event(), self.event()
        threads: list[ty.Any] = []

        class Stubborn(MemorySource):
            def readinto(self, buffer: memoryview) -> int:
                reads.set()
                go_on.wait(60)
                raise transfer.SourceError(reason='at last')

            def interrupt(self) -> None:
                interrupt()

        def kill(work: Callable[[], object]) -> Callable[[], None]:
            def quiet() -> None:
                with contextlib.suppress(transfer.SourceError):
                    work()

            def call() -> None:
                threads.append(
                    transfer.native('threading').Thread(target=quiet))
                threads[0].start()
                reads.wait(60)
                raise Killed('once')

            return call

        def sleep(_seconds: float) -> None:
            numbers.append(1)
            sleeps(len(numbers))
            go_on.set()
            real(0.001)

        numbers: list[int] = []
        real = time.sleep
        self.addCleanup(go_on.set)
        self.replace(compat, 'in_native_thread', kill)
        with mock.patch('time.sleep', sleep):
            self.assertRaisesRegex(
                Killed, 'again', transfer.transfer, Stubborn([(0, b'x')]),
                self.path)
        self.assertTrue(go_on.is_set(), 'the work goes on')
        threads[0].join(60)
        self.assert_nothing_left()

    def test_second_kill(self) -> None:
        def kill_again(number: int) -> None:
            if number == 1:
                raise Killed('again')

        self.stop(kill_again)

    def test_source_cannot_be_interrupted(self) -> None:
        def fail() -> None:
            raise Killed('again')

        self.stop(lambda _number: None, fail)


class TestInterrupted(KilledTestCase):
    """A signal ends the thread that does the work itself.

    nova-image-fetch has no other thread for it.
    """

    def setUp(self) -> None:
        super().setUp()
        self.replace(compat, 'in_native_thread', lambda work: work)

    def interrupt_at(
        self, number: int, after: bool, replace: bool,
    ) -> str | None:
        """Return the system call that the signal interrupted, or None."""
        def fail() -> None:
            # Here the test itself, not the transfer, would leak a descriptor.
            if steps.reached not in (('open',) if after else ('close',)):
                raise Killed

        source = KillableSource(self.IMAGE)
        with Steps(number, fail, after, everywhere=True) as steps:
            try:
                transfer.transfer(
                    source, self.path, HashVerifier(), replace=replace)
            except Killed:
                pass
        self.leaks.check()
        return steps.reached or None

    def interrupt_at_every_call(self, replace: bool) -> None:
        for after in (False, True):
            for number in itertools.count():
                call = self.interrupt_at(number, after, replace)
                if call == ('open' if after else 'close') or call is None:
                    self.assertEqual(self.IMAGE, self.content())
                    os.unlink(self.path)
                self.assertEqual([], os.listdir(self.directory),
                                 str((number, call, after, replace)))
                if call is None:
                    break
            self.assertGreater(number, 8)

    def test_at_every_call(self) -> None:
        for replace in (True, False):
            self.interrupt_at_every_call(replace)

    def test_at_every_call_without_tmpfile(self) -> None:
        self.forbid(os.O_TMPFILE, errno.EOPNOTSUPP)
        for replace in (True, False):
            self.interrupt_at_every_call(replace)


class TestMemory(TransferTestCase):
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

    def assert_freed(self, failed: bool = False) -> None:
        """All is freed, without the help of the garbage collector.

        :param failed: eventlet, where it is used, keeps the traceback of an
            error for the collector, and so what is in its frames
        """
        kept = 2 if failed and compat.eventlet() is not None else 0
        self.assertEqual(transfer.BLOCKS, len(self.maps))
        self.assertLessEqual(len([each for each in self.maps if each()]),
                             kept, 'buffers are left to the collector')

    def transfer_in_vain(
        self, source: transfer.Source, verifier: transfer.Verifier,
    ) -> None:
        # Unlike assertRaises this keeps nothing of the error.
        try:
            transfer.transfer(source, self.path, verifier)
        except (transfer.SourceError, ValueError, OSError):
            return
        raise AssertionError('it did not fail')

    def test_limit(self) -> None:
        self.assertLessEqual(4 * 1024 * 1024 * transfer.BLOCKS, 64 << 20)
        transfer.transfer(MemorySource([(0, noise(50 * SMALL))]), self.path,
                          HashVerifier())
        self.assertEqual(transfer.BLOCKS, len(self.maps))

    def test_freed(self) -> None:
        transfer.transfer(MemorySource([(0, noise(5 * SMALL))]), self.path,
                          HashVerifier())
        self.assert_freed()

    def test_freed_when_the_source_fails(self) -> None:
        self.transfer_in_vain(
            MemorySource([(0, noise(20 * SMALL))], endless=True,
                         failure=broken_cable), HashVerifier())
        self.assert_freed(failed=True)

    def test_freed_when_the_bytes_are_refused(self) -> None:
        self.transfer_in_vain(
            MemorySource([(0, noise(5 * SMALL))]), RefusingVerifier())
        self.assert_freed()

    def test_freed_when_the_verifier_fails(self) -> None:
        self.transfer_in_vain(
            MemorySource([(0, noise(20 * SMALL))]), RefusingVerifier(1))
        self.assert_freed(failed=True)

    def test_freed_when_writing_fails(self) -> None:
        def full(*_args: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with mock.patch('os.pwrite', full):
            self.transfer_in_vain(
                MemorySource([(0, noise(20 * SMALL))]), HashVerifier())
        self.assert_freed(failed=True)

    def test_reads_ahead_of_the_disk_as_far_as_buffers_go(self) -> None:
        source = MemorySource([(0, noise(20 * SMALL))])
        all_read = transfer.native('threading').Event()
        ahead: list[int] = []
        pwrite = os.pwrite
        readinto = source.readinto

        def read(buffer: memoryview) -> int:
            count = readinto(buffer)
            if source.taken >= transfer.BLOCKS * SMALL:
                all_read.set()
            return count

        def write(fd: int, data: memoryview, offset: int) -> int:
            if not all_read.wait(60):
                raise OSError(errno.ETIMEDOUT, 'nothing is read meanwhile')
            ahead.append(source.taken - offset)
            return pwrite(fd, data, offset)

        source.readinto = read  # type: ignore[method-assign]
        with mock.patch('os.pwrite', write):
            transfer.transfer(source, self.path)
        self.assertEqual(20, len(ahead))
        self.assertEqual(transfer.BLOCKS * SMALL, max(ahead))

    def test_hashes_while_it_writes(self) -> None:
        native = transfer.native('threading')
        hashed, written = native.Event(), native.Event()
        pwrite = os.pwrite

        class Waiting(HashVerifier):
            def update(self, data: memoryview, /) -> None:
                super().update(data)
                hashed.set()
                if not written.wait(60):
                    raise ValueError('nothing is written meanwhile')

        def write(fd: int, data: memoryview, offset: int) -> int:
            if not hashed.wait(60):
                raise OSError(errno.ETIMEDOUT, 'nothing is hashed meanwhile')
            written.set()
            return pwrite(fd, data, offset)

        verifier = Waiting()
        with mock.patch('os.pwrite', write):
            transfer.transfer(MemorySource([(0, noise(SMALL))]), self.path,
                              verifier)
        self.assertEqual((SMALL, 1), (verifier.count, verifier.asked))


class TestIsPlainDestination(TransferTestCase):
    def test_what_is_one(self) -> None:
        self.assertTrue(transfer.is_plain_destination(self.path))
        self.make(b'')
        self.assertTrue(transfer.is_plain_destination(self.path))
        link = os.path.join(self.directory, 'link')
        os.symlink(self.path, link)
        self.assertTrue(transfer.is_plain_destination(link))
        os.unlink(self.path)
        self.assertTrue(transfer.is_plain_destination(link))

    def test_what_is_none(self) -> None:
        os.mkfifo(self.path)
        link = os.path.join(self.directory, 'link')
        os.symlink(self.path, link)
        for path in (self.path, link, '/dev/null', self.directory):
            self.assertFalse(transfer.is_plain_destination(path), path)
