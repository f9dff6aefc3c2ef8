# SPDX-License-Identifier: Apache-2.0

"""What the image service needs of the rest of Nova, for Nova 32.

See the module of this name for the newest release.
"""

from collections.abc import Callable
from collections.abc import Sequence
import functools
import importlib
import sys
from types import ModuleType
from typing import Any
from typing import cast
from typing import TypeVar

from keystoneauth1 import loading

import nova.conf
from nova import config
from nova import context as nova_context
from nova import exception
from nova.i18n import _
from nova import service_auth
from nova import utils

CONF = nova.conf.CONF
_Callable = TypeVar('_Callable', bound=Callable[..., Any])


def eventlet() -> ModuleType | None:
    """Return eventlet where this process runs on it, and None on threads."""
    if utils.concurrency_mode_threading():
        return None
    return importlib.import_module('eventlet')


def in_native_thread(target: _Callable) -> _Callable:
    """Return target, such that a call of it holds up no green thread."""
    if utils.concurrency_mode_threading():
        return target
    return cast(_Callable, functools.partial(utils.tpool_execute, target))


def session_and_auth(
    context: nova_context.RequestContext,
) -> tuple[Any, Any]:
    """Return what requests to Glance go by, and whose they are.

    The session is shared by all requests, the authentication is each one's.
    """
    return _glance_session(), service_auth.get_auth_plugin(context)


@functools.cache
def _glance_session() -> Any:
    return loading.load_session_from_conf_options(
        CONF, nova.conf.glance.glance_group.name)


def service_context() -> nova_context.RequestContext:
    """Return a context of Nova's own, by ``[service_user]``.

    :raises nova.exception.InvalidConfiguration: there are no credentials
    """
    group = nova.conf.service_token.SERVICE_USER_GROUP
    auth: Any = loading.load_auth_from_conf_options(CONF, group)
    if auth is None:
        raise exception.InvalidConfiguration(
            _('[%s] has no auth_type. Set it, and what it needs.') % group)
    session = loading.load_session_from_conf_options(CONF, group, auth=auth)
    return nova_context.RequestContext(
        user_id=auth.get_user_id(session),
        project_id=auth.get_project_id(session),
        roles=auth.get_access(session).role_names,
        user_auth_plugin=auth, overwrite=False)


def endpoint(adapter: Any) -> str:
    """Return the endpoint that an adapter of the image service is for."""
    return utils.get_endpoint(adapter)


def read_configuration(argv: Sequence[str], program: str) -> None:
    """Read the configuration files of a program, and no database's.

    :param argv: its command line, the program first
    :param program: its name decides which files are looked for
    :raises oslo_config.cfg.Error: they cannot be read
    """
    running = sys.argv[0]
    # Where oslo.config has the name from unless it is told one.
    sys.argv[0] = program
    try:
        config.parse_args(argv, configure_db=False, init_rpc=False)
    finally:
        sys.argv[0] = running
