# SPDX-License-Identifier: Apache-2.0

"""Which source an image comes from, and what it is held to on each way."""

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

RIGHT = fakes.RIGHT
WRONG = fakes.WRONG
FakeGlance = fakes.FakeGlance
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
        self.context = nova_context.RequestContext(
            uuids.user, uuids.project, auth_token='token')
        self.image = Image(
            id=uuids.image, status='active', visibility='private',
            size=len(RIGHT), disk_format='qcow2', locations=[],
            os_hash_algo='sha256',
            os_hash_value=hashlib.sha256(RIGHT).hexdigest())
        self.glance = FakeGlance(self.image)
        self.useFixture(fixtures.MockPatch(
            'nova.image.glance._HANDLERS', {'rbd': export.open_source}))
        self.useFixture(fixtures.MockPatch(
            'nova.image.glance._PROXIMITIES', {'rbd': cluster.proximity}))
        self.login = self.useFixture(fixtures.MockPatchObject(
            compat, 'service_context',
            return_value=nova_context.RequestContext(
                uuids.nova, uuids.service, overwrite=False))).mock
        self.requests = self.useFixture(requests_fixture.Fixture())
        self.answer(416)

    def answer(self, status: int | type[Exception]) -> None:
        """Have Glance answer a request for a range of the image.

        :param status: the HTTP status, or the error that the request raises
        """
        self.body = fakes.UnreadBody(RIGHT)
        how: dict[str, ty.Any] = (
            {'status_code': status, 'body': self.body}
            if isinstance(status, int) else {'exc': status})
        self.range = self.requests.get(
            f'{FakeGlance.api_server}/v2/images/{uuids.image}/file', **how)

    def locate(self, *urls: str) -> None:
        self.image['locations'] = [
            {'url': url, 'metadata': {'store': 'x'}} for url in urls]

    def handle(self, *outcomes: bytes | Exception) -> FakeHandler:
        """Have a handler of 'mem', with as many locations as outcomes."""
        handler = FakeHandler(*outcomes)
        glance.register_handler('mem', handler)
        self.flags(allowed_direct_url_schemes=['mem'], group='glance')
        self.locate(*('mem://%d' % number
                      for number in range(len(outcomes))))
        return handler

    def handle_again(self, *outcomes: bytes | Exception) -> FakeHandler:
        """As handle(), in the place of the handler there is."""
        del glance._HANDLERS['mem']
        return self.handle(*outcomes)

    def download(self, **kwargs: ty.Any) -> ty.Any:
        client = ty.cast(glance.GlanceClientWrapper, self.glance)
        return glance.GlanceImageServiceV2(client).download(
            self.context, uuids.image,
            **({'dst_path': self.path} | kwargs))

    def logged(self) -> ty.Any:
        return self.assertLogs('nova.image', 'INFO')

    def warnings(self, logs: ty.Any) -> list[str]:
        return [record.getMessage() for record in logs.records
                if record.levelno >= logging.WARNING]

    def assert_fetched(self, by_http: bool) -> None:
        self.assertEqual(
            fakes.digest(RIGHT),
            fakes.digest(pathlib.Path(self.path).read_bytes()))
        self.assertEqual(['image'], os.listdir(self.directory))
        self.assertEqual(int(by_http), self.glance.methods.count('data'))
        self.assertEqual(int(by_http), self.glance.closed)

    def assert_fails(self, error: type[Exception], reason: str) -> None:
        pathlib.Path(self.path).write_bytes(b'left by a killed attempt')
        self.assertRaisesRegex(error, reason, self.download)
        self.assertEqual([], os.listdir(self.directory))


class TestRegistry(DownloadTestCase):
    def test_nothing_is_active_by_default(self) -> None:
        self.assertEqual({}, glance.active_handlers())

    def test_rbd(self) -> None:
        for schemes, old_switch in ((['rbd'], False), ([], True),
                                    (['rbd'], True), (['rbd', 'rbd'], False)):
            self.flags(allowed_direct_url_schemes=schemes,
                       enable_rbd_download=old_switch, group='glance')
            self.assertEqual({'rbd': export.open_source},
                             glance.active_handlers())

    def test_registered_and_not_active(self) -> None:
        glance.register_handler('mem', FakeHandler())
        self.flags(enable_rbd_download=True, group='glance')
        self.assertEqual(['rbd'], list(glance.active_handlers()))

    def test_registered_twice(self) -> None:
        handler = FakeHandler()
        glance.register_handler('mem', handler)
        self.assertRaisesRegex(
            ValueError, "'mem'", glance.register_handler, 'mem',
            FakeHandler())
        self.assertIs(handler, glance._HANDLERS['mem'])

    def test_rbd_is_registered(self) -> None:
        self.assertRaisesRegex(
            ValueError, "'rbd'", glance.register_handler, 'rbd',
            FakeHandler())

    def test_unknown_scheme(self) -> None:
        glance.register_handler('mem', FakeHandler())
        self.flags(allowed_direct_url_schemes=['rbd', 'nfs', 'file'],
                   group='glance')
        for start in (glance.active_handlers, glance.API,
                      glance.GlanceImageServiceV2):
            self.assertRaisesRegex(
                exception.InvalidConfiguration,
                'no handler for: file, nfs, .* are: mem, rbd$',
                start)

    def test_scheme_in_capitals_is_unknown(self) -> None:
        self.flags(allowed_direct_url_schemes=['RBD'], group='glance')
        self.assertRaises(exception.InvalidConfiguration, glance.API)

    def test_no_plug_point_is_left(self) -> None:
        """Only the registry provides handlers, not entry points."""
        self.assertEqual((), tuple(importlib.metadata.entry_points(
            group='nova.image.download')))
        with mock.patch('importlib.metadata.entry_points') as entry_points:
            self.handle(RIGHT)
            self.assertEqual({'mem': glance._HANDLERS['mem']},
                             glance.active_handlers())
            self.download()
        entry_points.assert_not_called()


