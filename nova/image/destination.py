# SPDX-License-Identifier: Apache-2.0

"""A file that gets its name only when it is complete."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import errno
import fcntl
import os
import secrets
import stat
import time
from typing import Self

from oslo_utils import units

import nova.conf
from nova.i18n import _
from nova.image import compat

CONF = nova.conf.CONF

#: Suffix of the files that Nova moves, or converts and removes, once they are
#: complete. It fails if such a file is missing.
MOVED = '.part'
#: Errors of write(2) on a filesystem that accepts O_DIRECT in fcntl(2) only.
_NO_DIRECT_WRITES = (errno.EINVAL, errno.EIO, errno.EOPNOTSUPP)
#: Seconds of the longest wait for such a caller, and between two checks.
_PATIENCE, _INTERVAL = 60, 0.05

_REMEMBERED = 100
#: Room on a filesystem that does not tell it.
_UNKNOWN = 1 << 63

#: Directories from which this process has removed unfinished files.
_tidied: set[str] = set()
#: path -> the file that this process has put there, for the latest downloads
_delivered: dict[str, os.stat_result] = {}


class DestinationError(Exception):
    """The file cannot be written, so no other source can help.

    :ivar error: the OSError, with the path of the file
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def is_plain_destination(path: str) -> bool:
    """Return whether path is, or could become, a regular file.

    Some callers of Nova's image API give the path of a FIFO or a device.
    """
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return True
    return stat.S_ISREG(mode)


def room(path: str) -> int:
    """Return the room for a new file at path, in bytes."""
    status = os.statvfs(os.path.dirname(os.path.realpath(path)))
    # Some filesystems, such as ramfs, do not count their blocks.
    return status.f_bavail * status.f_frsize if status.f_blocks else _UNKNOWN


def require(size: int, room: int, path: str) -> None:
    """Raise DestinationError if a file needs more room than there is."""
    if size > room:
        raise DestinationError(OSError(
            errno.ENOSPC, _('The image needs %(size).1f MiB, %(room).1f MiB '
                            'are available') %
            {'size': size / units.Mi, 'room': room / units.Mi}, path))


