# SPDX-License-Identifier: Apache-2.0

"""Downloads of the command to a file and to the image cache."""

import io
import os
import pathlib
import stat
import typing as ty
from unittest import mock

from cryptography import exceptions as crypto_exceptions
from oslo_utils.fixture import uuidsentinel as uuids
from oslo_utils import units

from nova import context as nova_context
from nova import exception
from nova.image import command
from nova.image.command import fetch
from nova.image.command import host
from nova.image import glance
from nova.image import transfer
import nova.privsep
import nova.privsep.path
from nova.tests.unit.image.command import base
from nova.virt import images
from nova.virt.libvirt import utils as libvirt_utils

Status = command.Status
SUMMARY = (f'Image {uuids.image} is at %s\n  source       rbd\n'
           '  verified by  sha512\n  bytes        1000\n'
           '  written      600\n  seconds      1.23\n'
           '  MiB/s        0.0\n')


class FetchTestCase(base.CommandTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = self.make_directory()
        self.flags(instances_path=str(self.directory))
        self.path = self.directory / 'new'
        self.context = nova_context.RequestContext('user', 'project')
        self.log_in = self.replace(
            host, 'log_in', return_value=('service_user', self.context))
        self.start = self.replace(
            nova.privsep.sys_admin_pctxt, 'start', side_effect=PermissionError)
        self.download = self.replace(
            glance.GlanceImageServiceV2, 'download', autospec=True,
            side_effect=self.complete)
        # Both belong to the process.
        self.addCleanup(os.umask, os.umask(0o077))
        self.addCleanup(setattr, images, 'IMAGE_API', images.IMAGE_API)

    def complete(self, *_args: object, **kwargs: ty.Any) -> None:
        kwargs['progress'].on_complete(
            'rbd', transfer.Report(1000, 600, 1.234), 'sha512')

    def shown(self, path: str | None = None) -> str:
        """Fetch an image and return the summary."""
        with self.captured() as (out, _err):
            fetch.run(uuids.image, path, None, quiet=False)
        return out.getvalue()

    def fetch(self, path: str | None = None,
              source: str | None = None) -> dict[str, ty.Any]:
        return fetch.run(uuids.image, path, source, quiet=True)

    def assert_fails(self, status: Status, message: str,
                     path: str | None = None) -> None:
        self.assert_error(status, message, self.fetch, path)


class TestToPath(FetchTestCase):
    def test_success(self) -> None:
        outcome = self.fetch(str(self.path))
        self.download.assert_called_once_with(
            self.context, uuids.image, dst_path=str(self.path), replace=False,
            progress=mock.ANY)
        self.assertEqual(
            (str(self.path), 'rbd', False),
            (outcome['path'], outcome['source'], outcome['inspected']))
        self.assertRegex(
            self.shown(str(self.path)),
            f'^{SUMMARY % self.path}Nova did not inspect the format')

    def test_errors(self) -> None:
        for failure, status, message in (
            (exception.ImageNotFound(image_id=uuids.image), Status.IMAGE,
             'needs? the role admin'),
            (exception.GlanceConnectionFailed(server='here', reason='off'),
             Status.SERVICE, 'Connection to glance host here failed'),
            (exception.ImageUnacceptable(image_id='x', reason='damaged'),
             Status.FAILED, 'could not be downloaded: .* damaged'),
            (crypto_exceptions.InvalidSignature(), Status.FAILED,
             'the signature does not match the data'),
            (PermissionError(13, 'Permission denied', '/there'),
             Status.FAILED, "Permission denied: '/there'"),
            (FileExistsError(17, 'File exists', '/there'), Status.HOST,
             f'^{self.path} exists already. Remove it,'),
            (ZeroDivisionError(), Status.FAILED, 'ZeroDivisionError'),
        ):
            self.download.side_effect = failure
            self.assert_fails(status, message, str(self.path))

    def test_path_exists(self) -> None:
        for make in (self.path.touch, self.path.mkdir,
                     lambda: self.path.symlink_to('/nowhere'),
                     lambda: os.mkfifo(self.path)):
            make()
            self.assert_fails(
                Status.HOST, f'^{self.path} exists already. Remove it, or '
                'choose another path.$', str(self.path))
            (self.path.rmdir if stat.S_ISDIR(self.path.lstat().st_mode)
             else self.path.unlink)()
        self.download.assert_not_called()

    def test_directory(self) -> None:
        self.assert_fails(Status.HOST, '/no does not exist, or .* cannot',
                          str(self.directory / 'no/new'))
        access = self.replace(os, 'access', return_value=False)
        self.assert_fails(
            Status.HOST, f'directory {self.directory} does', str(self.path))
        access.assert_called_once_with(
            str(self.directory), os.W_OK | os.X_OK)
        self.log_in.assert_not_called()

    def test_source(self) -> None:
        for source, schemes in (('auto', ['mem']), (None, ['mem']),
                                ('rbd', ['rbd']), ('http', [])):
            self.flags(allowed_direct_url_schemes=['mem'],
                       enable_rbd_download=True, group='glance')
            with mock.patch.object(
                    glance, 'active_handlers', return_value={}):
                self.fetch(str(self.path), source)
            conf = fetch.CONF.glance
            self.assertEqual(schemes, conf.allowed_direct_url_schemes)
            self.assertIs(schemes == ['mem'], conf.enable_rbd_download)

    def test_privileged_side_starts_before_the_download(self) -> None:
        """If it does not start, the download gives the reason."""
        for schemes, count in ((['rbd'], 1), ([], 0), (['ftp'], 0),
                               (['ftp', 'rbd'], 1)):
            self.flags(allowed_direct_url_schemes=schemes, group='glance')
            self.start.reset_mock()
            self.fetch(str(self.path))
            self.assertEqual(count, self.start.call_count)


class TestToCache(FetchTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.name = fetch.imagecache.get_cache_fname(uuids.image)
        self.path = self.directory / '_base' / self.name
        self.driver = self.replace(
            libvirt_utils, 'fetch_image', autospec=True,
            side_effect=self.fetch_image)

    def fetch_image(
        self, context: ty.Any, path: str, image_id: str,
    ) -> None:
        """Act as the libvirt driver."""
        self.assertEqual((str(self.path), uuids.image), (path, image_id))
        self.assertEqual(
            [f'nova-{self.name}'], os.listdir(self.directory / 'locks'))
        images.IMAGE_API.download(context, image_id, dest_path=path)
        pathlib.Path(path + '.part').touch()
        os.rename(path + '.part', path)

    def test_success(self) -> None:
        outcome = self.fetch()
        self.assertEqual(
            ('rbd', str(self.path), True),
            (outcome['source'], outcome['path'], outcome['inspected']))
        # QEMU can read the file although the operator's umask is 0077.
        self.assertEqual(0o644, self.path.stat().st_mode & 0o777)
        self.path.unlink()
        self.flags(disable_deep_image_inspection=True, group='workarounds')
        self.assertIs(False, self.fetch()['inspected'])

    def test_summary(self) -> None:
        self.assertEqual(SUMMARY % self.path, self.shown())
        self.replace(nova.privsep.path, 'utime')
        self.assertEqual(f'Image {uuids.image} is already in the cache: '
                         f'{self.path}\n', self.shown())

    def test_in_the_cache_already(self) -> None:
        self.path.parent.mkdir()
        self.path.touch()
        utime = self.replace(nova.privsep.path, 'utime')
        outcome = self.fetch()
        self.driver.assert_not_called()
        utime.assert_called_once_with(str(self.path))
        self.assertEqual(
            ('cache', str(self.path), None, None),
            (outcome['source'], outcome['path'], outcome['bytes'],
             outcome['inspected']))

    def test_no_incomplete_file_is_left(self) -> None:
        def leave(_context: object, path: str, _image_id: str) -> None:
            pathlib.Path(path + '.part').touch()
            pathlib.Path(path + '.converted').touch()
            raise failure

        for failure, raised in (
                (KeyboardInterrupt(), KeyboardInterrupt),
                (SystemExit(143), SystemExit),
                (ZeroDivisionError(), command.CommandError)):
            self.driver.side_effect = leave
            self.assertRaises(raised, self.fetch)
            self.assertEqual([], os.listdir(self.path.parent))

    def test_owner(self) -> None:
        self.replace(os, 'geteuid', return_value=4711)
        self.assert_fails(
            Status.HOST, f'instances_path is {self.directory}, .* does not '
            'belong to 4711: run this command as')
        self.flags(instances_path=str(self.directory / 'no'))
        self.assert_fails(
            Status.HOST, f'{self.directory}/no, which does not exist')
        self.driver.assert_not_called()
        self.assertEqual([], os.listdir(self.directory))


class TestReporter(base.CommandTestCase):
    def report(
        self, quiet: bool = False, kind: type[io.StringIO] = io.StringIO,
    ) -> tuple[fetch.Reporter, str]:
        """Report a download with a failed source; return what is shown."""
        with self.captured(kind) as (out, err):
            reporter = fetch.Reporter('ID', False, quiet)
            # Each call is an update.
            reporter._interval = 0
            reporter.on_source_started('rbd', 10 * units.Mi)
            reporter.on_progress(5 * units.Mi, 10 * units.Mi)
            reporter.on_source_failed('rbd', 'no\n cable')
            reporter.on_source_started('http', None)
            reporter.on_progress(0, 10 * units.Mi)
            reporter.on_progress(6 * units.Mi, None)
            reporter.on_complete('http', transfer.Report(
                10 * units.Mi, 3 * units.Mi, 2.00049), 'sha512')
            reporter.clear()
        self.assertEqual('', out.getvalue())
        return reporter, err.getvalue()

    def test_lines_and_outcome(self) -> None:
        reporter, shown = self.report()
        first, half, failed, second, zero, more = shown.splitlines()
        self.assertEqual(
            ('Downloading via rbd', 'Download via rbd failed: no cable',
             'Downloading via http'), (first, failed, second))
        self.assertRegex(half, r'^rbd: 5 of 10 MiB, [\d.]+ MiB/s$')
        self.assertEqual('http: 0 of 10 MiB, 0.0 MiB/s', zero)
        self.assertRegex(more, r'^http: 6 of \? MiB, [\d.]+ MiB/s$')
        self.assertEqual(
            {'result': 'ok', 'image_id': 'ID', 'path': '', 'source': 'http',
             'failed': [{'source': 'rbd', 'reason': 'no cable'}],
             'verified_by': 'sha512', 'bytes': 10 * units.Mi,
             'written': 3 * units.Mi, 'seconds': 2.0, 'rate': 5.0,
             'inspected': None},
            reporter.result)

    def test_interval(self) -> None:
        with self.captured() as (_out, err):
            reporter = fetch.Reporter('ID', False, False)
            reporter.on_source_started('rbd', 10 * units.Mi)
            reporter.on_progress(5 * units.Mi, 10 * units.Mi)
        self.assertEqual('Downloading via rbd\n', err.getvalue())

    def test_terminal(self) -> None:
        """Only what stays is on lines of its own."""
        _reporter, shown = self.report(kind=base.Terminal)
        *lines, last = shown.split('\n')
        self.assertEqual(
            ['Download via rbd failed: no cable'],
            [line.rpartition('\x1b[K')[2] for line in lines])
        # The volatile line is removed.
        self.assertRegex(last, '^\r\x1b.* MiB/s\r\x1b\\[K$')

    def test_quiet(self) -> None:
        for kind in (io.StringIO, base.Terminal):
            self.assertEqual('', self.report(True, kind)[1])

    def test_only_rbd(self) -> None:
        for tried, message in (
            (True, 'Image ID could not be downloaded via rbd: no cable'),
            (False, 'Image ID could not be downloaded via rbd: Glance returns '
             'no rbd location, see --check'),
        ):
            with self.captured() as (_out, err):
                reporter = fetch.Reporter('ID', True, False)
                if tried:
                    reporter.on_source_started('rbd', 1)
                    reporter.on_source_failed('rbd', 'no cable')
                self.assert_error(
                    command.Status.FAILED, f'^{message}$',
                    reporter.on_source_started, 'http', 1)
            # Only the error gives the reason.
            self.assertNotIn('no cable', err.getvalue())
