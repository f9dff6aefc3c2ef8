# SPDX-License-Identifier: Apache-2.0

"""The locations of an image, and the order in which Nova tries them.

Glance returns locations in three ways: the attributes 'locations' (all) and
'direct_url' (the preferred one) of the image, which every user sees; or, for
a service, ``GET /v2/images/{id}/locations`` (Image API 2.17), which includes
those that Glance hides from users (OSSN-0065, OSSN-0090).
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
import contextlib
import functools
from typing import Any
from typing import TypeAlias

from glanceclient import exc as glance_exc
from oslo_log import log as logging

import nova.conf
from nova import context as nova_context
from nova import exception
from nova.i18n import _
from nova.image import client
from nova.image import compat
from nova.image import errors

CONF = nova.conf.CONF
Context: TypeAlias = nova_context.RequestContext
LOG = logging.getLogger(__name__)

#: Glance uses both for a refusal.
_REFUSED = (glance_exc.HTTPForbidden, glance_exc.HTTPNotFound)

#: Returns the distance of a location, 0 being the nearest, or None if this
#: host cannot use it.
Proximity = Callable[[str], int | None]


class LocationsUnavailable(exception.NovaException):
    """Glance does not return the locations; the message says why.

    :ivar for_all_images: whether the reason applies to every image
    """

    def __init__(self, message: str, *, for_all_images: bool = False) -> None:
        super().__init__(message)
        self.for_all_images = for_all_images


def shown(image: Mapping[str, Any]) -> list[str]:
    """Return the URLs that the image shows to users, without duplicates."""
    # 'direct_url' is also one of the 'locations'.
    return list(dict.fromkeys(
        entry['url'] for entry in image.get('locations', ())))


def nearest_first(urls: Iterable[str],
                  proximities: Mapping[str, Proximity]) -> list[str]:
    """Return the usable URLs, the nearest first.

    :param urls: in Glance's order, which is kept for equal distances
    :param proximities: by scheme; the URLs of other schemes have distance 0
    """
    found = []
    for url in urls:
        distance = proximities.get(scheme(url), lambda _url: 0)(url)
        if distance is not None:
            found.append((distance, url))
    return [url for _distance, url in sorted(found, key=lambda pair: pair[0])]


def scheme(url: str) -> str:
    """Return the scheme of a URL."""
    return url.partition(':')[0]


def ask(glance: client.GlanceClient, context: Context,
        image_id: str) -> list[str]:
    """Return all URLs of an image, or none and log a warning; see read()."""
    try:
        return read(glance, context, image_id)
    except LocationsUnavailable as error:
        if error.for_all_images:
            _warn_once(str(error))
        else:
            LOG.warning('%s', error)
        return []


def read(glance: client.GlanceClient, context: Context,
         image_id: str) -> list[str]:
    """Return all URLs of an image, as Glance returns them to a service.

    Glance may return locations of images that the user must not see, so call
    this only for an image that Glance has shown to the user.

    :param glance: calls the Glance that receives Nova's own credentials
    :param context: the user's request
    :raises LocationsUnavailable: Nova has no credentials, or Glance does not
        return them
    """
    own = _log_in(image_id)
    own.global_request_id = context.global_id
    try:
        return list(dict.fromkeys(
            entry['url'] for entry in _call(glance, own, context, image_id)))
    except glance_exc.HTTPNotImplemented as error:
        raise LocationsUnavailable(_(
            'Glance hides the locations of images and does not support Image '
            'API 2.17, which returns them to services: Nova downloads images '
            'over HTTP. Set show_image_direct_url in Glance, or upgrade '
            'it.'),
            for_all_images=True) from error
    except _REFUSED as error:
        raise LocationsUnavailable(_(
            'Glance refuses to return the locations of image %(image)s to '
            'Nova. By default, the user in [service_user] of nova.conf needs '
            'the roles service and admin: %(reason)s') %
            {'image': image_id, 'reason': error}) from error
    except Exception as error:
        raise LocationsUnavailable(_(
            'Glance did not return the locations of image %(image)s: '
            '%(reason)s') %
            {'image': image_id, 'reason': errors.describe(error)}) from error


def _log_in(image_id: str) -> Context:
    try:
        return compat.service_context()
    except exception.InvalidConfiguration as error:
        raise LocationsUnavailable(_(
            'Glance hides the locations of images, and [service_user] in '
            'nova.conf contains no credentials to request them: Nova '
            'downloads images over HTTP. Set auth_type and the options it '
            'needs there, as for service tokens.'),
            for_all_images=True) from error
    except Exception as error:
        raise LocationsUnavailable(_(
            'Nova cannot log in with the credentials in [service_user] to '
            'request the locations of image %(image)s: %(reason)s') %
            {'image': image_id, 'reason': errors.describe(error)}) from error


def _call(glance: client.GlanceClient, own: Context, users: Context,
          image_id: str) -> Iterable[Mapping[str, Any]]:
    """Send the request as Nova, and if refused, as the user with Nova's token.

    Glance's default policy allows only the first, and requires the role admin
    for an image of another project. A policy that checks the roles of the
    service token allows the second.
    """
    def get(context: Context) -> Any:
        return glance.call(context, client.API_VERSION,
                           'get_image_locations', args=(image_id,))

    try:
        return get(own)
    except _REFUSED as refusal:
        if not CONF.service_user.send_service_user_token:
            raise
        with contextlib.suppress(*_REFUSED):
            return get(users)
        raise refusal from None


@functools.cache
def _warn_once(message: str) -> None:
    LOG.warning(message)
