# SPDX-License-Identifier: Apache-2.0
"""A Ceph cluster on loopback: one monitor, one manager, and OSDs."""

from collections.abc import Callable
import pathlib
import tempfile

from oslo_serialization import jsonutils
from oslo_utils import uuidutils

from lab import config
from lab import process

GIB = 1 << 30


class Ceph(process.LabFixture):
    """A cluster with BlueStore on a sparse file; several can run at once.

    :ivar fsid: the cluster's id
    :ivar conf: path of its ceph.conf, readable by everybody
    :ivar admin_keyring: path of the administrator's keyring
    :ivar mon: the monitor, a Daemon
    :ivar mgr: the manager, a Daemon
    :ivar osd: the first OSD, a Daemon
    """

    def __init__(self, directory: pathlib.Path, *,
                 size: int = 24 * GIB,
                 osds: int = 1,
                 options: config.Options | None = None) -> None:
        """Describe the cluster; setUp() makes it.

        :param directory: where everything of it goes; made if need be
        :param size: capacity of an OSD in bytes
        :param osds: how many there are; replicated pools have one copy still
        :param options: more of the daemons' ceph.conf
        """
        super().__init__()
        self.directory = directory
        self.fsid = uuidutils.generate_uuid()
        self.conf = directory / 'ceph.conf'
        self.admin_keyring = self._keyring('client.admin')
        self._size = size
        self._osds = osds
        self._more = options or {}
        self._port = 0

    def _setUp(self) -> None:
        process.require_programs()
        self.directory.mkdir(mode=0o711, exist_ok=True)
        self._port = process.free_port()
        config.write(self.conf, config.render(
            config.merge(self._options(), self._more)))
        self.mon = self._make_mon()
        self.mgr = self._make_mgr()
        self.osd, *_others = map(self._make_osd, range(self._osds))

    def _options(self) -> config.Options:
        here = self.directory
        return {
            'global': {
                'fsid': self.fsid,
                'mon host': f'v2:{self.address}',
                'ms bind msgr1': False,
                'public addr': '127.0.0.1',
                'cluster addr': '127.0.0.1',
                'auth cluster required': 'cephx',
                'auth service required': 'cephx',
                'auth client required': 'cephx',
                'auth allow insecure global id reclaim': False,
                'keyring': f'{here}/ceph.$name.keyring',
                'run dir': here,
                'crash dir': here,
                'log file': '',
                'log to stderr': False,
                'osd pool default size': 1,
                'osd pool default pg num': 8,
                'osd pool default pg autoscale mode': 'off',
                'osd crush chooseleaf type': 0,
            },
            'client': {'admin socket': ''},
            'mon': {
                **self._daemon_options('mon'),
                'mon data': f'{here}/mon',
                'mon allow pool size one': True,
                'mon allow pool delete': True,
                'mon warn on pool no redundancy': False,
                'mon cluster log file': f'{here}/mon.cluster.log',
                'paxos propose interval': 0.1,
                'mon data avail warn': 1,
                'mon data avail crit': 0,
            },
            'mgr': {
                **self._daemon_options('mgr'),
                'mgr data': f'{here}/mgr',
            },
            'osd': {
                **self._daemon_options('osd'),
                'osd data': f'{here}/osd',
                'osd objectstore': 'bluestore',
                'osd memory target': GIB,
                'bluestore block size': self._size,
                'bluestore block create': True,
                'bluestore block db create': False,
                'bluestore block wal create': False,
            },
            **{f'osd.{number}': {
                **self._daemon_options(f'osd{number}'),
                'osd data': f'{here}/osd{number}',
            } for number in range(1, self._osds)},
        }

    def client_options(self, keyring: pathlib.Path) -> config.Options:
        """Return the options of a client with its own keyring."""
        return {'global': {
            'fsid': self.fsid,
            'mon host': f'v2:{self.address}',
            'keyring': keyring,
        }}

    @property
    def address(self) -> str:
        """Address and port of the monitor."""
        return f'127.0.0.1:{self._port}'

    def _daemon_options(self, kind: str) -> dict[str, config.Value | None]:
        return {
            'log to stderr': True,
            'err to stderr': True,
            'admin socket': f'{self.directory}/{kind}.asok',
            'keyring': f'{self.directory}/{kind}/keyring',
        }

    def _keyring(self, entity: str) -> pathlib.Path:
        return self.directory / f'ceph.{entity}.keyring'

    def _tool(self, program: str, *args: process.Argument,
              timeout: float = 120) -> str:
        return process.run([program, *args], timeout=timeout)

    def _make_key(self, keyring: pathlib.Path, entity: str,
                  *caps: str) -> None:
        """Add a new key to a keyring file, which is made if need be."""
        create = [] if keyring.exists() else ['--create-keyring']
        self._tool('ceph-authtool', *create, keyring, '--gen-key',
                   '--name', entity, *caps)

    def _daemon(self, kind: str, name: str,
                ready: Callable[[], bool],
                log: str = '') -> process.Daemon:
        return self.useFixture(process.Daemon(
            f'ceph-{kind}',
            [f'ceph-{kind}', '--foreground', '--conf', self.conf,
             '--id', name],
            self.directory / f'{log or kind}.log', ready))

    def _make_mon(self) -> process.Daemon:
        data = self.directory / 'mon'
        data.mkdir()
        monmap = self.directory / 'monmap'
        self._make_key(self.admin_keyring, 'client.admin',
                       '--cap', 'mon', 'allow *', '--cap', 'mgr', 'allow *',
                       '--cap', 'osd', 'allow *')
        keyring = self.directory / 'mon.bootstrap.keyring'
        self._make_key(keyring, 'mon.', '--cap', 'mon', 'allow *')
        self._tool('ceph-authtool', keyring, '--import-keyring',
                   self.admin_keyring)
        self._tool('monmaptool', '--create', '--fsid', self.fsid,
                   '--set-min-mon-release', 'pacific', '--enable-all-features',
                   '--addv', 'a', f'[v2:127.0.0.1:{self._port}]', monmap)
        self._tool('ceph-mon', '--conf', self.conf, '--mkfs', '--id', 'a',
                   '--monmap', monmap, '--keyring', keyring)
        keyring.unlink()
        monmap.unlink()
        return self._daemon(
            'mon', 'a', lambda: process.listens(self._port))

    def _make_mgr(self) -> process.Daemon:
        data = self.directory / 'mgr'
        data.mkdir()
        keyring = self.ceph(
            'auth', 'get-or-create', 'mgr.a', 'mon', 'allow profile mgr',
            'osd', 'allow *')
        config.write(data / 'keyring', keyring, 0o600)
        return self._daemon('mgr', 'a', lambda: True)

    def _make_osd(self, number: int) -> process.Daemon:
        name = f'osd{number or ""}'
        data = self.directory / name
        data.mkdir()
        osd_uuid = uuidutils.generate_uuid()
        self._make_key(data / 'keyring', f'osd.{number}')
        key = self._tool('ceph-authtool', data / 'keyring',
                         '--print-key', '--name', f'osd.{number}').strip()
        process.run(
            self._ceph_argv('osd', 'new', osd_uuid, str(number), '-i', '-'),
            text=jsonutils.dumps({'cephx_secret': key}))
        self._tool('ceph-osd', '--conf', self.conf, '--id', str(number),
                   '--mkfs', '--osd-uuid', osd_uuid)
        return self._daemon(
            'osd', str(number), lambda: self._osds_up() > number, name)

    def _osds_up(self) -> int:
        return jsonutils.loads(self.ceph(
            'osd', 'stat', '--format', 'json'))['num_up_osds']

    def _ceph_argv(self, *args: process.Argument) -> list[process.Argument]:
        return ['ceph', '--conf', self.conf, '--name', 'client.admin',
                '--connect-timeout', '60', *args]

    def ceph(self, *args: process.Argument, timeout: float = 120) -> str:
        """Run the ceph command as the administrator; return its output.

        :param timeout: in seconds
        :raises LabError: when it fails
        """
        return process.run(self._ceph_argv(*args), timeout=timeout)

    def rbd(self, *args: process.Argument, timeout: float = 300) -> str:
        """Run the rbd command as the administrator; return its output.

        :param timeout: in seconds
        :raises LabError: when it fails
        """
        return self._tool('rbd', '--conf', self.conf, '--name',
                          'client.admin', *args, timeout=timeout)

    def rados(self, *args: process.Argument, timeout: float = 120) -> str:
        """Run the rados command as the administrator; return its output.

        :param timeout: in seconds
        :raises LabError: when it fails
        """
        return self._tool('rados', '--conf', self.conf, '--name',
                          'client.admin', *args, timeout=timeout)

    def objects(self, pool: str, image: str) -> list[str]:
        """The names of an RBD image's data objects, in order."""
        info = jsonutils.loads(self.rbd(
            'info', '--format', 'json', '--pool', pool, '--image', image))
        prefix = info['block_name_prefix'] + '.'
        return sorted(name for name in self.rados('ls', '--pool', pool).split()
                      if name.startswith(prefix))

    def flip(self, pool: str, image: str, number: int = -1) -> None:
        """Change one bit of an RBD image, under its snapshots.

        :param number: which of its objects
        """
        # A write without a snapshot context shows through the snapshot.
        name = self.objects(pool, image)[number]
        with tempfile.NamedTemporaryFile(dir=self.directory) as file:
            self.rados('get', '--pool', pool, name, file.name)
            path = pathlib.Path(file.name)
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
            self.rados('put', '--pool', pool, name, file.name)

    def create_pool(self, name: str) -> None:
        """Make a pool for RBD images, ready for use."""
        self.ceph('osd', 'pool', 'create', name)
        self._tool('rbd', '--conf', self.conf, '--name', 'client.admin',
                   'pool', 'init', '--pool', name)

    def create_user(self, name: str,
                    caps: dict[str, str]) -> pathlib.Path:
        """Make a Ceph client.

        :param name: without the ``client.``
        :param caps: daemon type -> capability
        :returns: its keyring, mode 0600, where `conf` makes clients look
        """
        entity = f'client.{name}'
        pairs = [word for cap in caps.items() for word in cap]
        text = self.ceph('auth', 'get-or-create', entity, *pairs)
        return config.write(self._keyring(entity), text, 0o600)