class TestSources(DownloadTestCase):
    def test_direct(self) -> None:
        handler = self.handle(RIGHT)
        with self.logged() as logs:
            self.assertIsNone(self.download())
        self.assert_fetched(by_http=False)
        self.assertEqual([(uuids.image, 'mem://0', self.path)],
                         handler.calls)
        self.assertEqual(1, handler.closed)
        self.assertEqual([len(RIGHT)], handler.sources[0].finished)
        self.assertEqual([], self.warnings(logs))

    def test_order(self) -> None:
        handler = self.handle(broken(), WRONG, RIGHT, RIGHT)
        self.download()
        self.assert_fetched(by_http=False)
        self.assertEqual(['mem://0', 'mem://1', 'mem://2'], handler.urls)

    def test_direct_url_comes_after_locations_and_not_twice(self) -> None:
        handler = self.handle(broken(), broken(), broken())
        self.locate('mem://a', 'mem://b', 'mem://a')
        for direct_url in ('mem://a', 'mem://b', 'mem://c'):
            self.image['direct_url'] = direct_url
            handler.calls.clear()
            handler._outcomes = [broken(), broken(), broken()]
            self.download()
            self.assertEqual(
                ['mem://a', 'mem://b'] +
                ['mem://c'] * (direct_url == 'mem://c'), handler.urls)

    def test_direct_url_alone(self) -> None:
        handler = self.handle(RIGHT)
        del self.image['locations']
        self.image['direct_url'] = 'mem://only'
        self.download()
        self.assert_fetched(by_http=False)
        self.assertEqual(['mem://only'], handler.urls)

    def test_http_comes_last(self) -> None:
        handler = self.handle(broken(), broken())
        self.download()
        self.assert_fetched(by_http=True)
        self.assertEqual(['mem://0', 'mem://1'], handler.urls)

    def test_not_switched_on(self) -> None:
        handler = self.handle(RIGHT)
        self.flags(allowed_direct_url_schemes=[], group='glance')
        self.download()
        self.assert_fetched(by_http=True)
        self.assertEqual([], handler.calls)

    def test_no_locations(self) -> None:
        self.handle()
        del self.image['locations']
        with self.logged() as logs:
            self.download()
        self.assert_fetched(by_http=True)
        self.assertEqual([], self.warnings(logs))
        self.assertEqual(['get', 'get_image_locations', 'data'],
                         self.glance.methods)

    def test_locations_of_other_schemes(self) -> None:
        handler = self.handle()
        self.locate('file:///var/lib/glance/x', 'swift+https://a/b', RBD_URL,
                    'MEM://x', 'memory://x', ' mem://x', '/mem://x', '')
        with self.logged() as logs:
            self.download()
        self.assert_fetched(by_http=True)
        self.assertEqual([], handler.calls)
        self.assertEqual([], self.warnings(logs))

    def test_warned_once_for_each_failed_source(self) -> None:
        self.handle(broken(), WRONG, crypto_exceptions.InvalidSignature())
        with self.logged() as logs:
            self.download()
        found = self.warnings(logs)
        self.assertEqual(3, len(found), str(found))
        for line, reason in zip(found, (
                'the cable is broken', 'Glance recorded',
                'the signature does not match the data')):
            for part in (uuids.image, ' mem,', reason):
                self.assertIn(part, line)

    def test_warning_tells_its_reason_once(self) -> None:
        """oslo.log adds the error that is being handled to a line."""
        handled: list[BaseException | None] = []

        def look(record: logging.LogRecord) -> bool:
            handled.append(sys.exc_info()[1])
            return True

        logger = logging.getLogger('nova.image.download')
        logger.addFilter(look)
        self.addCleanup(logger.removeFilter, look)
        self.handle(broken())
        with self.logged() as logs:
            self.download()
        self.assertEqual(1, len(self.warnings(logs)))
        self.assertEqual([None] * len(handled), handled)
        self.assertGreater(len(handled), 0)

    def test_any_error_of_a_handler_is_one_of_the_source(self) -> None:
        for error in (KeyError('disk_format'), RuntimeError('no thread'),
                      OSError(errno.EMFILE, 'no descriptor is left'),
                      exception.NovaException('something')):
            glance._HANDLERS.pop('mem', None)
            self.glance = FakeGlance(self.image)
            self.handle(error)
            self.download()
            self.assert_fetched(by_http=True)

    def test_progress(self) -> None:
        self.handle(broken(), RIGHT)
        progress = mock.Mock(spec_set=download.Progress())
        self.download(progress=progress)
        size = len(RIGHT)
        self.assertEqual([
            mock.call.on_source_started('mem', size),
            mock.call.on_source_failed('mem', 'the cable is broken'),
            mock.call.on_source_started('mem', size),
            mock.call.on_progress(size, size),
            mock.call.on_complete('mem', mock.ANY, 'sha256'),
        ], progress.mock_calls)
        self.assertEqual(size, progress.on_complete.call_args.args[1].size)

    def test_progress_ends_the_download(self) -> None:
        self.handle(broken(), RIGHT)
        for source, count in (('mem', 0), ('http', 2)):
            handler = self.handle_again(broken(), broken())

            def stop(name: str, size: int | None) -> None:
                self.assertEqual(len(RIGHT), size)
                if name == source:
                    raise PermissionError(name)

            progress = mock.Mock(spec_set=download.Progress())
            progress.on_source_started.side_effect = stop
            self.assertRaises(
                PermissionError, self.download, progress=progress)
            self.assertEqual(count, len(handler.calls))
            self.assertEqual(0, self.glance.methods.count('data'))
            self.assertEqual([], os.listdir(self.directory))

    def test_line_that_tells_how_it_came(self) -> None:
        self.handle(RIGHT)
        report = transfer.Report(3 << 20, 1 << 20, 1.5)
        with mock.patch.object(transfer, 'transfer', return_value=report):
            with self.logged() as logs:
                self.download()
        self.assertEqual(
            [f'Image {uuids.image} fetched by mem: 3145728 bytes, 1048576 '
             'bytes written, in 1.50 s, 2.0 MiB/s, verified by sha256'],
            [record.getMessage() for record in logs.records])

    def test_line_for_http(self) -> None:
        with self.logged() as logs:
            self.download()
        self.assertEqual(1, len(logs.records))
        self.assertRegex(
            logs.records[0].getMessage(),
            f'^Image {uuids.image} fetched by http: 300000 bytes, 300000 '
            r'bytes written, in \d+\.\d\d s, \d+\.\d MiB/s, verified by '
            'sha256$')

    def test_progress_of_a_long_download_is_logged(self) -> None:
        self.useFixture(fixtures.MockPatch(
            'nova.image.download._PROGRESS_INTERVAL', 0))
        self.handle(RIGHT)
        with self.logged() as logs:
            self.download()
        self.assertIn(
            f'Image {uuids.image} is being fetched by mem: 300000 of 300000 '
            'bytes', [record.getMessage() for record in logs.records])

    def test_progress_is_logged_now_and_then(self) -> None:
        clock = mock.Mock(side_effect=[100, 109, 110, 111, 119, 135, 144])
        with self.logged() as logs:
            progress = download._ProgressLog(
                uuids.image, 'mem', download.Progress(), clock)
            for done in range(1, 7):
                progress(done, None)
        self.assertEqual(
            ['2 of an unknown number of bytes',
             '5 of an unknown number of bytes'],
            [record.getMessage().rpartition(': ')[2]
             for record in logs.records])

    def test_size_is_not_known(self) -> None:
        """Nova cannot check the size then, and uses HTTP only."""
        handler = self.handle(RIGHT)
        self.image['size'] = None
        self.download()
        self.assert_fetched(by_http=True)
        self.assertEqual([], handler.calls)
        self.assertFalse(self.range.called)

    def test_size_of_zero_is_a_size(self) -> None:
        self.image['size'] = 0
        self.assert_fails(exception.CouldNotFetchImage, 'more than the 0')

    def test_empty_image(self) -> None:
        self.image.update(size=0, os_hash_value=hashlib.sha256().hexdigest())
        self.handle(b'')
        self.download()
        self.assertEqual(b'', pathlib.Path(self.path).read_bytes())
        self.assertEqual(
            ['bytes=0-'], [request.headers['Range']
                           for request in self.range.request_history])
        self.assertEqual(['get'], self.glance.methods)


