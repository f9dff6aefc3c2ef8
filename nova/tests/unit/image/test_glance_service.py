# SPDX-License-Identifier: Apache-2.0

"""The image service, except for downloads."""

import io
import typing as ty
from unittest import mock

import ddt
import fixtures
from glanceclient import exc
from keystoneauth1 import session as ks_session
from keystoneauth1 import token_endpoint
from oslo_utils.fixture import uuidsentinel as uuids
from requests_mock.contrib import fixture as requests_mock_fixture

from nova import context as nova_context
from nova import exception
from nova.image import compat
from nova.image import glance
from nova import objects
from nova import test


SERVERS = ['http://one:9292', 'http://two:9292', 'http://three:9292']


class ServiceTestCase(test.NoDBTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.context = nova_context.RequestContext(
            uuids.user, uuids.project, auth_token='token')
        self.client = mock.Mock(spec=glance.GlanceClientWrapper)
        self.service = glance.GlanceImageServiceV2(self.client)
        for name in ('_translate_from_glance', '_translate_to_glance'):
            self.replace(
                name, side_effect=lambda image, **kwargs: dict(image))

    def replace(self, name: str, **kwargs: ty.Any) -> mock.Mock:
        patcher = mock.patch.object(glance, name, **kwargs)
        self.addCleanup(patcher.stop)
        return patcher.start()

    def methods_called(self) -> list[str]:
        return [call.args[2] for call in self.client.call.call_args_list]


@ddt.ddt
class TestServers(ServiceTestCase):
    def test_configured_order_is_left_alone(self) -> None:
        self.flags(api_servers=list(SERVERS), group='glance')
        with mock.patch('random.shuffle', side_effect=list.reverse):
            servers = glance.get_api_servers(self.context)
        self.assertEqual([*reversed(SERVERS), SERVERS[-1]],
                         [next(servers) for _ in range(4)])
        self.assertEqual(SERVERS, glance.CONF.glance.api_servers)

    @mock.patch('nova.utils.get_ksa_adapter')
    @mock.patch.object(compat, 'session_and_auth', return_value=('s', 'a'))
    @mock.patch.object(compat, 'endpoint', return_value=None)
    def test_no_endpoint_in_the_catalog(
        self, endpoint: mock.Mock, _auth: mock.Mock, adapter: mock.Mock,
    ) -> None:
        self.assertIsNone(glance.generate_glance_url(self.context))
        adapter.assert_called_once_with(
            'image', ksa_auth='a', ksa_session='s', min_version='2.0',
            max_version='2.latest')
        endpoint.assert_called_once_with(adapter.return_value)

    def test_image_url(self) -> None:
        self.flags(api_servers=SERVERS[:1], group='glance')
        self.assertEqual(
            'http://one:9292/images/cafe',
            glance.API.generate_image_url('cafe', self.context))

    def test_id_goes_to_the_configured_servers(self) -> None:
        service, image_id = glance.get_remote_image_service(
            self.context, uuids.image)
        self.assertEqual(uuids.image, image_id)
        self.assertIsNone(service._client.client)
        self.assertIs(False, service._client.has_explicit_endpoint)

    def test_url_goes_to_its_server(self) -> None:
        make = self.replace('_glanceclient_from_endpoint')
        service, image_id = glance.get_remote_image_service(
            self.context, 'https://other/image/v2/images/cafe')
        self.assertEqual('cafe', image_id)
        make.assert_called_once_with(self.context, 'https://other/image', 2)
        self.assertIs(make.return_value, service._client.client)
        self.assertIs(True, service._client.has_explicit_endpoint)
        self.assertEqual('https://other/image', service._client.api_server)

    @ddt.data('images/cafe', '/cafe', 'v2/images/cafe')
    def test_neither_id_nor_url(self, image_href: str) -> None:
        self.assertRaisesRegex(
            exception.InvalidImageRef, image_href,
            glance.get_remote_image_service, self.context, image_href)


@ddt.ddt
class TestCall(ServiceTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.flags(api_servers=list(SERVERS), num_retries=2, group='glance')
        self.useFixture(fixtures.MonkeyPatch(
            'random.shuffle', lambda servers: None))
        self.sleep = self.useFixture(
            fixtures.MockPatch('time.sleep')).mock
        self.make = self.replace('_glanceclient_from_endpoint')
        self.wrapper = glance.GlanceClientWrapper()

    def test_arguments_and_result(self) -> None:
        method = self.make.return_value.image_members.create
        self.assertIs(method.return_value, self.wrapper.call(
            self.context, 2, 'create', controller='image_members',
            args=('cafe',), kwargs={'version': 'x', 'method': 'y'}))
        method.assert_called_once_with('cafe', version='x', method='y')
        self.sleep.assert_not_called()

    @ddt.data(exc.CommunicationError, exc.HTTPServiceUnavailable,
              exc.InvalidEndpoint, OSError)
    def test_every_attempt_goes_to_the_next_server(
            self, kind: type[Exception]) -> None:
        met = [kind(f'no answer {n}') for n in range(3)]
        self.make.return_value.images.get.side_effect = met
        error = self.assertRaises(
            exception.GlanceConnectionFailed, self.wrapper.call,
            self.context, 2, 'get', args=('cafe',))
        self.assertEqual(SERVERS,
                         [call.args[1] for call in self.make.call_args_list])
        self.assertEqual([mock.call(1)] * 2, self.sleep.call_args_list)
        self.assertIn(SERVERS[-1], str(error))
        self.assertIn('no answer 2', str(error))
        self.assertIs(met[-1], error.__cause__)

    def test_an_answer_is_not_asked_for_again(self) -> None:
        self.make.return_value.images.get.side_effect = exc.HTTPNotFound
        self.assertRaises(exc.HTTPNotFound, self.wrapper.call,
                          self.context, 2, 'get', args=('cafe',))
        self.make.assert_called_once_with(self.context, SERVERS[0], 2)

    def test_failure_in_the_middle_of_a_list(self) -> None:
        def broken() -> ty.Iterator[str]:
            yield 'a'
            raise exc.CommunicationError

        self.make.return_value.images.list.side_effect = [
            broken(), (letter for letter in 'ab')]
        self.assertEqual(
            ['a', 'b'], self.wrapper.call(self.context, 2, 'list'))

    def test_success_ends_the_attempts(self) -> None:
        for endpoint, servers in ((None, SERVERS[:2]),
                                  ('http://other', ['http://other'])):
            self.make.reset_mock()
            self.make.return_value.images.get.side_effect = [OSError, 'image']
            wrapper = glance.GlanceClientWrapper(self.context, endpoint)
            self.assertEqual('image', wrapper.call(self.context, 2, 'get'))
            self.assertEqual(
                [mock.call(self.context, server, 2) for server in servers],
                self.make.call_args_list)


@ddt.ddt
class TestShow(ServiceTestCase):
    @ddt.data(
        ({}, []),
        ({'locations': None, 'direct_url': None}, []),
        ({'direct_url': 'd'}, [{'url': 'd', 'metadata': {}}]),
        ({'locations': [{'url': 'l', 'metadata': {'store': 's'}}]},
         [{'url': 'l', 'metadata': {'store': 's'}}]),
        ({'locations': [{'url': 'l', 'metadata': {}}], 'direct_url': 'd'},
         [{'url': 'l', 'metadata': {}}, {'url': 'd', 'metadata': {}}]),
    )
    @ddt.unpack
    def test_locations(self, image: dict[str, ty.Any],
                       locations: list[ty.Any]) -> None:
        self.client.call.return_value = image
        shown = self.service.show(
            self.context, 'cafe', include_locations=True)
        self.assertEqual(locations, shown['locations'])

    def test_deleted_image(self) -> None:

        class Deleted(dict[str, ty.Any]):
            deleted = True

        self.client.call.return_value = Deleted(id='cafe')
        self.assertEqual(
            {'id': 'cafe'}, self.service.show(self.context, 'cafe'))
        self.assertRaises(
            exception.ImageNotFound, self.service.show, self.context,
            'cafe', show_deleted=False)


class TestErrors(ServiceTestCase):
    def test_one_request(self) -> None:
        for method, args, kwargs, refusal, error, reason in (
            (self.service.show, ['cafe'], {}, exc.HTTPNotFound(),
             exception.ImageNotFound, 'cafe'),
            (self.service.detail, [], {'filters': {'name': 'x'}},
             exc.HTTPBadRequest(details='filter?'), exception.Invalid,
             r'filter\?'),
            (self.service.update, ['cafe', {}],
             {'data': io.BytesIO(b'data'), 'purge_props': False},
             exc.HTTPOverLimit(), exception.ImageQuotaExceeded, 'cafe'),
            (self.service.delete, ['cafe'], {},
             exc.HTTPConflict(details='in use'),
             exception.ImageDeleteConflict, 'in use'),
        ):
            self.client.call.side_effect = refusal
            self.assertRaisesRegex(
                error, reason, method, self.context, *args, **kwargs)

    def test_request_after_create(self) -> None:
        member = {'properties': {'instance_owner': 'p'}}
        location = {'location': 'rbd://x'}
        refusal = exc.HTTPBadRequest(details='not so')
        not_implemented = exc.HTTPNotImplemented(details='no call')
        for image_meta, answers, error, reason, methods in (
            (member, [refusal], exception.Invalid, 'not so', ['create']),
            (location, [refusal], exception.Invalid, 'not so',
             ['add_image_location']),
            (location, [not_implemented, refusal], exception.Invalid,
             'not so', ['add_image_location', 'add_location']),
            (location, [not_implemented] * 2, exc.HTTPNotImplemented,
             'no call', ['add_image_location', 'add_location']),
        ):
            self.client.call.reset_mock()
            self.client.call.side_effect = [{'id': 'cafe'}, *answers]
            self.assertRaisesRegex(
                error, reason, self.service.create, self.context, image_meta)
            self.assertEqual(['create', *methods], self.methods_called())


@ddt.ddt
class TestCreate(ServiceTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.client.call.return_value = {'id': 'cafe'}

    def test_data_is_uploaded(self) -> None:
        data = io.BytesIO(b'data')
        self.service.create(self.context, {'name': 'x'}, data=data)
        self.assertEqual(
            [mock.call(self.context, 2, 'create', kwargs={'name': 'x'}),
             mock.call(self.context, 2, 'upload', args=('cafe', data)),
             mock.call(self.context, 2, 'get', args=('cafe',))],
            self.client.call.call_args_list)

    def test_empty_image_is_activated(self) -> None:
        self.service.create(
            self.context, {'size': 0, 'container_format': 'ovf'})
        create, upload, _get = self.client.call.call_args_list
        self.assertEqual(
            {'size': 0, 'disk_format': 'raw', 'container_format': 'ovf'},
            create.kwargs['kwargs'])
        self.assertEqual(('cafe', ''), upload.kwargs['args'])

    def test_empty_image_of_another_format(self) -> None:
        self.assertRaisesRegex(
            exception.ImageBadRequest, 'vmdk', self.service.create,
            self.context, {'size': 0, 'disk_format': 'vmdk'})
        self.client.call.assert_not_called()

    def test_data_of_unknown_size_keeps_its_format(self) -> None:
        self.service.create(
            self.context, {'size': 0, 'disk_format': 'vmdk'},
            data=io.BytesIO(b'data'))
        create = self.client.call.call_args_list[0]
        self.assertEqual('vmdk', create.kwargs['kwargs']['disk_format'])

    def test_instance_owner_becomes_a_member(self) -> None:
        image_meta = {'properties': {'instance_owner': 'p', 'a': 'b'}}
        self.service.create(self.context, image_meta)
        self.assertEqual({'properties': {'a': 'b'}}, image_meta)
        self.assertEqual(
            [mock.call(self.context, 2, 'create',
                       kwargs={'properties': {'a': 'b'}}),
             mock.call(self.context, 2, 'create', controller='image_members',
                       args=('cafe', 'p'))],
            self.client.call.call_args_list)

    def test_location_is_not_an_argument_of_create(self) -> None:
        self.service.create(self.context, {'location': 'rbd://x'})
        create, add = self.client.call.call_args_list
        self.assertEqual({}, create.kwargs['kwargs'])
        self.assertEqual(
            mock.call(self.context, 2, 'add_image_location',
                      args=('cafe', 'rbd://x', {})), add)

    @ddt.data(None, mock.Mock(**{'raw.return_value': {'properties': {}}}))
    def test_disk_format_without_a_schema(self, schema: ty.Any) -> None:
        self.client.call.return_value = schema
        self.assertEqual(
            'qcow2', self.service._get_image_create_disk_format_default(
                self.context))


class TestUpdateAndDelete(ServiceTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.client.call.return_value = {
            'id': 'cafe', 'properties': {'keep': '1', 'c': '1', 'a': '1'}}

    def test_other_properties_are_removed(self) -> None:
        self.service.update(
            self.context, 'cafe', {'id': 'ignored', 'name': 'x',
                                   'properties': {'keep': '2', 'new': '2'}})
        update = self.client.call.call_args
        self.assertEqual(['get', 'update'], self.methods_called())
        self.assertEqual(
            {'image_id': 'cafe', 'name': 'x', 'remove_props': ['c', 'a'],
             'properties': {'keep': '2', 'new': '2'}},
            update.kwargs['kwargs'])

    def test_other_properties_stay(self) -> None:
        self.service.update(
            self.context, 'cafe', {'name': 'x'}, purge_props=False)
        self.client.call.assert_called_once_with(
            self.context, 2, 'update',
            kwargs={'image_id': 'cafe', 'name': 'x'})

    def test_location_and_data(self) -> None:
        data = io.BytesIO(b'data')
        self.service.update(
            self.context, 'cafe', {'location': 'rbd://x'}, data=data,
            purge_props=False)
        self.assertEqual(
            [mock.call(self.context, 2, 'update',
                       kwargs={'image_id': 'cafe'}),
             mock.call(self.context, 2, 'add_image_location',
                       args=('cafe', 'rbd://x', {})),
             mock.call(self.context, 2, 'upload', args=('cafe', data)),
             mock.call(self.context, 2, 'get', args=('cafe',))],
            self.client.call.call_args_list)

    def test_delete(self) -> None:
        self.assertIs(True, self.service.delete(self.context, 'cafe'))
        self.client.call.assert_called_once_with(
            self.context, 2, 'delete', args=('cafe',))


class TestAPI(ServiceTestCase):
    def test_calls_are_handed_to_the_right_service(self) -> None:
        service = mock.Mock(spec=glance.GlanceImageServiceV2)
        self.replace('get_default_image_service', return_value=service)
        remote = self.replace(
            'get_remote_image_service', return_value=(service, 'cafe'))
        data = io.BytesIO(b'data')
        certs = objects.TrustedCerts(ids=['cert'])
        query = {'filters': {'name': 'x'}, 'limit': 2}
        flags = {'include_locations': True, 'show_deleted': False}
        call, context = mock.call, self.context
        for (name, args, kwargs), passed in (
            (call.get_all(**query), call.detail(context, **query)),
            (call.get('uri', **flags), call.show(context, 'cafe', **flags)),
            (call.create({'name': 'x'}, data=data),
             call.create(context, {'name': 'x'}, data=data)),
            (call.update('uri', {'name': 'x'}),
             call.update(context, 'cafe', {'name': 'x'}, data=None,
                         purge_props=False)),
            (call.delete('uri'), call.delete(context, 'cafe')),
            (call.download('uri', data=data, dest_path='/x',
                           trusted_certs=certs),
             call.download(context, 'cafe', data=data, dst_path='/x',
                           trusted_certs=certs, progress=None)),
        ):
            service.reset_mock()
            remote.reset_mock()
            result = getattr(glance.API(), name)(context, *args, **kwargs)
            self.assertEqual([passed], service.mock_calls)
            self.assertIs(getattr(service, passed[0]).return_value, result)
            self.assertEqual([call(context, 'uri')] * ('uri' in args),
                             remote.mock_calls)


class TestWithRealClient(test.NoDBTestCase):
    """Down to HTTP, with glanceclient and the models it makes."""

    SCHEMA = {
        'name': 'image',
        'additionalProperties': {'type': 'string'},
        'properties': {
            'id': {'type': 'string'},
            'name': {'type': ['null', 'string']},
            'size': {'type': ['null', 'integer']},
            'visibility': {'type': 'string'},
            'locations': {'type': 'array'},
            'direct_url': {'type': 'string'},
            'os_distro': {'type': 'string', 'is_base': False},
        },
    }
    IMAGE = {
        'id': uuids.image, 'name': 'tiny', 'size': None,
        'visibility': 'public', 'os_distro': 'debian', 'hw_rng': 'yes',
        'locations': [{'url': 'rbd://f/p/i/s', 'metadata': {}}],
        'direct_url': 'rbd://f/p/i/s',
    }

    def setUp(self) -> None:
        super().setUp()
        self.http = self.useFixture(requests_mock_fixture.Fixture())
        self.http.get('http://one:9292/v2/schemas/image', json=self.SCHEMA)
        self.flags(api_servers=['http://one:9292'], num_retries=1,
                   group='glance')
        auth = token_endpoint.Token('http://one:9292', 'token')
        self.useFixture(fixtures.MockPatchObject(
            compat, 'session_and_auth',
            return_value=(ks_session.Session(), auth)))
        self.useFixture(fixtures.MockPatch('time.sleep'))
        self.context = nova_context.RequestContext(
            uuids.user, uuids.project, auth_token='token')
        self.api = glance.API()
        self.url = f'http://one:9292/v2/images/{uuids.image}'

    def test_get_after_a_failure(self) -> None:
        self.http.get(self.url, [{'status_code': 503}, {'json': self.IMAGE}])
        image_meta = self.api.get(
            self.context, uuids.image, include_locations=True)
        self.assertEqual('tiny', image_meta['name'])
        self.assertEqual(0, image_meta['size'])
        self.assertIs(True, image_meta['is_public'])
        self.assertEqual({'os_distro': 'debian', 'hw_rng': 'yes'},
                         image_meta['properties'])
        self.assertEqual([{'url': 'rbd://f/p/i/s', 'metadata': {}}] * 2,
                         image_meta['locations'])

    def test_get_nothing(self) -> None:
        self.http.get(self.url, status_code=404)
        error = self.assertRaises(exception.ImageNotFound, self.api.get,
                                  self.context, uuids.image)
        self.assertIsInstance(error.__cause__, exc.HTTPNotFound)

    def test_get_all(self) -> None:
        listing = self.http.get(
            'http://one:9292/v2/images', json={'images': [self.IMAGE]})
        image_meta, = self.api.get_all(
            self.context, filters={'property-os_type': 'linux'})
        self.assertEqual(uuids.image, image_meta['id'])
        self.assertNotIn('direct_url', image_meta)
        self.assertEqual(['linux'], listing.request_history[0].qs['os_type'])

    def test_delete(self) -> None:
        deletion = self.http.delete(
            self.url, [{'status_code': 204}, {'status_code': 403}])
        self.api.delete(self.context, uuids.image)
        self.assertEqual(1, deletion.call_count)
        self.assertRaises(exception.ImageNotAuthorized, self.api.delete,
                          self.context, uuids.image)
