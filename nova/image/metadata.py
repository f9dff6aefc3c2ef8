# Copyright 2010 OpenStack Foundation
# All Rights Reserved.
#
# SPDX-License-Identifier: Apache-2.0

"""Converts image metadata between Nova's image dict and the Image API v2.

Nova's image dict follows the Image API v1: 'properties' contains the custom
properties, 'is_public' is a boolean, the size is a number and times are
datetimes. In v2, custom properties are strings beside the built-in ones,
'visibility' is a word and the size may be unknown.
"""

from collections.abc import Callable
from collections.abc import Mapping
import copy
import typing as ty

from glanceclient.v2 import schemas
from oslo_serialization import jsonutils
from oslo_utils import timeutils

from nova import context as nova_context


# An image of glanceclient: a warlock model, which is a dict with the schema
# and each of its keys as attributes.
GlanceImage: ty.TypeAlias = ty.Any
ImageMeta: ty.TypeAlias = dict[str, ty.Any]

# Built-in properties of v2 that Nova does not use.
_OMITTED = frozenset(
    ('file', 'protected', 'schema', 'self', 'tags', 'virtual_size'))
_LOCATIONS = frozenset(('direct_url', 'locations'))
# Glance omits these from an image without data.
_ALWAYS_PRESENT = (
    'checksum', 'container_format', 'deleted_at', 'disk_format', 'name')
_TIMESTAMPS = ('created_at', 'updated_at', 'deleted_at')
# Only Glance may set these, or v2 does not have them.
_NOT_SENT = frozenset((*_TIMESTAMPS, 'deleted', 'size', 'status'))
# Custom properties that are lists of dicts in Nova and JSON in Glance.
_STRUCTURED = ('block_device_mapping', 'mappings')

_LIST_PARAMS = (
    'filters', 'limit', 'marker', 'page_size', 'sort_dir', 'sort_key')
_VISIBILITY = {
    '1': 'public', 'true': 'public', '0': 'private', 'false': 'private'}


def from_glance(image: GlanceImage,
                include_locations: bool = False) -> ImageMeta:
    """Convert an image of the Image API v2 to Nova's image dict.

    :param image: the image as glanceclient returns it
    :param include_locations: keep 'locations' and 'direct_url', which users
        must not see
    """
    attributes = _split_properties(image, include_locations)
    return load_structured(parse_timestamps(attributes))


def to_glance(image_meta: Mapping[str, ty.Any]) -> ImageMeta:
    """Convert Nova's image dict to arguments of a v2 create or update."""
    arguments: ImageMeta = {}
    for name, value in dump_structured(image_meta).items():
        match name:
            case _ if name in _NOT_SENT:
                continue
            case 'properties':
                arguments.update(_custom_properties(value))
            case 'is_public':
                arguments['visibility'] = 'public' if value else 'private'
            case 'min_disk' | 'min_ram':
                arguments[name] = int(value)
            case _:
                arguments[name] = value
    return arguments


def list_params(params: Mapping[str, ty.Any]) -> dict[str, ty.Any]:
    """Convert the parameters of a search to arguments of a v2 list.

    :param params: filters and paging; those that are empty or unknown to the
        Image API are omitted
    """
    arguments = {
        name: params[name] for name in _LIST_PARAMS if params.get(name)}
    filters: dict[str, ty.Any] = {}
    for name, value in arguments.get('filters', {}).items():
        filters |= _list_filter(name, value)
    return arguments | {'filters': filters}


def is_available(context: nova_context.RequestContext,
                 image: GlanceImage) -> bool:
    """Return whether the requesting user may see an image.

    With a token, Glance has checked this already. Without authentication in
    Nova and Glance, Nova checks it.
    """
    return bool(
        getattr(context, 'auth_token', None) or
        context.is_admin or
        _is_public(image) or
        _belongs_to(context, image.properties))


def parse_timestamps(image_meta: ImageMeta) -> ImageMeta:
    """Return the image dict with its ISO 8601 times as datetimes."""
    return image_meta | {
        name: timeutils.parse_isotime(image_meta[name])
        for name in _TIMESTAMPS if image_meta.get(name)}


def load_structured(image_meta: Mapping[str, ty.Any]) -> ImageMeta:
    """Return a copy with the JSON among its custom properties decoded."""
    return _convert_structured(
        image_meta,
        lambda value: (
            jsonutils.loads(value) if isinstance(value, str) else value))


def dump_structured(image_meta: Mapping[str, ty.Any]) -> ImageMeta:
    """Return a copy with the lists among its custom properties as JSON."""
    return _convert_structured(
        image_meta,
        lambda value: (
            value if isinstance(value, str) else jsonutils.dumps(value)))


def _convert_structured(image_meta: Mapping[str, ty.Any],
                        convert: Callable[[ty.Any], ty.Any]) -> ImageMeta:
    converted = copy.deepcopy(dict(image_meta))
    properties = converted.get('properties') or {}
    for name in _STRUCTURED:
        if name in properties:
            properties[name] = convert(properties[name])
    return converted


def _split_properties(image: GlanceImage,
                      include_locations: bool) -> ImageMeta:
    hidden = _OMITTED if include_locations else _OMITTED | _LOCATIONS
    schema = schemas.Schema(image.schema)
    custom: dict[str, ty.Any] = {}
    attributes: ImageMeta = dict.fromkeys(_ALWAYS_PRESENT)
    attributes |= {'deleted': False, 'properties': custom}
    for name, value in image.items():
        match name:
            case _ if name in hidden:
                continue
            case 'visibility':
                attributes['is_public'] = value == 'public'
            case 'size':
                attributes['size'] = 0 if value is None else value
            case _ if schema.is_base_property(name):
                attributes[name] = value
            case _:
                custom[name] = value
    return attributes


def _custom_properties(
        properties: Mapping[str, ty.Any]) -> dict[str, str | None]:
    # v2 takes strings and null only.
    return {
        name: None if value is None else str(value)
        for name, value in properties.items()
        if not _is_unset_reference(name, value)}


def _is_unset_reference(name: str, value: ty.Any) -> bool:
    # Glance refuses the word None as the id of a kernel or ramdisk image.
    return (name in ('kernel_id', 'ramdisk_id') and value is not None and
            str(value).strip().lower() in ('none', ''))


def _list_filter(name: str, value: ty.Any) -> dict[str, ty.Any]:
    match name:
        case 'changes-since':
            return {'updated_at': f'gte:{value}'}
        case 'is_public':
            # Any other word, such as 'none', asks for both kinds.
            visibility = _VISIBILITY.get(str(value).lower())
            return {'visibility': visibility} if visibility else {}
        case _:
            return {name.removeprefix('property-'): value}


def _is_public(image: GlanceImage) -> bool:
    # A v2 image raises an exception for the attribute 'is_public'.
    if hasattr(image, 'visibility'):
        return str(image.visibility).lower() == 'public'
    return image.is_public


def _belongs_to(context: nova_context.RequestContext,
                properties: Mapping[str, ty.Any]) -> bool:
    if context.project_id:
        for name in ('owner_id', 'project_id'):
            if name in properties:
                return str(properties[name]) == str(context.project_id)
    return ('user_id' in properties and
            str(properties['user_id']) == str(context.user_id))
