# SPDX-License-Identifier: Apache-2.0
"""All of Nova: its API, conductor and scheduler, and a compute service."""

import datetime
import math
import pathlib
import socket
import sys
import time
import typing as ty

from keystoneauth1 import session as ks_session

from lab import compute
from lab import config
from lab import keystone as lab_keystone
from lab import process
from lab import services
from lab import wsgi

NAME = 'nova'

#: The databases of Nova: that of the API, and those of two cells.
DATABASES = ('nova_api', 'nova', 'nova_cell0')

# Seconds.
_COMPUTE_START = 120
_COMPUTE_GRACE = 30
_MANAGE_TIMEOUT = 120

# The Nova under test is the one that this program runs with.
_VENV = services.Venv(pathlib.Path(sys.prefix))


def service_options(keystone: lab_keystone.Keystone,
                    transport_url: str) -> config.Options:
    """Return the options of all services, except for databases."""
    login = keystone.credentials(NAME)
    return {
        'DEFAULT': {
            'debug': True,
            'use_stderr': True,
            'my_ip': '127.0.0.1',
            'transport_url': transport_url,
            # By default a service waits for minutes for what it has to do.
            # Only that stops it here.
            'graceful_shutdown_timeout': 3,
            'manager_shutdown_timeout': 1,
        },
        'keystone_authtoken': {
            **login,
            'www_authenticate_uri': keystone.auth_url,
            'service_token_roles_required': True,
        },
        'neutron': dict(login),
        'placement': dict(login),
        'service_user': {**login, 'send_service_user_token': True},
    }


def compute_options(images_type: str) -> config.Options:
    """Return the options of a compute host without networks.

    :param images_type: ``qcow2`` or ``raw``
    """
    return {
        'DEFAULT': {
            'compute_driver': 'libvirt.LibvirtDriver',
            'heal_instance_info_cache_interval': -1,
            'initial_cpu_allocation_ratio': 16,
            'report_interval': 1,
            'reserved_host_disk_mb': 0,
            'reserved_host_memory_mb': 0,
            # For the guest to shut down by itself before it is stopped.
            'shutdown_timeout': 3,
        },
        'libvirt': {
            'images_type': images_type,
            # /dev/kvm may be there and yet be of no use.
            'virt_type': 'qemu',
            'cpu_mode': 'none',
        },
        'vnc': {'enabled': False},
    }


def database_options(connections: dict[str, str],
                     transport_url: str) -> config.Options:
    """Return the options of services that use the databases.

    :param connections: database -> its URL, for each of DATABASES
    :param transport_url: the message broker, which goes into the database
    """
    return {
        'DEFAULT': {'transport_url': transport_url},
        'api_database': {'connection': connections['nova_api']},
        'database': {'connection': connections['nova']},
    }


def make_schemas(directory: pathlib.Path, databases: config.Options) -> None:
    """Fill empty databases.

    :param directory: where the control plane's files go; made here
    :param databases: what database_options() returned
    """
    directory.mkdir(mode=0o700)
    conf = config.write(directory / 'database.conf',
                        config.render(databases), 0o600)
    for command in (('api_db', 'sync'), ('cell_v2', 'map_cell0'),
                    ('db', 'sync'), ('cell_v2', 'create_cell')):
        _manage(conf, *command)


def _manage(conf: pathlib.Path, *command: str) -> None:
    process.run(
        [_VENV.program('nova-manage'), '--config-file', conf, *command],
        cwd=conf.parent, timeout=_MANAGE_TIMEOUT)


