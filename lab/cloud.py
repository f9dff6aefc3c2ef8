# SPDX-License-Identifier: Apache-2.0
"""Ceph, Keystone, Glance and, if wanted, Barbican together."""

import os
import pathlib
import typing as ty

import fixtures
import glanceclient
from keystoneauth1 import session as ks_session

from lab import barbican as lab_barbican
from lab import ceph as lab_ceph
from lab import config
from lab import errors
from lab import glance as lab_glance
from lab import keystone as lab_keystone
from lab import process
from lab import services
from lab import signing

if ty.TYPE_CHECKING:
    from nova import context as nova_context


class Cloud(process.LabFixture):
    """All that a compute host needs around it to fetch an image.

    :ivar directory: everything of the cloud is below it
    :ivar ceph: the Ceph cluster
    :ivar keystone: the identity service
    :ivar glance: the image service
    :ivar barbican: the key manager, or None
    """

    def __init__(self, *, parent: process.Argument | None = None,
                 osd_size: int = 24 * lab_ceph.GIB,
                 ceph_options: config.Options | None = None,
                 barbican: bool = False,
                 venv: services.ServiceVenv | None = None,
                 **glance: ty.Any) -> None:
        """Describe the cloud; setUp() makes it in about 20 s.

        :param parent: where its directory is made
        :param osd_size: capacity of the Ceph cluster in bytes
        :param ceph_options: more of the ceph.conf of its daemons
        :param barbican: have a key manager, which Glance and Nova use then
        :param venv: what its services run in; default: made if need be
        :param glance: keyword arguments of Glance
        """
        super().__init__()
        self._parent = parent
        self._osd_size = osd_size
        self._ceph_options = ceph_options
        self._wants_barbican = barbican
        self._venv = venv
        self._glance = glance

    def _setUp(self) -> None:
        process.require_root()
        process.require_programs()
        venv = self._venv or services.service_venv()
        self._bypass_proxies()
        self.directory = self.useFixture(
            process.RunDirectory(self._parent)).path
        process.require_reachable(self.directory)
        self.ceph = lab_ceph.Ceph(
            self.directory / 'ceph', size=self._osd_size,
            options=self._ceph_options)
        self.keystone = lab_keystone.Keystone(
            self.directory / 'keystone', venv)
        self.barbican: lab_barbican.Barbican | None = None
        if self._wants_barbican:
            self.barbican = lab_barbican.Barbican(
                self.directory / 'barbican', venv, self.keystone)
        self.glance = lab_glance.Glance(
            self.directory / 'glance', venv, self.keystone, self.ceph,
            barbican=self.barbican, **self._glance)
        process.together(self._start_storage, self._start_identity)
        self.useFixture(self.glance)

    def _bypass_proxies(self) -> None:
        for name in ('no_proxy', 'NO_PROXY'):
            known = os.environ.get(name, '')
            self.useFixture(fixtures.EnvironmentVariable(
                name, ','.join(filter(None, [known, '127.0.0.1']))))

    def _start_storage(self) -> None:
        self.useFixture(self.ceph)
        self.glance.prepare()

    def _start_identity(self) -> None:
        self.useFixture(self.keystone)
        if self.barbican:
            self.useFixture(self.barbican)

    def daemons(self) -> list[process.Daemon]:
        """Every server process of the cloud."""
        apis = [self.keystone.service, self.glance.service]
        if self.barbican:
            apis.append(self.barbican.service)
        return [self.ceph.mon, self.ceph.mgr, self.ceph.osd,
                *(one.daemon for one in apis)]

    def session(self, user: str = 'demo',
                project: str | None = None) -> ks_session.Session:
        """A keystoneauth session; the users are those of Keystone."""
        return self.keystone.session(user, project)

    def glance_client(self, user: str = 'demo') -> ty.Any:
        """A glanceclient for the Image API, version 2."""
        return glanceclient.Client(
            '2', session=self.session(user), endpoint_override=self.glance.url)

    def upload(self, path: process.Argument, disk_format: str, *,
               name: str | None = None, user: str = 'demo',
               store: str | None = None, **properties: ty.Any) -> str:
        """Make an image of a file.

        :param disk_format: such as qcow2 or raw
        :param store: one of Glance's, where it has several
        :param properties: more of the image's fields
        :returns: the image's id
        """
        path = pathlib.Path(path)
        images = self.glance_client(user).images
        image = images.create(
            name=name or path.name, disk_format=disk_format,
            **{'container_format': 'bare', **properties})
        with open(path, 'rb') as stream:
            images.upload(image.id, stream, image_size=path.stat().st_size,
                          backend=store)
        return image.id

    def store_certificate(self, signer: signing.Signer,
                          user: str = 'demo') -> str:
        """Put a certificate into Barbican.

        :returns: its id there
        :raises LabError: when the cloud has no Barbican
        """
        if not self.barbican:
            raise errors.LabError(
                'This cloud has no Barbican: make it with barbican=True.')
        return self.barbican.store(self.session(user), signer.pem)

    def image(self, image_id: str, user: str = 'demo') -> ty.Any:
        """Return an image as Glance shows it to a user."""
        return self.glance_client(user).images.get(image_id)

    def location(self, image_id: str) -> str:
        """The URL of an image's data, which an administrator may see."""
        return self.glance_client('admin').images.get_image_locations(
            image_id)[0]['url']

    def context(self, user: str = 'demo') -> 'nova_context.RequestContext':
        """A request context of Nova's, good for nova.image.glance.API."""
        # Not at the top: it loads much of Nova.
        from lab import fetch
        return fetch.request_context(
            self.keystone.auth(user), self.session(user))

    def environment(self, user: str = 'demo') -> dict[str, str]:
        """OS_* variables for a login with a password."""
        known = self.keystone.users[user]
        return {
            'OS_AUTH_URL': self.keystone.auth_url,
            'OS_IDENTITY_API_VERSION': '3',
            'OS_USERNAME': known.name,
            'OS_PASSWORD': known.password,
            'OS_PROJECT_NAME': known.project,
            'OS_USER_DOMAIN_ID': 'default',
            'OS_PROJECT_DOMAIN_ID': 'default',
            'OS_REGION_NAME': lab_keystone.REGION,
        }

    def token_environment(self, user: str = 'demo') -> dict[str, str]:
        """OS_* variables for a login with a fresh token."""
        return {
            'OS_AUTH_URL': self.keystone.auth_url,
            'OS_TOKEN': self.session(user).get_token() or '',
            'OS_PROJECT_NAME': self.keystone.users[user].project,
        }

    def nova_options(self) -> config.Options:
        """Return the options of nova.conf for this cloud."""
        return config.merge(
            {'glance': {'region_name': lab_keystone.REGION,
                        'valid_interfaces': ['internal', 'public']}},
            self.barbican.client_options() if self.barbican else {})
