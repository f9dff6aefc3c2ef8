# SPDX-License-Identifier: Apache-2.0

"""One pass from a byte source to a durable file.

Whatever an image comes by, Ceph or HTTP, it passes through :func:`transfer`:
read once, hashed and written while it is read, checked, and only then given
its name. Memory is bounded by a handful of buffers, however large the image;
runs of zeros become holes in the file.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import errno
import importlib
import mmap
import os
import stat
import threading
import time
from types import ModuleType
from types import TracebackType
from typing import Any
from typing import Protocol
from typing import Self

from nova import exception
from nova.i18n import _
from nova.image import compat
import nova.privsep.utils

#: Bytes of one buffer, and how many of them there are.
BLOCK = 4 * 1024 * 1024
BLOCKS = 8

#: Offset, length and memory of a direct write are multiples of this.
_ALIGNMENT = 4096
#: An aligned run of zeros of this many bytes is left out of the file.
_HOLE = 64 * 1024
_ZEROS = bytes(BLOCK)

_STOP_PAUSE = 0.02

#: What filesystems and kernels without O_TMPFILE answer (open(2)).
_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)

#: Called with the bytes done so far, and all there are, or None if unknown.
Progress = Callable[[int, int | None], None]


class SourceError(exception.NovaException):
    """A source could not deliver the image; another one may."""
    msg_fmt = _('%(reason)s')


class Source(Protocol):
    """Where the bytes of an image come from.

    A source is an ordered list of extents; what lies between them is zeros.
    """

    @property
    def size(self) -> int | None:
        """Bytes of the whole image, zeros included; None: not known (yet)."""

    def extents(self) -> Iterator[tuple[int, int | None]]:
        """Yield offset and length in bytes of each extent, in order.

        A length of None is for an extent that goes on to the end. Each extent
        is read to its end, by readinto, before the next is asked for.

        :raises SourceError: the source cannot go on
        """

    def readinto(self, buffer: memoryview) -> int:
        """Read the next bytes of the extent.

        :returns: how many; 0 only at the end of the stream
        :raises SourceError: the source cannot go on
        """

    def finish(self) -> None:
        """Called once, after the last byte.

        :raises SourceError: what was read must not be used
        """

    def interrupt(self) -> None:
        """Have a read that waits in another thread fail, soon."""


class Verifier(Protocol):
    """Decides whether the bytes are those of the image."""

    def update(self, data: memoryview, /) -> None:
        """Take the next bytes."""

    def verify(self) -> None:
        """Raise an exception unless the bytes taken are right."""


@dataclasses.dataclass(frozen=True)
class Report:
    """What a transfer did."""
    #: Bytes of the image.
    size: int
    #: Bytes written to the file; the rest of it is holes.
    written: int
    #: Seconds it took, from the first byte asked for to a durable file.
    seconds: float


def transfer(
    source: Source, path: str, verifier: Verifier | None = None,
    size: int | None = None, progress: Progress | None = None,
    replace: bool = True,
) -> Report:
    """Make the file at path from a source, or leave nothing there.

    This syncs the file and its directory before it returns. Until then the
    image has no name. On a filesystem without O_TMPFILE, it has a temporary
    name instead: that of path, with a dot before and ``.partial`` after it.
    A failed transfer removes this name. Only a killed process can leave it
    behind, and the next transfer to path removes it.

    Under eventlet, one native thread does all of the work, so a filesystem
    that hangs does not block the hub. A green thread that is killed while it
    waits ends when the native thread has ended.

    Two transfers to one path at the same time may not both succeed. Nova
    holds a lock on the image to prevent this.

    :param verifier: an unused one, or None to accept any bytes
    :param size: size in bytes that the image must have; None: not known
    :param progress: called at most once for each block, by the thread that
        does the work
    :param replace: remove a file at path before anything is written; if
        False, such a file is never removed or replaced
    :raises FileExistsError: replace is False, and path exists
    :raises SourceError: the source failed, or is not of the right size
    :raises OSError: the file cannot be written
    :raises Exception: whatever the verifier raises
    """
    work = _Work(source, Destination(path, replace), verifier, size, progress)
    with _naming(path):
        try:
            return compat.in_native_thread(work.run)()
        except BaseException:
            work.stop()
            raise


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    """Say which file it is, where the system only says what is wrong."""
    try:
        yield
    except OSError as exc:
        if exc.filename is None and exc.errno is not None:
            exc.filename = path
        raise


def native(name: str) -> ModuleType:
    """Return a standard module as it is without eventlet.

    Threads, queues and polls of a transfer must not be green: they do work
    that would block the hub.
    """
    eventlet = compat.eventlet()
    if eventlet is None:
        return importlib.import_module(name)
    return eventlet.patcher.original(name)


class Destination:
    """A file that gets its name only when it is complete.

    Written by O_DIRECT where the filesystem has it, so that an image does not
    push the guests' pages out of memory, and through the page cache if not.
    """

    def __init__(self, path: str, replace: bool = True) -> None:
        self._path = os.path.abspath(path)
        self._directory, self._name = os.path.split(self._path)
        self._partial = '.%s.partial' % self._name
        self._replace = replace
        self._resources = contextlib.ExitStack()
        self._fd = self._dir_fd = -1
        self._has_partial = False
        self._committed: os.stat_result | None = None
        #: Bytes written so far.
        self.written = 0

    def __enter__(self) -> Self:
        with self._resources:
            self._dir_fd = self._own(os.open(
                self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            # First, since what is left may have filled the disk.
            if self._replace:
                self._unlink(self._name)
            self._unlink(self._partial)
            direct = nova.privsep.utils.supports_direct_io(self._directory)
            self._create(os.O_DIRECT if direct else 0)
            self._resources = self._resources.pop_all()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None,
        exc: BaseException | None, traceback: TracebackType | None,
    ) -> None:
        self._resources.close()

    def write(self, data: memoryview, offset: int) -> None:
        """Write data; offset, length and memory must be aligned."""
        done = 0
        while done < len(data):
            done += os.pwrite(self._fd, data[done:], offset + done)
        self.written += done

    def sync(self, size: int) -> None:
        """Give the file its size in bytes, and see it on the disk."""
        os.ftruncate(self._fd, size)
        self.written = min(self.written, size)
        os.fsync(self._fd)

    def commit(self, last_check: Callable[[], None]) -> None:
        """Give the file its name, durably.

        :param last_check: called immediately before; if it raises, the file
            gets no name
        :raises FileExistsError: another file has the name, and must not be
            replaced
        """
        file = os.fstat(self._fd)
        if self._has_partial:
            self._check_partial(file)
        last_check()
        try:
            self._give_name()
            self._sync_directory()
            self._committed = file
        except BaseException:
            _unlink_file(file, self._name, self._dir_fd)
            raise

    @property
    def is_committed(self) -> bool:
        """Whether the file has its name."""
        return self._committed is not None

    def retract(self) -> None:
        """Remove the name that commit() gave; the file may be closed."""
        if self._committed is not None:
            _unlink_file(self._committed, self._path)

    def _own(self, fd: int) -> int:
        self._resources.callback(os.close, fd)
        return fd

    def _create(self, direct: int) -> None:
        flags = os.O_WRONLY | os.O_CLOEXEC | direct
        try:
            self._fd = self._own(os.open(
                '.', flags | os.O_TMPFILE, 0o666, dir_fd=self._dir_fd))
            return
        except OSError as exc:
            if exc.errno not in _NO_TMPFILE:
                raise
        self._fd = self._own(os.open(
            self._partial, flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW,
            0o666, dir_fd=self._dir_fd))
        self._has_partial = True
        self._resources.callback(self._remove_partial)

    def _give_name(self) -> None:
        if self._has_partial and self._replace:
            os.replace(self._partial, self._name,
                       src_dir_fd=self._dir_fd, dst_dir_fd=self._dir_fd)
            return
        self._link()
        if self._has_partial:
            self._remove_partial()

    def _link(self) -> None:
        while True:
            try:
                # With a directory descriptor this is linkat(2), which unlike
                # link(2) follows the link that /proc has.
                os.link('/proc/self/fd/%d' % self._fd, self._name,
                        src_dir_fd=self._dir_fd, dst_dir_fd=self._dir_fd,
                        follow_symlinks=True)
                return
            except FileExistsError as exc:
                if not self._replace:
                    raise FileExistsError(
                        exc.errno, exc.strerror, self._path) from None
            self._unlink(self._name)

    def _check_partial(self, file: os.stat_result) -> None:
        found = os.stat(self._partial, dir_fd=self._dir_fd,
                        follow_symlinks=False)
        if not os.path.samestat(file, found):
            raise FileExistsError(
                errno.EEXIST, _('Another process is writing this file, too'),
                os.path.join(self._directory, self._partial))

    def _remove_partial(self) -> None:
        _unlink_file(os.fstat(self._fd), self._partial, self._dir_fd)

    def _unlink(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._dir_fd)

    def _sync_directory(self) -> None:
        try:
            os.fsync(self._dir_fd)
        except OSError as exc:
            # Some network filesystems have no such thing.
            if exc.errno != errno.EINVAL:
                raise


def _unlink_file(
    file: os.stat_result, name: str, dir_fd: int | None = None,
) -> None:
    """Remove a name of this file, unless it now belongs to another file."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(file, os.stat(
                name, dir_fd=dir_fd, follow_symlinks=False)):
            os.unlink(name, dir_fd=dir_fd)