class TestPermission(DownloadTestCase):
    """Nova asks whether Glance lets this user download the image."""

    def setUp(self) -> None:
        super().setUp()
        self.handler = self.handle(RIGHT)

    def test_permitted(self) -> None:
        self.download()
        self.assert_fetched(by_http=False)
        self.assertEqual(['get'], self.glance.methods)
        self.assertEqual(1, self.range.call_count)
        headers = self.range.request_history[0].headers
        self.assertEqual(f'bytes={len(RIGHT)}-', headers['Range'])
        self.assertEqual('token', headers['X-Auth-Token'])

    def test_refused(self) -> None:
        for hidden in (False, True):
            if hidden:
                self.glance.hidden = ['mem://0']
                del self.image['locations']
            for status, error in ((401, exception.ImageNotAuthorized),
                                  (403, exception.ImageNotAuthorized),
                                  (404, exception.ImageNotFound)):
                self.answer(status)
                self.glance.methods.clear()
                self.assertRaisesRegex(error, uuids.image, self.download)
                self.assertEqual(['get'], self.glance.methods)
        self.assertEqual([], os.listdir(self.directory))
        self.assertEqual([], self.handler.calls)
        self.login.assert_not_called()

    def test_any_other_answer_means_http(self) -> None:
        self.flags(num_retries=0, group='glance')
        self.glance.hidden = ['mem://0']
        for answer, said in (
            *((status, str(status)) for status in (
                200, 204, 206, 300, 400, 409, 413, 429, 500, 502, 503)),
            (requests.ConnectionError, 'Unable to establish connection'),
            (requests.Timeout, 'timed out'),
        ):
            self.glance = FakeGlance(self.image)
            self.answer(answer)
            with self.logged() as logs:
                self.download()
            self.assert_fetched(by_http=True)
            [warning] = self.warnings(logs)
            self.assertIn(uuids.image, warning)
            self.assertIn(said, warning)
        self.assertEqual([], self.handler.calls)
        self.login.assert_not_called()

    def test_answer_is_not_read(self) -> None:
        """A proxy may ignore the range, and send the whole image."""
        self.answer(200)
        self.download()
        self.assert_fetched(by_http=True)
        self.assertTrue(self.body.closed)

    def test_image_is_not_active(self) -> None:
        """Nova then requests the data from Glance, and Glance decides."""
        self.glance.refusal = glance_exc.HTTPForbidden()
        for status in ('queued', 'saving', 'uploading', 'importing',
                       'deactivated', 'pending_delete', 'deleted', 'killed',
                       'a status to come'):
            self.image['status'] = status
            self.glance.methods.clear()
            self.assertRaises(exception.ImageNotAuthorized, self.download)
            self.assertEqual(['get', 'data'], self.glance.methods)
        self.assertFalse(self.range.called)
        self.assertEqual([], self.handler.calls)
        self.login.assert_not_called()

    def test_glance_not_asked_without_a_usable_location(self) -> None:
        self.locate('file:///x', 'swift://y')
        self.download()
        self.flags(allowed_direct_url_schemes=[], group='glance')
        self.locate('mem://0')
        self.download()
        self.assertFalse(self.range.called)

    def test_asked_again_before_each_location(self) -> None:
        """The attempt before can have taken minutes."""
        del glance._HANDLERS['mem']
        handler = self.handle(broken(), RIGHT)
        self.requests.get(
            f'{FakeGlance.api_server}/v2/images/{uuids.image}/file',
            [{'status_code': 416}, {'status_code': 403}])
        self.assertRaises(exception.ImageNotAuthorized, self.download)
        self.assertEqual(['mem://0'], handler.urls)
        self.assertEqual(['get'], self.glance.methods)

    def test_server_named_by_the_request(self) -> None:
        """It could name any image in Ceph, and permit its download."""
        with mock.patch.object(FakeGlance, 'has_explicit_endpoint', True):
            self.download()
        self.assert_fetched(by_http=True)
        self.assertFalse(self.range.called)
        self.assertEqual([], self.handler.calls)


