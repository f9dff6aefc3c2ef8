# SPDX-License-Identifier: Apache-2.0

"""Which credentials are used."""

import typing as ty
from unittest import mock

from keystoneauth1 import exceptions as ks_exc
from keystoneauth1 import fixture as ks_fixture
from keystoneauth1 import loading as ks_loading
from oslo_config import cfg
import requests_mock

from nova.image.command import errors
from nova.image.command import login
from nova import test

URL = 'http://keystone.invalid/v3'


class TestLogin(test.NoDBTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.requests = requests_mock.Mocker()
        self.requests.start()
        self.addCleanup(self.requests.stop)
        # What is registered would stay in the tests' common one.
        self.conf = cfg.ConfigOpts()
        self.conf([], default_config_files=[])
        patch = mock.patch.object(login, 'CONF', self.conf)
        patch.start()
        self.addCleanup(patch.stop)
        for section in login.SECTIONS:
            login._register(section)
        discovery = ks_fixture.DiscoveryList(
            'http://keystone.invalid', v2=False)
        self.requests.get(URL, json={'version': discovery.versions[0]})
        token = ks_fixture.V3Token(
            user_name='nova', project_id='1', project_name='service')
        token.add_role(name='service')
        token.add_role(name='admin')
        self.requests.post(f'{URL}/auth/tokens', json=token,
                           headers={'X-Subject-Token': 'token'})

    def credentials(self, section: str, **options: str) -> None:
        self.conf.set_override('auth_type', 'password', section)
        self.conf.register_opts(
            ks_loading.get_auth_plugin_conf_options('password'), section)
        for name, value in {
            'auth_url': URL, 'username': section, 'password': 'secret',
            'project_name': 'service', 'user_domain_id': 'default',
            'project_domain_id': 'default', **options,
        }.items():
            self.conf.set_override(name, value, section)

    def asked_as(self) -> str:
        request = self.requests.last_request
        assert request is not None
        body = request.json()
        return body['auth']['identity']['password']['user']['name']

    def test_service_user_comes_first(self) -> None:
        self.credentials('keystone_authtoken')
        self.credentials('service_user')
        found = login.log_in()
        self.assertEqual('service_user', self.asked_as())
        self.assertEqual(
            ('service_user', 'nova', 'service', ('admin', 'service')),
            (found.section, found.user, found.project, found.roles))
        self.assertEqual('token', found.context.auth_token)
        self.assertFalse(found.context.is_admin)
        self.assertIsNotNone(found.context.get_auth_plugin())

    def test_keystone_authtoken_otherwise(self) -> None:
        self.credentials('keystone_authtoken')
        self.assertEqual('keystone_authtoken', login.log_in().section)
        self.assertEqual('keystone_authtoken', self.asked_as())

    def assert_refused(self, words: str) -> None:
        error = self.assertRaises(errors.CommandError, login.log_in)
        self.assertIn(words, str(error))
        self.assertNotIn('secret', str(error))
        self.assertEqual(errors.Status.SERVICE, error.status)

    def test_none(self) -> None:
        self.assert_refused('nova.conf has no credentials: set auth_type')

    def test_wrong(self) -> None:
        self.credentials('service_user')
        self.requests.post(f'{URL}/auth/tokens', status_code=401, json={
            'error': {'message': 'Who are you?', 'code': 401}})
        self.assert_refused('[service_user] of nova.conf')

    def test_keystone_is_away(self) -> None:
        self.credentials('service_user')
        self.requests.get(URL, exc=ks_exc.ConnectFailure('nobody there'))
        self.requests.post(f'{URL}/auth/tokens',
                           exc=ks_exc.ConnectFailure('nobody there'))
        self.assert_refused('nobody there')

    def test_of_a_kind_that_does_not_log_in(self) -> None:
        self.credentials('service_user')
        with mock.patch.object(ks_loading, 'load_auth_from_conf_options',
                               return_value=ty.cast(ty.Any, object())):
            self.assert_refused('does not log in to Keystone')
