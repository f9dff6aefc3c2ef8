# SPDX-License-Identifier: Apache-2.0

"""What the image service does besides fetching data."""

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

    def replace(self, name: str, **kwargs: ty.Any) -> mock.Mock:
        patcher = mock.patch.object(glance, name, **kwargs)
        self.addCleanup(patcher.stop)
        return patcher.start()

    def pass_metadata_through(self) -> None:
        for name in ('_translate_from_glance', '_translate_to_glance'):
            self.replace(
                name, side_effect=lambda image, **kwargs: dict(image))

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

    def test_url_goes_to_its_server(self) -> None:
        make = self.replace('_glanceclient_from_endpoint')
        service, image_id = glance.get_remote_image_service(
            self.context, 'https://other/image/v2/images/cafe')
        self.assertEqual('cafe', image_id)
        make.assert_called_once_with(self.context, 'https://other/image', 2)
        self.assertIs(make.return_value, service._client.client)
        self.assertEqual('https://other/image', service._client.api_server)

    @ddt.data('images/cafe', '/cafe', 'v2/images/cafe')
    def test_neither_id_nor_url(self, image_href: str) -> None:
        error = self.assertRaises(
            exception.InvalidImageRef, glance.get_remote_image_service,
            self.context, image_href)
        self.assertIn(image_href, str(error))


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
        self, kind: type[Exception],
    ) -> None:
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
        self.make.return_value.images.get.side_effect = [OSError, 'image']
        self.assertEqual(
            'image', self.wrapper.call(self.context, 2, 'get'))
        self.assertEqual(2, self.make.call_count)

    def test_one_client_where_the_server_is_given(self) -> None:
        wrapper = glance.GlanceClientWrapper(self.context, 'http://other')
        self.make.return_value.images.get.side_effect = [OSError, 'image']
        self.assertEqual('image', wrapper.call(self.context, 2, 'get'))
        self.make.assert_called_once_with(self.context, 'http://other', 2)


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
    def test_locations(
        self, image: dict[str, ty.Any], locations: list[ty.Any],
    ) -> None:
        self.pass_metadata_through()
        self.client.call.return_value = image
        shown = self.service.show(
            self.context, 'cafe', include_locations=True)
        self.assertEqual(locations, shown['locations'])

    def test_deleted_image(self) -> None:
        self.pass_metadata_through()

        class Deleted(dict[str, ty.Any]):
            deleted = True

        self.client.call.return_value = Deleted(id='cafe')
        self.assertEqual(
            {'id': 'cafe'}, self.service.show(self.context, 'cafe'))
        self.assertRaises(
            exception.ImageNotFound, self.service.show, self.context,
            'cafe', show_deleted=False)

    def test_error(self) -> None:
        self.client.call.side_effect = exc.HTTPNotFound
        self.assertRaises(exception.ImageNotFound, self.service.show,
                          self.context, 'cafe')


class TestDetail(ServiceTestCase):
    def test_error(self) -> None:
        self.client.call.side_effect = exc.HTTPBadRequest(details='filter?')
        error = self.assertRaises(
            exception.Invalid, self.service.detail, self.context,
            filters={'name': 'x'})
        self.assertIn('filter?', str(error))