class TestHiddenLocations(DownloadTestCase):
    """Glance is asked where an image is that does not say so itself."""

    def hide(self, *outcomes: bytes | Exception) -> FakeHandler:
        handler = self.handle(*outcomes)
        self.glance.hidden = [
            entry['url'] for entry in self.image.pop('locations')]
        return handler

    def questions(self) -> int:
        return self.glance.methods.count('get_image_locations')

    def test_asked_after_the_user_has_seen_the_image(self) -> None:
        handler = self.hide(broken(), RIGHT)
        with self.assertNoLogs('nova.image.locations', 'INFO'):
            self.download()
        self.assert_fetched(by_http=False)
        self.assertEqual(['mem://0', 'mem://1'], handler.urls)
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

    def test_not_asked_where_they_are_shown(self) -> None:
        handler = self.handle(broken(), RIGHT)
        self.glance.hidden = ['mem://hidden']
        self.locate('mem://0')
        self.download()
        self.locate('file:///x')
        self.download()
        del self.image['locations']
        self.image['direct_url'] = 'mem://1'
        self.download()
        self.assertEqual(['mem://0', 'mem://1'], handler.urls)
        self.assertEqual(2, self.glance.methods.count('data'))
        self.assertEqual(0, self.questions())
        self.login.assert_not_called()

    def test_not_asked_where_it_is_not_switched_on(self) -> None:
        self.hide(RIGHT)
        self.flags(allowed_direct_url_schemes=[], group='glance')
        self.download()
        self.assert_fetched(by_http=True)
        self.assertEqual(0, self.questions())
        self.login.assert_not_called()

    def test_server_named_by_the_request_gets_no_credentials(self) -> None:
        self.hide(RIGHT)
        with mock.patch.object(FakeGlance, 'has_explicit_endpoint', True):
            self.download()
        self.assert_fetched(by_http=True)
        self.assertEqual(0, self.questions())
        self.login.assert_not_called()

    def test_which_client_has_explicit_endpoint(self) -> None:
        with mock.patch('glanceclient.Client'):
            for service, expected in (
                (glance.get_default_image_service(), False),
                (glance.get_remote_image_service(
                    self.context, uuids.image)[0], False),
                (glance.get_remote_image_service(
                    self.context, 'http://x/v2/images/' + uuids.image)[0],
                 True),
            ):
                self.assertIs(expected, service._client.has_explicit_endpoint)

    def test_not_asked_for_a_stream(self) -> None:
        self.hide(RIGHT)
        self.download(dst_path=None)
        self.assertEqual(0, self.questions())

    def test_other_schemes(self) -> None:
        handler = self.hide(RIGHT)
        self.glance.hidden = ['file:///x', 'rbd://x', 'mem://0', 'swift://x']
        self.download()
        self.assertEqual(['mem://0'], handler.urls)
        self.glance.hidden = ['file:///x']
        self.download()
        self.assertEqual(1, self.glance.methods.count('data'))

    def test_no_credentials(self) -> None:
        self.hide(RIGHT)
        self.login.side_effect = exception.InvalidConfiguration('x')
        self.download()
        self.assert_fetched(by_http=True)
        self.assertEqual(0, self.questions())

    def test_error_does_not_give_them_away(self) -> None:
        self.hide(broken())
        self.glance.broken = requests.ConnectionError('reset by peer')
        with self.assertLogs('nova.image', 'INFO') as logs:
            error = self.assertRaises(
                exception.CouldNotFetchImage, self.download)
        for text in (str(error), *logs.output):
            self.assertNotIn('mem://', text)


