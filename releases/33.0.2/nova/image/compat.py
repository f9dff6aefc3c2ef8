# SPDX-License-Identifier: Apache-2.0

"""What the image service needs of the rest of Nova, for Nova 33.

See the module of this name for the newest release.
"""

from collections.abc import Callable
from collections.abc import Sequence
import importlib
from types import ModuleType
from typing import Any
from typing import TypeVar

import nova.conf
from nova import config
from nova import context as nova_context
from nova import service_auth
from nova import utils

_Callable = TypeVar('_Callable', bound=Callable[..., Any])


def eventlet() -> ModuleType | None:
    """Return eventlet where this process runs on it, and None on threads."""
    if utils.concurrency_mode_threading():
        return None
    return importlib.import_module('eventlet')


def in_native_thread(target: _Callable) -> _Callable:
    """Return target, such that a call of it holds up no green thread."""
    return utils.tpool_wrap(target)


def session_and_auth(
    context: nova_context.RequestContext,
) -> tuple[Any, Any]:
    """Return what requests to Glance go by, and whose they are.

    The session is shared by all requests, the authentication is each one's.
    """
    return (
        service_auth.get_service_auth_session(
            nova.conf.glance.glance_group.name),
        service_auth.get_service_user_token_auth_plugin(context))


def service_context() -> nova_context.RequestContext:
    """Return a context of Nova's own, by ``[service_user]``.

    :raises nova.exception.InvalidConfiguration: there are no credentials
    """
    return nova_context.get_nova_service_user_context()


def endpoint(adapter: Any) -> str:
    """Return the endpoint that an adapter of the image service is for."""
    return utils.get_endpoint(adapter)


def read_configuration(argv: Sequence[str], program: str) -> None:
    """Read the configuration files of a program, and no database's.

    :param argv: its command line, the program first
    :param program: its name decides which files are looked for
    :raises oslo_config.cfg.Error: they cannot be read
    """
    config.parse_args(
        argv, configure_db=False, init_rpc=False, prog=program)
