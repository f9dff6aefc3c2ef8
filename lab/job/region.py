# SPDX-License-Identifier: Apache-2.0
"""The whole cloud: the lab's, and what boots instances."""

import pathlib

from keystoneauth1 import session as ks_session

from lab import cloud as lab_cloud
from lab import compute as lab_compute
from lab import config
from lab.job import libvirt as lab_libvirt
from lab.job import mariadb
from lab.job import neutron as lab_neutron
from lab.job import nova as lab_nova
from lab.job import placement as lab_placement
from lab.job import rabbitmq
from lab import namespace
from lab import process
from lab import services

#: Programs, and the Debian packages that hold them.
PACKAGES = {
    'epmd': 'erlang-base',
    'libvirtd': 'libvirt-daemon-system',
    'mariadb-install-db': 'mariadb-server',
    'mariadbd': 'mariadb-server',
    'qemu-system-x86_64': 'qemu-system-x86',
    'rabbitmq-server': 'rabbitmq-server',
    'virsh': 'libvirt-clients',
    'virtlogd': 'libvirt-daemon-system',
}

#: Content of the environment of the services.
CONTENT = services.Content(
    (*services.BASIC.constraints,
     pathlib.Path(__file__).with_name('constraints.txt')),
    (*services.BASIC.modules, 'neutron', 'placement', 'pymysql'))


class Region(process.LabFixture):
    """Everything that it takes to boot an instance from an image in Ceph.

    :ivar directory: everything of it is below
    :ivar cloud: Ceph, Keystone, Barbican and Glance
    :ivar mariadb: the database server of all but these
    :ivar rabbitmq: the message broker
    :ivar placement: the placement service
    :ivar neutron: the network service
    :ivar nova: Nova's API, conductor and scheduler
    :ivar host: the compute host
    :ivar libvirt: the hypervisor on it
    :ivar compute: the compute service on it
    """

    def __init__(self, *, parent: process.Argument | None = None,
                 images_type: str = 'qcow2', eventlet: bool = False,
                 options: config.Options | None = None) -> None:
        """Describe it; setUp() makes it in about a minute.

        :param parent: where its directory is made
        :param images_type: `[libvirt] images_type` of the compute host
        :param eventlet: start the compute service in eventlet's mode
        :param options: nova.conf options of the compute host over the usual
            ones
        """
        super().__init__()
        self._parent = parent
        self._images_type = images_type
        self._eventlet = eventlet
        self._options = options or {}

    def _setUp(self) -> None:
        process.require_root()
        process.require_programs(process.PACKAGES | PACKAGES)
        self._venv = services.service_venv(CONTENT)
        self.directory = self.useFixture(
            process.RunDirectory(self._parent)).path
        self.cloud = lab_cloud.Cloud(
            parent=self.directory, barbican=True, venv=self._venv)
        self.mariadb = mariadb.MariaDB(self.directory / 'mariadb', {
            lab_nova.NAME: lab_nova.DATABASES,
            lab_neutron.NAME: (lab_neutron.NAME,),
            lab_placement.NAME: (lab_placement.NAME,)})
        self.rabbitmq = rabbitmq.RabbitMQ(self.directory / 'rabbitmq')
        process.together(
            lambda: self.useFixture(self.cloud),
            lambda: self.useFixture(self.rabbitmq),
            self._start_database)
        self._make_host()
        self._describe_services()
        process.together(
            lambda: self.useFixture(self.placement),
            lambda: self.useFixture(self.neutron),
            lambda: self.useFixture(self.nova),
            lambda: self.useFixture(self.libvirt))
        self.useFixture(self.compute)
        self.nova.discover_hosts()

    def _start_database(self) -> None:
        self.useFixture(self.mariadb)
        self._nova_databases = lab_nova.database_options(
            {name: self.mariadb.connection(lab_nova.NAME, name)
             for name in lab_nova.DATABASES}, self.rabbitmq.url)
        process.together(
            lambda: lab_neutron.make_schema(
                self.directory / 'neutron', self._venv,
                self._connection(lab_neutron.NAME)),
            lambda: lab_nova.make_schemas(
                self.directory / 'nova', self._nova_databases))

    def _connection(self, name: str) -> str:
        return self.mariadb.connection(name, name)

    def _make_host(self) -> None:
        service = namespace.account(lab_compute.SERVICE_ACCOUNT)
        self.host = self.useFixture(lab_compute.ComputeHost(
            self.cloud, mounts=lab_libvirt.make_places(
                self.directory / 'libvirt', service)))
        self.libvirt = lab_libvirt.Libvirt(self.host)

    def _describe_services(self) -> None:
        keystone = self.cloud.keystone
        self.placement = lab_placement.Placement(
            self.directory / 'placement', self._venv, keystone,
            self._connection(lab_placement.NAME))
        self.neutron = lab_neutron.Neutron(
            self.directory / 'neutron', self._venv, keystone,
            connection=self._connection(lab_neutron.NAME),
            transport_url=self.rabbitmq.url)
        self.nova = lab_nova.ControlPlane(
            self.directory / 'nova', keystone,
            databases=self._nova_databases, transport_url=self.rabbitmq.url)
        self.compute = lab_nova.NovaCompute(
            self.host, self.session('admin'), eventlet=self._eventlet,
            options=config.merge(
                lab_nova.service_options(keystone, self.rabbitmq.url),
                lab_nova.compute_options(self._images_type), self._options))

    def session(self, user: str = 'demo') -> ks_session.Session:
        """A keystoneauth session; its catalog has every service."""
        return self.cloud.session(user)

    def daemons(self) -> list[process.Daemon]:
        """Every server process, those that serve others first."""
        return [
            self.mariadb.daemon, self.rabbitmq.epmd, self.rabbitmq.daemon,
            *self.cloud.daemons(), self.placement.service.daemon,
            self.neutron.service.daemon, self.nova.api.daemon,
            self.nova.conductor, self.nova.scheduler, self.libvirt.virtlogd,
            self.libvirt.libvirtd, self.compute.daemon]
