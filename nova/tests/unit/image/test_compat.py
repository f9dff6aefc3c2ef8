# SPDX-License-Identifier: Apache-2.0

import sys
import threading
import types
import typing as ty
from unittest import mock

import ddt
import fixtures
from keystoneauth1 import loading
from keystoneauth1 import session as ks_session
from oslo_context import context as oslo_context
from oslo_utils.fixture import uuidsentinel as uuids

from nova import config
from nova import context as nova_context
from nova import exception
from nova.image import compat
from nova import service_auth
from nova import test
from nova import utils


class TestConcurrency(test.NoDBTestCase):
    def test_mode(self) -> None:
        threading_mode = utils.concurrency_mode_threading()
        self.assertEqual(threading_mode, compat.eventlet() is None)
        native = compat.in_native_thread(threading.get_native_id)()
        self.assertEqual(threading_mode, native == threading.get_native_id())

    def test_call(self) -> None:
        add = compat.in_native_thread(lambda one, other=0: one + other)
        self.assertEqual(5, add(2, other=3))
        self.assertRaises(ValueError, compat.in_native_thread(int), 'seven')

    def test_without_tpool_wrap(self) -> None:
        for threading_mode in (True, False):
            execute = mock.Mock(
                side_effect=lambda target, *args: target(*args))
            self.useFixture(fixtures.MockPatchObject(
                compat, 'utils', types.SimpleNamespace(
                    concurrency_mode_threading=lambda: threading_mode,
                    tpool_execute=execute)))
            self.assertEqual(2, compat.in_pool(max)(1, 2))
            self.assertEqual([mock.call(max, 1, 2)] * (not threading_mode),
                             execute.mock_calls)


class TestSession(test.NoDBTestCase):
    def test_session_is_shared_and_authentication_is_not(self) -> None:
        contexts = [nova_context.RequestContext(
            uuids.user, uuids.project, auth_token=token, overwrite=False)
            for token in ('one', 'two')]
        found = [compat.session_and_auth(context) for context in contexts]
        self.assertIsInstance(found[0][0], ks_session.Session)
        self.assertIs(found[0][0], found[1][0])
        self.assertEqual(['one', 'two'], [
            auth.get_token(session) for session, auth in found])

    def test_endpoint_that_is_configured(self) -> None:
        self.flags(endpoint_override='http://glance.example.org/',
                   group='glance')
        session, auth = compat.session_and_auth(nova_context.RequestContext())
        self.assertEqual(
            'http://glance.example.org/',
            compat.endpoint(utils.get_ksa_adapter(
                'image', ksa_auth=auth, ksa_session=session)))

    def test_without_sessions_of_service_auth(self) -> None:
        load = self.useFixture(fixtures.MockPatchObject(
            loading, 'load_session_from_conf_options')).mock
        self.useFixture(fixtures.MockPatchObject(
            compat, 'service_auth', types.SimpleNamespace(
                get_auth_plugin=lambda context: (context, 'auth'))))
        compat._session.cache_clear()
        self.addCleanup(compat._session.cache_clear)
        for context in ('one', 'two'):
            self.assertEqual(
                (load.return_value, (context, 'auth')),
                compat.session_and_auth(ty.cast(ty.Any, context)))
        load.assert_called_once_with(compat.CONF, 'glance')

    def test_endpoint_of_either_kind(self) -> None:
        adapter = mock.Mock(spec=['get_endpoint'])
        for attributes, expected in (
            ({}, adapter.get_endpoint.return_value),
            ({'get_endpoint': lambda found: (found, 'old')},
             (adapter, 'old')),
        ):
            self.useFixture(fixtures.MockPatchObject(
                compat, 'utils', types.SimpleNamespace(**attributes)))
            self.assertEqual(expected, compat.endpoint(adapter))


@ddt.ddt
class TestServiceContext(test.NoDBTestCase):
    def _load(self, auth: ty.Any, as_in_nova_32: bool) -> None:
        # Some releases cache the plugin.
        service_auth.reset_globals()
        self.addCleanup(service_auth.reset_globals)
        self.useFixture(fixtures.MockPatchObject(
            loading, 'load_auth_from_conf_options', return_value=auth))
        if as_in_nova_32:
            self.useFixture(fixtures.MockPatchObject(
                compat, 'nova_context', types.SimpleNamespace(
                    RequestContext=nova_context.RequestContext)))

    @ddt.data(False, True)
    def test_no_credentials(self, as_in_nova_32: bool) -> None:
        self._load(None, as_in_nova_32)
        self.assertRaisesRegex(
            exception.InvalidConfiguration, r'\[service_user\]',
            compat.service_context)

    @ddt.data(False, True)
    def test_credentials(self, as_in_nova_32: bool) -> None:
        auth = mock.Mock()
        auth.get_user_id.return_value = uuids.nova
        auth.get_project_id.return_value = uuids.service
        auth.get_access.return_value.role_names = ['service', 'admin']
        self._load(auth, as_in_nova_32)
        before = nova_context.RequestContext()
        found = compat.service_context()
        self.assertEqual(
            (uuids.nova, uuids.service, ['service', 'admin'], auth),
            (found.user_id, found.project_id, found.roles,
             found.get_auth_plugin()))
        # The request's own context remains that of this thread.
        self.assertIs(before, oslo_context.get_current())


class TestReadConfiguration(test.NoDBTestCase):
    def _read(self, parse: ty.Callable[..., None]) -> None:
        running = sys.argv[0]
        with mock.patch.object(config, 'parse_args', parse):
            compat.read_configuration(['x', '--config-file', 'y'], 'nova-x')
        self.assertEqual(running, sys.argv[0])

    def test_program(self) -> None:
        seen: list[tuple[ty.Any, ...]] = []

        def parse(argv: list[str], configure_db: bool = True,
                  init_rpc: bool = True) -> None:
            seen.append((argv, sys.argv[0], configure_db, init_rpc))

        def parse_for(argv: list[str], configure_db: bool = True,
                      init_rpc: bool = True, prog: str = '') -> None:
            seen.append((argv, prog, configure_db, init_rpc))

        self._read(parse)
        self._read(parse_for)
        self.assertEqual(
            [(['x', '--config-file', 'y'], 'nova-x', False, False)] * 2, seen)

    def test_installed_nova(self) -> None:
        with mock.patch.object(config, 'parse_args', autospec=True) as parse:
            compat.read_configuration(['x'], 'nova-x')
        parse.assert_called_once()

    def test_error(self) -> None:
        def parse(argv: list[str], configure_db: bool, init_rpc: bool) -> None:
            raise ValueError(sys.argv[0])

        error = self.assertRaises(ValueError, self._read, parse)
        self.assertEqual('nova-x', str(error))
        self.assertNotEqual('nova-x', sys.argv[0])
