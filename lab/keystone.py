# SPDX-License-Identifier: Apache-2.0
"""Keystone, with the few users and projects that the lab needs."""

import base64
import dataclasses
import os
import pathlib
import secrets
import typing as ty

from keystoneauth1.identity import v3
from keystoneauth1 import session as ks_session
import requests

from lab import config
from lab import errors
from lab import process
from lab import services
from lab import wsgi

REGION = 'RegionOne'


@dataclasses.dataclass(frozen=True)
class User:
    """A user in the default domain."""

    name: str
    password: str
    project: str


class Keystone(process.LabFixture):
    """An identity service with its own database.

    Users: ``admin`` in project admin; ``nova`` and ``glance`` in project
    service, with the roles service and admin; ``demo`` in project demo, with
    the role member.

    :ivar auth_url: the v3 endpoint
    :ivar users: user name -> User
    """

    def __init__(self, directory: pathlib.Path,
                 venv: services.ServiceVenv) -> None:
        super().__init__()
        self.directory = directory
        self._venv = venv
        self.users: dict[str, User] = {}
        self.service = wsgi.WsgiService(
            'keystone', 'keystone.wsgi.api:application', venv, directory,
            env={'OS_KEYSTONE_CONFIG_DIR': str(directory)}, probe='/v3')
        self.auth_url = f'{self.service.url}/v3'

    def _setUp(self) -> None:
        self.directory.mkdir(mode=0o700, exist_ok=True)
        conf = self.directory / 'keystone.conf'
        config.write(conf, config.render(self._options()), 0o600)
        self._make_keys('fernet-keys')
        self._make_keys('credential-keys')
        self._manage('db_sync')
        admin = User('admin', secrets.token_hex(16), 'admin')
        # The password goes by the environment: argv is public.
        self._manage('bootstrap', '--bootstrap-region-id', REGION,
                     '--bootstrap-public-url', self.auth_url,
                     '--bootstrap-internal-url', self.auth_url,
                     OS_BOOTSTRAP_PASSWORD=admin.password)
        self.users['admin'] = admin
        self.useFixture(self.service)
        self.add_user('nova', 'service', 'service', 'admin')
        self.add_user('glance', 'service', 'service', 'admin')
        self.add_user('demo', 'demo', 'member')

    def _options(self) -> config.Options:
        return {
            'DEFAULT': {'use_stderr': True},
            'database': {
                'connection': f'sqlite:///{self.directory}/keystone.db',
            },
            # Without a cache each call takes about a second.
            'cache': {'enabled': True, 'backend': 'oslo_cache.dict'},
            'token': {'provider': 'fernet', 'expiration': 7 * 86400},
            'fernet_tokens': {
                'key_repository': self.directory / 'fernet-keys',
            },
            'fernet_receipts': {
                'key_repository': self.directory / 'fernet-keys',
            },
            'credential': {
                'key_repository': self.directory / 'credential-keys',
            },
            'identity': {'password_hash_rounds': 4},
        }

    def _make_keys(self, name: str) -> None:
        """Create the keys of keystone-manage fernet_setup, but faster.

        A repository holds Fernet keys, named by number: the highest signs,
        0 is the next one.
        """
        repository = self.directory / name
        repository.mkdir(mode=0o700)
        for number in '01':
            key = base64.urlsafe_b64encode(os.urandom(32)).decode()
            config.write(repository / number, key, 0o600)

    def _manage(self, *args: str, **env: str) -> None:
        process.run(
            [self._venv.program('keystone-manage'), '--config-file',
             self.directory / 'keystone.conf', *args],
            env=process.clean_environment(**env), cwd=self.directory)

    def auth(self, user: str = 'admin',
             project: str | None = None) -> v3.Password:
        """A login, as keystoneauth wants it.

        :param project: default: the user's own project
        :raises LabError: for a user that is not there
        """
        if user not in self.users:
            raise errors.LabError(
                f'The lab has no user {user}; there are: '
                f'{", ".join(sorted(self.users))}')
        known = self.users[user]
        return v3.Password(
            auth_url=self.auth_url, username=user, password=known.password,
            user_domain_id='default', project_domain_id='default',
            project_name=project or known.project)

    def session(self, user: str = 'admin',
                project: str | None = None) -> ks_session.Session:
        """A keystoneauth session that ignores proxy settings."""
        http = requests.Session()
        http.trust_env = False
        return ks_session.Session(auth=self.auth(user, project), session=http)

    def credentials(self, user: str) -> dict[str, config.Value | None]:
        """A service's own login as options of its configuration file."""
        known = self.users[user]
        return {
            'auth_type': 'password', 'auth_url': self.auth_url,
            'username': user, 'password': known.password,
            'user_domain_id': 'default', 'project_domain_id': 'default',
            'project_name': known.project, 'region_name': REGION,
        }

    def add_user(self, name: str, project: str, *roles: str) -> User:
        """Make a user with roles on a project, and the project if new.

        :returns: the user, with a new random password
        """
        user = User(name, secrets.token_hex(16), project)
        user_id = self._create('users', name=name, password=user.password)
        project_id = self._find('projects', project) or self._create(
            'projects', name=project)
        for role in roles:
            role_id = self._find('roles', role)
            self._call('PUT', f'/projects/{project_id}/users/{user_id}'
                              f'/roles/{role_id}')
        self.users[name] = user
        return user

    def add_service(self, name: str, kind: str, url: str) -> None:
        """Put a service into the catalog, public and internal."""
        service = self._create('services', name=name, type=kind)
        for interface in ('public', 'internal'):
            self._create('endpoints', service_id=service, region_id=REGION,
                         interface=interface, url=url)

    def _call(self, method: str, path: str,
              body: dict[str, ty.Any] | None = None) -> ty.Any:
        reply = self._admin.request(self.auth_url + path, method, json=body)
        return reply.json() if reply.content else None

    @property
    def _admin(self) -> ks_session.Session:
        if not hasattr(self, '_admin_session'):
            self._admin_session = self.session('admin')
        return self._admin_session

    def _create(self, collection: str, **fields: str) -> str:
        one = collection.removesuffix('s')
        return self._call('POST', f'/{collection}', {one: fields})[one]['id']

    def _find(self, collection: str, name: str) -> str | None:
        found = self._call('GET', f'/{collection}?name={name}')[collection]
        return found[0]['id'] if found else None
