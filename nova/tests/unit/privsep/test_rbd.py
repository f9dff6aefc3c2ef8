# SPDX-License-Identifier: Apache-2.0

"""The privileged side of a direct download, with a shell in place of Ceph.

The real one runs in the privsep daemon, which eventlet never patches. These
tests run as root, and make files, listeners and processes of other users.
"""

import contextlib
import errno
import io
import os
import pathlib
import shutil
import struct
import typing as ty
from unittest import mock

import fixtures
from oslo_config import cfg
from oslo_serialization import jsonutils

from nova.image import compat
import nova.privsep.rbd
from nova import test
from nova.tests.unit.image import fakes
import nova.tests.unit.privsep.rbd_fakes

rbd_fakes = nova.tests.unit.privsep.rbd_fakes
#: Uid, gid and groups of nova-compute; someone else; and no one at all.
NOVA = (4001, 4002, 4003, 4004)
ROOT = (0, 0)
OTHER = 4005
UNUSED = 65533

IMAGE = rbd_fakes.IMAGE_ID
NAMES: dict[str, ty.Any] = rbd_fakes.NAMES
#: The commands that are about an image.
OF_IMAGE = ('rbd du', 'rbd export', 'rbd export-diff', 'rbd info',
            'rbd snap ls')
BAD_NAMES = (
    '', None, 7, b'images', ['images'], '-', '--conf=/tmp/x', '-p', 'a/b',
    '/', 'a@b', '@', 'a\nb', 'a\0b', '\x7f', 'a' * 256, 'a' * 10_000_000,
)
SERVED_USER = nova.privsep.rbd._served_user
OPEN = 'rbd: error opening image: (5) Input/output error'

_CHAIN = ['setpriv', '--pdeathsig=KILL', 'timeout', '-k10', '86400',
          'setpriv', '--no-new-privs', '--pdeathsig=KILL']
# '65533' can be the name of a user with another ID, '+65533' cannot.
AS_UNUSED = [*_CHAIN, '--reuid=+65533', '--regid=+65533', '--groups=+65533']
AS_OTHER = [*_CHAIN, '--reuid=+4005', '--regid=+65533', '--groups=+65533']
AS_NOVA = [*_CHAIN, '--reuid=+4001', '--regid=+4002',
           '--groups=+4002,+4003,+4004']
READS_ALL = [*AS_UNUSED, '--inh-caps=+dac_read_search',
             '--ambient-caps=+dac_read_search']
#: Disables logs, hooks and plugins that ceph.conf configures.
NOTHING_ELSE = ['--admin-socket=', '--log-file=', '--log-to-file=false',
                '--plugin-dir=/', '--log-to-syslog=false', '--rbd-plugins=',
                '--crush-location-hook=']
OPTIONS = ['--cluster=site', *NOTHING_ELSE, '--client-mount-timeout=5',
           '--rados-mon-op-timeout=5', '--rados-osd-op-timeout=3840',
           '--id=nova']
_EXPORT = ['--path=-', '--no-progress']
_OF_IMAGE = ['--pool=images', f'--image={IMAGE}']
#: command -> what comes before, and after, the options above
COMMANDS: dict[str, tuple[list[str], list[str]]] = {
    'rbd export': (_EXPORT, ['--snap=snap', *_OF_IMAGE]),
    'rbd export-diff': (_EXPORT, ['--snap=snap', *_OF_IMAGE]),
    'rbd du': (['--format=json'], ['--snap=snap', *_OF_IMAGE]),
    'rbd info': (['--format=json'], _OF_IMAGE),
    'rbd snap ls': (['--format=json'], _OF_IMAGE),
    'rbd --version': ([], []),
    'ceph fsid': ([], []),
    'ceph-conf --show-config-value=fsid': ([], []),
}


