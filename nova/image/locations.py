# SPDX-License-Identifier: Apache-2.0

"""Where the stores of Glance have an image, and which place is tried first.

Glance tells it in three ways: all places ('locations') or the one that it
prefers ('direct_url'), as attributes of the image that every user sees; or,
asked for by a service with ``GET /v2/images/{id}/locations`` (Image API
2.17), all places and whatever it hides from users (OSSN-0065, OSSN-0090).
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
import contextlib
import functools
from typing import Any
from typing import Protocol

from glanceclient import exc as glance_exc
from oslo_log import log as logging

import nova.conf
from nova import context as nova_context
from nova import exception
from nova.i18n import _
from nova.image import compat

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)

_API_VERSION = 2

#: Not for this user: Glance says so in both ways.
_REFUSED = (glance_exc.HTTPForbidden, glance_exc.HTTPNotFound)

#: Tells how far off a location is, the nearest being 0; None: it is of no use
#: to this host.
Rank = Callable[[str], int | None]


class NotTold(exception.NovaException):
    """Where an image is remains hidden; the message says why.

    :ivar of_all_images: whether that is the same for every image
    """

    def __init__(self, message: str, *, of_all_images: bool = False) -> None:
        super().__init__(message)
        self.of_all_images = of_all_images


class Client(Protocol):
    """What calls Glance; see nova.image.glance.GlanceClientWrapper."""

    def call(
        self, context: nova_context.RequestContext, version: int, method: str,
        *, args: Iterable[Any],
    ) -> Any:
        """Call a method of glanceclient's images."""


def shown(image: Mapping[str, Any]) -> list[str]:
    """Return the URLs that an image tells every user, each one once."""
    # 'locations' and 'direct_url' tell the same one twice.
    return list(dict.fromkeys(
        entry['url'] for entry in image.get('locations', ())))


def nearest_first(
    urls: Iterable[str], ranks: Mapping[str, Rank],
) -> list[str]:
    """Leave out what is of no use to this host, and sort the rest.

    :param urls: in the order in which Glance has them, which remains that of
        those equally far off
    :param ranks: of each scheme that has any
    """
    ranked = []
    for url in urls:
        rank = ranks.get(scheme(url), lambda _url: 0)(url)
        if rank is not None:
            ranked.append((rank, url))
    return [url for _rank, url in sorted(ranked, key=lambda pair: pair[0])]


def scheme(url: str) -> str:
    """Return what stands before the colon."""
    return url.partition(':')[0]


def ask(
    client: Client, context: nova_context.RequestContext, image_id: str,
) -> list[str]:
    """Return all URLs of an image; see read().

    :returns: nothing, with a warning, where Glance does not tell
    """
    try:
        return read(client, context, image_id)
    except NotTold as error:
        # There is still HTTP.
        if error.of_all_images:
            _warn_once(str(error))
        else:
            LOG.warning('%s', error)
        return []


def read(
    client: Client, context: nova_context.RequestContext, image_id: str,
) -> list[str]:
    """Return all URLs of an image, as Glance tells them to services.

    Glance may tell Nova of images that the user must not see: to be called
    only with the id of one that Glance has shown to the user.

    :param client: calls the Glance that is to get Nova's own credentials
    :param context: the user's request
    :raises NotTold: Nova has no credentials, or Glance does not tell
    """
    own = _log_in(image_id)
    own.global_request_id = context.global_id
    try:
        return list(dict.fromkeys(
            entry['url'] for entry in _call(client, own, context, image_id)))
    except glance_exc.HTTPNotImplemented as error:
        raise NotTold(_(
            'Glance hides where images are, and has no API to ask for it, '
            'which came with version 2.17: images are fetched over HTTP. Let '
            'it show them, by show_image_direct_url, or upgrade it.'),
            of_all_images=True) from error
    except _REFUSED as error:
        raise NotTold(_(
            'Glance does not tell Nova where image %(image)s is. By default '
            'the user in [service_user] of nova.conf needs the roles service '
            'and admin for that: %(reason)s') %
            {'image': image_id, 'reason': error}) from error
    except Exception as error:
        raise NotTold(_(
            'Glance has not told where image %(image)s is: %(reason)s') %
            {'image': image_id, 'reason': _describe(error)}) from error


def _log_in(image_id: str) -> nova_context.RequestContext:
    try:
        return compat.service_context()
    except exception.InvalidConfiguration as error:
        raise NotTold(_(
            'Glance hides where images are, and [service_user] in nova.conf '
            'has no credentials to ask for it: images are fetched over HTTP. '
            'Set auth_type there, and what it needs, as for service tokens.'),
            of_all_images=True) from error
    except Exception as error:
        raise NotTold(_(
            'Nova cannot log in with the credentials of [service_user] to '
            'ask Glance where image %(image)s is: %(reason)s') %
            {'image': image_id, 'reason': _describe(error)}) from error


def _call(
    client: Client, own: nova_context.RequestContext,
    users: nova_context.RequestContext, image_id: str,
) -> Iterable[Mapping[str, Any]]:
    """Ask as Nova; if that is refused, as the user with Nova's token beside.

    Glance's default policy takes the first only, and from an administrator
    where the image is another project's. With a policy that goes by the roles
    of the service token Nova's user need not be one.
    """
    def get(context: nova_context.RequestContext) -> Any:
        return client.call(
            context, _API_VERSION, 'get_image_locations', args=(image_id,))

    try:
        return get(own)
    except _REFUSED as refusal:
        if not CONF.service_user.send_service_user_token:
            raise
        with contextlib.suppress(*_REFUSED):
            return get(users)
        raise refusal from None


def _describe(error: Exception) -> str:
    return str(error) or type(error).__name__


@functools.cache
def _warn_once(message: str) -> None:
    LOG.warning(message)
