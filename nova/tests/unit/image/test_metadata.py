# SPDX-License-Identifier: Apache-2.0

import copy
import datetime
import typing as ty
from unittest import mock

import ddt

from nova.image import metadata
from nova import test


SCHEMA = {
    'name': 'image',
    'properties': {
        name: {} for name in (
            'checksum', 'container_format', 'created_at', 'direct_url',
            'disk_format', 'file', 'id', 'locations', 'min_disk', 'name',
            'os_hash_algo', 'os_hash_value', 'owner', 'size', 'status',
            'tags', 'updated_at', 'visibility')
    } | {'os_distro': {'is_base': False}},
}


class Image(dict[str, ty.Any]):
    """The part of a warlock model that the translation uses."""

    schema = SCHEMA


@ddt.ddt
class TestFromGlance(test.NoDBTestCase):
    def test_everything_in_its_place(self) -> None:
        image = Image(
            id='cafe', name='tiny', visibility='public', size=7,
            disk_format='qcow2', created_at='2026-01-02T03:04:05Z',
            os_hash_algo='sha512', os_hash_value='abc', tags=['x'],
            file='/v2/images/cafe/file', schema='/v2/schemas/image',
            virtual_size=9, os_distro='debian', hw_disk_bus='virtio',
            mappings='[{"virtual": "root"}]')
        self.assertEqual(
            {'id': 'cafe', 'name': 'tiny', 'is_public': True, 'size': 7,
             'disk_format': 'qcow2', 'container_format': None,
             'checksum': None, 'deleted': False, 'deleted_at': None,
             'os_hash_algo': 'sha512', 'os_hash_value': 'abc',
             'created_at': datetime.datetime(
                 2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc),
             'properties': {
                 'os_distro': 'debian', 'hw_disk_bus': 'virtio',
                 'mappings': [{'virtual': 'root'}]}},
            metadata.from_glance(image))

    def test_unknown_size_is_zero(self) -> None:
        self.assertEqual(0, metadata.from_glance(Image(size=None))['size'])

    @ddt.data('private', 'shared', 'community')
    def test_not_public(self, visibility: str) -> None:
        image_meta = metadata.from_glance(Image(visibility=visibility))
        self.assertIs(False, image_meta['is_public'])

    def test_locations_only_when_asked_for(self) -> None:
        image = Image(direct_url='rbd://a/b/c/d', locations=[{'url': 'x'}])
        shown = metadata.from_glance(image, include_locations=True)
        self.assertEqual('rbd://a/b/c/d', shown['direct_url'])
        self.assertEqual([{'url': 'x'}], shown['locations'])
        hidden = metadata.from_glance(image)
        self.assertNotIn('direct_url', hidden)
        self.assertNotIn('locations', hidden)
        self.assertEqual({}, hidden['properties'])


@ddt.ddt
class TestToGlance(test.NoDBTestCase):
    def test_what_only_glance_sets_is_left_out(self) -> None:
        image_meta = dict.fromkeys(
            ('created_at', 'updated_at', 'deleted_at', 'deleted', 'size',
             'status'), 'x') | {'id': 'cafe'}
        self.assertEqual({'id': 'cafe'}, metadata.to_glance(image_meta))

    @ddt.data((True, 'public'), (False, 'private'), (None, 'private'))
    @ddt.unpack
    def test_visibility(self, is_public: bool | None, word: str) -> None:
        self.assertEqual({'visibility': word},
                         metadata.to_glance({'is_public': is_public}))

    def test_minimums_are_numbers(self) -> None:
        self.assertEqual(
            {'min_ram': 64, 'min_disk': 1},
            metadata.to_glance({'min_ram': '64', 'min_disk': 1}))

    def test_custom_properties_are_strings_or_null(self) -> None:
        self.assertEqual(
            {'a': 'text', 'b': '1', 'c': 'False', 'd': None},
            metadata.to_glance({'properties': {
                'a': 'text', 'b': 1, 'c': False, 'd': None}}))

    @ddt.data('', '  ', 'None', 'none ', 'NONE')
    def test_unset_kernel_and_ramdisk_are_left_out(self, value: str) -> None:
        self.assertEqual({}, metadata.to_glance({
            'properties': {'kernel_id': value, 'ramdisk_id': value}}))

    @ddt.data(None, 'cafe')
    def test_kernel_and_ramdisk_are_sent(self, value: str | None) -> None:
        properties = {'kernel_id': value, 'ramdisk_id': value}
        self.assertEqual(
            properties, metadata.to_glance({'properties': properties}))

    def test_a_kernel_id_that_is_no_string(self) -> None:
        self.assertEqual({'kernel_id': '7'}, metadata.to_glance(
            {'properties': {'kernel_id': 7}}))

    def test_structures_become_json_and_the_argument_stays(self) -> None:
        image_meta = {'properties': {
            'mappings': [{'device': 'sda'}],
            'block_device_mapping': '[]'}}
        before = copy.deepcopy(image_meta)
        self.assertEqual(
            {'mappings': '[{"device": "sda"}]', 'block_device_mapping': '[]'},
            metadata.to_glance(image_meta))
        self.assertEqual(before, image_meta)


