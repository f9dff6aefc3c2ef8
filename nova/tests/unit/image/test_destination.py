# SPDX-License-Identifier: Apache-2.0

"""A file that gets its name only when it is complete."""

from collections.abc import Callable
import contextlib
import errno
import fcntl
import os
import pathlib
import stat
import types
import typing as ty
from unittest import mock

import fixtures

from nova.image import compat
from nova.image import destination
from nova.image import transfer
from nova.tests.unit.image import fakes

MemorySource = fakes.MemorySource
HashVerifier = fakes.HashVerifier
digest = fakes.digest
noise = fakes.noise


class TestDestination(fakes.TransferTestCase):
    def fetch(self, image: bytes = b'image') -> None:
        try:
            transfer.transfer(MemorySource([(0, image)]), self.path)
        except destination.DestinationError as exc:
            raise exc.error

    def test_leftover_file_is_replaced(self) -> None:
        self.make(b'an old one, and a longer one')
        inode = os.stat(self.path).st_ino
        with open(self.path, 'rb') as old:
            self.fetch()
            self.assertEqual(b'an old one, and a longer one', old.read())
            self.assertNotEqual(inode, os.stat(self.path).st_ino)
        self.assertEqual(b'image', self.content())

    def test_link_is_followed(self) -> None:
        target = os.path.join(self.directory, 'target')
        self.make(b'old', target)
        os.chmod(target, 0o600)
        self.addCleanup(os.umask, os.umask(0o027))
        # The second time, the link leads to no file yet.
        for mode in (0o600, 0o640):
            os.symlink('target', self.path)
            self.fetch()
            self.assertTrue(os.path.islink(self.path))
            self.assertEqual(b'image', pathlib.Path(target).read_bytes())
            self.assertEqual(mode, stat.S_IMODE(os.stat(target).st_mode))
            os.unlink(target)
            os.unlink(self.path)

    def link_to_other(self) -> str:
        other = os.path.join(self.directory, 'other')
        self.make(b'an old one, and a longer one', other)
        os.link(other, self.path)
        return other

    def test_hard_link_stays(self) -> None:
        other = self.link_to_other()
        self.fetch()
        self.assertEqual(b'image', pathlib.Path(other).read_bytes())
        self.assertTrue(os.path.samefile(other, self.path))

    def test_failure_empties_a_file_with_hard_links(self) -> None:
        other = self.link_to_other()
        self.assertRaises(
            transfer.SourceError, transfer.transfer,
            MemorySource([(0, b'half')], failure=fakes.broken_cable),
            self.path)
        self.assertEqual(b'', pathlib.Path(other).read_bytes())

    def test_file_in_a_directory_that_is_not_writable(self) -> None:
        self.make(b'an old one, and a longer one')
        inode = os.stat(self.path).st_ino
        self.forbid(os.O_TMPFILE, errno.EACCES)
        self.forbid(os.O_CREAT, errno.EACCES)
        self.fetch()
        self.assertEqual(b'image', self.content())
        self.assertEqual(inode, os.stat(self.path).st_ino)

    def test_file_of_another_owner(self) -> None:
        self.make(b'an old one, and a longer one')
        inode = os.stat(self.path).st_ino
        real = os.stat

        def stat_as_other(*args: ty.Any, **kwargs: ty.Any) -> os.stat_result:
            fields = list(real(*args, **kwargs))
            fields[stat.ST_UID] += 1
            return os.stat_result(fields)

        with mock.patch('os.stat', stat_as_other):
            self.fetch()
        self.assertEqual(b'image', self.content())
        self.assertEqual(inode, os.stat(self.path).st_ino)

    def test_longest_name(self) -> None:
        self.path = os.path.join(self.directory, 'x' * 255)
        for forbidden in (False, True):
            if forbidden:
                self.forbid(os.O_TMPFILE, errno.EOPNOTSUPP)
            self.fetch()
            self.assertEqual(b'image', self.content())
            os.unlink(self.path)

    def test_mode(self) -> None:
        for mask in (0o022, 0o077, 0o002, 0o027):
            self.addCleanup(os.umask, os.umask(mask))
            self.fetch()
            self.assertEqual(0o666 & ~mask,
                             stat.S_IMODE(os.stat(self.path).st_mode))
            os.unlink(self.path)

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
            MemorySource([(0, b'half')], failure=fakes.broken_cable))
        self.assert_fails(ValueError, 'not these',
                          MemorySource([(0, b'all')]),
                          fakes.RefusingVerifier())

    def test_no_name_before_it_is_complete(self) -> None:
        seen: list[list[str]] = []
        for expected in (0, 1):
            if expected:
                self.forbid(os.O_TMPFILE, errno.EOPNOTSUPP)
            source = MemorySource([(0, b'image')])
            with mock.patch.object(source, 'finish', side_effect=lambda: (
                    seen.append(os.listdir(self.directory)))):
                transfer.transfer(source, self.path)
            names = seen.pop()
            self.assertEqual(expected, len(names))
            self.assertNotIn('image', names)
            os.unlink(self.path)

    def test_not_allowed_to_make_a_file(self) -> None:
        self.forbid(os.O_TMPFILE, errno.EACCES)
        self.forbid(os.O_CREAT, errno.EACCES)
        self.assertRaises(PermissionError, self.fetch)
        self.assert_nothing_left()

    def test_another_process_removes_the_temporary_name(self) -> None:
        self.forbid(os.O_TMPFILE, errno.EOPNOTSUPP)

        def intrude() -> None:
            [name] = os.listdir(self.directory)
            os.unlink(os.path.join(self.directory, name))

        source = MemorySource([(0, b'image')])
        with mock.patch.object(source, 'finish', side_effect=intrude):
            self.assertRaisesRegex(
                destination.DestinationError, 'No such file',
                transfer.transfer, source, self.path)
        self.assert_nothing_left()

    def test_link_is_not_permitted(self) -> None:
        """As by AppArmor, or without /proc."""
        real = os.link

        def link(source: str, *args: ty.Any, **kwargs: ty.Any) -> None:
            if source.startswith('/proc/'):
                raise PermissionError(errno.EACCES, 'no link')
            real(source, *args, **kwargs)

        self.replace(os, 'link', link)
        for replace in (True, False):
            transfer.transfer(
                MemorySource([(0, b'image')]), self.path, replace=replace)
            self.assertEqual(['image'], os.listdir(self.directory))
            self.assertEqual(b'image', self.content())
            os.unlink(self.path)

    def test_error_names_the_file(self) -> None:
        def fail(*_args: ty.Any) -> int:
            # System calls on descriptors do not name the file.
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

        for name in ('pwrite', 'ftruncate', 'fsync'):
            with mock.patch.object(os, name, fail):
                error = self.assertRaises(OSError, self.fetch)
            self.assertEqual((errno.EDQUOT, self.path),
                             (error.errno, error.filename))
            self.assertIn(self.path, str(error))
            self.assertEqual([], os.listdir(self.directory))

    def fail_direct_writes(self, code: int) -> list[bool]:
        """Have pwrite(2) fail with O_DIRECT, record whether it is used."""
        real, calls = os.pwrite, []

        def pwrite(fd: int, data: bytes, offset: int) -> int:
            direct = bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT)
            calls.append(direct)
            if direct and code:
                raise OSError(code, os.strerror(code))
            return real(fd, data, offset)

        self.replace(os, 'pwrite', pwrite)
        return calls

    def test_filesystem_without_direct_writes(self) -> None:
        image = noise(2 * transfer.BLOCK + 7) + bytes(transfer.BLOCK)
        for code in (errno.EINVAL, errno.EIO, errno.EOPNOTSUPP):
            with mock.patch('os.pwrite', os.pwrite):
                calls = self.fail_direct_writes(code)
                self.fetch(image)
            self.assertEqual([True, False, False, False], calls)
            self.assertEqual(digest(image), digest(self.content()))

    def test_filesystem_refuses_direct_writes_at_once(self) -> None:
        self.replace(fcntl, 'fcntl', mock.Mock(
            side_effect=OSError(errno.EINVAL, 'no O_DIRECT')))
        self.fetch()
        self.assertEqual(b'image', self.content())

    def test_direct_writes(self) -> None:
        calls = self.fail_direct_writes(0)
        self.fetch()
        self.assertEqual([True], calls)

    def test_buffered_writes_leave_the_page_cache(self) -> None:
        for code, expected in ((0, 0), (errno.EINVAL, 2)):
            with (mock.patch('os.pwrite', os.pwrite),
                  mock.patch('os.posix_fadvise') as advise):
                self.fail_direct_writes(code)
                self.fetch(noise(2 * transfer.BLOCK))
            self.assertEqual(expected, advise.call_count)

    def test_temporary_file(self) -> None:
        """Nova converts it at once, from the page cache, and removes it."""
        calls = self.fail_direct_writes(0)
        with (mock.patch('os.fsync') as sync,
              mock.patch('os.posix_fadvise') as advise):
            transfer.transfer(
                MemorySource([(0, b'image')]), self.path, temporary=True)
        self.assertEqual([False], calls)
        sync.assert_not_called()
        advise.assert_not_called()
        self.assertEqual(b'image', self.content())


