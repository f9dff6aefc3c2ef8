# SPDX-License-Identifier: Apache-2.0

"""One pass from a byte source to a durable file.

Every download to a file, from Ceph or over HTTP, goes through
:func:`transfer`: it reads the image once, verifies and writes it at the same
time, and gives the file its name at the end. A few buffers hold the data,
independent of the size of the image. Runs of zeros become holes in the file.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import mmap
import os
import threading
import time
from typing import Any
from typing import Protocol
from typing import TypeAlias

from nova import exception
from nova.i18n import _
from nova.image import compat
from nova.image import destination

#: Size of a buffer in bytes, and number of buffers.
BLOCK = 4 * 1024 * 1024
BLOCKS = 8

#: O_DIRECT requires multiples of this for offset, length and address.
_ALIGNMENT = 4096
#: An aligned run of zeros of this many bytes becomes a hole.
_HOLE = 64 * 1024
_ZEROS = bytes(BLOCK)

#: CPU priority of the threads that verify and write, see nice(1).
_NICENESS = 10

#: Called with the bytes read so far and the size, or None if it is unknown.
Progress = Callable[[int, int | None], None]


class SourceError(exception.NovaException):
    """A source failed to deliver the image; another source may succeed."""
    msg_fmt = _('%(reason)s')


class Source(Protocol):
    """The bytes of an image: extents in order, with zeros between them.

    All methods but interrupt() raise SourceError if the source fails.
    """

    @property
    def size(self) -> int | None:
        """Size of the image in bytes; None if it is not known (yet)."""

    def extents(self) -> Iterator[tuple[int, int | None]]:
        """Yield offset and length in bytes of each extent, in order.

        A length of None means that the extent ends with the stream. The
        caller reads each extent to its end before it requests the next.
        """

    def readinto(self, buffer: memoryview) -> int:
        """Read the next bytes of the extent and return their number.

        This is 0 only at the end of the stream.
        """

    def finish(self) -> None:
        """Check after the last byte that the bytes may be used."""

    def interrupt(self) -> None:
        """Make a read that waits in another thread fail soon."""


class Verifier(Protocol):
    """Decides whether the bytes are those of the image; used once."""

    def update(self, data: memoryview, /) -> None:
        """Add the next bytes."""

    def verify(self) -> None:
        """Raise an exception if the bytes are wrong."""


@dataclasses.dataclass(frozen=True)
class Report:
    #: Size of the image in bytes.
    size: int
    #: Bytes written to the file; the rest is holes.
    written: int
    #: Duration in seconds, until the file is durable.
    seconds: float


def transfer(source: Source, path: str, verifier: Verifier | None = None,
             size: int | None = None, progress: Progress | None = None,
             replace: bool = True, temporary: bool = False,
             dense: bool = False, limit: 'RateLimit | None' = None) -> Report:
    """Write the image from a source to a file, or leave no file behind.

    This syncs the file and its directory before it returns, unless the file
    is temporary; see :class:`nova.image.destination.Destination`.

    Under eventlet, native threads do the work, so a filesystem that hangs
    does not block the hub. A green thread that is killed while it waits ends
    when they have ended.

    :param verifier: an unused one, or None to accept any bytes
    :param size: size in bytes that the image must have; None: not known
    :param progress: called at most once for each block, by the thread that
        does the work
    :param replace: if False, a file at path is never removed or replaced
    :param temporary: the caller reads the file at once and then removes it
    :param dense: the file needs as much room as the size says
    :param limit: slows the transfer down
    :raises DestinationError: the file cannot be written, or replace is False
        and path exists
    :raises SourceError: the source failed, or its size is wrong
    :raises Exception: any error of the verifier
    """
    work = _Work(
        source, destination.Destination(path, replace, temporary), verifier,
        size, progress, dense, limit)
    try:
        return compat.in_native_thread(work.run)()
    except BaseException:
        work.stop()
        raise


class RateLimit:
    """Limits the sum of the rates of several transfers.

    :param rate: returns the limit in bytes per second, 0 for no limit
    :param clock: the module time, without eventlet's patches
    """

    def __init__(self, rate: Callable[[], int], clock: Any) -> None:
        self._rate = rate
        self._clock = clock
        self._lock = compat.native('threading').Lock()
        self._free = 0.0

    def wait(self, count: int, check: Callable[[], None]) -> None:
        """Wait until the limit permits to read more than count bytes.

        :param check: called repeatedly; if it raises, the wait ends
        """
        rate = self._rate()
        if not rate:
            return
        with self._lock:
            end = max(self._free, self._clock.monotonic()) + count / rate
            self._free = end
        while (left := end - self._clock.monotonic()) > 0:
            check()
            self._clock.sleep(min(left, 0.1))


class _Block:
    """A part of the image in memory, shared by several threads."""

    def __init__(self) -> None:
        # O_DIRECT needs aligned memory; an anonymous mapping is page-aligned.
        self.view = memoryview(mmap.mmap(-1, BLOCK))
        self.offset = 0
        self.length = 0
        self.users = 0


#: A block, or the length of a gap: zeros that no block contains.
_Item: TypeAlias = _Block | int


class _Pool:
    """The unused blocks."""

    def __init__(self) -> None:
        self._lock = compat.native('threading').Lock()
        self._unused = compat.native('queue').SimpleQueue()
        for _number in range(BLOCKS):
            self._unused.put(_Block())

    def take(self) -> _Block:
        return self._unused.get()

    def clear(self) -> None:
        while not self._unused.empty():
            self._unused.get()

    def release(self, item: _Item) -> None:
        """Return a block to the pool if this was its last user."""
        if isinstance(item, int):
            return
        with self._lock:
            item.users -= 1
            unused = not item.users
        if unused:
            self._unused.put(item)


class _Stage:
    """A native thread that processes all blocks, in order.

    After a failure, which put() and join() raise in the reader's thread, it
    only releases the blocks, so that the reader does not wait for it.
    """

    def __init__(self, name: str, pool: _Pool,
                 work: Callable[[_Item], None]) -> None:
        self._pool = pool
        self._work = work
        self._failure: BaseException | None = None
        self._queue = compat.native('queue').SimpleQueue()
        self._thread = compat.native('threading').Thread(
            target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, item: _Item) -> None:
        if self._failure is not None:
            raise self._failure
        self._queue.put(item)

    def join(self) -> None:
        """Wait until all items are processed; raise a failure."""
        self._end()
        if self._failure is not None:
            raise self._failure

    def abandon(self) -> None:
        """End the thread without processing the items that remain."""
        if self._thread.is_alive():
            self._failure = self._failure or Exception()
            self._end()
        # Its traceback refers to this object and to the blocks.
        self._failure = None

    def _end(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        # Guests come first. Linux applies this to the thread, not the process.
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, _NICENESS)
        for item in iter(self._queue.get, None):
            try:
                if self._failure is None:
                    self._work(item)
            except BaseException as exc:
                self._failure = exc
            self._pool.release(item)


class _Work:
    """A transfer that another thread can stop.

    It fills blocks from the source and passes them to the stages.
    """

    def __init__(self, source: Source, target: destination.Destination,
                 verifier: Verifier | None, size: int | None,
                 progress: Progress | None, dense: bool,
                 limit: RateLimit | None) -> None:
        self._source = source
        self._destination = target
        self._verifier = verifier
        self._expected = size
        self._progress = progress
        self._dense = dense
        self._limit = limit
        self._pool = _Pool()
        self._stages: list[_Stage] = []
        self._block: _Block | None = None
        self._running = False
        self._stopped = False
        self._retraction: threading.Thread | None = None
        # Offset of the next byte, and of the end of what the stages have.
        self._position = 0
        self._handed = 0

    def run(self) -> Report:
        """Write the file, unless stop() was called before."""
        # stop() sets _stopped before it reads _running. In this order, at
        # least one of the two threads notices the other.
        self._running = True
        try:
            self._check_not_stopped()
            started = time.monotonic()
            with self._destination:
                if self._expected is not None:
                    self._destination.check_room(self._expected, self._dense)
                self._copy()
                self._source.finish()
                if self._verifier is not None:
                    self._verifier.verify()
                self._destination.commit(self._check_not_stopped)
            return Report(self._handed, self._destination.written,
                          time.monotonic() - started)
        finally:
            self._running = False

    def stop(self) -> None:
        """Return when the work has ended and the file has no name.

        A green thread can be killed while a native thread works for it. The
        native thread must not go on then, because the caller closes the
        descriptors of the source.
        """
        self._stopped = True
        interrupts = [self._source.interrupt] if self._running else []
        error: BaseException | None = None
        while interrupts or self._is_ending():
            try:
                if interrupts:
                    interrupts.pop()()
                _pause()
            except BaseException as exc:
                # Neither a second kill nor an error of the source must end
                # the wait before the work ends.
                error = exc
        if error is not None:
            raise error

    def _is_ending(self) -> bool:
        if self._running:
            return True
        if self._retraction is None and self._destination.is_committed:
            # The work ended before it noticed the stop. A file system can
            # hang, so the hub must not remove the name itself.
            self._retraction = compat.native('threading').Thread(
                target=self._destination.retract, name='image-retract',
                daemon=True)
            self._retraction.start()
        return self._retraction is not None and self._retraction.is_alive()

    def _check_not_stopped(self) -> None:
        if self._stopped:
            raise SourceError(reason=_('The transfer was stopped'))

    def _copy(self) -> None:
        """Copy the image to a synced file that has no name yet."""
        with contextlib.ExitStack() as stack:
            # Free the 32 MiB of blocks without the garbage collector: the
            # objects here refer to each other, and a traceback to all of them.
            stack.callback(self._pool.clear)
            stack.callback(self._stages.clear)
            work = {'image-write': self._write}
            if self._verifier is not None:
                work['image-verify'] = self._verify
            for name, method in work.items():
                stage = _Stage(name, self._pool, method)
                stack.callback(stage.abandon)
                self._stages.append(stage)
            try:
                self._read()
                self._stages[0].join()
                # Meanwhile, the other stage may still verify.
                self._destination.sync(self._handed)
                self._stages[-1].join()
            except BaseException:
                # Stop the stages before the ExitStack waits for them.
                self._stopped = True
                raise

    def _read(self) -> None:
        for offset, length in self._source.extents():
            if offset < self._position:
                raise SourceError(reason=_('The extents are not in order'))
            self._check_fits(offset)
            self._skip_to(offset)
            self._read_extent(length)
        size = self._source.size
        if size is None:
            size = self._position
        expected = size if self._expected is None else self._expected
        if size < self._position or size != expected:
            raise SourceError(
                reason=_('It has %(size)d bytes, the image has %(expected)d') %
                {'size': max(size, self._position), 'expected': expected})
        self._skip_to(size)
        self._hand_over()

    def _check_fits(self, position: int) -> None:
        if self._expected is not None and position > self._expected:
            raise SourceError(
                reason=_('It has more than the %d bytes of the image') %
                self._expected)

    def _read_extent(self, length: int | None) -> None:
        end = None if length is None else self._position + length
        while end is None or self._position < end:
            view = self._room()
            if end is not None:
                view = view[:end - self._position]
            count = self._source.readinto(view)
            if not count:
                if end is None:
                    return
                raise SourceError(reason=_('The stream ended early, after '
                                           '%d bytes') % self._position)
            self._position += count
            self._check_fits(self._position)
            if self._limit is not None:
                self._limit.wait(count, self._check_not_stopped)

    def _room(self) -> memoryview:
        """Return the rest of the block that contains the next byte."""
        if self._block and self._position == self._block.offset + BLOCK:
            self._hand_over()
        if self._block is None:
            block = self._pool.take()
            # Offsets of blocks are multiples of BLOCK, hence aligned.
            start = self._position % BLOCK
            block.offset = self._position - start
            block.view[:start] = _ZEROS[:start]
            self._hand_over_gap(block.offset)
            self._block = block
        return self._block.view[self._position - self._block.offset:]

    def _skip_to(self, offset: int) -> None:
        block = self._block
        if block is not None:
            start = self._position - block.offset
            stop = min(offset - block.offset, BLOCK)
            block.view[start:stop] = _ZEROS[start:stop]
            self._position = block.offset + stop
            if stop == BLOCK:
                self._hand_over()
        self._position = offset

    def _hand_over(self) -> None:
        """Pass the data before the position to the other threads."""
        block, self._block = self._block, None
        if block is None:
            self._hand_over_gap(self._position)
            return
        block.length = self._position - block.offset
        block.users = len(self._stages)
        self._put(block, self._position)

    def _hand_over_gap(self, end: int) -> None:
        if end > self._handed:
            self._put(end - self._handed, end)

    def _put(self, item: _Item, end: int) -> None:
        self._handed = end
        self._check_not_stopped()
        for stage in self._stages:
            stage.put(item)
        if self._progress is not None:
            self._progress(end, self._expected or self._source.size)

    def _write(self, item: _Item) -> None:
        if isinstance(item, int):
            return
        # sync() truncates the padding.
        padded = -(-item.length // _ALIGNMENT) * _ALIGNMENT
        item.view[item.length:padded] = _ZEROS[item.length:padded]
        for start, stop in _data_runs(item.view[:padded]):
            self._destination.write(item.view[start:stop],
                                    item.offset + start)

    def _verify(self, item: _Item) -> None:
        assert self._verifier is not None
        if isinstance(item, _Block):
            self._verifier.update(item.view[:item.length])
            return
        for start in range(0, item, BLOCK):
            # A gap can be terabytes long.
            if self._stopped:
                return
            self._verifier.update(memoryview(_ZEROS)[:item - start])


def _pause() -> None:
    time.sleep(0.02)


def _data_runs(view: memoryview) -> Iterator[tuple[int, int]]:
    """Yield start and stop of the parts of view that are not all zeros."""
    start = -1
    for unit in range(0, len(view), _HOLE):
        # Unlike a comparison, startswith() is a memcmp without a copy.
        if _ZEROS.startswith(view[unit:unit + _HOLE]):
            if start >= 0:
                yield start, unit
                start = -1
        elif start < 0:
            start = unit
    if start >= 0:
        yield start, len(view)
