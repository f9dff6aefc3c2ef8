# SPDX-License-Identifier: Apache-2.0

"""Locations of Glance's RBD store, which are ``rbd://`` URLs."""

import dataclasses
import re
import urllib.parse

import nova.conf
from nova.i18n import _
from nova.image import transfer

CONF = nova.conf.CONF

#: glance_store percent-encodes all other characters.
_QUOTED_PART = re.compile(r'(?:[\w.~-]|%[0-9a-fA-F]{2})+', re.ASCII)
_LONGEST_NAME = 255


@dataclasses.dataclass(frozen=True)
class Location:
    """The names that identify an image in Ceph."""
    fsid: str
    pool: str
    image: str
    snapshot: str


def parse(url: str) -> Location:
    """Parse ``rbd://FSID/POOL/IMAGE/SNAPSHOT``, as glance_store writes it.

    :raises transfer.SourceError: the form is wrong, or a name is not plain
    """
    scheme, _separator, rest = url.partition('://')
    # Split before decoding, so that an encoded slash separates nothing.
    parts = rest.split('/')
    if (scheme != 'rbd' or len(parts) != 4 or
            not all(map(_QUOTED_PART.fullmatch, parts))):
        raise transfer.SourceError(_(
            'Location does not have the form rbd://FSID/POOL/IMAGE/SNAPSHOT'))
    try:
        return Location(*(
            check_name(urllib.parse.unquote(part, errors='strict'))
            for part in parts))
    except ValueError as exc:
        raise transfer.SourceError(_('Invalid location: %s') % exc) from exc


def check_name(value: str) -> str:
    """Return a name that is safe to pass to ``rbd``, which parses it again.

    :raises ValueError: value contains ``/`` or ``@``, looks like an option,
        or is empty, longer than 255 characters or not printable
    """
    if (not 0 < len(value) <= _LONGEST_NAME or value.startswith('-') or
            {'/', '@'} & set(value) or not value.isprintable()):
        raise ValueError(_('%.60r is not a plain name') % value)
    return value


def check_allowed(location: Location, image_id: str) -> None:
    """Verify that a location refers to the data of this image.

    :raises transfer.SourceError: another RBD image, or a pool not allowed
    """
    # glance_store names the RBD image after the image. A user who can set a
    # location must not reach other data with the Ceph rights of this host.
    if location.image != image_id:
        raise transfer.SourceError(
            _('Location refers to RBD image %s, whose name does not match the '
              'image ID') % location.image)
    if CONF.glance.rbd_pool and location.pool not in CONF.glance.rbd_pool:
        raise transfer.SourceError(
            _('Pool %(pool)s is not listed in [glance] rbd_pool: %(pools)s') %
            {'pool': location.pool, 'pools': ', '.join(CONF.glance.rbd_pool)})
