# SPDX-License-Identifier: Apache-2.0

"""The choice of the source of an image, and its verification."""

from collections.abc import Mapping
import errno
import hashlib
import importlib.metadata
import io
import logging
import os
import pathlib
import sys
import typing as ty
from unittest import mock

from cryptography import exceptions as crypto_exceptions
from cursive import exception as cursive_exception
import fixtures
from glanceclient import exc as glance_exc
from oslo_utils.fixture import uuidsentinel as uuids
import requests
from requests_mock.contrib import fixture as requests_fixture

from nova.compute import api as compute_api
from nova.compute import manager as compute_manager
from nova.conductor import manager as conductor_manager
import nova.conf
from nova import context as nova_context
from nova import exception
from nova.image import compat
from nova.image import download
from nova.image import glance
from nova.image.rbd import cluster
from nova.image.rbd import export
from nova.image import transfer
from nova import test
from nova.tests.unit.image import fakes
from nova.tests.unit.image.rbd import fakes as rbd_fakes

CONF = nova.conf.CONF
RIGHT = fakes.RIGHT
WRONG = fakes.WRONG
FakeHandler = fakes.FakeHandler
Image = fakes.Image
broken = fakes.broken
signature_of = fakes.signature_of

RBD_URL = f'rbd://{rbd_fakes.FSID}/images/{uuids.image}/snap'