class RbdTestCase(test.NoDBTestCase):
    def setUp(self) -> None:
        super().setUp()
        if os.getuid():
            self.skipTest('Only root can act for other users')
        self.useFixture(fakes.LeakCheck())
        self.side = self.useFixture(rbd_fakes.PrivilegedSide())
        self.directory = os.path.realpath(
            self.useFixture(fixtures.TempDir()).path)
        self.conf = self.make_file('site.conf')
        self.flags(rbd_ceph_conf=[self.conf], rbd_user='nova', group='glance')
        self.user: tuple[int, ...] = NOVA
        self.set('_served_user', lambda: self.user)
        # The directories above that of the test can belong to any user.
        self.walk = nova.privsep.rbd._walk
        self.set('_walk', self.walk_below_the_test)

    def set(self, name: str, new: object) -> None:
        self.useFixture(
            fixtures.MockPatchObject(nova.privsep.rbd, name, new))

    def walk_below_the_test(
        self, path: str, stack: contextlib.ExitStack,
    ) -> tuple[int, dict[str, int]]:
        fd, others = self.walk(path, stack)
        return fd, {step: owner for step, owner in others.items()
                    if step.startswith(self.directory)}

    def make_file(self, name: str, mode: int = 0o600,
                  content: str = '') -> str:
        path = pathlib.Path(self.directory, name)
        path.write_text(content)
        path.chmod(mode)
        return str(path)

    def make_directory(self, name: str, uid: int = 0,
                       mode: int = 0o755) -> str:
        path = pathlib.Path(self.directory, name)
        path.mkdir()
        path.chmod(mode)
        os.chown(path, uid, uid)
        return str(path)

    def listen(self, user: tuple[int, ...],
               kind: str = 'SOCK_SEQPACKET') -> tuple[str, ty.Any]:
        """Return a socket that a process of this user listens on."""
        socket = compat.native('socket')
        listener = socket.socket(socket.AF_UNIX, getattr(socket, kind))
        self.addCleanup(listener.close)
        address = os.path.join(self.directory, 'socket%d' % listener.fileno())
        listener.bind(address)
        # The kernel notes who calls listen(2).
        if user == ROOT:
            listener.listen()
        else:
            compat.native('subprocess').run(
                ['true'], preexec_fn=listener.listen, check=True,
                user=user[0], group=user[1], extra_groups=user[2:])
        listener.settimeout(fakes.LIMIT)
        return address, listener

    def start(self, *commands: str, cluster: int = 0,
              **names: ty.Any) -> ty.Any:
        """Call the privileged side; return the caller's connection."""
        address, listener = self.listen(self.user)
        try:
            self.answer = nova.privsep.rbd.start(
                address, commands, cluster, **names)
        except Exception:
            listener.setblocking(False)
            self.assertRaises(BlockingIOError, listener.accept)
            self.assertEqual([], self.side.threads)
            raise
        connection, _address = listener.accept()
        connection.settimeout(fakes.LIMIT)
        self.addCleanup(connection.close)
        return connection

    def receive(self, connection: ty.Any) -> ty.Any:
        """Return the next program's output, as a file, or None."""
        # socket.recv_fds() ignores its flags.
        message, ancillary, _flags, _address = connection.recvmsg(
            4096, 100, compat.native('socket').MSG_CMSG_CLOEXEC)
        if not message:
            return None
        [(_level, _type, fd)] = ancillary
        return open(struct.unpack('i', fd)[0], 'rb')

    def outcomes(self, connection: ty.Any) -> list[tuple[bytes, list[ty.Any]]]:
        """Return the output and the outcome of each program."""
        results = []
        while output := self.receive(connection):
            with output:
                content = output.read()
            # The end of the output comes last.
            connection.setblocking(False)
            results.append((content, jsonutils.loads(connection.recv(4096))))
            connection.settimeout(fakes.LIMIT)
        return results