class ControlPlane(process.LabFixture):
    """Nova's API, conductor and scheduler.

    :ivar directory: everything of them
    :ivar api: the server of the Compute API
    :ivar conductor: a Daemon
    :ivar scheduler: a Daemon
    """

    def __init__(self, directory: pathlib.Path,
                 keystone: lab_keystone.Keystone, *,
                 databases: config.Options, transport_url: str) -> None:
        """Describe them; setUp() starts them.

        :param directory: what make_schemas() got
        :param databases: what make_schemas() got
        :param transport_url: the message broker
        """
        super().__init__()
        self.directory = directory
        self._keystone = keystone
        self._databases = databases
        self._transport_url = transport_url
        self.api = wsgi.WsgiService(
            'nova-api', 'nova.wsgi.osapi_compute:application', _VENV,
            directory, env={'OS_NOVA_CONFIG_DIR': str(directory)})

    @property
    def conf(self) -> pathlib.Path:
        """The path of its nova.conf."""
        return self.directory / 'nova.conf'

    def _setUp(self) -> None:
        config.write(self.conf, config.render(self._options()), 0o600)
        source = _VENV.path / 'etc' / 'nova' / 'api-paste.ini'
        config.write(self.directory / source.name, source.read_text())
        self._keystone.add_service(NAME, 'compute', f'{self.api.url}/v2.1')
        process.together(
            lambda: self.useFixture(self.api), self._start_rpc_services)

    def _options(self) -> config.Options:
        return config.merge(
            service_options(self._keystone, self._transport_url),
            self._databases,
            {
                'conductor': {'workers': 1},
                'glance': {'region_name': lab_keystone.REGION},
                'oslo_concurrency': {'lock_path': self.directory / 'locks'},
                'scheduler': {'workers': 1},
            })

    def _start_rpc_services(self) -> None:
        self.conductor, self.scheduler = (
            self._daemon(name) for name in ('conductor', 'scheduler'))

    def _daemon(self, name: str) -> process.Daemon:
        # Its workers end with it; there is no other sign of readiness than
        # what it then does.
        return self.useFixture(process.Daemon(
            f'nova-{name}', process.contained([
                _VENV.program(f'nova-{name}'), '--config-file',
                self.conf]),
            self.directory / f'nova-{name}.log', lambda: True,
            cwd=self.directory, grace=0, wrapped=True))

    def discover_hosts(self) -> None:
        """Let the scheduler know of compute hosts that are new."""
        _manage(self.conf, 'cell_v2', 'discover_hosts')


class NovaCompute(process.LabFixture):
    """The compute service, by the unprivileged user of its host.

    :ivar name: what Nova knows the host by
    :ivar daemon: the service
    """

    def __init__(self, host: compute.ComputeHost,
                 admin: ks_session.Session, *,
                 options: config.Options,
                 eventlet: bool = False) -> None:
        """Describe it; setUp() starts it and waits until it is up.

        :param admin: a session that may see the states of services
        :param options: nova.conf options over the host's usual ones
        :param eventlet: start it in eventlet's mode
        """
        super().__init__()
        self.name = socket.gethostname()
        self._host = host
        self._admin = admin
        self._options = options
        self._eventlet = eventlet
        self._begin = 0

    def _setUp(self) -> None:
        self.daemon = self._describe()
        # The host ends soon after, and everything on it.
        self.addCleanup(lambda: self.daemon.kill())
        self._start({})

    def _describe(self) -> process.Daemon:
        return self._host.daemon(
            'nova-compute', self._host.python.parent / 'nova-compute',
            '--config-file', self._host.conf,
            ready=self._is_up, grace=_COMPUTE_GRACE, timeout=_COMPUTE_START,
            env={'OS_NOVA_DISABLE_EVENTLET_PATCHING':
                 'false' if self._eventlet else 'true'})

    @property
    def log(self) -> pathlib.Path:
        """The path of its log; a restart goes on with the same file."""
        return self.daemon.log

    def _start(self, options: config.Options) -> None:
        self._host.configure(config.merge(self._options, options))
        # Nova tells whole seconds. A report of an earlier run can be in this
        # one, but not in the next.
        self._begin = math.floor(time.time()) + 1
        self.daemon.start()

    def stop(self) -> None:
        """Stop the service, as an operator does; guests go on."""
        self.daemon.stop()

    def restart(self, options: config.Options | None = None, *,
                eventlet: bool | None = None) -> None:
        """Stop it, rewrite nova.conf and start it; return when it is up.

        :param options: over those that it was made with; they replace those
            of an earlier restart
        :param eventlet: run in eventlet's mode from now on, or no longer
        """
        self.stop()
        if eventlet is not None:
            self._eventlet = eventlet
        self.daemon = self._describe()
        self._start(options or {})

    def _is_up(self) -> bool:
        found = self._record()
        if not found or found['state'] != 'up' or not found['updated_at']:
            return False
        reported = datetime.datetime.fromisoformat(found['updated_at'])
        return (reported.replace(tzinfo=datetime.timezone.utc).timestamp() >=
                self._begin)

    def _record(self) -> dict[str, ty.Any] | None:
        """Return the compute service as Nova's API reports it."""
        reply = self._admin.get(
            '/os-services', params={'binary': 'nova-compute'},
            endpoint_filter={'service_type': 'compute'}, raise_exc=False)
        if reply.status_code != 200:
            return None
        for found in reply.json()['services']:
            if found['host'] == self.name:
                return found
        return None
