# SPDX-License-Identifier: Apache-2.0

"""Where an image goes, and what is said of it."""

import contextlib
import os
import pathlib
import stat
import tempfile
import typing as ty
from unittest import mock

from cryptography import exceptions as crypto_exceptions
from oslo_utils.fixture import uuidsentinel as uuids

from nova import context as nova_context
from nova import exception
from nova.image.command import errors
from nova.image.command import fetch
from nova.image.command import watching
from nova.image import glance
from nova.image import observe
from nova.image import transfer
import nova.privsep.path
from nova import test
from nova.virt.libvirt import utils as libvirt_utils

MIB = 1024 ** 2


class FetchTestCase(test.NoDBTestCase):
    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.directory = pathlib.Path(folder.name)
        self.flags(instances_path=folder.name)
        self.context = nova_context.RequestContext('user', 'project')
        self.recorder = self.record()
        # These are of the whole process.
        self.addCleanup(os.umask, os.umask(0o077))

    def record(self, source: str = 'auto') -> fetch.Recorder:
        self.display = mock.Mock(spec_set=watching.Progress())
        return fetch.Recorder(self.display, uuids.image, source)

    def download(self, *attempts: tuple[str, str | None],
                 path: str | None = None) -> ty.Callable[..., None]:
        """What stands for the image service: source, reason of its failure."""
        def run(*args: ty.Any, **kwargs: ty.Any) -> None:
            observer = observe.current()
            for source, reason in attempts:
                observer.begins(source, 10 * MIB)
                observer.moves(5 * MIB, 10 * MIB)
                if reason is not None:
                    observer.fails(source, reason)
                    continue
                observer.ends(
                    source, transfer.Report(10 * MIB, 3 * MIB, 2.00049),
                    'sha512')
        return run

    def to_path(self, *attempts: tuple[str, str | None]) -> fetch.Outcome:
        with mock.patch.object(
                glance.GlanceImageServiceV2, 'download', autospec=True,
                side_effect=self.download(*attempts)) as called:
            outcome = fetch.to_path(
                self.context, uuids.image, '/there', self.recorder)
        called.assert_called_once_with(
            self.context, uuids.image, dst_path='/there', replace=False)
        return outcome


class TestOutcome(FetchTestCase):
    def test_success(self) -> None:
        self.assertEqual(
            fetch.Outcome(
                image_id=uuids.image, path='/there', source='rbd', failed=(),
                verified_by='sha512', bytes=10 * MIB, written=3 * MIB,
                seconds=2.0, rate=5.0, inspected=False),
            self.to_path(('rbd', None)))
        self.assertEqual(
            ['begins', 'moves', 'ends'],
            [call[0] for call in self.display.method_calls])

    def test_second_source(self) -> None:
        outcome = self.to_path(('rbd', 'no\n cable'), ('http', None))
        self.assertEqual(
            ('http', (fetch.Attempt('rbd', 'no cable'),)),
            (outcome.source, outcome.failed))
        self.display.fails.assert_called_once_with('rbd', 'no cable')

    def test_only_rbd(self) -> None:
        self.recorder = self.record('rbd')
        for attempts, reason in (
            ((('rbd', 'no cable'), ('http', None)),
             f'Image {uuids.image} could not be fetched by rbd: no cable'),
            ((('http', None),), 'Glance tells no rbd location of image '
             f'{uuids.image}: see nova-image-fetch --check {uuids.image}'),
        ):
            self.recorder = self.record('rbd')
            error = self.assertRaises(
                errors.CommandError, self.to_path, *attempts)
            self.assertEqual(reason, str(error))
            self.assertEqual(errors.Status.FAILED, error.status)
            # It is said once.
            self.display.fails.assert_not_called()

    def test_errors(self) -> None:
        for failure, status, words in (
            (exception.ImageNotFound(image_id=uuids.image),
             errors.Status.IMAGE, 'needs the role admin'),
            (exception.GlanceConnectionFailed(server='here', reason='off'),
             errors.Status.SERVICE, 'Connection to glance host here failed'),
            (exception.ImageUnacceptable(image_id='x', reason='rotten'),
             errors.Status.FAILED, 'could not be fetched: .* rotten'),
            (crypto_exceptions.InvalidSignature(), errors.Status.FAILED,
             'the signature does not match the data'),
            (PermissionError(13, 'Permission denied', '/there'),
             errors.Status.FAILED, "Permission denied: '/there'"),
            (FileExistsError(17, 'File exists', '/there'),
             errors.Status.HOST, '^/there exists already. Remove it,'),
            (ZeroDivisionError(), errors.Status.FAILED, 'ZeroDivisionError'),
        ):
            with mock.patch.object(
                    glance.GlanceImageServiceV2, 'download',
                    side_effect=failure):
                error = self.assertRaises(
                    errors.CommandError, fetch.to_path, self.context,
                    uuids.image, '/there', self.recorder)
            self.assertRegex(str(error), words)
            self.assertEqual(status, error.status)

    def test_reason_is_one_line(self) -> None:
        outcome = self.to_path(
            ('rbd', 'status 1:\n  rbd: error\n'), ('http', None))
        self.assertEqual('status 1: rbd: error', outcome.failed[0].reason)


