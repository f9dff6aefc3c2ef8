# SPDX-License-Identifier: Apache-2.0

"""A file that gets its name only when it is complete."""

from collections.abc import Callable
import contextlib
import errno
import os
import pathlib
import stat
import typing as ty
from unittest import mock

import fixtures

from nova.image import destination
from nova.image import transfer
import nova.privsep.utils
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
            MemorySource([(0, b'half')], failure=fakes.broken_cable))
        self.assert_fails(ValueError, 'not these',
                          MemorySource([(0, b'all')]),
                          fakes.RefusingVerifier())

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
                destination.DestinationError, 'Another process',
                transfer.transfer, source, self.path)
        self.assertEqual(['.image.partial'], os.listdir(self.directory))
        self.assertEqual(b'of another process',
                         pathlib.Path(partial).read_bytes())

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
        for name in ('link', 'replace'):
            with mock.patch.object(os, name, side_effect=OSError(
                    errno.EIO, 'the disk')):
                self.assert_fails(destination.DestinationError, 'the disk',
                                  MemorySource([(0, b'x')]))
            # The second time without O_TMPFILE, which uses os.replace().
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
