# SPDX-License-Identifier: Apache-2.0

import sys
import threading
import typing as ty
from unittest import mock

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
    def test_eventlet(self) -> None:
        self.assertEqual(utils.concurrency_mode_threading(),
                         compat.eventlet() is None)

    def test_call(self) -> None:
        add = compat.in_native_thread(lambda one, other=0: one + other)
        self.assertEqual(5, add(2, other=3))

    def test_error(self) -> None:
        self.assertRaises(ValueError, compat.in_native_thread(int), 'seven')

    def test_thread(self) -> None:
        """What it runs in is no green thread, and ours is none's."""
        native = compat.in_native_thread(threading.get_native_id)()
        self.assertEqual(utils.concurrency_mode_threading(),
                         native == threading.get_native_id())


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


class TestServiceContext(test.NoDBTestCase):
    def setUp(self) -> None:
        super().setUp()
        # Some releases keep it.
        service_auth.reset_globals()
        self.addCleanup(service_auth.reset_globals)

    def _load(self, auth: ty.Any) -> None:
        self.useFixture(fixtures.MockPatchObject(
            loading, 'load_auth_from_conf_options', return_value=auth))

    def test_no_credentials(self) -> None:
        self._load(None)
        error = self.assertRaises(
            exception.InvalidConfiguration, compat.service_context)
        self.assertIn('[service_user]', str(error))

    def test_credentials(self) -> None:
        auth = mock.Mock()
        auth.get_user_id.return_value = uuids.nova
        auth.get_project_id.return_value = uuids.service
        auth.get_access.return_value.role_names = ['service', 'admin']
        self._load(auth)
        before = nova_context.RequestContext()
        found = compat.service_context()
        self.assertEqual(
            (uuids.nova, uuids.service, ['service', 'admin'], auth),
            (found.user_id, found.project_id, found.roles,
             found.get_auth_plugin()))
        # The request's own context remains that of this thread.
        self.assertIs(before, oslo_context.get_current())


class TestReadConfiguration(test.NoDBTestCase):
    def test_files_of_the_program(self) -> None:
        seen = []

        def parse(argv: list[str], prog: str | None = None,
                  **options: ty.Any) -> None:
            seen.append((argv, prog or sys.argv[0], options))

        running = sys.argv[0]
        with mock.patch.object(config, 'parse_args', parse):
            compat.read_configuration(['x', '--config-file', 'y'], 'nova-x')
        self.assertEqual(running, sys.argv[0])
        self.assertEqual(
            [(['x', '--config-file', 'y'], 'nova-x',
              {'configure_db': False, 'init_rpc': False})], seen)