class TestProximity(DownloadTestCase):
    """Several places to have an image from."""

    def rank(self, **ranks: int | None) -> None:
        glance._PROXIMITIES['mem'] = lambda url: ranks[url.partition('://')[2]]
        self.locate(*('mem://' + name for name in ranks))

    def test_nearest_first(self) -> None:
        handler = self.handle(broken(), broken(), RIGHT)
        self.rank(far=7, nowhere=None, near=0, beside=1)
        with self.logged() as logs:
            self.download()
        self.assert_fetched(by_http=False)
        self.assertEqual(
            ['mem://near', 'mem://beside', 'mem://far'], handler.urls)
        # No warning about the location that this host cannot use.
        self.assertEqual(2, len(self.warnings(logs)))

    def test_all_are_of_no_use(self) -> None:
        """Then the log says why."""
        handler = self.handle(broken(), broken())
        self.rank(a=None, b=None)
        with self.logged() as logs:
            self.download()
        self.assert_fetched(by_http=True)
        self.assertEqual(['mem://a', 'mem://b'], handler.urls)
        self.assertEqual(2, len(self.warnings(logs)))

    def test_registered_with_the_handler(self) -> None:
        def rank(_url: str) -> int | None:
            return 0

        glance.register_handler('near', FakeHandler(), rank)
        glance.register_handler('any', FakeHandler())
        self.assertEqual({'rbd': cluster.proximity, 'near': rank},
                         glance._PROXIMITIES)


class TestFailures(DownloadTestCase):
    """The right exception, and nothing at the destination."""

    def test_destination_cannot_be_written(self) -> None:
        handler = self.handle(RIGHT, RIGHT)
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with mock.patch('os.pwrite', side_effect=full):
            with self.assertNoLogs('nova.image', 'WARNING'):
                self.assert_fails(OSError, 'No space left')
        # No other source would help.
        self.assertEqual(['mem://0'], handler.urls)
        self.assertNotIn('data', self.glance.methods)

    def test_no_directory(self) -> None:
        handler = self.handle(RIGHT, RIGHT)
        self.path = os.path.join(self.directory, 'no', 'image')
        self.assertRaises(FileNotFoundError, self.download)
        self.assertEqual(['mem://0'], handler.urls)
        self.assertNotIn('data', self.glance.methods)

    def test_wrong_bytes_everywhere(self) -> None:
        self.handle(WRONG)
        self.glance.body = WRONG
        self.assert_fails(exception.ImageUnacceptable, 'Glance recorded')
        self.assertEqual(1, self.glance.closed)

    def test_http_ends_early(self) -> None:
        self.handle(broken())
        self.glance.body = RIGHT[:-1]
        self.assert_fails(
            exception.CouldNotFetchImage,
            f'{uuids.image}.*299999 bytes, the image has 300000')

    def test_http_brings_too_much(self) -> None:
        self.glance.body = RIGHT + b'!'
        self.assert_fails(exception.CouldNotFetchImage, 'more than')
        self.assertEqual(1, self.glance.closed)

    def test_wrong_bytes_over_http_alone(self) -> None:
        """Another host may receive the right bytes."""
        self.glance.body = WRONG
        self.assert_fails(exception.CouldNotFetchImage,
                          f'{uuids.image}.*Glance recorded')
        self.assertEqual(1, self.glance.closed)

    def test_wrong_bytes_that_differ(self) -> None:
        self.handle(WRONG, broken())
        self.glance.body = RIGHT[:-2] + b'!!'
        self.assert_fails(exception.CouldNotFetchImage, 'Glance recorded')

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

    def test_http_is_refused(self) -> None:
        for refusal, error in (
            (glance_exc.HTTPNotFound(), exception.ImageNotFound),
            (glance_exc.HTTPForbidden(), exception.ImageNotAuthorized),
            (exception.GlanceConnectionFailed(server='x', reason='down'),
             exception.GlanceConnectionFailed),
        ):
            self.glance.refusal = refusal
            self.assertRaises(error, self.download)
            self.assertEqual([], os.listdir(self.directory))

    def test_http_has_no_data(self) -> None:
        self.glance.body = None
        self.assertRaisesRegex(
            exception.ImageUnacceptable, 'no data', self.download)
        self.assertEqual([], os.listdir(self.directory))

    def test_no_way_to_verify_it(self) -> None:
        handler = self.handle(RIGHT)
        self.image['os_hash_algo'] = 'gost'
        self.assertRaisesRegex(
            exception.ImageUnacceptable, 'gost', self.download)
        self.assertEqual([], handler.calls)
        self.assertNotIn('data', self.glance.methods)


