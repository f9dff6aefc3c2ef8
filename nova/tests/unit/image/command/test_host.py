# SPDX-License-Identifier: Apache-2.0

"""The configuration, the user and the login of the command."""

import os
import pty
import pwd
import typing as ty
from unittest import mock

from keystoneauth1 import exceptions as ks_exc
from keystoneauth1 import fixture as ks_fixture
from keystoneauth1 import identity
from keystoneauth1 import loading as ks_loading
from oslo_config import cfg
import requests_mock

from nova import config
from nova.image import command
from nova.image.command import host
from nova.tests.unit.image.command import base

URL = 'http://keystone.invalid/v3'


class TestConfigure(base.CommandTestCase):
    def configure(self, conf: cfg.ConfigOpts, *files: str) -> None:
        """Configure, without an effect on the tests' own configuration."""
        def parse(argv: list[str], **_options: object) -> None:
            self.assertEqual('nova-compute', argv[0])
            conf(argv[1:], default_config_files=[])

        with (mock.patch.object(host, 'CONF', conf),
              mock.patch.object(config, 'parse_args', side_effect=parse)):
            host.configure(list(files), [], False)

    def conf(self, text: str) -> str:
        path = self.make_directory() / 'nova.conf'
        path.write_text(text)
        return str(path)

    def options(self) -> cfg.ConfigOpts:
        conf = cfg.ConfigOpts()
        for group in ('glance', 'libvirt', 'image_cache'):
            conf.register_opt(cfg.IntOpt('number', default=1), group)
        return conf

    def test_good(self) -> None:
        conf, path = self.options(), self.conf('[glance]\nnumber = 2\n')
        self.configure(conf, path)
        with mock.patch.object(host, 'CONF', conf):
            self.assertEqual([path], host.config_files())

    def test_debug(self) -> None:
        """Nova's log goes to standard error, and only there."""
        self.flags(log_file='/x', log_dir='/x', use_syslog=True)
        self.replace(host, 'config_files', return_value=['/x'])
        set_up = self.replace(host.logging, 'setup')
        with mock.patch.object(config, 'parse_args'):
            host.configure([], [], True)
        set_up.assert_called_once_with(host.CONF, 'nova')
        self.assertEqual([None] * 5 + [True] * 2, [
            host.CONF[name] for name in (
                'log_file', 'log_dir', 'log_config_append', 'use_syslog',
                'use_journal', 'use_stderr', 'debug')])

    def test_bad(self) -> None:
        for files, words in (
            (['/no/such.conf'], 'Failed to find some config files: /no/such'),
            ([self.conf('[glance\n')], 'Failed to parse'),
            ([self.conf('[glance]\nnumber = many\n')],
             'Value for option number .* is not valid'),
            ([self.conf('[libvirt]\nnumber = many\n')], 'is not valid'),
            ([], 'There is no nova.conf: use --config-file'),
        ):
            self.assert_error(command.Status.HOST, words, self.configure,
                              self.options(), *files)