class TestRoom(fakes.TransferTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.room, self.blocks = 10, 100

        def statvfs(_path: str) -> types.SimpleNamespace:
            left = 0 if os.path.exists(self.path) else self.room
            return types.SimpleNamespace(
                f_bavail=left, f_frsize=1, f_blocks=self.blocks)

        self.replace(os, 'statvfs', statvfs)
        self.source = MemorySource([(0, b'0123456789')])

    def transfer(self, dense: bool = True) -> None:
        transfer.transfer(self.source, self.path, size=10, dense=dense)

    def test_enough(self) -> None:
        self.transfer()
        self.assertEqual(b'0123456789', self.content())

    def test_not_enough(self) -> None:
        self.room = 9
        error = self.assertRaises(
            destination.DestinationError, self.transfer).error
        self.assertEqual(errno.ENOSPC, error.errno)
        self.assertRegex(str(error), 'needs 0.0 MiB, 0.0 MiB are available')
        self.assertIn(self.path, str(error))
        self.assertEqual(0, self.source.taken)

    def test_filesystem_does_not_tell(self) -> None:
        self.room = self.blocks = 0
        self.transfer()
        self.assertEqual(b'0123456789', self.content())

    def test_leftover_makes_room(self) -> None:
        self.make(b'left by a process that was killed')
        self.transfer()
        self.assertEqual(b'0123456789', self.content())

    def test_holes_need_no_room(self) -> None:
        self.room = 9
        self.make(b'left by a process that was killed')
        self.transfer(dense=False)
        self.assertEqual(b'0123456789', self.content())


class TestUnfinishedFiles(fakes.TransferTestCase):
    """Files that a killed process has left."""

    def setUp(self) -> None:
        super().setUp()
        self.forbid(os.O_TMPFILE, errno.EOPNOTSUPP)
        # Keep the file of a transfer, as a kill does.
        with (mock.patch.object(destination.Destination, '_clean_up'),
              mock.patch.object(destination.Destination, '_give_name')):
            transfer.transfer(MemorySource([(0, b'left')]), self.path)
        [name] = os.listdir(self.directory)
        self.left = os.path.join(self.directory, name)

    def restart(self) -> None:
        self.replace(destination, '_tidied', set())

    def fetch(self, name: str = 'another') -> list[str]:
        transfer.transfer(MemorySource([(0, b'image')]),
                          os.path.join(self.directory, name))
        return sorted(os.listdir(self.directory))

    def test_removed_after_a_restart(self) -> None:
        self.assertEqual(2, len(self.fetch()))
        self.restart()
        self.assertEqual(['another'], self.fetch())

    def test_of_a_running_process(self) -> None:
        self.restart()
        with open(self.left, 'rb') as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self.assertEqual(2, len(self.fetch()))

    def test_of_another_host(self) -> None:
        self.restart()
        self.flags(host='another')
        self.assertEqual(2, len(self.fetch()))

    def test_empty_one_may_be_new(self) -> None:
        os.truncate(self.left, 0)
        for age, count in ((0, 2), (100, 1)):
            self.restart()
            then = os.stat(self.left).st_mtime - age
            os.utime(self.left, (then, then))
            self.assertEqual(count, len(self.fetch()))

    def test_locks_are_not_supported(self) -> None:
        self.restart()
        with mock.patch('fcntl.flock', side_effect=OSError(
                errno.ENOLCK, 'no locks')):
            self.assertEqual(2, len(self.fetch()))


class TestSamePath(fakes.TransferTestCase):
    """Two downloads of an image at the same time, and what Nova does next."""

    def setUp(self) -> None:
        super().setUp()
        self.path += destination.MOVED
        self.base = os.path.join(self.directory, 'base')
        self.source = MemorySource([(0, b'image')])
        self.moved: list[bytes] = []

    def download(self, between: Callable[[], None] = lambda: None) -> None:
        self.useFixture(fixtures.MockPatchObject(
            self.source, 'finish', side_effect=between))
        transfer.transfer(self.source, self.path)

    def other(self) -> None:
        transfer.transfer(MemorySource([(0, b'image')]), self.path)

    def move(self, _seconds: float = 0) -> None:
        """Do what Nova does with a file that it has inspected."""
        self.moved.append(self.content())
        os.rename(self.path, self.base)

    def when_it_waits(self, act: Callable[[float], None]) -> mock.Mock:
        clock = mock.Mock(sleep=mock.Mock(side_effect=act))
        native = compat.native
        self.replace(compat, 'native', lambda name: (
            clock if name == 'time' else native(name)))
        return clock.sleep

    def assert_both(self) -> None:
        self.move()
        self.assertEqual([b'image'] * 2, self.moved)
        self.assertEqual(['base'], os.listdir(self.directory))

    def test_other_ends_first(self) -> None:
        self.when_it_waits(self.move)
        self.download(self.other)
        self.assert_both()

    def test_other_converts_meanwhile(self) -> None:
        """It ended before this download began, but its caller goes on."""
        self.other()
        self.when_it_waits(self.move)
        self.download()
        self.assert_both()

    def test_leftover_is_not_waited_for(self) -> None:
        self.make(b'left by a process that was killed')
        wait = self.when_it_waits(self.move)
        self.download()
        wait.assert_not_called()
        self.assertEqual(b'image', self.content())

    def test_caller_never_moves_it(self) -> None:
        self.replace(destination, '_PATIENCE', 0.1)
        self.download(self.other)
        self.assertEqual(b'image', self.content())

    def test_failure_leaves_the_file_of_the_other(self) -> None:
        def fail() -> None:
            self.other()
            raise fakes.broken_cable()

        self.assertRaises(transfer.SourceError, self.download, fail)
        self.assertEqual(b'image', self.content())


class TestDurability(fakes.TransferTestCase):
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
        self.spy('link', lambda _source, name: (
            'name' if name == 'image' else 'try'))
        self.spy('fsync', lambda fd: 'sync %s' % (
            'directory' if stat.S_ISDIR(os.fstat(fd).st_mode) else 'file'))
        transfer.transfer(
            MemorySource([(0, noise(2 * transfer.BLOCK))]), self.path)
        self.assertEqual(
            ['try', 'write', 'write', 'size', 'sync file', 'name',
             'sync directory'], self.events)

    def test_file_cannot_be_synced(self) -> None:
        with self.fail_sync_of(stat.S_ISREG, errno.EIO):
            self.assert_fails(
                destination.DestinationError, 'Input/output error',
                MemorySource([(0, b'x')]), HashVerifier())

    def test_directory_cannot_be_synced(self) -> None:
        with self.fail_sync_of(stat.S_ISDIR, errno.EIO):
            self.assert_fails(
                destination.DestinationError, 'Input/output error',
                MemorySource([(0, b'x')]))

    def test_directory_has_no_sync(self) -> None:
        with self.fail_sync_of(stat.S_ISDIR, errno.EINVAL):
            transfer.transfer(MemorySource([(0, b'x')]), self.path)
        self.assertEqual(b'x', self.content())

    def test_cannot_be_given_its_name(self) -> None:
        for _number in range(2):
            with mock.patch.object(os, 'replace', side_effect=OSError(
                    errno.EIO, 'the disk')):
                self.assert_fails(destination.DestinationError, 'the disk',
                                  MemorySource([(0, b'x')]))
            self.forbid(os.O_TMPFILE, errno.EOPNOTSUPP)


class TestFileAppearsDuringTransfer(fakes.TransferTestCase):
    """Another process creates a file at the path during the transfer."""

    OTHER = b'of another process'

    def setUp(self) -> None:
        super().setUp()
        self.source = MemorySource([(0, b'image')])
        self.useFixture(fixtures.MockPatchObject(
            self.source, 'finish', side_effect=lambda: self.make(self.OTHER)))

    def keep(self, source: MemorySource) -> None:
        error = self.assertRaises(
            destination.DestinationError, transfer.transfer, source,
            self.path, replace=False).error
        self.assertIsInstance(error, FileExistsError)
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
            return fakes.broken_cable()

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


class TestIsPlainDestination(fakes.TransferTestCase):
    def test_what_is_one(self) -> None:
        self.assertTrue(destination.is_plain_destination(self.path))
        self.make(b'')
        self.assertTrue(destination.is_plain_destination(self.path))
        link = os.path.join(self.directory, 'link')
        os.symlink(self.path, link)
        self.assertTrue(destination.is_plain_destination(link))
        os.unlink(self.path)
        self.assertTrue(destination.is_plain_destination(link))

    def test_what_is_none(self) -> None:
        os.mkfifo(self.path)
        link = os.path.join(self.directory, 'link')
        os.symlink(self.path, link)
        for path in (self.path, link, '/dev/null', self.directory):
            self.assertFalse(destination.is_plain_destination(path), path)