class TestPath(FetchTestCase):
    def test_new(self) -> None:
        path = self.directory / 'new'
        self.assertEqual(str(path), fetch.check_path(str(path)))
        self.assertFalse(path.exists())

    def test_there_already(self) -> None:
        path = self.directory / 'old'
        for make in (path.touch, lambda: path.symlink_to('/nowhere'),
                     path.mkdir, lambda: os.mkfifo(path)):
            make()
            error = self.assertRaises(
                errors.CommandError, fetch.check_path, str(path))
            self.assertEqual(
                f'{path} exists already. Remove it, or choose another path.',
                str(error))
            self.assertEqual(errors.Status.HOST, error.status)
            (path.rmdir if stat.S_ISDIR(path.lstat().st_mode)
             else path.unlink)()

    def test_no_directory(self) -> None:
        error = self.assertRaises(
            errors.CommandError, fetch.check_path,
            str(self.directory / 'no' / 'new'))
        self.assertIn(f'{self.directory}/no does not exist', str(error))

    def test_directory_of_somebody_else(self) -> None:
        with mock.patch.object(os, 'access', return_value=False) as access:
            error = self.assertRaises(
                errors.CommandError, fetch.check_path,
                str(self.directory / 'new'))
        access.assert_called_once_with(
            str(self.directory), os.W_OK | os.X_OK)
        self.assertIn(f'cannot write to {self.directory}.', str(error))
        self.assertEqual(errors.Status.HOST, error.status)


class TestCache(FetchTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.name = fetch.imagecache.get_cache_fname(uuids.image)
        self.path = self.directory / '_base' / self.name

    def fetch_image(self, _context: object, path: str, image_id: str) -> None:
        """What stands for the libvirt driver."""
        self.assertEqual((str(self.path), uuids.image), (path, image_id))
        self.assertEqual(
            [f'nova-{self.name}'], os.listdir(self.directory / 'locks'))
        self.download(('rbd', None))()
        pathlib.Path(path + '.part').touch()
        os.rename(path + '.part', path)

    @contextlib.contextmanager
    def libvirt(self, **behaviour: ty.Any) -> ty.Iterator[mock.Mock]:
        with mock.patch.object(
                libvirt_utils, 'fetch_image', autospec=True,
                **behaviour) as called:
            yield called

    def to_cache(self) -> fetch.Outcome:
        return fetch.to_cache(self.context, uuids.image, self.recorder)

    def test_filled(self) -> None:
        with self.libvirt(side_effect=self.fetch_image):
            outcome = self.to_cache()
        self.assertEqual(
            ('rbd', str(self.path), True),
            (outcome.source, outcome.path, outcome.inspected))
        # QEMU has to be able to read it, whatever the operator's umask.
        self.assertEqual(0o644, self.path.stat().st_mode & 0o777)

    def test_inspection_is_switched_off(self) -> None:
        self.flags(disable_deep_image_inspection=True, group='workarounds')
        with self.libvirt(side_effect=self.fetch_image):
            self.assertIs(False, self.to_cache().inspected)

    def test_there_already(self) -> None:
        self.path.parent.mkdir()
        self.path.touch()
        with (self.libvirt() as called,
              mock.patch.object(nova.privsep.path, 'utime') as utime):
            outcome = self.to_cache()
        called.assert_not_called()
        utime.assert_called_once_with(str(self.path))
        self.assertEqual('cache', outcome.source)
        self.assertIsNone(outcome.bytes)
        self.assertIsNone(outcome.inspected)

    def test_nothing_unfinished_is_left(self) -> None:
        def leave(_context: object, path: str, _image_id: str) -> None:
            pathlib.Path(path + '.part').touch()
            pathlib.Path(path + '.converted').touch()
            raise failure

        for failure, raised in (
                (KeyboardInterrupt(), KeyboardInterrupt),
                (SystemExit(143), SystemExit),
                (ZeroDivisionError(), errors.CommandError)):
            with self.libvirt(side_effect=leave):
                self.assertRaises(raised, self.to_cache)
            self.assertEqual([], os.listdir(self.path.parent))

    def test_of_another_user(self) -> None:
        with (self.libvirt() as called,
              mock.patch.object(os, 'geteuid', return_value=4711)):
            error = self.assertRaises(errors.CommandError, self.to_cache)
        called.assert_not_called()
        self.assertEqual(errors.Status.HOST, error.status)
        self.assertIn('belongs to another user than 4711', str(error))
        self.assertEqual([], os.listdir(self.directory))

    def test_no_instances_path(self) -> None:
        self.flags(instances_path=str(self.directory / 'no'))
        with self.libvirt():
            error = self.assertRaises(errors.CommandError, self.to_cache)
        self.assertEqual(errors.Status.HOST, error.status)
        self.assertIn(f'instances_path is {self.directory}/no: No such file',
                      str(error))
        self.assertEqual([], os.listdir(self.directory))


class TestPrivilegedSide(FetchTestCase):
    def test_started_where_it_is_needed(self) -> None:
        for schemes, count in ((['rbd'], 1), ([], 0)):
            self.flags(allowed_direct_url_schemes=schemes, group='glance')
            with mock.patch.object(
                    nova.privsep.sys_admin_pctxt, 'start',
                    side_effect=PermissionError) as start:
                fetch.start_privileged_side()
            self.assertEqual(count, start.call_count)