def is_plain_destination(path: str) -> bool:
    """Whether path is, or could become, a regular file.

    Some callers of Nova's image API give the path of a FIFO or a device.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return True
    return stat.S_ISREG(mode)


class _Block:
    """A part of the image in memory, shared by the threads that use it."""

    def __init__(self) -> None:
        # Anonymous memory begins at a page, as direct writes want it.
        self.view = memoryview(mmap.mmap(-1, BLOCK))
        self.offset = 0
        self.length = 0
        self.users = 0


@dataclasses.dataclass(frozen=True)
class _Gap:
    """Zeros that are in no block."""
    length: int


class _Pool:
    """The blocks that nobody uses."""

    def __init__(self) -> None:
        self._lock = native('threading').Lock()
        self._unused = native('queue').SimpleQueue()
        for _number in range(BLOCKS):
            self._unused.put(_Block())

    def take(self) -> _Block:
        """Return a block, when one is free."""
        return self._unused.get()

    def clear(self) -> None:
        """Free the memory."""
        while not self._unused.empty():
            self._unused.get()

    def release(self, item: _Block | _Gap) -> None:
        """One user less; the last one gives the block back."""
        if isinstance(item, _Gap):
            return
        with self._lock:
            item.users -= 1
            unused = not item.users
        if unused:
            self._unused.put(item)


class _Stage:
    """A native thread that does one thing with all blocks, in order.

    When that fails the thread keeps taking blocks, unused, so that nobody
    waits for it; the failure is raised where the blocks come from.
    """

    def __init__(
        self, name: str, pool: _Pool, work: Callable[[_Block | _Gap], None],
        last: Callable[[], None] | None = None,
    ) -> None:
        self._pool = pool
        self._work = work
        self._last = last
        self._failure: BaseException | None = None
        self._queue = native('queue').SimpleQueue()
        self._thread = native('threading').Thread(
            target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, item: _Block | _Gap) -> None:
        """Queue item; raise what went wrong before, if anything did."""
        if self._failure is not None:
            raise self._failure
        self._queue.put(item)

    def join(self) -> None:
        """Wait for the end of all work; raise what went wrong with it."""
        self._end()
        if self._failure is not None:
            raise self._failure

    def abandon(self) -> None:
        """End the thread, whatever is still to do."""
        if self._thread.is_alive():
            self._failure = self._failure or SourceError(
                reason=_('The transfer was stopped'))
            self._end()
        # Its traceback leads back here, and to the blocks.
        self._failure = None

    def _end(self) -> None:
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        for item in iter(self._queue.get, None):
            if self._failure is None:
                self._attempt(self._work, item)
            self._pool.release(item)
        if self._failure is None and self._last is not None:
            self._attempt(self._last)

    def _attempt(self, call: Callable[..., None], *args: Any) -> None:
        try:
            call(*args)
        except BaseException as exc:
            self._failure = exc


class _Work:
    """A transfer: one piece of work that can be stopped from outside.

    One thread calls run(), which opens the file, fills blocks from the source,
    hands them to the stages, and closes the file.
    """

    def __init__(
        self, source: Source, destination: Destination,
        verifier: Verifier | None, size: int | None,
        progress: Progress | None,
    ) -> None:
        self._source = source
        self._destination = destination
        self._verifier = verifier
        self._expected = size
        self._progress = progress
        self._pool = _Pool()
        self._stages: list[_Stage] = []
        self._block: _Block | None = None
        self._running = False
        self._stopped = False
        self._retraction: threading.Thread | None = None
        # Where the next byte belongs, and up to where it is handed over.
        self._position = 0
        self._handed = 0

    def run(self) -> Report:
        """Make the file, unless stop() was called before."""
        # stop() sets _stopped before it reads _running. In this order, at
        # least one of the two threads notices the other.
        self._running = True
        try:
            self._check_not_stopped()
            started = time.monotonic()
            with self._destination:
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
                time.sleep(_STOP_PAUSE)
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
            self._retraction = native('threading').Thread(
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
            self._start(stack, 'image-write', self._write, self._sync)
            if self._verifier is not None:
                self._start(stack, 'image-verify', self._verify)
            try:
                self._read()
                for stage in self._stages:
                    stage.join()
            except BaseException:
                # Stop the stages before the ExitStack waits for them.
                self._stopped = True
                raise

    def _start(
        self, stack: contextlib.ExitStack, name: str,
        work: Callable[[_Block | _Gap], None],
        last: Callable[[], None] | None = None,
    ) -> None:
        stage = _Stage(name, self._pool, work, last)
        stack.callback(stage.abandon)
        self._stages.append(stage)

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
        if size < self._position or self._expected not in (None, size):
            raise SourceError(
                reason=_('It has %(size)d bytes, the image has %(expected)d') %
                {'size': max(size, self._position),
                 'expected': size if self._expected is None
                 else self._expected})
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
            if not count and end is None:
                return
            if not count:
                raise SourceError(reason=_('The stream ended early, after '
                                           '%d bytes') % self._position)
            self._position += count
            self._check_fits(self._position)

    def _room(self) -> memoryview:
        """The rest of the block that the next byte belongs into."""
        if self._block and self._position == self._block.offset + BLOCK:
            self._hand_over()
        if self._block is None:
            block = self._pool.take()
            # Blocks lie on a grid, which keeps their offsets aligned.
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
        """Give what there is up to the position to the other threads."""
        block, self._block = self._block, None
        if block is None:
            self._hand_over_gap(self._position)
            return
        block.length = self._position - block.offset
        block.users = len(self._stages)
        self._put(block, self._position)

    def _hand_over_gap(self, end: int) -> None:
        if end > self._handed:
            self._put(_Gap(end - self._handed), end)

    def _put(self, item: _Block | _Gap, end: int) -> None:
        self._handed = end
        self._check_not_stopped()
        for stage in self._stages:
            stage.put(item)
        if self._progress is not None:
            self._progress(end, self._expected or self._source.size)

    def _write(self, item: _Block | _Gap) -> None:
        if isinstance(item, _Gap):
            return
        # The padding is cut off again by the final truncation.
        padded = -(-item.length // _ALIGNMENT) * _ALIGNMENT
        item.view[item.length:padded] = _ZEROS[item.length:padded]
        for start, stop in _data_runs(item.view[:padded]):
            self._destination.write(item.view[start:stop],
                                    item.offset + start)

    def _sync(self) -> None:
        self._destination.sync(self._handed)

    def _verify(self, item: _Block | _Gap) -> None:
        assert self._verifier is not None
        if isinstance(item, _Block):
            self._verifier.update(item.view[:item.length])
            return
        for start in range(0, item.length, BLOCK):
            # There can be any number of zeros.
            if self._stopped:
                return
            self._verifier.update(memoryview(_ZEROS)[:item.length - start])


def _data_runs(view: memoryview) -> Iterator[tuple[int, int]]:
    """Yield start and stop of the parts of view that are not all zeros."""
    start = -1
    for unit in range(0, len(view), _HOLE):
        # The one comparison in Python that is a memcmp without a copy.
        if _ZEROS.startswith(view[unit:unit + _HOLE]):
            if start >= 0:
                yield start, unit
                start = -1
        elif start < 0:
            start = unit
    if start >= 0:
        yield start, len(view)