class TestCommands(RbdTestCase):
    """The command lines, and the user that runs them."""

    def argvs(self, *commands: str, cluster: int = 0) -> list[list[str]]:
        """Return the command lines that start() runs."""
        ran = []
        before = set(os.listdir('/proc/self/fd'))

        def run(argv: list[str], _stdout: int, fds: list[int],
                _connection: object) -> tuple[int, str, str]:
            for fd in set(os.listdir('/proc/self/fd')) - before:
                with contextlib.suppress(OSError):
                    self.assertFalse(os.get_inheritable(int(fd)))
            replaced = {
                '--conf=/proc/self/fd/%d' % fd:
                '--conf=fd:' + os.readlink('/proc/self/fd/%d' % fd)
                for fd in fds}
            self.assertLessEqual(replaced.keys(), set(argv))
            ran.append([replaced.get(word, word) for word in argv])
            return 0, 'UNKNOWN', ''

        with mock.patch.object(nova.privsep.rbd, '_run', run):
            self.outcomes(self.start(*commands, cluster=cluster, **NAMES))
        return ran

    def test_all(self) -> None:
        self.assertEqual(set(COMMANDS), set(nova.privsep.rbd._COMMANDS))
        for uid, rights, conf in (
            (0, READS_ALL, f'fd:{self.conf}'), (OTHER, AS_NOVA, self.conf),
        ):
            os.chown(self.conf, uid, uid)
            for command, (first, last) in COMMANDS.items():
                self.assertEqual(
                    [[*rights, *command.split(), *first, f'--conf={conf}',
                      *OPTIONS, *last]], self.argvs(command))

    def test_rights(self) -> None:
        directory = self.make_directory('etc')
        conf = self.make_file('etc/site.conf')
        self.flags(rbd_ceph_conf=[conf], group='glance')
        by_conf = f'--conf={conf}'
        for user, owners, mode, rights, answer in (
            (NOVA, (0, 0), 0o600, READS_ALL, (UNUSED, '')),
            (ROOT, (0, 0), 0o600, READS_ALL, (UNUSED, '')),
            (NOVA, (0, NOVA[0]), 0o600, AS_NOVA, (NOVA[0], conf)),
            (NOVA, (0, OTHER), 0o600, AS_NOVA, (NOVA[0], conf)),
            (NOVA, (OTHER, 0), 0o600, AS_NOVA, (NOVA[0], directory)),
            (NOVA, (0, 0), 0o666, AS_NOVA, (NOVA[0], conf)),
            (ROOT, (0, OTHER), 0o600, AS_OTHER, (OTHER, conf)),
            (ROOT, (OTHER, 0), 0o600, AS_OTHER, (OTHER, directory)),
            (ROOT, (OTHER, OTHER), 0o600, AS_OTHER, (OTHER, directory)),
            (ROOT, (OTHER, NOVA[0]), 0o600, AS_UNUSED, (UNUSED, directory)),
            (ROOT, (0, OTHER), 0o666, AS_UNUSED, (UNUSED, conf)),
            (ROOT, (0, 0), 0o666, AS_UNUSED, (UNUSED, conf)),
        ):
            self.user = user
            os.chown(directory, owners[0], 0)
            os.chown(conf, owners[1], 0)
            os.chmod(conf, mode)
            [argv] = self.argvs('ceph fsid')
            where = by_conf if answer[1] else f'--conf=fd:{conf}'
            self.assertEqual([*rights, 'ceph', 'fsid', where, *OPTIONS], argv)
            self.assertEqual(answer, self.answer)

    def test_nova_conf(self) -> None:
        other = self.make_file('b.conf')
        self.flags(rbd_ceph_conf=[self.conf, other], rbd_connect_timeout=7,
                   rbd_stall_timeout=9, rbd_user='', group='glance')
        for libvirt_user, stall, seconds, last in (
            ('x', 9, 576, ['--id=x']), (None, 9, 576, []),
            (None, 100_000, 86400, []),
        ):
            self.flags(rbd_user=libvirt_user, group='libvirt')
            self.flags(rbd_stall_timeout=stall, group='glance')
            [argv] = self.argvs('ceph fsid', cluster=1)
            self.assertEqual(
                [f'--conf=fd:{other}', '--cluster=b', *NOTHING_ELSE,
                 '--client-mount-timeout=7', '--rados-mon-op-timeout=7',
                 f'--rados-osd-op-timeout={seconds}', *last],
                argv[argv.index('fsid') + 1:])

    def test_timeouts_out_of_range(self) -> None:
        for connect, stall, seconds in (
            (0, 0, (1, 64)), (-5, -5, (1, 64)),
            (10 ** 9, 10 ** 9, (300, 86400)),
        ):
            self.flags(rbd_connect_timeout=connect, rbd_stall_timeout=stall,
                       group='glance')
            [argv] = self.argvs('ceph fsid')
            self.assertLessEqual({
                f'--client-mount-timeout={seconds[0]}',
                f'--rados-mon-op-timeout={seconds[0]}',
                f'--rados-osd-op-timeout={seconds[1]}'}, set(argv))

    def test_at_most_five(self) -> None:
        self.assertEqual(5, len(self.argvs(*['ceph fsid'] * 7)))

    def test_refused(self) -> None:
        self.user = ROOT
        cases: list[tuple[str, dict[str, ty.Any]]] = [
            (command, {}) for command in (
                'rbd import', 'rbd', 'rbd export --x', 'rbd rm', '', 'ls',
                'RBD export', 'rbd export ')]
        cases += [('ceph fsid', {'cluster': cluster})
                  for cluster in (1, -2, 10 ** 6, None, 'x', 0.5)]
        for command in OF_IMAGE:
            cases += [(command, {name: value})
                      for name in NAMES for value in BAD_NAMES]
            cases += [(command, {'image': value}) for value in (
                'images', IMAGE + 'x', IMAGE[:-1], 'volume-' + IMAGE,
                IMAGE + '\n', IMAGE.replace('-', ''))]
        for command, changes in cases:
            error = self.assertRaises(
                (LookupError, TypeError, ValueError), self.start,
                'rbd --version', command, **(NAMES | changes))
            self.assertTrue(str(error).isprintable())
            self.assertLess(len(str(error)), 400)
        self.assertRaises(LookupError, self.start, *'rbd')

    def test_pools(self) -> None:
        self.flags(rbd_pool=['fast', 'images'], group='glance')
        self.assertEqual(1, len(self.argvs('rbd info')))
        self.flags(rbd_pool=['fast'], group='glance')
        self.side.threads.clear()
        for command in OF_IMAGE:
            self.assertRaisesRegex(
                ValueError, 'images', self.start, command, **NAMES)


