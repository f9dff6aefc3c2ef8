# SPDX-License-Identifier: Apache-2.0
"""Barbican, which keeps the certificates that images are signed with."""

import base64
import os
import pathlib

from keystoneauth1 import session as ks_session

from lab import config
from lab import keystone as lab_keystone
from lab import process
from lab import services
from lab import wsgi


class Barbican(process.LabFixture):
    """A key manager with its secrets in its own database.

    :ivar url: its endpoint
    """

    def __init__(self, directory: pathlib.Path, venv: services.ServiceVenv,
                 keystone: lab_keystone.Keystone) -> None:
        super().__init__()
        self.directory = directory
        self._keystone = keystone
        paste = venv.path / 'etc' / 'barbican' / 'barbican-api-paste.ini'
        # Barbican's own entry point looks for that file in /etc.
        self.service = wsgi.WsgiService(
            'barbican', f'paste.deploy:loadapp("config:{paste}")', venv,
            directory, env={}, probe='/healthcheck')
        self.url = self.service.url

    def _setUp(self) -> None:
        self.directory.mkdir(mode=0o700, exist_ok=True)
        self._keystone.add_user('barbican', 'service', 'service')
        # Barbican takes no path: it looks below $HOME.
        home = self.directory / '.barbican'
        home.mkdir(mode=0o700)
        config.write(home / 'barbican.conf',
                     config.render(self._options()), 0o600)
        self._keystone.add_service('barbican', 'key-manager', self.url)
        self.useFixture(self.service)

    def _options(self) -> config.Options:
        key = base64.urlsafe_b64encode(os.urandom(32)).decode()
        return {
            'DEFAULT': {'use_stderr': True, 'db_auto_create': True},
            'database': {
                'connection': f'sqlite:///{self.directory}/barbican.db',
            },
            'keystone_authtoken': {
                **self._keystone.credentials('barbican'),
                'www_authenticate_uri': self._keystone.auth_url,
            },
            'crypto': {'enabled_crypto_plugins': 'simple_crypto'},
            'simple_crypto_plugin': {'kek': key},
        }

    def client_options(self) -> config.Options:
        """Return the options of a service that uses this key manager."""
        return {
            'key_manager': {'backend': 'barbican'},
            'barbican': {
                'barbican_endpoint': self.url,
                'auth_endpoint': self._keystone.auth_url,
            },
        }

    def store(self, session: ks_session.Session, payload: bytes, *,
              kind: str = 'certificate') -> str:
        """Store a secret as the session's user.

        :param payload: for a certificate: in PEM
        :param kind: such as certificate, opaque or passphrase
        :returns: the secret's id
        """
        reply = session.post(f'{self.url}/v1/secrets', json={
            # barbicanclient asks again and again for one without a name.
            'name': kind,
            'secret_type': kind,
            'payload': base64.b64encode(payload).decode(),
            'payload_content_type': 'application/octet-stream',
            'payload_content_encoding': 'base64',
        })
        return reply.json()['secret_ref'].rpartition('/')[2]