class TestVerification(DownloadTestCase):
    def test_wrong_bytes_on_the_direct_way(self) -> None:
        self.handle(WRONG)
        self.download()
        self.assert_fetched(by_http=True)

    def test_hash_left_out_for_direct_downloads_only(self) -> None:
        self.flags(verify_direct_download=False, group='glance')
        self.handle(WRONG)
        with self.logged() as logs:
            self.download()
        self.assertEqual(WRONG, pathlib.Path(self.path).read_bytes())
        self.assertIn('verified by nothing', logs.output[-1])
        del glance._HANDLERS['mem']
        self.handle(broken())
        self.glance.body = WRONG
        self.assert_fails(exception.CouldNotFetchImage, 'Glance recorded')

    def test_handler_knows_whether_bytes_are_verified(self) -> None:
        unsigned = dict(self.image)
        for switch, changes, expected in (
            (True, {}, True), (False, {}, False),
            (True, {'os_hash_value': None}, False),
            (True, {'os_hash_value': None, 'checksum': hashlib.md5(
                RIGHT, usedforsecurity=False).hexdigest()}, True),
        ):
            self.flags(verify_direct_download=switch, group='glance')
            glance._HANDLERS.pop('mem', None)
            self.image.update(unsigned | changes)
            handler = self.handle(RIGHT)
            self.download()
            self.assertEqual([expected], handler.verified, str(changes))

    def test_size_counts_where_the_hash_is_left_out(self) -> None:
        self.flags(verify_direct_download=False, group='glance')
        for content in (RIGHT + b'!', RIGHT[:-1]):
            glance._HANDLERS.pop('mem', None)
            self.glance = FakeGlance(self.image)
            self.handle(content)
            self.download()
            self.assert_fetched(by_http=True)

    def test_md5(self) -> None:
        self.image.update(
            os_hash_algo=None, os_hash_value=None,
            checksum=hashlib.md5(RIGHT, usedforsecurity=False).hexdigest())
        self.handle(WRONG, RIGHT)
        with self.logged() as logs:
            self.download()
        self.assert_fetched(by_http=False)
        self.assertIn('verified by md5', logs.output[-1])

    def test_nothing_recorded(self) -> None:
        self.image.update(os_hash_algo=None, os_hash_value=None)
        with self.logged() as logs:
            self.download()
        self.assert_fetched(by_http=True)
        self.assertIn('verified by nothing', logs.output[-1])

    def test_glanceclient_does_not_do_it_again(self) -> None:
        with mock.patch.object(
                self.glance, 'call', wraps=self.glance.call) as call:
            self.download()
        self.assertEqual(
            mock.call(self.context, 2, 'data', args=(uuids.image,),
                      kwargs={'do_checksum': False}), call.mock_calls[-1])