class TestListener(RbdTestCase):
    """The listener that receives the output."""

    def call(self, address: str) -> None:
        try:
            nova.privsep.rbd.start(address, ['ceph fsid'], 0)
        finally:
            self.assertEqual([], self.side.threads)

    def test_of_another_user(self) -> None:
        for user in ((OTHER, *NOVA[1:]), ROOT):
            address, _listener = self.listen(user)
            self.assertRaisesRegex(
                PermissionError, 'another user', self.call, address)

    def test_none(self) -> None:
        os.mkfifo(os.path.join(self.directory, 'fifo'))
        for address, error in (
            (os.path.join(self.directory, 'none'), FileNotFoundError),
            (self.conf, ConnectionRefusedError),
            (os.path.join(self.directory, 'fifo'), ConnectionRefusedError),
            (self.listen(NOVA, 'SOCK_STREAM')[0], OSError),
        ):
            self.assertRaises(error, self.call, address)

    def test_not_waited_for(self) -> None:
        """The call returns even if the listener accepts no connection."""
        address, listener = self.listen(NOVA)
        listener.listen(0)
        socket = compat.native('socket')
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as first:
            first.connect(address)
            self.assertRaises(BlockingIOError, self.call, address)

    def test_no_thread(self) -> None:
        """No descriptor is left open, and the caller need not wait."""
        address, listener = self.listen(NOVA)
        threading = mock.Mock()
        threading.Thread.return_value.start.side_effect = RuntimeError('full')
        self.set('threading', threading)
        self.assertRaisesRegex(RuntimeError, 'full', self.call, address)
        connection, _address = listener.accept()
        with connection:
            connection.settimeout(fakes.LIMIT)
            self.assertEqual(b'', connection.recv(9))


