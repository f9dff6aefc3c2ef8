# SPDX-License-Identifier: Apache-2.0
"""Neutron's API, without which Nova makes no instance."""

import pathlib

from lab import config
from lab import keystone as lab_keystone
from lab import process
from lab import services
from lab import wsgi

NAME = 'neutron'

_SCHEMA_TIMEOUT = 300  # seconds


def _database_options(connection: str) -> config.Options:
    return {'DEFAULT': {'core_plugin': 'ml2'},
            'database': {'connection': connection}}


def make_schema(directory: pathlib.Path, venv: services.Venv,
                connection: str) -> None:
    """Fill an empty database, which takes longer than all the rest.

    :param directory: where Neutron's files go; made here
    :param connection: URL of the database
    """
    directory.mkdir(mode=0o700)
    conf = config.write(directory / 'database.conf', config.render(
        _database_options(connection)), 0o600)
    process.run(
        [venv.program('neutron-db-manage'), '--config-file', conf,
         'upgrade', 'heads'], cwd=directory, timeout=_SCHEMA_TIMEOUT)


class Neutron(process.LabFixture):
    """A network service without networks.

    :ivar service: the server
    """

    def __init__(self, directory: pathlib.Path, venv: services.Venv,
                 keystone: lab_keystone.Keystone, *, connection: str,
                 transport_url: str) -> None:
        """Describe the service; setUp() starts it.

        :param directory: what make_schema() got
        :param connection: URL of the database that it filled
        :param transport_url: the message broker
        """
        super().__init__()
        self.directory = directory
        self._venv = venv
        self._keystone = keystone
        self._connection = connection
        self._transport_url = transport_url
        self.service = wsgi.WsgiService(
            NAME, 'neutron.wsgi.api:application', venv, directory,
            env={'OS_NEUTRON_CONFIG_DIR': str(directory),
                 'OS_NEUTRON_CONFIG_FILES': 'neutron.conf'})

    def _setUp(self) -> None:
        self._keystone.add_user(NAME, 'service', 'service')
        options = config.merge(
            _database_options(self._connection), self._options())
        config.write(self.directory / 'neutron.conf',
                     config.render(options), 0o600)
        self._keystone.add_service(NAME, 'network', self.service.url)
        self.useFixture(self.service)
        # The first request that gets past authentication is what has Neutron
        # find its extensions. Others that come meanwhile end in an error.
        self._keystone.session('admin').get(
            f'{self.service.url}/v2.0/networks')

    def _options(self) -> config.Options:
        here = self.directory
        return {
            'DEFAULT': {
                'api_paste_config': self._venv.path.joinpath(
                    'etc', 'neutron', 'api-paste.ini'),
                'auth_strategy': 'keystone',
                'notify_nova_on_port_data_changes': False,
                'notify_nova_on_port_status_changes': False,
                'service_plugins': '',
                'state_path': here,
                'transport_url': self._transport_url,
                'use_stderr': True,
            },
            'keystone_authtoken': {
                **self._keystone.credentials(NAME),
                'www_authenticate_uri': self._keystone.auth_url,
            },
            'ml2': {
                'extension_drivers': '',
                'mechanism_drivers': '',
                'tenant_network_types': '',
                'type_drivers': 'local',
            },
            'oslo_concurrency': {'lock_path': here / 'locks'},
        }