class TestSignatures(DownloadTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.flags(verify_glance_signatures=True, group='glance')
        self.image.update(signature_of(RIGHT))
        self.certificate = self.useFixture(fixtures.MockPatch(
            'cursive.signature_utils.get_certificate')).mock
        self.certificate.return_value.public_key = (
            fakes.private_key().public_key)

    def test_direct(self) -> None:
        self.handle(RIGHT)
        with self.logged() as logs:
            self.download()
        self.assert_fetched(by_http=False)
        self.assertIn('verified by signature', logs.output[-1])
        self.certificate.assert_called_once()

    def test_http(self) -> None:
        with self.logged() as logs:
            self.download()
        self.assert_fetched(by_http=True)
        self.assertIn('verified by signature', logs.output[-1])
        self.certificate.assert_called_once()

    def test_fresh_verifier_for_every_source(self) -> None:
        started: list[transfer.Verifier | None] = []
        real = transfer.transfer

        def spy(source: transfer.Source, path: str,
                verifier: transfer.Verifier | None, **kwargs: ty.Any,
                ) -> transfer.Report:
            started.append(verifier)
            return real(source, path, verifier, **kwargs)

        self.handle(WRONG, WRONG)
        with mock.patch.object(transfer, 'transfer', spy):
            with self.logged() as logs:
                self.download()
        self.assert_fetched(by_http=True)
        self.assertNotIn(None, started)
        self.assertEqual(3, len({id(verifier) for verifier in started}))
        self.assertEqual(3, self.certificate.call_count)
        self.assertEqual(
            2, len([line for line in self.warnings(logs)
                    if 'the signature does not match the data' in line]))

    def test_hash_does_not_make_up_for_it(self) -> None:
        """Right by the hash that Glance recorded, and not what was signed."""
        self.image.update(signature_of(WRONG))
        self.handle(RIGHT)
        with self.logged() as logs:
            self.assert_fails(crypto_exceptions.InvalidSignature, '')
        self.assertEqual(
            ['WARNING', 'ERROR'],
            [record.levelname for record in logs.records])
        self.assertEqual(1, self.glance.closed)
        self.assertIn(uuids.image, logs.output[-1])

    def test_switch_is_for_hashes_only(self) -> None:
        self.flags(verify_direct_download=False, group='glance')
        handler = self.handle(WRONG)
        self.download()
        self.assertEqual([True], handler.verified)
        self.assert_fetched(by_http=True)

    def test_cannot_be_verified(self) -> None:
        handler = self.handle(RIGHT)
        for name in signature_of(b''):
            image = Image(self.image)
            del image[name]
            self.glance.image = image
            self.assertRaisesRegex(
                cursive_exception.SignatureVerificationError, '',
                self.download)
        self.assertEqual([], handler.calls)
        self.assertNotIn('data', self.glance.methods)
        self.assertEqual([], os.listdir(self.directory))

    def test_property_that_nova_does_not_know(self) -> None:
        """An error of its own, which ends the boot at once."""
        self.handle(RIGHT)
        for name, value in (('img_signature_hash_method', 'MD5'),
                            ('img_signature_key_type', 'RSA-PKCS1')):
            self.glance.image = Image({**self.image, name: value})
            with self.logged() as logs:
                self.assertRaisesRegex(
                    cursive_exception.SignatureVerificationError,
                    'Invalid signature .*: %s' % value, self.download)
            [line] = logs.output
            self.assertIn(value, line)
            self.assertIn(uuids.image, line)
        self.assertNotIn('data', self.glance.methods)

    def test_other_properties_do_not_matter(self) -> None:
        self.image['hw_disk_bus'] = 'nothing that Nova knows'
        self.download()
        self.assert_fetched(by_http=True)

    def test_unreadable_certificate(self) -> None:
        for error in (ValueError('no PEM'), TypeError('no bytes'),
                      crypto_exceptions.UnsupportedAlgorithm('no such key')):
            self.certificate.side_effect = error
            self.assertRaisesRegex(
                cursive_exception.SignatureVerificationError,
                'Certificate %s cannot be used: %s' % (
                    uuids.certificate, error), self.download)
        self.assertEqual([], os.listdir(self.directory))

    def test_unreadable_trusted_certificate(self) -> None:
        self.flags(enable_certificate_validation=True,
                   default_trusted_certificate_ids=[uuids.trusted],
                   group='glance')
        self.certificate.side_effect = [
            self.certificate.return_value, ValueError('no PEM')]
        self.assertRaisesRegex(
            exception.CertificateValidationFailed, 'no PEM', self.download)
        self.assertEqual([], os.listdir(self.directory))

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

    def test_verifier_that_was_not_used_serves_the_next_source(self) -> None:
        self.handle(broken())
        self.download()
        self.assert_fetched(by_http=True)
        self.certificate.assert_called_once()

    def test_no_second_certificate_is_to_be_had(self) -> None:
        self.handle(WRONG)
        self.certificate.side_effect = [
            self.certificate.return_value,
            cursive_exception.SignatureVerificationError(reason='no answer')]
        self.assert_fails(
            cursive_exception.SignatureVerificationError, 'no answer')
        self.assertEqual(2, self.certificate.call_count)

    def test_needs_no_hash(self) -> None:
        self.image.update(os_hash_algo='gost', os_hash_value='ab')
        self.handle(RIGHT)
        with self.logged() as logs:
            self.download()
        self.assert_fetched(by_http=False)
        self.assertEqual([], self.warnings(logs))

    def test_trusted_certificates_for_every_source(self) -> None:
        self.flags(verify_glance_signatures=False, group='glance')
        self.handle(WRONG)
        trusted = mock.Mock(ids=[uuids.certificate])
        with mock.patch('cursive.certificate_utils.verify_certificate',
                        autospec=True) as verify_certificate:
            self.download(trusted_certs=trusted)
        self.assert_fetched(by_http=True)
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
        handler = self.handle(RIGHT, RIGHT)
        pathlib.Path(self.path).write_bytes(b'of another process')
        self.assert_kept()
        # The destination is at fault, so no other source can help.
        self.assertEqual(['mem://0'], handler.urls)
        self.assertNotIn('data', self.glance.methods)
        self.image['locations'] = []
        self.assert_kept()
        self.assertEqual(1, self.glance.methods.count('data'))
        self.assertEqual(b'of another process',
                         pathlib.Path(self.path).read_bytes())

    def test_fifo(self) -> None:
        os.mkfifo(self.path)
        reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        self.assert_kept()
        # eventlet's os.read() would wait for a writer.
        self.assertEqual(b'', transfer.native('os').read(reader, 1))

    def test_nothing(self) -> None:
        self.handle(RIGHT)
        self.download(replace=False)
        self.assert_fetched(by_http=False)


class TestOtherDestinations(DownloadTestCase):
    """A file object, a FIFO, or the caller: by HTTP, as it comes."""

    def setUp(self) -> None:
        super().setUp()
        self.handler = self.handle(RIGHT)

    def test_file_object(self) -> None:
        file = io.BytesIO()
        self.assertIsNone(self.download(data=file))
        self.assertEqual(RIGHT, file.getvalue())
        self.assertEqual([], os.listdir(self.directory))
        self.assertEqual([], self.handler.calls)

    def test_chunks(self) -> None:
        chunks = self.download(dst_path=None)
        self.assertEqual(RIGHT, b''.join(chunks))
        self.assertEqual([], self.handler.calls)

    def test_fifo(self) -> None:
        body = RIGHT[:5000]
        self.glance.body = body
        os.mkfifo(self.path)
        reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        self.assertIsNone(self.download())
        self.assertEqual(body, os.read(reader, 10_000))
        self.assertEqual(b'', os.read(reader, 1))
        self.assertEqual(['image'], os.listdir(self.directory))
        self.assertEqual([], self.handler.calls)

    def sign(self, data: bytes) -> None:
        self.flags(verify_glance_signatures=True, group='glance')
        self.image.update(signature_of(data))
        self.useFixture(fixtures.MockPatch(
            'cursive.signature_utils.get_certificate')).mock.return_value \
            .public_key = fakes.private_key().public_key

    def test_file_object_and_signature(self) -> None:
        self.sign(RIGHT)
        file = io.BytesIO()
        with self.logged() as logs:
            self.download(data=file)
        self.assertEqual(RIGHT, file.getvalue())
        self.assertIn('Image signature verification succeeded for image %s' %
                      uuids.image, logs.output[-1])

    def test_file_object_and_wrong_signature(self) -> None:
        self.sign(WRONG)
        file = io.BytesIO()
        self.assertRaises(crypto_exceptions.InvalidSignature,
                          self.download, data=file)
        self.assertEqual(b'', file.getvalue())

    def test_chunks_and_signature(self) -> None:
        self.sign(RIGHT)
        with self.logged() as logs:
            chunks = self.download(dst_path=None)
            self.assertEqual(RIGHT, b''.join(chunks))
        self.assertIn('Image signature verification succeeded for image %s' %
                      uuids.image, logs.output[-1])

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
        chunks = self.download(dst_path=None)
        read = []
        with self.logged() as logs:
            self.assertRaises(crypto_exceptions.InvalidSignature,
                              lambda: read.extend(chunks))
        self.assertEqual(RIGHT[:len(RIGHT) // 65536 * 65536], b''.join(read))
        self.assertEqual(['ERROR'],
                         [record.levelname for record in logs.records])

    def test_no_chunks_and_wrong_signature(self) -> None:
        self.sign(WRONG)
        self.glance.body = b''
        self.assertRaises(crypto_exceptions.InvalidSignature,
                          lambda: list(self.download(dst_path=None)))


class TestRbd(DownloadTestCase):
    """The whole of it, but for the privileged side."""

    def setUp(self) -> None:
        super().setUp()
        self.useFixture(fixtures.MockPatchObject(
            cluster, '_known_fsids', {}))
        self.flags(enable_rbd_download=True, group='glance')
        self.locate(RBD_URL)

    def export(self, *args: ty.Any) -> rbd_fakes.FakeStart:
        return self.useFixture(rbd_fakes.FakeStart({
            rbd_fakes.OF_CONF: rbd_fakes.fsid(rbd_fakes.FSID),
            'rbd export': rbd_fakes.Program(*args)}))

    def test_success(self) -> None:
        fake = self.export(RIGHT)
        with self.logged() as logs:
            self.download()
        self.assert_fetched(by_http=False)
        self.assertEqual(
            (('rbd export',), 0, 'images', uuids.image, 'snap'),
            fake.calls[-1])
        self.assertRegex(
            logs.output[-1],
            'fetched by rbd: 300000 bytes,.* verified by sha256$')

    def test_flipped_bit(self) -> None:
        self.export(WRONG)
        self.download()
        self.assert_fetched(by_http=True)

    def test_broken_location(self) -> None:
        fake = self.export(RIGHT)
        self.locate('rbd://image', RBD_URL + '/x', 'rbd:' + RBD_URL)
        with self.logged() as logs:
            self.download()
        self.assert_fetched(by_http=True)
        self.assertEqual([], fake.calls)
        self.assertEqual(
            3, len([line for line in self.warnings(logs)
                    if 'does not have the form' in line and
                    uuids.image in line]))

    def test_export_fails(self) -> None:
        self.export(RIGHT[:1000], 2, 'UNKNOWN', 'error opening image')
        with self.logged() as logs:
            self.download()
        self.assert_fetched(by_http=True)
        self.assertIn('error opening image', self.warnings(logs)[0])

    def test_export_fails_and_http_too(self) -> None:
        self.export(b'', 110)
        self.glance.body = RIGHT[:1000]
        self.assert_fails(exception.CouldNotFetchImage, uuids.image)

    def test_no_room_for_a_socket(self) -> None:
        self.export(RIGHT)
        with mock.patch('tempfile.mkdtemp', side_effect=OSError(
                errno.ENOSPC, os.strerror(errno.ENOSPC))):
            self.download()
        self.assert_fetched(by_http=True)