class TestWalk(RbdTestCase):
    """The users that can change or replace a file."""

    def steps(self, path: str) -> tuple[str, dict[str, int]]:
        """Return the path of the file found, and who can change what."""
        with contextlib.ExitStack() as stack:
            fd, others = self.walk_below_the_test(path, stack)
            self.assertFalse(os.get_inheritable(fd))
            return self._name(os.readlink('/proc/self/fd/%d' % fd)), {
                self._name(step): owner for step, owner in others.items()}

    def _name(self, path: str) -> str:
        return path.removeprefix(self.directory).removeprefix('/')

    def assert_steps(self, path: str, **others: int) -> None:
        """Check steps below etc, where '_' stands for '/'."""
        found, steps = self.steps(os.path.join(self.directory, path))
        self.assertEqual('etc/ceph/ceph.conf', found)
        self.assertEqual(
            {'/'.join(['etc', *step.split('_')]).removesuffix('/top'): owner
             for step, owner in others.items()}, steps)

    def setUp(self) -> None:
        super().setUp()
        self.etc = self.make_directory('etc')
        self.ceph = self.make_directory('etc/ceph', mode=0o700)
        self.file = self.make_file('etc/ceph/ceph.conf', mode=0o644)
        self.path = 'etc/ceph/ceph.conf'

    def test_owner_and_mode(self) -> None:
        self.assert_steps(self.path)
        for path, step in ((self.etc, 'top'), (self.ceph, 'ceph'),
                           (self.file, 'ceph_ceph.conf')):
            mode = os.stat(path).st_mode
            for uid, gid, more, others in (
                (OTHER, 0, 0, {step: OTHER}), (0, OTHER, 0, {}),
                (0, 0, 0o020, {step: UNUSED}), (0, 0, 0o002, {step: UNUSED}),
                (OTHER, 0, 0o022, {step: UNUSED}), (0, 0, 0, {}),
            ):
                os.chown(path, uid, gid)
                os.chmod(path, mode | more)
                self.assert_steps(self.path, **others)

    def test_first_step_comes_first(self) -> None:
        for path in (self.file, self.etc, self.ceph):
            os.chown(path, OTHER, 0)
        _found, steps = self.steps(self.file)
        self.assertEqual(['etc', 'etc/ceph', 'etc/ceph/ceph.conf'],
                         list(steps))

    def test_sticky_directory(self) -> None:
        os.chmod(self.ceph, 0o1777)
        self.assert_steps(self.path)
        os.chown(self.file, OTHER, 0)
        self.assert_steps(self.path, **{'ceph_ceph.conf': OTHER})
        os.chown(self.ceph, NOVA[0], 0)
        self.assert_steps(self.path, ceph=NOVA[0],
                          **{'ceph_ceph.conf': OTHER})
        # The bit means something else in a file.
        os.chown(self.ceph, 0, 0)
        os.chown(self.file, 0, 0)
        os.chmod(self.file, 0o1666)
        self.assert_steps(self.path, **{'ceph_ceph.conf': UNUSED})

    def test_hard_link(self) -> None:
        os.link(self.file, os.path.join(self.directory, 'other'))
        self.assert_steps(self.path, **{'ceph_ceph.conf': UNUSED})

    def link(self, target: str, name: str = 'etc/link', uid: int = 0) -> None:
        path = os.path.join(self.directory, name)
        if os.path.lexists(path):
            os.unlink(path)
        os.symlink(target, path)
        os.chown(path, uid, uid, follow_symlinks=False)

    def test_links(self) -> None:
        self.make_directory('etc/a')
        for target in (
            self.file, 'ceph/ceph.conf', 'ceph//ceph.conf',
            './ceph/./ceph.conf', '../etc/ceph/ceph.conf',
            'a/../ceph/ceph.conf', f'/proc/self/root/{self.file}',
            f'//{self.file}',
        ):
            self.link(target)
            self.assert_steps('etc/link')
        for target in (self.ceph, 'ceph', 'ceph/', 'ceph//', '../etc/ceph/',
                       '.', './', self.directory):
            self.link(target)
            rest = {'.': 'ceph/', './': 'ceph/',
                    self.directory: 'etc/ceph/'}.get(target, '')
            self.assert_steps(f'etc/link/{rest}ceph.conf')
            self.assert_steps(f'etc//link///{rest}ceph.conf')
            self.assert_steps(f'etc/../etc/link/./{rest}ceph.conf')

    def test_relative(self) -> None:
        """The caller can choose the daemon's working directory."""
        os.chown(self.ceph, OTHER, 0)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(self.ceph)
        self.assertRaises(FileNotFoundError, self.steps, 'ceph.conf')
        self.assertEqual(('etc/ceph/ceph.conf', {'etc/ceph': OTHER}),
                         self.steps(self.file[1:]))

    def test_link_of_another_user(self) -> None:
        self.link('ceph/ceph.conf', uid=OTHER)
        self.assert_steps('etc/link', link=OTHER)
        os.chmod(self.etc, 0o1777)
        self.assert_steps('etc/link', link=OTHER)
        self.link('ceph/ceph.conf')
        self.assert_steps('etc/link')
        os.chmod(self.etc, 0o777)
        self.assert_steps('etc/link', top=UNUSED)

    def test_chain_of_links_through_another_user(self) -> None:
        """Both ends are root's, and so is the directory of each."""
        home = self.make_directory('etc/home', uid=OTHER)
        self.make_directory('etc/home/sub')
        for target in (f'{home}/link', 'home/link', 'ceph/../home/link',
                       f'{home}/sub/link', 'home/sub/../link'):
            self.link(target)
            for name in ('etc/home/link', 'etc/home/sub/link'):
                self.link(self.file, name)
            self.assert_steps('etc/link', home=OTHER)
        self.link('home/sub/../../ceph/ceph.conf')
        self.assert_steps('etc/link', home=OTHER)

    def test_not_a_file(self) -> None:
        self.link('etc/link')
        self.link('link2', 'etc/link1')
        self.link('link1', 'etc/link2')
        self.link('/', 'etc/root')
        os.mkfifo(os.path.join(self.directory, 'etc/fifo'))
        for path, error in (
            ('etc', ValueError), ('etc/', ValueError), ('', ValueError),
            ('etc/fifo', ValueError), ('etc/link1', ValueError),
            ('etc/root', ValueError), ('etc/ceph/ceph.conf/', ValueError),
            ('etc/link', FileNotFoundError), ('etc/none', FileNotFoundError),
            ('etc/none/../ceph/ceph.conf', FileNotFoundError),
            ('etc/ceph/ceph.conf/..', NotADirectoryError),
            ('etc/fifo/x', NotADirectoryError),
        ):
            self.assertRaises(
                error, self.steps, os.path.join(self.directory, path))
        self.assertRaises(ValueError, self.steps, '/dev/null')
        self.assertRaises(ValueError, self.steps, '/')

    def test_special_filesystems(self) -> None:
        for path, steps in (
            (f'/proc/self/root{self.file}',
             {'/proc', f'/proc/{os.getpid()}', '/proc/self',
              f'/proc/{os.getpid()}/root'}),
            (f'/proc/{os.getpid()}/cmdline',
             {'/proc', f'/proc/{os.getpid()}',
              f'/proc/{os.getpid()}/cmdline'}),
        ):
            with contextlib.ExitStack() as stack:
                _fd, others = self.walk(path, stack)
            self.assertEqual(dict.fromkeys(steps, UNUSED), {
                step: owner for step, owner in others.items()
                if step.startswith('/proc')})

    def test_mounts(self) -> None:
        fd = os.open(self.file, os.O_PATH)
        self.addCleanup(os.close, fd)
        status = os.fstat(fd)
        around = (b'13 1 0:1 / / rw,idmapped - ext4 a rw\n%s'
                  b'123 1 0:1 / / rw - fuse a\n'
                  b'1 12 12:12 / /12 rw - fuse 12 rw\n')
        for line, owner in (
            (b'12 1 8:1 / / rw,noatime - ext4 /dev/a rw\n', 0),
            (b'12 1 8:1 /a\\040-\\040b /mnt rw shared:1 master:2 - xfs a rw\n',
             0),
            # Users choose names, and the kernel only escapes white space.
            (b'12 1 8:1 /\xff /a\rb rw - ext4 /dev/a rw\n', 0),
            (b'99 1 0:9 / /a\r12 rw - fuse a rw\n'
             b'12 1 8:1 / / rw - ext4 /dev/a rw\n', 0),
            (b'99 1 0:9 / /\xff rw - fuse a rw\n'
             b'12 1 8:1 / / rw - ext4 /dev/a rw\n', 0),
            (b'12 1 8:1 / /unidmapped rw - ext4 /dev/idmapped rw\n', 0),
            (b'12 1 8:1 / / rw,idmapped - ext4 /dev/a rw\n', UNUSED),
            (b'12 1 8:1 / / rw,idmapped,noatime shared:1 - xfs a\n', UNUSED),
            (b'12 1 0:9 / /mnt rw - fuse.sshfs ext4 rw\n', UNUSED),
            (b'12 1 0:9 / /ext4 rw shared:1 - fuse - rw\n', UNUSED),
            (b'12 1 0:9 / / rw - fuseblk x rw\n', UNUSED),
            (b'12 1 0:9 / / rw - proc x rw\n', UNUSED),
            (b'12 1 0:9 / / rw - nfs4 x rw\n', UNUSED), (b'', UNUSED),
        ):
            files = {'/proc/self/fdinfo/%d' % fd: b'pos:\t0\nflags:\t012100000'
                     b'\nmnt_id:\t12\nino:\t7\n',
                     '/proc/self/mountinfo': around % line}

            def open_fake(path: str, mode: str = 'r') -> ty.IO[ty.Any]:
                content = io.BytesIO(files[path])
                return (content if 'b' in mode
                        else io.TextIOWrapper(content, 'utf-8'))

            with mock.patch.object(
                    nova.privsep.rbd, 'open', open_fake, create=True):
                self.assertEqual(
                    owner, nova.privsep.rbd._owner(fd, status), str(line))

    def test_what_was_checked_is_what_is_read(self) -> None:
        pathlib.Path(self.file).write_text('checked')
        with contextlib.ExitStack() as stack:
            fd, _others = self.walk(self.file, stack)
            os.unlink(self.file)
            self.make_file('etc/ceph/ceph.conf', content='other')
            self.assertEqual('checked', pathlib.Path(
                '/proc/self/fd/%d' % fd).read_text())


