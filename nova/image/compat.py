# SPDX-License-Identifier: Apache-2.0

"""Differences between the supported Nova releases.

The image service runs on Nova 34, 33 and 32. Everything that it needs from the
rest of Nova, and that these releases provide in different ways, is here. Each
function looks for the feature itself, never for a version number.
"""

from collections.abc import Callable
from collections.abc import Sequence
import functools
import importlib
import inspect
import os
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
    """Return eventlet if this process runs on it, None in native threading."""
    if utils.concurrency_mode_threading():
        return None
    return importlib.import_module('eventlet')


def native(name: str) -> ModuleType:
    """Return a standard module without eventlet's patches.

    The threads, queues and polls of native threads would block the hub.
    """
    green = eventlet()
    if green is None:
        return importlib.import_module(name)
    return green.patcher.original(name)


def in_native_thread(target: _Callable) -> _Callable:
    """Return target wrapped so that calling it blocks no green thread.

    Each call has a native thread of its own. eventlet's pool has only 20, and
    Nova's calls of libvirt must not wait for downloads. If the green thread is
    killed while it waits, the native thread goes on.
    """
    green = eventlet()
    if green is None:
        return target
    return cast(_Callable, functools.partial(_wait_for_thread, green, target))


def _wait_for_thread(green: Any, target: Callable[..., Any],
                     *args: Any, **kwargs: Any) -> Any:
    results: list[tuple[Any, BaseException | None]] = []
    reader, writer = (open(fd, mode, 0) for fd, mode in zip(
        os.pipe(), ('rb', 'wb')))

    def run() -> None:
        # The end of the pipe ends the wait of the green thread.
        with writer:
            try:
                results.append((target(*args, **kwargs), None))
            except BaseException as exc:
                results.append((None, exc))

    thread = native('threading').Thread(target=run, daemon=True)
    with reader:
        try:
            thread.start()
        except BaseException:
            writer.close()
            raise
        green.hubs.trampoline(reader, read=True)
        thread.join()
    result, error = results.pop()
    if error is not None:
        raise error
    return result


def in_pool(target: _Callable) -> _Callable:
    """Return target wrapped so that eventlet's thread pool calls it."""
    if hasattr(utils, 'tpool_wrap'):
        return utils.tpool_wrap(target)
    # Nova 32
    if utils.concurrency_mode_threading():
        return target
    return cast(_Callable, functools.partial(utils.tpool_execute, target))


def session_and_auth(context: nova_context.RequestContext) -> tuple[Any, Any]:
    """Return the session and the authentication for requests to Glance.

    All requests share the session. The authentication belongs to the context.
    """
    group = nova.conf.glance.glance_group.name
    if hasattr(service_auth, 'get_service_auth_session'):
        return (service_auth.get_service_auth_session(group),
                service_auth.get_service_user_token_auth_plugin(context))
    # Nova 32
    return _session(group), service_auth.get_auth_plugin(context)


@functools.cache
def _session(group: str) -> Any:
    return loading.load_session_from_conf_options(CONF, group)


def service_context() -> nova_context.RequestContext:
    """Return a context with the credentials in ``[service_user]``.

    :raises nova.exception.InvalidConfiguration: there are no credentials
    """
    if hasattr(nova_context, 'get_nova_service_user_context'):
        return nova_context.get_nova_service_user_context()
    # Nova 32
    group = nova.conf.service_token.SERVICE_USER_GROUP
    auth: Any = loading.load_auth_from_conf_options(CONF, group)
    if auth is None:
        raise exception.InvalidConfiguration(
            _('[%s] auth_type is not set. Set it, and the options that it '
              'requires.') % group)
    session = loading.load_session_from_conf_options(CONF, group, auth=auth)
    return nova_context.RequestContext(
        user_id=auth.get_user_id(session),
        project_id=auth.get_project_id(session),
        roles=auth.get_access(session).role_names,
        user_auth_plugin=auth, overwrite=False)


def endpoint(adapter: Any) -> str:
    """Return the endpoint of an adapter for the image service."""
    if hasattr(utils, 'get_endpoint'):  # Nova 33 and 32
        return utils.get_endpoint(adapter)
    return adapter.get_endpoint()


def read_configuration(argv: Sequence[str], program: str) -> None:
    """Read the configuration files of a program, without a database.

    :param argv: command line, the program first
    :param program: name that selects the default configuration files
    :raises oslo_config.cfg.Error: the files cannot be read
    """
    if 'prog' in inspect.signature(config.parse_args).parameters:
        config.parse_args(
            argv, configure_db=False, init_rpc=False, prog=program)
        return
    # Nova 32: oslo.config takes the name from the command line.
    running = sys.argv[0]
    sys.argv[0] = program
    try:
        config.parse_args(argv, configure_db=False, init_rpc=False)
    finally:
        sys.argv[0] = running
