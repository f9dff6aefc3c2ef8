# SPDX-License-Identifier: Apache-2.0

"""A file that gets its name only when it is complete."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import errno
import os
import stat
from typing import Self

from nova.i18n import _
import nova.privsep.utils

#: Errors of open(2) for O_TMPFILE on filesystems and kernels without it.
_NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)


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


class Destination:
    """Writes a file; each method raises DestinationError for an OSError.

    It writes with O_DIRECT where the filesystem supports it, so that an image
    does not displace the guests' pages from memory.
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
        with self._errors(), self._resources:
            self._dir_fd = self._own(os.open(
                self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            # Leftovers may fill the disk, so they are removed first.
            if self._replace:
                self._unlink(self._name)
            self._unlink(self._partial)
            direct = nova.privsep.utils.supports_direct_io(self._directory)
            self._create(os.O_DIRECT if direct else 0)
            self._resources = self._resources.pop_all()
        return self

    def __exit__(self, *_exc: object) -> None:
        with self._errors():
            self._resources.close()

    def write(self, data: memoryview, offset: int) -> None:
        """Write data; offset, length and memory must be aligned."""
        done = 0
        with self._errors():
            while done < len(data):
                done += os.pwrite(self._fd, data[done:], offset + done)
        self.written += done

    def sync(self, size: int) -> None:
        """Set the size of the file, in bytes, and write it to the disk."""
        with self._errors():
            os.ftruncate(self._fd, size)
            self.written = min(self.written, size)
            os.fsync(self._fd)

    def commit(self, last_check: Callable[[], None]) -> None:
        """Give the file its name, durably.

        :param last_check: called immediately before; if it raises, the file
            gets no name
        :raises DestinationError: also of FileExistsError, if another file has
            the name and must not be replaced
        """
        with self._errors():
            file = os.fstat(self._fd)
            if self._has_partial and not os.path.samestat(file, os.stat(
                    self._partial, dir_fd=self._dir_fd,
                    follow_symlinks=False)):
                raise FileExistsError(
                    errno.EEXIST, _('Another process writes this file too'),
                    os.path.join(self._directory, self._partial))
        last_check()
        with self._errors():
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
                # With a directory descriptor this is linkat(2), which, unlike
                # link(2), follows the link in /proc.
                os.link('/proc/self/fd/%d' % self._fd, self._name,
                        src_dir_fd=self._dir_fd, dst_dir_fd=self._dir_fd,
                        follow_symlinks=True)
                return
            except FileExistsError as exc:
                if not self._replace:
                    raise FileExistsError(
                        exc.errno, exc.strerror, self._path) from None
            self._unlink(self._name)

    def _remove_partial(self) -> None:
        _unlink_file(os.fstat(self._fd), self._partial, self._dir_fd)

    def _unlink(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._dir_fd)

    def _sync_directory(self) -> None:
        try:
            os.fsync(self._dir_fd)
        except OSError as exc:
            # Some network filesystems cannot sync a directory.
            if exc.errno != errno.EINVAL:
                raise


def _unlink_file(file: os.stat_result, name: str,
                 dir_fd: int | None = None) -> None:
    """Remove a name of this file, unless it now belongs to another file."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(file, os.stat(
                name, dir_fd=dir_fd, follow_symlinks=False)):
            os.unlink(name, dir_fd=dir_fd)