class TestServedUser(RbdTestCase):
    """The process that the daemon serves, as the kernel knows it."""

    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(SERVED_USER.cache_clear)

    def find(self, *arguments: str) -> tuple[int, ...]:
        """Ask a daemon that was started with these arguments."""
        conf = cfg.ConfigOpts()
        # As oslo_privsep.daemon.helper_main() does; a fork has no such option.
        if arguments:
            conf.register_cli_opt(cfg.StrOpt('privsep_sock_path'))
        conf(args=arguments, project='privsep')
        SERVED_USER.cache_clear()
        with mock.patch.object(nova.privsep.rbd, 'CONF', conf):
            found = SERVED_USER()
        # The path and the parent process need not be there any more.
        self.assertEqual(found, SERVED_USER())
        return found

    def connect(self, address: str) -> None:
        socket = compat.native('socket')
        channel = socket.socket(socket.AF_UNIX)
        self.addCleanup(channel.close)
        channel.connect(address)

    def test_channel(self) -> None:
        socket = compat.native('socket')
        with contextlib.ExitStack() as others:
            for pair in (socket.socketpair(), os.pipe()):
                for each in pair:
                    others.callback(
                        os.close if isinstance(each, int) else
                        ty.cast(ty.Any, socket.socket).close, each)
            others.enter_context(socket.socket(socket.AF_INET))
            others.enter_context(
                socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            self.connect(self.listen(ROOT, 'SOCK_STREAM')[0])
            for user in (NOVA, NOVA[:2], (OTHER, 7, 8)):
                address, _listener = self.listen(user, 'SOCK_STREAM')
                self.connect(address)
                self.connect(self.listen(ROOT, 'SOCK_STREAM')[0])
                arguments = ('--config-file', self.conf,
                             '--privsep_sock_path', address)
                self.assertEqual(user, self.find(*arguments))
                # oslo.privsep removes it soon.
                os.unlink(address)
                self.assertEqual(user, self.find(*arguments))

    def test_standard_input(self) -> None:
        """The user of sudo chooses it."""
        address, _listener = self.listen((OTHER, 7), 'SOCK_STREAM')
        socket = compat.native('socket')
        stdin = os.dup(0)
        self.addCleanup(os.close, stdin)
        self.addCleanup(os.dup2, stdin, 0)
        with socket.socket(socket.AF_UNIX) as fake:
            fake.connect(address)
            os.dup2(fake.fileno(), 0)
        self.assertRaisesRegex(
            PermissionError, 'does not know its user', self.find,
            '--config-file', self.conf, '--privsep_sock_path', address)

    def test_nova_conf(self) -> None:
        address, _listener = self.listen(NOVA, 'SOCK_STREAM')
        self.connect(address)
        path = '--privsep_sock_path', address
        for arguments in (('--config-file', self.conf),
                          ('--config-dir', self.directory)):
            self.assertEqual(NOVA, self.find(*arguments, *path))
        self.assertRaisesRegex(
            PermissionError, 'no nova.conf: add --config-file', self.find,
            *path)

    def test_no_channel(self) -> None:
        address, _listener = self.listen(NOVA, 'SOCK_STREAM')
        self.connect(self.listen(ROOT, 'SOCK_STREAM')[0])
        self.assertRaisesRegex(
            PermissionError, 'does not know its user', self.find,
            '--config-file', self.conf, '--privsep_sock_path', address)

    def test_fork(self) -> None:
        with compat.native('subprocess').Popen(
                ['sh', '-c', 'echo; exec cat'], stdin=-1, stdout=-1,
                user=NOVA[0], group=NOVA[1]) as parent:
            parent.stdout.read(1)
            with mock.patch.object(
                    nova.privsep.rbd.os, 'getppid', return_value=parent.pid):
                self.assertEqual(NOVA[:2], self.find())

    def test_refusal(self) -> None:
        self.set('_served_user', mock.Mock(side_effect=PermissionError('no')))
        self.assertRaisesRegex(PermissionError, 'no', self.start, 'ceph fsid')


class ProgramsTestCase(RbdTestCase):
    """Scripts in place of the programs."""

    def run_scripts(self, *scripts: str) -> ty.Any:
        """Start these; return the caller's connection."""
        commands = {'sh' + ' -u' * number: ['-c', script, 'sh']
                    for number, script in enumerate(scripts)}
        self.set('_COMMANDS', commands)
        return self.start(*commands, **NAMES)

    def results(self, *scripts: str) -> list[tuple[bytes, list[ty.Any]]]:
        return self.outcomes(self.run_scripts(*scripts))

    def hang_up(self, script: str, first: str = 'echo $$') -> None:
        """Close the connection; the process that is printed first ends."""
        connection = self.run_scripts(f'{first}; {script}')
        output = self.receive(connection)
        pid = os.pidfd_open(int(output.readline()))
        self.addCleanup(os.close, pid)
        connection.close()
        poller = compat.native('select').poll()
        poller.register(pid, compat.native('select').POLLIN)
        self.assertTrue(poller.poll(fakes.LIMIT * 1000), 'It was not killed')
        output.close()
        self.side.join()


class TestPrograms(ProgramsTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.set('_rights', lambda _user, _owners: (0, []))

    def test_output_and_outcome(self) -> None:
        success = [0, 'UNKNOWN', '']
        self.assertEqual([(b'bytes\n', success)], self.results('echo bytes'))
        large, *others = self.results(
            'head -c 3000000 /dev/zero', 'true', f'echo "{OPEN}" >&2; echo 2')
        self.assertEqual((3_000_000, success), (large[0].count(0), large[1]))
        self.assertEqual([(b'', success), (b'2\n', success)], others)
        self.assertEqual([], self.outcomes(self.start(**NAMES)))

    def test_stops_at_the_first_failure(self) -> None:
        failure = f'echo half; echo "{OPEN}" >&2; '
        for end, status in (('exit 2', 2), ('kill -ABRT $$', -6)):
            self.assertEqual(
                [(b'1\n', [0, 'UNKNOWN', '']),
                 (b'half\n', [status, 'UNKNOWN', 'error opening image'])],
                self.results('echo 1', failure + end, 'echo 3'))

    def test_closes_its_output_early(self) -> None:
        self.assertEqual(
            [(b'half\n', [3, 'UNKNOWN', 'error opening image'])],
            self.results('echo half; exec >&-; sleep 0.1; '
                         f'echo "{OPEN}" >&2; exit 3'))

    def test_prints_much_more_than_is_kept(self) -> None:
        refused = 'echo handle_auth_bad_method >&2; '
        for script, cause in (
            ('yes 0123456789 | head -c 1100000 >&2; ' + refused, 'REFUSED'),
            (refused + 'head -c 16384 /dev/zero >&2; ', 'UNKNOWN'),
        ):
            self.assertEqual(
                [(b'', [5, cause, 'error opening image'])],
                self.results(script + f'echo "{OPEN}" >&2; exit 5'))

    def test_caller_hangs_up(self) -> None:
        for script in ('exec cat /dev/zero', 'exec sleep 600',
                       'exec >&-; exec sleep 600',
                       "trap '' HUP INT TERM PIPE; exec sleep 600"):
            self.hang_up(script)

    def test_caller_hangs_up_on_children(self) -> None:
        self.hang_up('wait', first='sleep 600 & echo $!')

    def test_no_descriptors(self) -> None:
        """The caller finds the connection closed."""
        with mock.patch.object(
                nova.privsep.rbd.socket, 'socketpair',
                side_effect=OSError(errno.EMFILE, 'Too many open files')):
            connection = self.run_scripts('true')
            self.assertIsNone(self.receive(connection))
            self.side.join()

    def test_what_the_program_starts_with(self) -> None:
        secret = os.open(self.directory, os.O_RDONLY)
        self.addCleanup(os.close, secret)
        os.set_inheritable(secret, True)
        stdin = os.dup(0)
        self.addCleanup(os.close, stdin)
        self.addCleanup(os.dup2, stdin, 0)
        os.dup2(secret, 0)
        with mock.patch.dict(os.environ, {'CEPH_ARGS': '--conf /tmp/x'}):
            [(output, outcome)] = self.results(
                'umask; pwd; readlink /proc/$$/fd/0; ls /proc/$$/fd | xargs; '
                'cut -d " " -f 6 /proc/$$/stat; echo $$; echo $1; env')
        self.assertEqual([0, 'UNKNOWN', ''], outcome)
        umask, cwd, source, fds, session, pid, conf, *env = \
            output.decode().splitlines()
        self.assertEqual(('0077', '/', '/dev/null', pid),
                         (umask, cwd, source, session))
        self.assertEqual({'0', '1', '2', conf.rpartition('/')[2]},
                         set(fds.split()))
        known = {'PATH': '/usr/local/bin:/usr/bin:/bin',
                 'LC_ALL': 'C.UTF-8', 'PWD': '/'}
        self.assertLessEqual({f'{k}={v}' for k, v in known.items()}, set(env))
        self.assertLessEqual({line.split('=')[0] for line in env},
                             {*known, 'OLDPWD', 'SHLVL', '_'})

    def test_setpriv_is_missing(self) -> None:
        self.set('_rights', lambda _user, _owners: (0, ['setpriv']))
        self.set('_ENVIRONMENT', {'PATH': self.directory})
        self.assertEqual(
            [(b'', [2, 'NO_SETPRIV', ''])], self.results('true', 'true'))
        self.make_file('setpriv')
        self.assertEqual([(b'', [13, 'NO_SETPRIV', ''])],
                         self.results('true'))

    def test_no_process(self) -> None:
        for error, status in (
            (BlockingIOError(errno.EAGAIN, 'Resource unavailable'), 11),
            (OSError(errno.ENOMEM, 'Cannot allocate memory'), 12),
            (OSError('PermissionError'), 1),
        ):
            self.set('subprocess', mock.Mock(
                Popen=mock.Mock(side_effect=error)))
            self.assertEqual([(b'', [status, 'UNKNOWN', ''])],
                             self.results('true'))


class TestRealRights(ProgramsTestCase):
    """The programs run through setpriv and timeout."""

    STATUS = ("grep -E '^(Uid|Gid|Groups|Cap[IPEA]|NoNewPrivs)' "
              '/proc/self/status')

    def status(self) -> dict[str, list[str]]:
        [(output, outcome)] = self.results(self.STATUS)
        self.assertEqual([0, 'UNKNOWN', ''], outcome)
        return {name.strip(':'): values for name, *values in
                map(str.split, output.decode().splitlines())}

    def test_rights(self) -> None:
        for user, owner, ids, groups, capability in (
            (NOVA, 0, [UNUSED, UNUSED], [UNUSED], '0' * 15 + '4'),
            (NOVA, OTHER, NOVA[:2], NOVA[1:], '0' * 16),
            (ROOT, OTHER, [OTHER, UNUSED], [UNUSED], '0' * 16),
        ):
            self.user = user
            os.chown(self.conf, owner, 0)
            status = self.status()
            self.assertEqual(
                {'Uid': [str(ids[0])] * 4, 'Gid': [str(ids[1])] * 4,
                 'Groups': sorted(map(str, groups)), 'NoNewPrivs': ['1'],
                 **{name: [capability] for name in
                    ('CapInh', 'CapPrm', 'CapEff', 'CapAmb')}}, status)

    def test_priority(self) -> None:
        """Guests come first."""
        own = os.getpriority(os.PRIO_PROCESS, 0)
        self.assertEqual([(b'%d\n' % max(own, 10), [0, 'UNKNOWN', ''])],
                         self.results('nice'))
        self.assertEqual(own, os.getpriority(os.PRIO_PROCESS, 0))

    def test_reads_files_of_root_and_writes_none(self) -> None:
        pathlib.Path(self.conf).write_text('mine')
        [(output, outcome)] = self.results(
            f'cat "${{1#--conf=}}"; echo x > {self.conf}')
        self.assertEqual((b'mine', 2), (output, outcome[0]))

    def test_caller_hangs_up(self) -> None:
        for owner in (0, OTHER):
            os.chown(self.conf, owner, 0)
            for script in ('exec cat /dev/zero',
                           "trap '' HUP INT TERM PIPE; exec sleep 600"):
                self.hang_up(script)

    def test_limit(self) -> None:
        self.set('_LONGEST_RUN', 1)
        self.assertEqual(
            [(b'before\n', [124, 'UNKNOWN', ''])],
            self.results('echo before; exec sleep 600', 'echo after'))

    def test_missing_programs(self) -> None:
        folder = self.make_directory('bin')
        self.set('_ENVIRONMENT', {'PATH': folder, 'LC_ALL': 'C.UTF-8'})
        for name, cause in ((None, 'NO_SETPRIV'),
                            ('setpriv', 'NOT_INSTALLED'),
                            ('timeout', 'NOT_INSTALLED')):
            if name:
                program = shutil.which(name)
                assert program is not None, name
                os.symlink(program, os.path.join(folder, name))
            [(_output, outcome)] = self.results('true')
            self.assertEqual(cause, outcome[1])

    def test_old_setpriv(self) -> None:
        self.set('_rights', lambda _user, _owners: (
            0, ['setpriv', '--no-such-option']))
        self.assertEqual([(b'', [1, 'OLD_SETPRIV', ''])],
                         self.results('true'))

    def test_not_permitted(self) -> None:
        self.set('_rights', lambda _user, _owners: (0, [
            'setpriv', '--bounding-set=-setuid', 'setpriv', '--reuid=7']))
        [(_output, outcome)] = self.results('true')
        self.assertEqual('NOT_PERMITTED', outcome[1])