@ddt.ddt
class TestCreate(ServiceTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.pass_metadata_through()
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
        error = self.assertRaises(
            exception.ImageBadRequest, self.service.create, self.context,
            {'size': 0, 'disk_format': 'vmdk'})
        self.assertIn('vmdk', str(error))
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

    def test_member_is_refused(self) -> None:
        self.client.call.side_effect = [
            {'id': 'cafe'}, exc.HTTPBadRequest(details='no such project')]
        error = self.assertRaises(
            exception.Invalid, self.service.create, self.context,
            {'properties': {'instance_owner': 'p'}})
        self.assertIn('no such project', str(error))

    def test_location_is_not_an_argument_of_create(self) -> None:
        self.service.create(self.context, {'location': 'rbd://x'})
        create, add = self.client.call.call_args_list
        self.assertEqual({}, create.kwargs['kwargs'])
        self.assertEqual(
            mock.call(self.context, 2, 'add_image_location',
                      args=('cafe', 'rbd://x', {})), add)

    def test_location_is_refused(self) -> None:
        self.client.call.side_effect = [
            {'id': 'cafe'}, exc.HTTPBadRequest(details='bad location')]
        error = self.assertRaises(
            exception.Invalid, self.service.create, self.context,
            {'location': 'rbd://x'})
        self.assertIn('bad location', str(error))
        self.assertEqual(
            ['create', 'add_image_location'], self.methods_called())

    def test_location_is_refused_by_the_old_call(self) -> None:
        self.client.call.side_effect = [
            {'id': 'cafe'}, exc.HTTPNotImplemented,
            exc.HTTPBadRequest(details='bad location')]
        error = self.assertRaises(
            exception.Invalid, self.service.create, self.context,
            {'location': 'rbd://x'})
        self.assertIn('bad location', str(error))

    def test_glance_takes_no_locations(self) -> None:
        self.client.call.side_effect = [
            {'id': 'cafe'}, exc.HTTPNotImplemented, exc.HTTPNotImplemented]
        self.assertRaises(
            exc.HTTPNotImplemented, self.service.create, self.context,
            {'location': 'rbd://x'})
        self.assertEqual(['create', 'add_image_location', 'add_location'],
                         self.methods_called())

    @ddt.data(None, mock.Mock(**{'raw.return_value': {'properties': {}}}))
    def test_disk_format_without_a_schema(self, schema: ty.Any) -> None:
        self.client.call.return_value = schema
        self.assertEqual(
            'qcow2', self.service._get_image_create_disk_format_default(
                self.context))


class TestUpdate(ServiceTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.pass_metadata_through()
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

    def test_no_room(self) -> None:
        self.client.call.side_effect = exc.HTTPOverLimit
        error = self.assertRaises(
            exception.ImageQuotaExceeded, self.service.update, self.context,
            'cafe', {}, data=io.BytesIO(b'data'), purge_props=False)
        self.assertIn('cafe', str(error))


class TestDelete(ServiceTestCase):
    def test_result(self) -> None:
        self.assertIs(True, self.service.delete(self.context, 'cafe'))
        self.client.call.assert_called_once_with(
            self.context, 2, 'delete', args=('cafe',))

    def test_conflict_says_why(self) -> None:
        self.client.call.side_effect = exc.HTTPConflict(details='in use')
        error = self.assertRaises(
            exception.ImageDeleteConflict, self.service.delete, self.context,
            'cafe')
        self.assertIn('in use', str(error))


class TestAPI(ServiceTestCase):
    """The facade hands everything to the right service, unchanged."""

    def setUp(self) -> None:
        super().setUp()
        self.session = mock.Mock(spec=glance.GlanceImageServiceV2)
        self.default = self.replace(
            'get_default_image_service', return_value=self.session)
        self.remote = self.replace(
            'get_remote_image_service', return_value=(self.session, 'cafe'))
        self.api = glance.API()

    def test_get_all(self) -> None:
        found = self.api.get_all(self.context, filters={'name': 'x'}, limit=2)
        self.assertIs(self.session.detail.return_value, found)
        self.session.detail.assert_called_once_with(
            self.context, filters={'name': 'x'}, limit=2)

    def test_get(self) -> None:
        self.assertIs(
            self.session.show.return_value,
            self.api.get(self.context, 'uri', include_locations=True,
                         show_deleted=False))
        self.remote.assert_called_once_with(self.context, 'uri')
        self.session.show.assert_called_once_with(
            self.context, 'cafe', include_locations=True, show_deleted=False)

    def test_create(self) -> None:
        data = io.BytesIO(b'data')
        self.assertIs(
            self.session.create.return_value,
            self.api.create(self.context, {'name': 'x'}, data=data))
        self.session.create.assert_called_once_with(
            self.context, {'name': 'x'}, data=data)

    def test_update_keeps_properties_by_default(self) -> None:
        self.assertIs(
            self.session.update.return_value,
            self.api.update(self.context, 'uri', {'name': 'x'}))
        self.remote.assert_called_once_with(self.context, 'uri')
        self.session.update.assert_called_once_with(
            self.context, 'cafe', {'name': 'x'}, data=None,
            purge_props=False)

    def test_delete(self) -> None:
        self.assertIs(self.session.delete.return_value,
                      self.api.delete(self.context, 'uri'))
        self.remote.assert_called_once_with(self.context, 'uri')
        self.session.delete.assert_called_once_with(self.context, 'cafe')

    def test_download(self) -> None:
        data = io.BytesIO()
        certs = objects.TrustedCerts(ids=['cert'])
        self.assertIs(
            self.session.download.return_value,
            self.api.download(self.context, 'uri', data=data,
                              dest_path='/x', trusted_certs=certs))
        self.remote.assert_called_once_with(self.context, 'uri')
        self.session.download.assert_called_once_with(
            self.context, 'cafe', data=data, dst_path='/x',
            trusted_certs=certs, progress=None)


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

    def test_get(self) -> None:
        self.http.get(self.url, json=self.IMAGE)
        image_meta = self.api.get(
            self.context, uuids.image, include_locations=True)
        self.assertEqual(0, image_meta['size'])
        self.assertIs(True, image_meta['is_public'])
        self.assertEqual({'os_distro': 'debian', 'hw_rng': 'yes'},
                         image_meta['properties'])
        self.assertEqual([{'url': 'rbd://f/p/i/s', 'metadata': {}}] * 2,
                         image_meta['locations'])

    def test_get_after_a_failure(self) -> None:
        self.http.get(self.url, [{'status_code': 503}, {'json': self.IMAGE}])
        self.assertEqual(
            'tiny', self.api.get(self.context, uuids.image)['name'])

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

    def test_delete_refused(self) -> None:
        self.http.delete(self.url, status_code=403)
        self.assertRaises(exception.ImageNotAuthorized, self.api.delete,
                          self.context, uuids.image)

    def test_delete(self) -> None:
        deletion = self.http.delete(self.url, status_code=204)
        self.api.delete(self.context, uuids.image)
        self.assertEqual(1, deletion.call_count)
