# SPDX-License-Identifier: Apache-2.0
"""Placement, which Nova's scheduler asks for room."""

import pathlib

from lab import config
from lab import keystone as lab_keystone
from lab import process
from lab import services
from lab import wsgi

NAME = 'placement'


class Placement(process.LabFixture):
    """A placement service; its schema is made when it starts.

    :ivar service: the server
    """

    def __init__(self, directory: pathlib.Path, venv: services.Venv,
                 keystone: lab_keystone.Keystone, connection: str) -> None:
        """Describe the service; setUp() starts it.

        :param connection: URL of an empty database
        """
        super().__init__()
        self.directory = directory
        self._keystone = keystone
        self._connection = connection
        self.service = wsgi.WsgiService(
            NAME, 'placement.wsgi.api:application', venv, directory,
            env={'OS_PLACEMENT_CONFIG_DIR': str(directory)})

    def _setUp(self) -> None:
        self.directory.mkdir(mode=0o700)
        self._keystone.add_user(NAME, 'service', 'service')
        config.write(self.directory / 'placement.conf',
                     config.render(self._options()), 0o600)
        self._keystone.add_service(NAME, 'placement', self.service.url)
        self.useFixture(self.service)

    def _options(self) -> config.Options:
        return {
            'DEFAULT': {'use_stderr': True},
            'api': {'auth_strategy': 'keystone'},
            'keystone_authtoken': {
                **self._keystone.credentials(NAME),
                'www_authenticate_uri': self._keystone.auth_url,
            },
            'placement_database': {
                'connection': self._connection,
                'sync_on_startup': True,
            },
        }