@ddt.ddt
class TestListParams(test.NoDBTestCase):
    @ddt.data(
        'os_type', 'property-like', 'typo', 'kernel-id', 'project', 'ry')
    def test_the_prefix_goes_and_nothing_else(self, name: str) -> None:
        # Every letter of these names is also one of the prefix's.
        params = metadata.list_params({'filters': {f'property-{name}': 'x'}})
        self.assertEqual({'filters': {name: 'x'}}, params)

    @ddt.data(
        ('true', {'visibility': 'public'}), ('1', {'visibility': 'public'}),
        ('False', {'visibility': 'private'}), ('0', {'visibility': 'private'}),
        ('none', {}), (None, {}))
    @ddt.unpack
    def test_is_public(self, value: str | None,
                       filters: dict[str, str]) -> None:
        self.assertEqual(
            {'filters': filters},
            metadata.list_params({'filters': {'is_public': value}}))

    def test_changes_since(self) -> None:
        self.assertEqual(
            {'filters': {'updated_at': 'gte:2026-01-02'}},
            metadata.list_params({'filters': {'changes-since': '2026-01-02'}}))

    @ddt.data({}, {'filters': None, 'limit': None, 'marker': ''},
              {'unheard_of': 1})
    def test_nothing_to_say(self, params: dict[str, ty.Any]) -> None:
        self.assertEqual({'filters': {}}, metadata.list_params(params))

    def test_paging_and_the_argument_stays(self) -> None:
        params = {'limit': 2, 'marker': 'cafe', 'page_size': 3,
                  'sort_key': 'name', 'sort_dir': 'asc',
                  'filters': {'property-a': 'b'}}
        before = copy.deepcopy(params)
        self.assertEqual(
            params | {'filters': {'a': 'b'}}, metadata.list_params(params))
        self.assertEqual(before, params)


@ddt.ddt
class TestIsAvailable(test.NoDBTestCase):
    @ddt.data(
        ({'owner_id': 'p'}, True),
        ({'owner_id': 'other', 'project_id': 'p', 'user_id': 'u'}, False),
        ({'project_id': 'p'}, True),
        ({'project_id': 'other', 'user_id': 'u'}, False),
        ({'user_id': 'u'}, True),
        ({'user_id': 'other'}, False),
        ({}, False),
    )
    @ddt.unpack
    def test_without_authentication(self, properties: dict[str, str],
                                    expected: bool) -> None:
        context = mock.Mock(
            auth_token=None, is_admin=False, project_id='p', user_id='u')
        image = mock.Mock(visibility='private', properties=properties)
        self.assertIs(expected, metadata.is_available(context, image))

    def test_without_a_project_only_the_user_counts(self) -> None:
        context = mock.Mock(
            auth_token=None, is_admin=False, project_id=None, user_id='u')
        image = mock.Mock(visibility='private',
                          properties={'owner_id': 'None', 'user_id': 'u'})
        self.assertIs(True, metadata.is_available(context, image))

    @ddt.data(True, False)
    def test_old_images_have_a_flag(self, flag: bool) -> None:
        context = mock.Mock(
            auth_token=None, is_admin=False, project_id='p', user_id='u')
        image = mock.Mock(spec=['is_public', 'properties'],
                          is_public=flag, properties={})
        self.assertIs(flag, metadata.is_available(context, image))