class Destination:
    """Writes a file; each method raises DestinationError for an OSError.

    Until commit(), the file has no name or, on a filesystem without O_TMPFILE
    or where it cannot be linked, a random temporary name. A process that is
    killed can leave that name behind. The next process of this host that
    writes to the directory removes it.

    A file that exists is replaced as ``open(path, 'wb')`` would do: symbolic
    links stay, and so does the mode. If it has another owner or several links,
    or if no file can be created in the directory, the image is written to this
    file itself, which is empty after a failure.

    :param path: path of the file
    :param replace: if False, a file at path is an error and stays unchanged
    :param temporary: the caller reads the file at once and then removes it, so
        it is written to the page cache and not synced. Any other file is
        written with O_DIRECT if the filesystem supports that, so that images
        do not displace the guests' pages from memory
    """

    def __init__(self, path: str, replace: bool = True,
                 temporary: bool = False) -> None:
        self._path = os.path.abspath(path)
        self._replace = replace
        self._temporary = temporary
        self._resources = contextlib.ExitStack()
        self._fd = self._dir_fd = -1
        self._partial = self._target = self._name = ''
        self._in_place = self._direct = False
        self._existing: os.stat_result | None = None
        self._committed: os.stat_result | None = None
        #: Bytes written so far.
        self.written = 0

    def __enter__(self) -> Self:
        with self._errors(), self._resources:
            self._target = (
                os.path.realpath(self._path) if self._replace else self._path)
            directory, self._name = os.path.split(self._target)
            self._dir_fd = self._own(os.open(
                directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            self._existing = self._found()
            if self._existing and not (
                    self._replace and stat.S_ISREG(self._existing.st_mode)):
                raise self._exists()
            self._resources.callback(self._clean_up)
            if directory not in _tidied:
                self._tidy()
                _tidied.add(directory)
            self._create()
            if not self._temporary:
                self._write_directly(True)
            self._resources = self._resources.pop_all()
        return self

    def __exit__(self, *_exc: object) -> None:
        with self._errors():
            self._resources.close()

    def check_room(self, size: int, dense: bool) -> None:
        """Check that the filesystem has room for the file.

        If it may not have, this removes the file that is to be replaced, which
        may be what a killed process has left.

        :param size: size of the file in bytes
        :param dense: whether the file certainly needs that room
        """
        with self._errors():
            if room(self._target) < size:
                self._remove_existing()
            if dense:
                require(size, room(self._target), self._path)

    def write(self, data: memoryview, offset: int) -> None:
        """Write data; offset, length and memory must be aligned."""
        done = 0
        with self._errors():
            while done < len(data):
                try:
                    done += os.pwrite(self._fd, data[done:], offset + done)
                except OSError as exc:
                    if not self._direct or exc.errno not in _NO_DIRECT_WRITES:
                        raise
                    self._write_directly(False)
        self.written += done
        if not self._direct and not self._temporary:
            # Linux starts to write these pages to the disk, and drops the
            # pages of earlier calls that it has written.
            with contextlib.suppress(OSError):
                os.posix_fadvise(self._fd, 0, offset + len(data),
                                 os.POSIX_FADV_DONTNEED)

    def sync(self, size: int) -> None:
        """Set the size of the file, in bytes, and write it to the disk."""
        with self._errors():
            os.ftruncate(self._fd, size)
            self.written = min(self.written, size)
            if not self._temporary:
                os.fsync(self._fd)

    def commit(self, last_check: Callable[[], None]) -> None:
        """Give the file its name, durably.

        If another download has put a file there that its caller is about to
        move, this waits for that, but not longer than a minute.

        :param last_check: called while this waits, and immediately before the
            file gets its name, which it does not if this raises
        :raises DestinationError: also of FileExistsError, if another file has
            the name and must not be replaced
        """
        deadline = time.monotonic() + _PATIENCE
        with self._errors():
            file = os.fstat(self._fd)
            while self._is_in_use() and time.monotonic() < deadline:
                last_check()
                compat.native('time').sleep(_INTERVAL)
        last_check()
        with self._errors():
            try:
                self._give_name()
                if not self._temporary:
                    self._sync_directory()
                self._committed = file
            except BaseException:
                self._take_back(file)
                raise
            _delivered[self._target] = file
            for path in [*_delivered][:-_REMEMBERED]:
                _delivered.pop(path, None)

    @property
    def is_committed(self) -> bool:
        """Whether the file has its name."""
        return self._committed is not None

    def retract(self) -> None:
        """Undo commit(); the file may be closed."""
        if self._committed is not None:
            self._take_back(self._committed)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            # Calls on a descriptor do not name the file.
            if exc.filename is None and exc.errno is not None:
                exc.filename = self._path
            raise DestinationError(exc) from exc

    def _own(self, fd: int) -> int:
        self._resources.callback(os.close, fd)
        return fd

    def _found(self) -> os.stat_result | None:
        with contextlib.suppress(FileNotFoundError):
            return os.stat(
                self._name, dir_fd=self._dir_fd, follow_symlinks=False)
        return None

    def _exists(self) -> OSError:
        return FileExistsError(
            errno.EEXIST, os.strerror(errno.EEXIST), self._path)

    def _is_in_use(self) -> bool:
        """Return whether another download's caller still has to move it."""
        if self._in_place or not self._target.endswith(MOVED):
            return False
        found = self._found()
        return found is not None and (
            not _is_same(found, self._existing) or
            _is_same(found, _delivered.get(self._target)))

    def _create(self) -> None:
        existing = self._existing
        if existing is None:
            self._create_beside()
            return
        if existing.st_nlink == 1:
            with contextlib.suppress(OSError):
                self._create_beside()
        new = os.fstat(self._fd) if self._fd >= 0 else None
        if new and (new.st_uid, new.st_gid) == (
                existing.st_uid, existing.st_gid):
            os.fchmod(self._fd, stat.S_IMODE(existing.st_mode))
            return
        self._in_place = True
        self._fd = self._own(os.open(
            self._name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC,
            dir_fd=self._dir_fd))
        self._resources.callback(self._empty_after_failure)
        os.ftruncate(self._fd, 0)

    def _create_beside(self) -> None:
        """Create a file without a name or with a temporary one."""
        flags = os.O_WRONLY | os.O_CLOEXEC
        try:
            self._check_links(flags | os.O_TMPFILE)
            self._fd = self._own(os.open(
                '.', flags | os.O_TMPFILE, 0o666, dir_fd=self._dir_fd))
            return
        except OSError:
            # The filesystem or the kernel has no O_TMPFILE, or the host has
            # no /proc or does not permit the link. Other causes also make
            # this call fail:
            flags |= os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        self._choose_partial()
        self._fd = self._own(os.open(
            self._partial, flags, 0o666, dir_fd=self._dir_fd))
        with contextlib.suppress(OSError):
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _check_links(self, flags: int) -> None:
        # A file without a name can be linked only once, so this uses another.
        fd = os.open('.', flags, 0o666, dir_fd=self._dir_fd)
        try:
            self._choose_partial()
            self._link(fd, self._partial)
            self._remove_partial()
        finally:
            os.close(fd)

    def _link(self, fd: int, name: str) -> None:
        # With a directory descriptor this is linkat(2), which, unlike link(2),
        # follows the link in /proc.
        os.link('/proc/self/fd/%d' % fd, name, src_dir_fd=self._dir_fd,
                dst_dir_fd=self._dir_fd, follow_symlinks=True)

    def _give_name(self) -> None:
        if self._in_place:
            return
        try:
            if not self._partial:
                self._link(self._fd, self._name)
                return
            if not self._replace:
                os.link(self._partial, self._name, src_dir_fd=self._dir_fd,
                        dst_dir_fd=self._dir_fd, follow_symlinks=False)
                self._remove_partial()
                return
        except FileExistsError:
            if not self._replace:
                raise self._exists() from None
            self._choose_partial()
            self._link(self._fd, self._partial)
        os.replace(self._partial, self._name,
                   src_dir_fd=self._dir_fd, dst_dir_fd=self._dir_fd)

    def _take_back(self, file: os.stat_result) -> None:
        # A file written in place is complete by now, and stays.
        if not self._in_place:
            _unlink_file(file, self._target)

    def _clean_up(self) -> None:
        self._remove_partial()
        if self._committed is None:
            self._remove_existing()

    def _remove_existing(self) -> None:
        if self._existing and not (self._in_place or self._is_in_use()):
            _unlink_file(self._existing, self._name, self._dir_fd)

    def _empty_after_failure(self) -> None:
        if self._committed is None:
            os.ftruncate(self._fd, 0)

    def _choose_partial(self) -> None:
        self._partial = _prefix() + secrets.token_hex(8) + '.partial'

    def _remove_partial(self) -> None:
        if self._partial:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._partial, dir_fd=self._dir_fd)
            self._partial = ''

    def _tidy(self) -> None:
        """Remove the unfinished files of processes that have been killed."""
        for name in os.listdir(self._dir_fd):
            if not name.startswith(_prefix()):
                continue
            with contextlib.suppress(OSError):
                fd = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC,
                             dir_fd=self._dir_fd)
                try:
                    # A process locks its file before it writes to it.
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    status = os.fstat(fd)
                    if status.st_size or time.time() - status.st_mtime > 60:
                        os.unlink(name, dir_fd=self._dir_fd)
                finally:
                    os.close(fd)

    def _write_directly(self, on: bool) -> None:
        with contextlib.suppress(OSError):
            flags = fcntl.fcntl(self._fd, fcntl.F_GETFL) & ~os.O_DIRECT
            fcntl.fcntl(self._fd, fcntl.F_SETFL,
                        flags | (os.O_DIRECT if on else 0))
            self._direct = on

    def _sync_directory(self) -> None:
        try:
            os.fsync(self._dir_fd)
        except OSError as exc:
            # Some network filesystems cannot sync a directory.
            if exc.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise


def _prefix() -> str:
    # Hosts can share the directory, and a lock may be valid on one host only.
    return '.nova-image-%.128s-' % CONF.host.replace('/', '-')


def _is_same(file: os.stat_result, other: os.stat_result | None) -> bool:
    return other is not None and os.path.samestat(file, other)


def _unlink_file(file: os.stat_result, name: str,
                 dir_fd: int | None = None) -> None:
    """Remove a name of this file, unless it now belongs to another file."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(file, os.stat(
                name, dir_fd=dir_fd, follow_symlinks=False)):
            os.unlink(name, dir_fd=dir_fd)
