# Copyright 2010 OpenStack Foundation
# All Rights Reserved.
#
# SPDX-License-Identifier: Apache-2.0

"""Calls Glance, and retries if a server cannot be reached."""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from http import HTTPStatus
import inspect
import itertools
import random
import re
import time
import typing as ty

import glanceclient
from glanceclient import exc as glance_exc
from oslo_log import log as logging

import nova.conf
from nova import context as nova_context
from nova import exception
from nova.image import compat
from nova.image import errors
from nova import utils

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF
Context: ty.TypeAlias = nova_context.RequestContext

#: Major version of the Image API.
API_VERSION = 2

#: Errors of a request after which a retry may succeed; see _may_retry().
_CONNECTION_ERRORS = (
    glance_exc.CommunicationError,
    glance_exc.HTTPException,
    glance_exc.InvalidEndpoint,
    OSError,
)
_RETRY_INTERVAL = 1  # seconds


def connect(context: Context, endpoint: str, version: int) -> ty.Any:
    """Return a glanceclient for one server."""
    session, auth = compat.session_and_auth(context)
    return glanceclient.Client(
        version, session=session, auth=auth, endpoint_override=endpoint,
        global_request_id=context.global_id)


def get_api_servers(context: Context) -> Iterator[str]:
    """Return an endless iterator over the endpoints of the Image API.

    The endpoints are those of ``[glance] api_servers`` in random order, or
    the one of the service catalog if the option is empty.
    """
    if CONF.glance.api_servers:
        servers = list(CONF.glance.api_servers)
        random.shuffle(servers)
    else:
        servers = [_endpoint_from_catalog(context)]
    return itertools.cycle(servers)


def _endpoint_from_catalog(context: Context) -> str:
    session, auth = compat.session_and_auth(context)
    endpoint = compat.endpoint(utils.get_ksa_adapter(
        nova.conf.glance.DEFAULT_SERVICE_TYPE, ksa_auth=auth,
        ksa_session=session, min_version='2.0', max_version='2.latest'))
    # glanceclient adds the version to every path itself (its bug 1707995).
    # Its strip_version() also removes a 'v2' from a host name (bug 1748009).
    return endpoint and re.sub(r'/v\d+(\.\d+)?/?$', '/', endpoint)


class GlanceClient:
    """Calls Glance, and retries if a server cannot be reached.

    :param context: the user's request; needed only with an endpoint
    :param endpoint: the server to call; without it, each attempt goes to the
        next server of :func:`get_api_servers`
    """

    def __init__(self, context: Context | None = None,
                 endpoint: str | None = None) -> None:
        self.api_server: str | None = None
        self.api_servers: Iterator[str] | None = None
        self.client = None
        if endpoint is not None:
            self.api_server = str(endpoint)
            self.client = self._connect(
                ty.cast(Context, context), endpoint,
                API_VERSION)

    @property
    def has_explicit_endpoint(self) -> bool:
        """Whether it calls a server that a request may have named."""
        return self.client is not None

    def _connect(self, context: Context, endpoint: str,
                 version: int) -> ty.Any:
        return connect(context, endpoint, version)

    def _create_onetime_client(self, context: Context, version: int) -> ty.Any:
        if self.api_servers is None:
            self.api_servers = get_api_servers(context)
        self.api_server = next(self.api_servers)
        return self._connect(context, self.api_server, version)

    def call(self, context: Context, version: int, method: str,
             controller: str | None = None,
             args: Iterable[ty.Any] | None = None,
             kwargs: Mapping[str, ty.Any] | None = None) -> ty.Any:
        """Call a method of glanceclient.

        The arguments of the method are separate from those of this function,
        so an image property may be named, for example, 'version'.

        :param version: major version of the Image API
        :param method: name of the method
        :param controller: attribute of the client that has the method;
            'images' if None
        :param args: positional arguments of the method
        :param kwargs: named arguments of the method
        :returns: the result of the method; the items of a generator as a list
        :raises nova.exception.GlanceConnectionFailed: no server answered,
            including ``[glance] num_retries`` retries
        """
        retries_left = CONF.glance.num_retries
        while True:
            client = (self.client or
                      self._create_onetime_client(context, version))
            try:
                part = getattr(client, controller or 'images')
                result = getattr(part, method)(
                    *(args or ()), **(kwargs or {}))
                # A generator sends requests while it is read. Reading it
                # here lets a failed request be retried.
                return list(result) if inspect.isgenerator(result) else result
            except _CONNECTION_ERRORS as error:
                if not _may_retry(error):
                    raise
                # The released Nova logs these words.
                LOG.exception(
                    "Error contacting glance server '%s' for '%s', %s.",
                    self.api_server, method,
                    'retrying' if retries_left else 'done trying')
                if not retries_left:
                    raise exception.GlanceConnectionFailed(
                        server=str(self.api_server), reason=str(error),
                    ) from error
            retries_left -= 1
            time.sleep(_RETRY_INTERVAL)


def _may_retry(error: Exception) -> bool:
    """Return True if a retry, possibly on another server, may succeed."""
    return errors.code(error) in (None, HTTPStatus.SERVICE_UNAVAILABLE)