class DownloadTestCase(test.NoDBTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.useFixture(fakes.LeakCheck())
        self.directory = self.useFixture(fixtures.TempDir()).path
        self.path = os.path.join(self.directory, 'image')
        self.file = pathlib.Path(self.path)
        self.context = nova_context.RequestContext(
            uuids.user, uuids.project, auth_token='token')
        self.image = Image(
            id=uuids.image, status='active', visibility='private',
            size=len(RIGHT), disk_format='qcow2', locations=[],
            os_hash_algo='sha256',
            os_hash_value=hashlib.sha256(RIGHT).hexdigest())
        self.glance = fakes.FakeGlance(self.image)
        self.handler = FakeHandler()
        self.useFixture(fixtures.MockPatch(
            'nova.image.glance._HANDLERS', {'rbd': export.open_source}))
        self.useFixture(fixtures.MockPatch(
            'nova.image.glance._PROXIMITIES', {'rbd': cluster.proximity}))
        self.login = self.useFixture(fixtures.MockPatchObject(
            compat, 'service_context',
            return_value=nova_context.RequestContext(
                uuids.nova, uuids.service, overwrite=False))).mock
        self.requests = self.useFixture(requests_fixture.Fixture())
        self.answer(status_code=416)

        for warn_once in (glance._warn_once, export._warn_once):
            warn_once.cache_clear()
            self.addCleanup(warn_once.cache_clear)

    def read_conf(self, text: str) -> pathlib.Path:
        """Read a nova.conf with this text in its [glance] group."""
        path = pathlib.Path(
            self.useFixture(fixtures.TempDir()).path, 'nova.conf')
        path.write_text(f'[glance]\n{text}\n')
        CONF([], default_config_files=[str(path)], default_config_dirs=[])
        return path

    def answer(self, *args: ty.Any, **kwargs: ty.Any) -> None:
        """Have Glance answer a request for a range of the image."""
        self.range = self.requests.get(
            f'{self.glance.api_server}/v2/images/{uuids.image}/file',
            *args, **kwargs)

    def locate(self, *urls: str) -> None:
        self.image['locations'] = [
            {'url': url, 'metadata': {'store': 'x'}} for url in urls]

    def handle(self, *outcomes: bytes | Exception) -> None:
        """Have a handler of 'mem', with as many locations as outcomes."""
        self.handler = FakeHandler(*outcomes)
        glance._HANDLERS.pop('mem', None)
        glance.register_handler('mem', self.handler)
        self.flags(allowed_direct_url_schemes=['mem'], group='glance')
        self.locate(*('mem://%d' % number
                      for number in range(len(outcomes))))

    def hide(self, *outcomes: bytes | Exception) -> None:
        """Like handle(), with locations that only services see."""
        self.handle(*outcomes)
        self.glance.hidden = [
            entry['url'] for entry in self.image.pop('locations')]

    def sign(self, data: bytes) -> None:
        self.flags(verify_glance_signatures=True, group='glance')
        self.image.update(signature_of(data))
        self.certificate = self.useFixture(fixtures.MockPatch(
            'cursive.signature_utils.get_certificate')).mock
        self.certificate.return_value.public_key = (
            fakes.private_key().public_key)

    def fifo(self) -> int:
        os.mkfifo(self.path)
        reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        return reader

    def download(self, **kwargs: ty.Any) -> ty.Any:
        client = ty.cast(glance.GlanceClientWrapper, self.glance)
        return glance.GlanceImageServiceV2(client).download(
            self.context, uuids.image,
            **({'dst_path': self.path} | kwargs))

    def fetch(self, by_http: bool, content: bytes = RIGHT,
              **kwargs: ty.Any) -> list[str]:
        """Download the image, check the file, and return the warnings."""
        self.file.unlink(missing_ok=True)
        self.glance.methods.clear()
        self.glance.closed = 0
        with self.assertLogs('nova.image', 'INFO') as logs:
            self.assertIsNone(self.download(**kwargs))
        self.assertEqual(fakes.digest(content),
                         fakes.digest(self.file.read_bytes()))
        self.assertEqual(['image'], os.listdir(self.directory))
        self.assertEqual(int(by_http), self.glance.methods.count('data'))
        self.assertEqual(int(by_http), self.glance.closed)
        self.logged = [record.getMessage() for record in logs.records]
        return [record.getMessage() for record in logs.records
                if record.levelno >= logging.WARNING]

    def assert_fails(self, error: type[Exception], reason: str) -> None:
        self.file.write_bytes(b'left by a killed attempt')
        self.assertRaisesRegex(error, reason, self.download)
        self.assertEqual([], os.listdir(self.directory))

    def assert_refused(self, error: type[Exception], reason: str) -> None:
        """Check that the download fails before Nova requests data."""
        self.assertRaisesRegex(error, reason, self.download)
        self.assertNotIn('data', self.glance.methods)
        self.assertEqual([], self.handler.calls)
        self.assertEqual([], os.listdir(self.directory))

    def assert_unused(self, permission_asked: bool) -> None:
        """Check that Nova did not open or request any location."""
        self.assertEqual([], self.handler.calls)
        self.assertEqual(permission_asked, self.range.called)
        self.assertNotIn('get_image_locations', self.glance.methods)
        self.login.assert_not_called()

    def assert_no_second_source(self) -> None:
        """If the destination is at fault, no other source can help."""
        self.assertEqual(['mem://0'], self.handler.urls)
        self.assertNotIn('data', self.glance.methods)


class TestRegistry(DownloadTestCase):
    def test_active_handlers(self) -> None:
        self.assertEqual({}, glance.active_handlers())
        glance.register_handler('mem', FakeHandler())
        for schemes, old_switch in ((['rbd'], False), ([], True),
                                    (['rbd'], True), (['rbd', 'rbd'], False)):
            self.flags(allowed_direct_url_schemes=schemes,
                       enable_rbd_download=old_switch, group='glance')
            self.assertEqual({'rbd': export.open_source},
                             glance.active_handlers())

    def test_registered_twice(self) -> None:
        glance.register_handler('mem', FakeHandler())
        for scheme, handler in list(glance._HANDLERS.items()):
            self.assertRaisesRegex(
                ValueError, repr(scheme), glance.register_handler, scheme,
                FakeHandler())
            self.assertIs(handler, glance._HANDLERS[scheme])

    def test_unknown_schemes(self) -> None:
        self.handle(RIGHT, RIGHT)
        self.flags(allowed_direct_url_schemes=['mem', 'nfs', 'file', 'RBD'],
                   group='glance')
        self.assertEqual(
            ['Nova ignores unsupported schemes in [glance] '
             'allowed_direct_url_schemes, and downloads their images over '
             'HTTP: RBD, file, nfs. The supported schemes are: mem, rbd'],
            self.fetch(by_http=False))
        # Nova warns only once.
        self.assertEqual([], self.fetch(by_http=False))
        self.flags(allowed_direct_url_schemes=['file'], group='glance')
        self.assertEqual(1, len(self.fetch(by_http=True)))
        self.assertEqual([], self.fetch(by_http=True))

    def test_services_start_whatever_the_options_are(self) -> None:
        self.read_conf('allowed_direct_url_schemes = file\n'
                       'rbd_connect_timeout = soon\n'
                       'rbd_stall_timeout = 0\n')
        with self.assertNoLogs('nova.image', 'WARNING'):
            for service in (compute_api.API, compute_manager.ComputeManager,
                            conductor_manager.ComputeTaskManager,
                            glance.GlanceImageServiceV2):
                service()

    def test_no_plug_point_is_left(self) -> None:
        """Only the registry provides handlers, not entry points."""
        self.assertEqual((), tuple(importlib.metadata.entry_points(
            group='nova.image.download')))
        with mock.patch('importlib.metadata.entry_points') as entry_points:
            self.handle(RIGHT)
            self.assertEqual({'mem': self.handler}, glance.active_handlers())
            self.download()
        entry_points.assert_not_called()

    def test_proximity(self) -> None:
        def rank(_url: str) -> int | None:
            return 0

        glance.register_handler('near', FakeHandler(), rank)
        glance.register_handler('any', FakeHandler())
        self.assertEqual({'rbd': cluster.proximity, 'near': rank},
                         glance._PROXIMITIES)


class TestReload(DownloadTestCase):
    """Options that change while the service runs."""

    def setUp(self) -> None:
        super().setUp()
        client = ty.cast(glance.GlanceClientWrapper, self.glance)
        service = glance.GlanceImageServiceV2(client)
        self.useFixture(fixtures.MockPatchObject(
            glance, 'get_default_image_service', return_value=service))
        self.api = glance.API()

    def download(self, **kwargs: ty.Any) -> ty.Any:
        return self.api.download(self.context, uuids.image,
                                 dest_path=self.path, **kwargs)

    def handle(self, *outcomes: bytes | Exception) -> None:
        super().handle(*outcomes)
        CONF.clear_override('allowed_direct_url_schemes', 'glance')
        self.locate('mem://0')

    def test_sources(self) -> None:
        self.handle(RIGHT, RIGHT)
        conf = self.read_conf('allowed_direct_url_schemes = mem')
        self.fetch(by_http=False)
        for text, by_http in (
            ('', True), ('allowed_direct_url_schemes = mem', False),
        ):
            conf.write_text(f'[glance]\n{text}\n')
            CONF.mutate_config_files()
            self.fetch(by_http)
        self.flags(allowed_direct_url_schemes=[], group='glance')
        self.fetch(by_http=True)

    def test_verification(self) -> None:
        self.handle(WRONG, WRONG)
        conf = self.read_conf('allowed_direct_url_schemes = mem')
        self.fetch(by_http=True)
        conf.write_text(conf.read_text() + 'verify_direct_download = false')
        CONF.mutate_config_files()
        self.fetch(by_http=False, content=WRONG)

    def test_deprecated_option(self) -> None:
        conf = self.read_conf('')
        self.assertEqual({}, glance.active_handlers())
        conf.write_text('[glance]\nenable_rbd_download = true\n')
        CONF.mutate_config_files()
        self.assertEqual(['rbd'], list(glance.active_handlers()))


class TestSources(DownloadTestCase):
    def test_direct(self) -> None:
        self.handle(RIGHT)
        self.assertEqual([], self.fetch(by_http=False))
        self.assertEqual([(uuids.image, 'mem://0', self.path)],
                         self.handler.calls)
        self.assertEqual(1, self.handler.closed)
        self.assertEqual([len(RIGHT)], self.handler.sources[0].finished)
        # Nova has asked whether this user may download the image.
        self.assertEqual(['get'], self.glance.methods)
        [request] = self.range.request_history
        self.assertEqual(f'bytes={len(RIGHT)}-', request.headers['Range'])
        self.assertEqual('token', request.headers['X-Auth-Token'])

    def test_order(self) -> None:
        for outcomes, by_http, used in (
            ((broken(), WRONG, RIGHT, RIGHT), False, 3),
            ((broken(), broken()), True, 2),
            ((WRONG,), True, 1),
        ):
            self.handle(*outcomes)
            self.fetch(by_http)
            self.assertEqual(
                ['mem://%d' % number for number in range(used)],
                self.handler.urls)

    def test_direct_url_comes_after_locations_and_not_twice(self) -> None:
        for direct_url in ('mem://a', 'mem://b', 'mem://c'):
            self.handle(broken(), broken(), broken())
            self.locate('mem://a', 'mem://b', 'mem://a')
            self.image['direct_url'] = direct_url
            self.download()
            self.assertEqual(
                ['mem://a', 'mem://b'] +
                ['mem://c'] * (direct_url == 'mem://c'), self.handler.urls)

    def test_nearest_first(self) -> None:
        ranks: Mapping[str, int | None]
        for ranks, outcomes, used in (
            ({'far': 7, 'nowhere': None, 'near': 0, 'beside': 1},
             (broken(), broken(), RIGHT), ['near', 'beside', 'far']),
            # If all are of no use, the log tells why.
            ({'a': None, 'b': None}, (broken(), broken()), ['a', 'b']),
        ):
            self.handle(*outcomes)
            glance._PROXIMITIES['mem'] = (
                lambda url: ranks[url.partition('://')[2]])
            self.locate(*('mem://' + name for name in ranks))
            warnings = self.fetch(by_http=RIGHT not in outcomes)
            self.assertEqual(['mem://' + name for name in used],
                             self.handler.urls)
            self.assertEqual(2, len(warnings))

    def test_no_usable_location(self) -> None:
        for schemes, shown, hidden in (
            ([], ['mem://0'], []), ([], [], ['mem://0']),
            # Nova downloads no other scheme.
            (['mem'], ['file:///x', 'swift+https://a/b', RBD_URL, 'MEM://x',
                       'memory://x', ' mem://x', '/mem://x', ''], []),
        ):
            self.handle()
            self.flags(allowed_direct_url_schemes=schemes, group='glance')
            self.locate(*shown)
            self.glance.hidden = hidden
            self.assertEqual([], self.fetch(by_http=True))
            self.assert_unused(permission_asked=False)

    def test_no_locations(self) -> None:
        self.hide()
        self.assertEqual([], self.fetch(by_http=True))
        self.assertEqual(['get', 'get_image_locations', 'data'],
                         self.glance.methods)
        # Nova verifies the data itself.
        self.assertEqual({'do_checksum': False}, self.glance.kwargs)

    def test_warned_once_for_each_failed_source(self) -> None:
        handled: list[BaseException | None] = []

        def look(record: logging.LogRecord) -> bool:
            handled.append(sys.exc_info()[1])
            return True

        logger = logging.getLogger('nova.image.download')
        logger.addFilter(look)
        self.addCleanup(logger.removeFilter, look)
        self.handle(broken(), WRONG, crypto_exceptions.InvalidSignature())
        warnings = self.fetch(by_http=True)
        for line, reason in zip(warnings, (
                'the cable is broken', 'Glance recorded',
                'the signature does not match the data'), strict=True):
            for part in (uuids.image, ' mem,', reason):
                self.assertIn(part, line)
        # oslo.log would add an error that is being handled to the line.
        self.assertEqual([None] * 4, handled)

    def test_any_error_of_a_handler_is_one_of_the_source(self) -> None:
        for error in (KeyError('disk_format'), RuntimeError('no thread'),
                      OSError(errno.EMFILE, 'no descriptor is left'),
                      exception.NovaException('something')):
            self.handle(error)
            self.fetch(by_http=True)

    def test_progress(self) -> None:
        self.useFixture(fixtures.MockPatch(
            'nova.image.download._PROGRESS_INTERVAL', 0))
        self.handle(broken(), RIGHT)
        progress = mock.Mock(spec_set=download.Progress())
        self.fetch(by_http=False, progress=progress)
        size = len(RIGHT)
        self.assertEqual([
            mock.call.on_source_started('mem', size),
            mock.call.on_source_failed('mem', 'the cable is broken'),
            mock.call.on_source_started('mem', size),
            mock.call.on_progress(size, size),
            mock.call.on_complete('mem', mock.ANY, 'sha256'),
        ], progress.mock_calls)
        self.assertEqual(size, progress.on_complete.call_args.args[1].size)
        self.assertIn(
            f'Image {uuids.image} is being fetched by mem: 300000 of 300000 '
            'bytes', self.logged)

    def test_progress_ends_the_download(self) -> None:
        for source, count in (('mem', 0), ('http', 2)):
            self.handle(broken(), broken())

            def stop(name: str, size: int | None) -> None:
                self.assertEqual(len(RIGHT), size)
                if name == source:
                    raise PermissionError(name)

            progress = mock.Mock(spec_set=download.Progress())
            progress.on_source_started.side_effect = stop
            self.assertRaises(
                PermissionError, self.download, progress=progress)
            self.assertEqual(count, len(self.handler.calls))
            self.assertNotIn('data', self.glance.methods)
            self.assertEqual([], os.listdir(self.directory))

    def test_line_that_tells_how_it_came(self) -> None:
        report = transfer.Report(3 << 20, 1 << 20, 1.5)
        for source, outcomes in (('mem', [RIGHT]), ('http', [])):
            self.handle(*outcomes)
            with mock.patch.object(transfer, 'transfer', return_value=report):
                with self.assertLogs('nova.image', 'INFO') as logs:
                    self.download()
            self.assertEqual(
                [f'Image {uuids.image} fetched by {source}: 3145728 bytes, '
                 '1048576 bytes written, in 1.50 s, 2.0 MiB/s, verified by '
                 'sha256'], [record.getMessage() for record in logs.records])

    def test_progress_is_logged_now_and_then(self) -> None:
        clock = mock.Mock(side_effect=[100, 109, 110, 111, 119, 135, 144])
        with self.assertLogs('nova.image', 'INFO') as logs:
            progress = download._ProgressLog(
                uuids.image, 'mem', download.Progress(), clock)
            for done in range(1, 7):
                progress(done, None)
        self.assertEqual(
            ['2 of an unknown number of bytes',
             '5 of an unknown number of bytes'],
            [record.getMessage().rpartition(': ')[2]
             for record in logs.records])

    def test_empty_image(self) -> None:
        self.image.update(size=0, os_hash_value=hashlib.sha256().hexdigest())
        self.handle(b'')
        self.fetch(by_http=False, content=b'')
        [request] = self.range.request_history
        self.assertEqual('bytes=0-', request.headers['Range'])
        self.assertEqual(['get'], self.glance.methods)


class TestPermission(DownloadTestCase):
    """Nova asks whether Glance lets this user download the image."""

    def test_refused(self) -> None:
        for make in (self.handle, self.hide):
            for status, error in ((401, exception.ImageNotAuthorized),
                                  (403, exception.ImageNotAuthorized),
                                  (404, exception.ImageNotFound)):
                make(RIGHT)
                self.answer(status_code=status)
                self.assert_refused(error, uuids.image)
                self.assert_unused(permission_asked=True)

    def test_any_other_answer_means_http(self) -> None:
        self.flags(num_retries=0, group='glance')
        # A proxy may ignore the range, and send the whole image.
        body = fakes.UnreadBody(RIGHT)
        self.hide(RIGHT)
        self.locate('mem://0')
        answers: list[tuple[dict[str, ty.Any], str]] = [
            ({'status_code': status, 'body': body}, str(status))
            for status in (200, 204, 206, 300, 400, 409, 413, 429, 500, 502,
                           503)]
        for answer, reason in (*answers, (
            {'exc': requests.ConnectionError},
            'Unable to establish connection',
        ), ({'exc': requests.Timeout}, 'timed out')):
            self.answer(**answer)
            [warning] = self.fetch(by_http=True)
            self.assertIn(uuids.image, warning)
            self.assertIn(reason, warning)
            self.assert_unused(permission_asked=True)
        self.assertTrue(body.closed)

    def test_image_is_not_active(self) -> None:
        """Nova then requests the data from Glance, and Glance decides."""
        self.handle(RIGHT)
        self.glance.refusal = glance_exc.HTTPForbidden()
        for status in ('queued', 'saving', 'uploading', 'importing',
                       'deactivated', 'pending_delete', 'deleted', 'killed',
                       'a status to come'):
            self.image['status'] = status
            self.glance.methods.clear()
            self.assertRaises(exception.ImageNotAuthorized, self.download)
            self.assertEqual(['get', 'data'], self.glance.methods)
        self.assert_unused(permission_asked=False)

    def test_size_is_not_known(self) -> None:
        """Nova cannot check the size then, and uses HTTP only."""
        self.handle(RIGHT)
        self.image['size'] = None
        self.fetch(by_http=True)
        self.assert_unused(permission_asked=False)

    def test_asked_again_before_each_location(self) -> None:
        """The attempt before can have taken minutes."""
        self.handle(broken(), RIGHT)
        self.answer([{'status_code': 416}, {'status_code': 403}])
        self.assertRaises(exception.ImageNotAuthorized, self.download)
        self.assertEqual(['mem://0'], self.handler.urls)
        self.assertEqual(['get'], self.glance.methods)

    def test_server_named_by_the_request(self) -> None:
        """It could name any image in Ceph, and must get no credentials."""
        for make in (self.handle, self.hide):
            make(RIGHT)
            with mock.patch.object(
                    self.glance, 'has_explicit_endpoint', True):
                self.fetch(by_http=True)
            self.assert_unused(permission_asked=False)


class TestHiddenLocations(DownloadTestCase):
    """Glance is asked where an image is that does not say so itself."""

    def test_asked_after_the_user_has_seen_the_image(self) -> None:
        self.hide(broken(), RIGHT)
        with self.assertNoLogs('nova.image.locations', 'INFO'):
            self.fetch(by_http=False)
        self.assertEqual(['mem://0', 'mem://1'], self.handler.urls)
        self.assertEqual(['get', 'get_image_locations'],
                         self.glance.methods)

    def test_user_does_not_see_the_image(self) -> None:
        self.hide(RIGHT)
        call = mock.Mock(side_effect=glance_exc.HTTPNotFound())
        with mock.patch.object(self.glance, 'call', call):
            self.assertRaises(exception.ImageNotFound, self.download)
        call.assert_called_once_with(
            self.context, 2, 'get', args=(uuids.image,))
        self.login.assert_not_called()

    def test_asked_only_where_none_is_shown(self) -> None:
        for shown, direct_url, hidden, used in (
            (['mem://0'], None, ['mem://x'], ['mem://0']),
            (['file:///x'], None, ['mem://x'], []),
            ([], 'mem://1', ['mem://x'], ['mem://1']),
            ([], None, ['file:///x', 'rbd://x', 'mem://0', 'swift://x'],
             ['mem://0']),
            ([], None, ['file:///x'], []),
        ):
            self.handle(RIGHT)
            self.locate(*shown)
            self.image['direct_url'] = direct_url
            self.glance.hidden = hidden
            self.login.reset_mock()
            self.fetch(by_http=not used)
            self.assertEqual(used, self.handler.urls)
            asked = not shown and not direct_url
            self.assertEqual(
                asked, 'get_image_locations' in self.glance.methods)
            self.assertEqual(asked, self.login.called)

    def test_no_credentials(self) -> None:
        self.hide(RIGHT)
        self.login.side_effect = exception.InvalidConfiguration('x')
        self.fetch(by_http=True)
        self.assertNotIn('get_image_locations', self.glance.methods)

    def test_error_does_not_give_them_away(self) -> None:
        self.hide(broken())
        self.glance.broken = requests.ConnectionError('reset by peer')
        with self.assertLogs('nova.image', 'INFO') as logs:
            error = self.assertRaises(
                exception.CouldNotFetchImage, self.download)
        for text in (str(error), *logs.output):
            self.assertNotIn('mem://', text)


class TestFailures(DownloadTestCase):
    """The right exception, and nothing at the destination."""

    def test_destination_cannot_be_written(self) -> None:
        self.handle(RIGHT, RIGHT)
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with mock.patch('os.pwrite', side_effect=full):
            with self.assertLogs('nova.image', 'WARNING') as logs:
                self.assert_fails(OSError, 'No space left')
        self.assertEqual(
            ['ERROR:nova.image.download:Error writing to '
             f"{self.path}: [Errno 28] No space left on device: "
             f"'{self.path}'"], logs.output)
        self.assert_no_second_source()
        self.handle(RIGHT, RIGHT)
        self.path = os.path.join(self.directory, 'no', 'image')
        self.assertRaises(FileNotFoundError, self.download)
        self.assert_no_second_source()

    def test_wrong_data_over_http(self) -> None:
        cannot_fetch = exception.CouldNotFetchImage
        recorded = f'{uuids.image}.*Glance recorded'
        for outcomes, body, error, reason in (
            ((broken(),), RIGHT[:-1], cannot_fetch,
             f'{uuids.image}.*299999 bytes, the image has 300000'),
            ((), RIGHT + b'!', cannot_fetch, 'more than'),
            # Another host may receive the right bytes,
            ((), WRONG, cannot_fetch, recorded),
            ((WRONG, broken()), RIGHT[:-2] + b'!!', cannot_fetch, recorded),
            # but not if two sources have the same wrong ones.
            ((WRONG,), WRONG, exception.ImageUnacceptable, recorded),
        ):
            self.handle(*outcomes)
            self.glance.body = body
            self.glance.closed = 0
            self.assert_fails(error, reason)
            self.assertEqual(1, self.glance.closed)
        self.image['size'] = 0
        self.assert_fails(cannot_fetch, 'more than the 0')

    def test_http_connection_breaks(self) -> None:
        # These are what requests makes of the errors of urllib3.
        for error in (requests.exceptions.ChunkedEncodingError,
                      requests.exceptions.ConnectionError,
                      requests.exceptions.ContentDecodingError):
            self.glance.broken = error('the connection broke')
            self.glance.body = RIGHT[:-1]
            self.assert_fails(
                exception.CouldNotFetchImage,
                f'{uuids.image}.*the connection broke')

    def test_no_data_over_http(self) -> None:
        self.glance.body = None
        for refusal, error, reason in (
            (glance_exc.HTTPNotFound(), exception.ImageNotFound, ''),
            (glance_exc.HTTPForbidden(), exception.ImageNotAuthorized, ''),
            (exception.GlanceConnectionFailed(server='x', reason='down'),
             exception.GlanceConnectionFailed, ''),
            (None, exception.ImageUnacceptable, 'no data'),
        ):
            self.glance.refusal = refusal
            self.assertRaisesRegex(error, reason, self.download)
            self.assertEqual([], os.listdir(self.directory))

    def test_no_way_to_verify_it(self) -> None:
        self.handle(RIGHT)
        self.image['os_hash_algo'] = 'gost'
        self.assert_refused(exception.ImageUnacceptable, 'gost')


class TestVerification(DownloadTestCase):
    def test_by_hash(self) -> None:
        hashed = dict(self.image)
        no_hash = {'os_hash_algo': None, 'os_hash_value': None}
        md5 = {'os_hash_value': None, 'checksum': hashlib.md5(
            RIGHT, usedforsecurity=False).hexdigest()}
        for switch, changes, outcomes, by_http, name, verified in (
            (True, {}, [RIGHT], False, 'sha256', True),
            (True, md5, [WRONG, RIGHT], False, 'md5', True),
            (True, no_hash | md5, [RIGHT], False, 'md5', True),
            (True, {'os_hash_value': None}, [RIGHT], False, 'nothing', False),
            (True, no_hash, [], True, 'nothing', False),
            (False, {}, [RIGHT], False, 'nothing', False),
            # Nova checks the size even so.
            (False, {}, [RIGHT + b'!', RIGHT[:-1]], True, 'sha256', False),
        ):
            self.flags(verify_direct_download=switch, group='glance')
            self.image.clear()
            self.image.update(hashed | changes)
            self.handle(*outcomes)
            self.fetch(by_http)
            self.assertIn('verified by ' + name, self.logged[-1])
            self.assertEqual([verified] * len(outcomes),
                             self.handler.verified, str(changes))

    def test_hash_left_out_for_direct_downloads_only(self) -> None:
        self.flags(verify_direct_download=False, group='glance')
        self.handle(WRONG)
        self.fetch(by_http=False, content=WRONG)
        self.assertIn('verified by nothing', self.logged[-1])
        self.handle(broken())
        self.glance.body = WRONG
        self.assert_fails(exception.CouldNotFetchImage, 'Glance recorded')


class TestSignatures(DownloadTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.sign(RIGHT)

    def test_success(self) -> None:
        for by_http, outcomes, changes in (
            (False, [RIGHT], {}), (True, [], {}),
            # A verifier that was not used serves the next source.
            (True, [broken()], {}),
            # Other properties do not matter, nor does the hash.
            (True, [], {'hw_disk_bus': 'nothing that Nova knows'}),
            (False, [RIGHT], {'os_hash_algo': 'gost', 'os_hash_value': 'a'}),
        ):
            self.certificate.reset_mock()
            self.image.update(changes)
            self.handle(*outcomes)
            warnings = self.fetch(by_http)
            self.assertEqual(len(outcomes) * by_http, len(warnings))
            self.assertIn('verified by signature', self.logged[-1])
            self.assertEqual(
                'Image signature verification succeeded for image ' +
                uuids.image, self.logged[-2])
            self.certificate.assert_called_once()

    def test_fresh_verifier_for_every_source(self) -> None:
        # This switches off the check of a hash only.
        self.flags(verify_direct_download=False, group='glance')
        self.handle(WRONG, WRONG)
        with mock.patch.object(
                transfer, 'transfer', wraps=transfer.transfer) as spy:
            warnings = self.fetch(by_http=True)
        verifiers = [call.args[2] for call in spy.call_args_list]
        self.assertNotIn(None, verifiers)
        self.assertEqual([True] * 2, self.handler.verified)
        self.assertEqual(3, len(set(map(id, verifiers))))
        self.assertEqual(3, self.certificate.call_count)
        self.assertEqual(2, len(warnings))
        for line in warnings:
            self.assertIn('the signature does not match the data', line)

    def test_hash_does_not_make_up_for_it(self) -> None:
        """Right by the hash that Glance recorded, and not what was signed."""
        self.image.update(signature_of(WRONG))
        self.handle(RIGHT)
        with self.assertLogs('nova.image', 'INFO') as logs:
            self.assert_fails(crypto_exceptions.InvalidSignature, '')
        self.assertEqual(
            ['WARNING', 'ERROR'],
            [record.levelname for record in logs.records])
        self.assertEqual(1, self.glance.closed)
        self.assertIn(uuids.image, logs.output[-1])

    def test_cannot_be_verified(self) -> None:
        self.handle(RIGHT)
        for name in signature_of(b''):
            self.glance.image = Image(self.image)
            del self.glance.image[name]
            self.assert_refused(
                cursive_exception.SignatureVerificationError, '')

    def test_property_that_nova_does_not_know(self) -> None:
        """An error of its own, which ends the boot at once."""
        self.handle(RIGHT)
        for name, value in (('img_signature_hash_method', 'MD5'),
                            ('img_signature_key_type', 'RSA-PKCS1')):
            self.glance.image = Image({**self.image, name: value})
            with self.assertLogs('nova.image', 'INFO') as logs:
                self.assert_refused(
                    cursive_exception.SignatureVerificationError,
                    'Invalid signature .*: %s' % value)
            [line] = logs.output
            self.assertIn(value, line)
            self.assertIn(uuids.image, line)

    def test_unreadable_certificate(self) -> None:
        for error in (ValueError('no PEM'), TypeError('no bytes'),
                      crypto_exceptions.UnsupportedAlgorithm('no such key')):
            self.certificate.side_effect = error
            self.assert_refused(
                cursive_exception.SignatureVerificationError,
                'Certificate %s cannot be used: %s' % (
                    uuids.certificate, error))

    def test_unreadable_trusted_certificate(self) -> None:
        self.flags(enable_certificate_validation=True,
                   default_trusted_certificate_ids=[uuids.trusted],
                   group='glance')
        self.certificate.side_effect = [
            self.certificate.return_value, ValueError('no PEM')]
        self.assert_refused(exception.CertificateValidationFailed, 'no PEM')

    def test_verified_whatever_is_asked_for_by_then(self) -> None:
        """A second source never gets away with less than the first."""
        self.handle(WRONG)

        def change(*args: ty.Any) -> ty.Any:
            self.flags(verify_glance_signatures=False, group='glance')
            return self.certificate.return_value

        self.certificate.side_effect = change
        self.glance.body = WRONG
        self.assert_fails(crypto_exceptions.InvalidSignature, '')
        self.assertEqual(2, self.certificate.call_count)

    def test_no_second_certificate_is_to_be_had(self) -> None:
        self.handle(WRONG)
        self.certificate.side_effect = [
            self.certificate.return_value,
            cursive_exception.SignatureVerificationError(reason='no answer')]
        self.assert_fails(
            cursive_exception.SignatureVerificationError, 'no answer')
        self.assertEqual(2, self.certificate.call_count)

    def test_trusted_certificates_for_every_source(self) -> None:
        self.flags(verify_glance_signatures=False, group='glance')
        self.handle(WRONG)
        trusted = mock.Mock(ids=[uuids.certificate])
        with mock.patch('cursive.certificate_utils.verify_certificate',
                        autospec=True) as verify_certificate:
            self.fetch(by_http=True, trusted_certs=trusted)
        self.assertEqual(
            [mock.call(context=self.context,
                       certificate_uuid=uuids.certificate,
                       trusted_certificate_uuids=[uuids.certificate])] * 2,
            verify_certificate.mock_calls)


class TestNewFileOnly(DownloadTestCase):
    """With replace=False, nothing at the path is replaced."""

    def assert_kept(self) -> None:
        self.assertRaises(FileExistsError, self.download, replace=False)
        self.assertEqual(['image'], os.listdir(self.directory))

    def test_file(self) -> None:
        self.handle(RIGHT)
        self.fetch(by_http=False, replace=False)
        self.handle(RIGHT, RIGHT)
        self.file.write_bytes(b'of another process')
        self.assert_kept()
        self.assert_no_second_source()
        self.image['locations'] = []
        self.assert_kept()
        self.assertEqual(1, self.glance.methods.count('data'))
        self.assertEqual(b'of another process', self.file.read_bytes())

    def test_fifo(self) -> None:
        reader = self.fifo()
        self.assert_kept()
        # eventlet's os.read() would wait for a writer.
        self.assertEqual(b'', compat.native('os').read(reader, 1))


class TestOtherDestinations(DownloadTestCase):
    """A file object, a FIFO, or the caller: by HTTP, as it comes."""

    def setUp(self) -> None:
        super().setUp()
        self.handle(RIGHT)

    def assert_read(self) -> None:
        file = io.BytesIO()
        self.assertIsNone(self.download(data=file))
        self.assertEqual(RIGHT, file.getvalue())
        self.assertEqual(RIGHT, b''.join(self.download(dst_path=None)))
        self.assertEqual([], os.listdir(self.directory))
        self.assert_unused(permission_asked=False)

    def test_file_object_and_chunks(self) -> None:
        self.assert_read()
        self.assertEqual(['data'] * 2, self.glance.methods)

    def test_signature(self) -> None:
        self.sign(RIGHT)
        with self.assertLogs('nova.image', 'INFO') as logs:
            self.assert_read()
        self.assertEqual(
            ['Image signature verification succeeded for image %s' %
             uuids.image] * 2,
            [record.getMessage() for record in logs.records])

    def test_fifo(self) -> None:
        body = RIGHT[:5000]
        self.glance.body = body
        reader = self.fifo()
        self.assertIsNone(self.download())
        self.assertEqual(body, os.read(reader, 10_000))
        self.assertEqual(b'', os.read(reader, 1))
        self.assertEqual(['image'], os.listdir(self.directory))
        self.assert_unused(permission_asked=False)

    def test_file_object_and_wrong_signature(self) -> None:
        self.sign(WRONG)
        file = io.BytesIO()
        self.assertRaises(crypto_exceptions.InvalidSignature,
                          self.download, data=file)
        self.assertEqual(b'', file.getvalue())

    def test_chunks_and_trusted_certificates(self) -> None:
        """Nova validates them before it requests the first byte."""
        self.sign(RIGHT)
        for validation in (True, False):
            self.flags(verify_glance_signatures=validation,
                       enable_certificate_validation=validation,
                       group='glance')
            with mock.patch('cursive.certificate_utils.verify_certificate',
                            autospec=True) as verify_certificate:
                chunks = self.download(
                    dst_path=None,
                    trusted_certs=mock.Mock(ids=[uuids.trusted]))
            verify_certificate.assert_called_once_with(
                context=self.context, certificate_uuid=uuids.certificate,
                trusted_certificate_uuids=[uuids.trusted])
            self.assertEqual(RIGHT, b''.join(chunks))

    def test_chunks_and_wrong_signature(self) -> None:
        """The reader never gets the complete image."""
        self.sign(WRONG)
        for body in (RIGHT, b''):
            self.glance.body = body
            chunks = self.download(dst_path=None)
            read: list[bytes] = []
            with self.assertLogs('nova.image', 'INFO') as logs:
                self.assertRaises(crypto_exceptions.InvalidSignature,
                                  read.extend, chunks)
            self.assertEqual(body[:len(body) // 65536 * 65536],
                             b''.join(read))
            self.assertEqual(['ERROR'],
                             [record.levelname for record in logs.records])


class TestRbd(DownloadTestCase):
    """The whole of it, but for the privileged side."""

    def setUp(self) -> None:
        super().setUp()
        for name in ('_known_fsids', '_left_out'):
            self.useFixture(fixtures.MockPatchObject(cluster, name, {}))
        self.flags(enable_rbd_download=True, group='glance')
        self.locate(RBD_URL)

    def export(self, *args: ty.Any) -> rbd_fakes.FakeStart:
        return self.useFixture(rbd_fakes.FakeStart({
            rbd_fakes.OF_CONF: rbd_fakes.fsid(rbd_fakes.FSID),
            'rbd export': rbd_fakes.Program(*args)}))

    def test_success(self) -> None:
        fake = self.export(RIGHT)
        self.fetch(by_http=False)
        self.assertEqual(
            (('rbd export',), 0, 'images', uuids.image, 'snap'),
            fake.calls[-1])
        self.assertRegex(
            self.logged[-1],
            'fetched by rbd: 300000 bytes,.* verified by sha256$')

    def test_broken_location(self) -> None:
        fake = self.export(RIGHT)
        self.locate('rbd://image', RBD_URL + '/x', 'rbd:' + RBD_URL)
        warnings = self.fetch(by_http=True)
        self.assertEqual([], fake.calls)
        self.assertEqual(
            3, len([line for line in warnings
                    if 'does not have the form' in line and
                    uuids.image in line]))

    def test_export_fails(self) -> None:
        for program, reason in (
            ((WRONG,), 'Glance recorded'),
            ((RIGHT[:1000], 2, 'UNKNOWN', 'error opening image'),
             'error opening image'),
        ):
            self.export(*program)
            self.assertIn(reason, self.fetch(by_http=True)[0])

    def test_export_fails_and_http_too(self) -> None:
        self.export(b'', 110)
        self.glance.body = RIGHT[:1000]
        self.assert_fails(exception.CouldNotFetchImage, uuids.image)

    def test_no_room_for_a_socket(self) -> None:
        self.export(RIGHT)
        with mock.patch('tempfile.mkdtemp', side_effect=OSError(
                errno.ENOSPC, os.strerror(errno.ENOSPC))):
            self.fetch(by_http=True)

    def test_timeouts_out_of_range(self) -> None:
        self.export(RIGHT)
        self.flags(rbd_connect_timeout=0, rbd_stall_timeout=10 ** 10,
                   group='glance')
        self.assertEqual(
            ['[glance] rbd_connect_timeout is 0, but must be 1 to 300: Nova '
             'uses 1',
             '[glance] rbd_stall_timeout is 10000000000, but must be 1 to '
             '86400: Nova uses 86400'], self.fetch(by_http=False))
        self.assertEqual([], self.fetch(by_http=False))

    def test_timeout_is_no_number(self) -> None:
        for name in ('rbd_connect_timeout', 'rbd_stall_timeout'):
            fake = self.export(RIGHT)
            self.read_conf(f'{name} = soon')
            [warning] = self.fetch(by_http=True)
            self.assertRegex(
                warning, f'option {name} .*nova.conf.* is not valid')
            self.assertEqual([], fake.calls)

    def test_pool_is_not_allowed(self) -> None:
        self.export(RIGHT)
        self.flags(rbd_pool=['vms', 'volumes'], group='glance')
        [warning] = self.fetch(by_http=True)
        self.assertTrue(warning.endswith(
            ': Pool images is not listed in [glance] rbd_pool: vms, volumes'))