class TestUser(base.CommandTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.flags(instances_path='/instances', state_path='/state')
        self.calls: list[str] = []
        for name in ('initgroups', 'setresgid', 'setresuid', 'chdir'):
            self.replace(os, name, side_effect=lambda *args, name=name:
                         self.calls.append(f'{name}{args}'))
        self.uid = self.replace(os, 'geteuid', return_value=0)
        self.stat = self.replace(os, 'stat')
        self.replace(os, 'environ', new={})

    def own(self, owners: dict[str, int]) -> None:
        """Let directories exist and belong to these users."""
        def stat(path: str) -> mock.Mock:
            if path not in owners:
                raise FileNotFoundError
            return mock.Mock(st_uid=owners[path])

        self.stat.side_effect = stat

    def test_root_becomes_the_owner(self) -> None:
        entry = pwd.struct_passwd(
            ('nova', 'x', 162, 163, '', '/var/lib/nova', ''))
        getpwuid = self.replace(pwd, 'getpwuid', return_value=entry)
        # The state has the same owner where there are no instances.
        for owners in ({'/instances': 162, '/state': 1}, {'/state': 162}):
            self.calls.clear()
            self.own(owners)
            host.become_service()
            # The groups first: later there is no right to change them.
            self.assertEqual(
                ["initgroups('nova', 163)", 'setresgid(163, 163, 163)',
                 'setresuid(162, 162, 162)', "chdir('/',)"], self.calls)
        self.assertEqual([mock.call(162)] * 2, getpwuid.call_args_list)
        self.assertEqual({'HOME': '/var/lib/nova', 'USER': 'nova',
                          'LOGNAME': 'nova'}, dict(os.environ))

    def test_stays(self) -> None:
        for uid, owners in (
                (1000, {'/instances': 162}), (0, {'/instances': 0}), (0, {})):
            self.uid.return_value = uid
            self.own(owners)
            host.become_service()
        self.assertEqual([], self.calls)

    def test_owner_is_unknown(self) -> None:
        self.own({'/instances': 4711})
        self.replace(pwd, 'getpwuid', side_effect=KeyError)
        self.assert_error(
            command.Status.HOST, 'belongs to the user ID 4711, which does not '
            'exist', host.become_service)
        self.assertEqual([], self.calls)
        self.assertEqual('0', host.user_name())


def has_terminal() -> bool:
    try:
        os.close(os.open('/dev/tty', os.O_RDWR))
    except OSError:
        return False
    return True


class TestTerminal(base.CommandTestCase):
    """In processes of their own, on a terminal of their own."""

    def setUp(self) -> None:
        super().setUp()
        self.replace(host.priv_context, 'init')
        self.replace(host.objects, 'register_all')

    def leave(self, first: bool) -> str:
        """Return whether there was a terminal before and after.

        :param first: leave it by the first process of the session
        """
        pid, terminal = pty.fork()
        if pid == 0:
            try:
                child = 0 if first else os.fork()
                if child:
                    os.waitpid(child, 0)
                else:
                    before = has_terminal()
                    host.prepare()
                    os.write(1, b'%d %d.' % (before, has_terminal()))
            finally:
                os._exit(0)
        self.addCleanup(os.close, terminal)
        said = os.read(terminal, 4096).decode()
        os.waitpid(pid, 0)
        return said

    def test_left_unless_first_process_of_its_session(self) -> None:
        self.assertEqual('1 0.', self.leave(first=False))
        self.assertEqual('1 1.', self.leave(first=True))


class TestLogin(base.CommandTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.requests = requests_mock.Mocker()
        self.requests.start()
        self.addCleanup(self.requests.stop)
        # Registered options would stay in the configuration of all tests.
        self.conf = cfg.ConfigOpts()
        self.conf([], default_config_files=[])
        self.replace(host, 'CONF', new=self.conf)
        for section in host.CREDENTIALS:
            ks_loading.register_auth_conf_options(self.conf, section)
            ks_loading.register_session_conf_options(self.conf, section)
        discovery = ks_fixture.DiscoveryList(
            'http://keystone.invalid', v2=False)
        self.requests.get(URL, json={'version': discovery.versions[0]})
        token = ks_fixture.V3Token(
            user_name='nova', project_id='1', project_name='service')
        token.add_role(name='service')
        token.add_role(name='admin')
        self.requests.post(f'{URL}/auth/tokens', json=token,
                           headers={'X-Subject-Token': 'token'})

    def credentials(self, section: str) -> None:
        self.conf.set_override('auth_type', 'password', section)
        self.conf.register_opts(
            ks_loading.get_auth_plugin_conf_options('password'), section)
        for name, value in {
            'auth_url': URL, 'username': section, 'password': 'secret',
            'project_name': 'service', 'user_domain_id': 'default',
            'project_domain_id': 'default',
        }.items():
            self.conf.set_override(name, value, section)

    def test_success(self) -> None:
        for section in ('keystone_authtoken', 'service_user'):
            self.credentials(section)
            found, context = host.log_in()
            self.assertEqual(section, found)
            request = ty.cast(ty.Any, self.requests.last_request).json()
            self.assertEqual(
                section,
                request['auth']['identity']['password']['user']['name'])
            self.assertEqual(
                ('nova', 'service', ['admin', 'service'], 'token', False),
                (context.user_name, context.project_name, context.roles,
                 context.auth_token, context.is_admin))
            self.assertIsInstance(
                context.get_auth_plugin(), identity.BaseIdentityPlugin)

    def assert_refused(self, message: str) -> None:
        self.assert_error(command.Status.SERVICE, message, host.log_in)

    def test_refused(self) -> None:
        self.assert_refused('nova.conf contains no credentials: set auth_type')
        self.credentials('service_user')
        self.requests.post(f'{URL}/auth/tokens', status_code=401, json={
            'error': {'message': 'Who are you?', 'code': 401}})
        self.assert_refused(r'\[service_user\] of nova.conf')
        for method in (self.requests.get, self.requests.post):
            method(requests_mock.ANY, exc=ks_exc.ConnectFailure('no answer'))
        self.assert_refused('no answer')
