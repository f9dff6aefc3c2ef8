# SPDX-License-Identifier: Apache-2.0

"""The boundary between an unprivileged service and the privileged side.

The service runs as Nova's user and starts the real daemon with sudo.
"""

from collections.abc import Callable
import contextlib
import hashlib
import os
import pathlib
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
from typing import Any

from lab import config
from lab import process
from lab import service as lab_service
from lab.tests.functional import base
from lab.tests.functional import service_base
from nova.image.rbd import diff
from nova.tests.unit.image.rbd import test_hostile_streams
import nova.tests.unit.privsep.test_rbd_errors

MIB = base.MIB
unit_errors = nova.tests.unit.privsep.test_rbd_errors
SECRET = 'hunter2hunter2hunter2hunter2'
IMAGE = '3d0cb5a1-56a5-4e51-a2f0-0b3a5d2b9e11'

BAD_NAMES = (
    '', '-', '--conf=/tmp/x', '-p', 'a/b', '/', 'a@b', '@', 'a\nb', 'a\0b',
    '\x7f', 'a' * 256, 'x' * 1_000_000)
ODD = (None, 7, 1.5, True, ['a'], {'a': 1})

#: Listens on a socket as another user, and prints what arrives there.
_LISTENER = """
import os, socket, sys
address, kind, uid = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
server = socket.socket(socket.AF_UNIX, kind)
server.bind(address)
os.chmod(address, 0o777)
os.setresuid(uid, uid, uid)
server.listen()
print('ready', flush=True)
while True:
    connection, _address = server.accept()
    print(socket.recv_fds(connection, 4096, 10)[:2], flush=True)
"""


class BoundaryTestCase(service_base.ServiceTestCase):
    def ask(self, *commands: str, **changes: Any) -> lab_service.Request:
        """Make the privileged call; by default for an export."""
        arguments = {
            'commands': commands or ('rbd export',), 'cluster': 0,
            'pool': 'images', 'image': IMAGE, 'snapshot': 'snap'}
        return self.service.ask('call', **arguments | changes)

    def run_one(self, *commands: str, **changes: Any) -> dict[str, Any]:
        """Make the call; return what came of its last program."""
        answer = self.ask(*commands, **changes).answer()
        self.assertIn('runs', answer, str(answer)[:500])
        return answer['runs'][-1] | {
            'uid': answer['uid'], 'step': answer['step']}

    def assert_refused(self, request: lab_service.Request, *kinds: str,
                       about: object = '') -> str:
        """Assert that the call raises one of these errors."""
        answer = request.answer()
        self.assertIn(answer.get('error'), kinds, repr((about, answer))[:900])
        self.assertLess(len(answer['message']), 500)
        self.assertNotIn(SECRET, str(answer))
        return answer['message']


class TestCaller(BoundaryTestCase):
    """The caller gives names; all else is in the daemon's nova.conf."""

    def test_refused(self):
        cases: list[tuple[str, Any]] = [
            ('commands', [value]) for value in (
                'rbd import', 'rbd rm', 'rbd export --path=/etc/x', 'rbd',
                'Rbd export', '', 'rbd bench', 'ceph auth get client.nova',
                'ceph', 'sh', None, 7, 'rbd export ')]
        cases += [('commands', value) for value in (
            'rbd export', 7, None, ['rbd export', 'sh'])]
        for name in ('pool', 'snapshot', 'image'):
            cases += [(name, value) for value in (*BAD_NAMES, *ODD)]
        cases += [('image', value) for value in (
            'volume-' + IMAGE, IMAGE + '_disk', IMAGE[:-1], IMAGE + '\n',
            '$id', 'images', IMAGE.replace('-', ''), '../' + IMAGE)]
        cases += [('cluster', value) for value in (
            1, -2, 99, '0', None, '/etc/ceph/ceph.conf', 1.5, [0])]
        # None of it is for the caller to say.
        cases += [(name, '/tmp/x') for name in (
            'conf', 'user', 'keyring', 'namespace', 'options', 'env',
            'connect_timeout', 'time_limit', 'fifo')]
        for name, value in cases:
            self.assert_refused(
                self.ask(**{name: value}), 'ValueError', 'TypeError',
                'KeyError', 'IndexError', 'AttributeError',
                about=(name, value))

    def test_pool_that_is_not_listed(self):
        image_id = self.upload(self.image, 'iso')
        self.configure(rbd_pool='volumes, other')
        for pool in ('images', 'volumes,', 'volumes, other', 'Other'):
            message = self.assert_refused(
                self.ask(pool=pool, image=image_id), 'ValueError')
            self.assertIn('Not allowed', message)
        self.configure(rbd_pool='other, images')
        self.assertEqual(
            0, self.run_one(image=image_id)['status'])

    def test_pool_without_rights(self):
        # The data of another tenant in the same cluster.
        ceph = self.cloud.ceph
        ceph.create_pool('volumes')
        path = self.files / 'volume'
        path.write_text(SECRET)
        ceph.rbd('import', '--path', path, '--pool', 'volumes', '--image',
                 IMAGE)
        ceph.rbd('snap', 'create', 'volumes/%s@snap' % IMAGE)
        for command in ('rbd export', 'rbd export-diff', 'rbd info'):
            ended = self.run_one(command, pool='volumes')
            self.assertEqual(1, ended['status'])
            self.assertNotIn(SECRET, str(ended))

    def test_client_is_the_one_of_nova_conf(self):
        """The environment of the service does not change it either."""
        image_id = self.upload(self.image, 'iso')
        with lab_service.Service(self.shared_host, prefix=(
                'env', 'CEPH_ARGS=--id admin --conf /tmp/x',
                'CEPH_CONF=/tmp/x', 'HOME=/tmp')) as service:
            arguments = {'commands': ['rbd export'], 'cluster': 0,
                         'pool': 'images', 'image': image_id,
                         'snapshot': 'snap'}
            [ended] = service.ask('call', **arguments).answer()['runs']
        self.assertEqual(0, ended['status'])
        self.configure(rbd_user='stranger')
        self.assertEqual('REFUSED', self.run_one(image=image_id)['cause'])

    def test_pools_and_snapshots_have_the_names_that_ceph_knows(self):
        """rbd treats unusual characters as part of a name."""
        ceph = self.cloud.ceph
        path = self.files / 'data'
        path.write_bytes(os.urandom(5000))
        spec = ('--pool', 'images', '--image', IMAGE)
        ceph.rbd('import', '--path', path, *spec)
        self.addCleanup(ceph.rbd, 'rm', *spec)
        for name in ('$HOME', 'a b', 'größe', 'a,b;c', '..', '%2F',
                     '`id` * "x\\', 'x' * 90):
            ceph.rbd('snap', 'create', *spec, '--snap', name)
            try:
                ended = self.run_one(snapshot=name)
            finally:
                ceph.rbd('snap', 'rm', *spec, '--snap', name)
            self.assertEqual(0, ended['status'], repr((name, ended)))
            self.assertEqual(hashlib.sha256(path.read_bytes()).hexdigest(),
                             ended['sha256'], name)

    def test_sudo_adds_no_option(self):
        """Another nova.conf cannot be given to the daemon."""
        allowed = [*self.shared_host._privsep_helper(), '--privsep_context',
                   'nova.privsep.sys_admin_pctxt', '--privsep_sock_path']
        for more in (['/tmp/x', '--config-file', '/tmp/evil'], ['/tmp/x y'],
                     []):
            command = self.shared_host.start('sudo', '-n', *allowed, *more)
            status, _out, err = command.wait(30)
            self.assertEqual((1, True), (status, 'a password is' in err), err)

    def test_several_programs(self):
        image_id = self.upload(self.image, 'iso')
        answer = self.ask('rbd info', 'rbd snap ls', 'rbd export',
                          'rbd info', image=image_id).answer()
        self.assertEqual([0] * 4, [one['status'] for one in answer['runs']])
        self.assertEqual(answer['runs'][0], answer['runs'][3])
        # A failure is the end.
        answer = self.ask('rbd info', 'rbd export').answer()
        self.assertEqual([2], [one['status'] for one in answer['runs']])


class TestListener(BoundaryTestCase):
    """The output goes to a socket of the service, and to nothing else."""

    def listen(self, uid: int, kind: socket.SocketKind) -> tuple[
            pathlib.Path, Callable[[], str]]:
        """Have another user listen.

        :returns: where, and what ends it and returns what has arrived
        """
        path = self.out('socket%d-%d' % (uid, kind))
        child = subprocess.Popen(
            [sys.executable, '-c', _LISTENER, path, str(int(kind)), str(uid)],
            stdout=subprocess.PIPE, text=True)
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        assert child.stdout is not None
        self.assertEqual('ready\n', child.stdout.readline())

        def end() -> str:
            child.kill()
            return child.communicate()[0]

        return path, end

    def test_other_users(self):
        for uid in (0, 12345):
            for kind in (socket.SOCK_SEQPACKET, socket.SOCK_STREAM):
                path, end = self.listen(uid, kind)
                self.assert_refused(
                    self.ask(address=str(path)), 'PermissionError', 'OSError',
                    about=(uid, kind))
                # Not a byte and no descriptor.
                self.assertIn(end(), ("(b'', [])\n", ''))

    def test_not_a_listener(self):
        directory = self.out().parent
        fifo, file = directory / 'fifo', self.files / 'precious'
        os.mkfifo(fifo)
        file.write_text(SECRET)
        before = os.stat(file)
        quiet = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.addCleanup(quiet.close)
        quiet.bind(str(directory / 'quiet'))
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        for address in (
            fifo, file, directory, directory / 'quiet', directory / 'new',
            '/dev/null', '/dev/stdout', '/proc/self/fd/1', '/etc/shadow',
            '/', '', 'socket', '\0abstract', 'a\0b', '/' + 'x' * 200,
            '/' + 'x' * 1_000_000, *ODD,
        ):
            if isinstance(address, pathlib.Path):
                address = str(address)
            if address is None:
                continue
            self.assert_refused(
                self.ask(address=address), 'OSError', 'PermissionError',
                'ConnectionRefusedError', 'FileNotFoundError', 'TypeError',
                'ValueError', 'NotADirectoryError', about=address)
        self.assertEqual(b'', os.read(reader, 1))
        self.assertEqual(
            (before.st_mtime_ns, SECRET),
            (os.stat(file).st_mtime_ns, file.read_text()))
        self.assertFalse((directory / 'new').exists())

    def test_exchanged_while_it_is_looked_at(self):
        """A path that is the service's socket, then that of root."""
        root, end = self.listen(0, socket.SOCK_SEQPACKET)
        own = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.addCleanup(own.close)
        own.bind(str(self.out('own')))
        path, over = self.out('path'), threading.Event()

        def exchange() -> None:
            while not over.is_set():
                for target in (root, self.out('own')):
                    spare = self.out('spare')
                    spare.symlink_to(target)
                    os.replace(spare, path)

        thread = threading.Thread(target=exchange)
        thread.start()
        try:
            for _number in range(100):
                self.assert_refused(
                    self.ask(address=str(path)), 'PermissionError',
                    'ConnectionRefusedError', 'FileNotFoundError')
        finally:
            over.set()
            thread.join()
        self.assertLessEqual(set(end().splitlines()), {"(b'', [])"})


class TestEnds(BoundaryTestCase):
    """A program lasts no longer than its reader."""

    def test_reader_is_gone(self):
        image_id = self.upload(self.large_image, 'iso')
        for command in ('rbd export', 'rbd export-diff'):
            with self.slow_osd():
                request = self.ask(command, image=image_id, limit=MIB)
                pid = self.rbd_pid(1)
                request.answer()
                self.assert_gone(pid)

    def test_reader_is_gone_before_a_byte_came(self):
        # rbd would wait for the OSD for two minutes.
        self.configure(rbd_connect_timeout=1, rbd_stall_timeout=2)
        image_id = self.upload(self.large_image, 'iso')
        with self.stopped(self.cloud.ceph.osd.pid):
            request = self.service.fetch(image_id, self.out())
            self.assert_gone(self.rbd_pid())
        self.assert_by_http('received from .* for 2 seconds', image_id,
                            request.fetched(), self.large_image)

    def test_program_ignores_signals(self):
        with self.program('trap "" TERM HUP INT PIPE; while :; do echo x; '
                          'sleep 0.1; done'):
            self.ask(limit=1).answer()
            self.assertTrue(process.wait_for(
                lambda: not self.shared_host.pids('sleep'), 10))

    def test_call_returns_at_once(self):
        """An export occupies no thread of the daemon."""
        image_id = self.upload(self.large_image, 'iso')
        self.configure(rbd_stall_timeout=60)
        with self.stopped(self.cloud.ceph.osd.pid):
            requests = [self.service.fetch(image_id, self.out(str(number)))
                        for number in range(5)]
            self.assertTrue(process.wait_for(
                lambda: len(self.shared_host.pids('rbd')) == 5, 60))
            path = str(self.shared_host.instances)
            self.service.ask('other_call', path=path).answer(10)
            self.assertFalse(any(request.done for request in requests))
        for request in requests:
            self.assert_same(self.large_image, request.fetched())
        self.assertEqual(0, self.cloud.glance.downloads(image_id))

    def assert_gone(self, pid: int) -> None:
        self.assertTrue(process.wait_for(
            lambda: not os.path.exists('/proc/%d' % pid), 10))


class TestSecrets(BoundaryTestCase):
    """Ceph quotes keys and damaged files; no quotation passes."""

    def setUp(self):
        super().setUp()
        [self.key] = re.findall(
            r'key = (\S+)', self.shared_host.keyring.read_text())

    def answers(
        self, service: lab_service.Service | None = None,
    ) -> list[dict[str, Any]]:
        """Have each kind of program run; return what it ends with."""
        found = []
        for command in ('rbd export', 'ceph fsid'):
            # ceph can exit before it has written its log, which has the
            # cause.
            for _attempt in range(5):
                [ended] = (service or self.service).ask(
                    'call', commands=[command], cluster=0, pool='images',
                    image=IMAGE, snapshot='snap').answer()['runs']
                if not ended['status'] or ended['cause'] != 'UNKNOWN':
                    break
            found.append(ended)
        return found

    def assert_not_leaked(self, secret: str, *where: object) -> None:
        """Assert that no eight characters in a row of it appear anywhere."""
        for text in map(str, where):
            for place in range(max(1, len(secret) - 7)):
                self.assertNotIn(secret[place:place + 8], text)

    def damaged(self) -> list[tuple[str, str]]:
        """Return keys that do not work, each with the expected cause."""
        new_key = unit_errors.NEW_KEY
        keys = [(new_key, 'NEW_KEY'), (unit_errors.KEY, 'REFUSED')]
        for place in (0, 1, 7, 20, len(self.key) - 3):
            changed = '!' if place != 7 else ' '
            keys.append((self.key[:place] + changed + self.key[place + 1:],
                         ''))
        keys += [(self.key[:-4], ''), ('AQ' + self.key, ''),
                 (new_key[:30] + '!' + new_key[31:], 'NEW_KEY'),
                 ('!' + new_key[1:], 'BAD_KEY'), (SECRET * 500, '')]
        return keys

    def check_keys(self, write: Callable[[str], object]) -> None:
        """Try each of these keys; write() has it used."""
        for key, cause in self.damaged():
            write(key)
            answers = self.answers()
            for answer in answers:
                self.assertIn(answer['cause'], (cause,) if cause else
                              ('BAD_KEY', 'BAD_KEYRING', 'REFUSED'), key)
                self.assertLess(0, answer['status'])
                self.assertIn(answer['phrases'],
                              ("couldn't connect to the cluster", ''))
            # Each half of a damaged key is still a secret.
            for part in (key, self.key, unit_errors.NEW_KEY):
                self.assert_not_leaked(part, answers)
        for part in (self.key, unit_errors.KEY, unit_errors.NEW_KEY, SECRET):
            self.assert_not_leaked(part, self.service.log.read_text())

    def test_keyring(self):
        self.check_keys(lambda key: self.write_keyring(
            f'[client.nova]\n\tkey = {key}\n'))

    def test_key_in_ceph_conf(self):
        self.check_keys(lambda key: self.write_ceph_conf(key=key))

    def test_key_file(self):
        path = self.shared_host.directory / 'keyfile'
        self.addCleanup(path.unlink, missing_ok=True)

        self.write_ceph_conf(keyfile=path)
        self.check_keys(lambda key: config.write(path, key + '\n', 0o600))

    def test_sections_of_ceph_conf(self):
        key = self.key[:20] + '!' + self.key[21:]
        for section in ('client', 'client.nova'):
            conf = self.write_ceph_conf()
            conf.write_text(conf.read_text() + f'[{section}]\nkey = {key}\n')
            answers = self.answers()
            self.assertEqual(['BAD_KEY'] * 2,
                             [answer['cause'] for answer in answers])
            self.assert_not_leaked(self.key, answers)

    def test_environment_of_the_service(self):
        """rbd and ceph ignore CEPH_ARGS of the service."""
        for expected in ((2, 'UNKNOWN'), (0, 'UNKNOWN')), (
                         (13, 'NO_KEYRING'), (13, 'NO_KEYRING')):
            for key in (self.key[:9] + '!' + self.key[10:],
                        unit_errors.NEW_KEY):
                with lab_service.Service(
                        self.shared_host,
                        prefix=('env', f'CEPH_ARGS=--key {key}')) as service:
                    answers = self.answers(service)
                    self.assertEqual(expected, tuple(
                        (answer['status'], answer['cause'])
                        for answer in answers))
                    self.assert_not_leaked(key, answers)
                self.assert_not_leaked(key, service.log.read_text())
            self.write_ceph_conf(keyring='/nowhere/keyring')

    def test_keyring_is_not_a_keyring(self):
        for text in (f'[client.nova]\n\tkey {self.key}\n',
                     f'[client.nova]\n\t{self.key}\n',
                     f'[client.nova]\n\tsecret = {self.key}\n',
                     f'[client.nova]\n\tkey = {self.key}\n\tkey = x\n',
                     f'[client.nova]\n\tkey = x\n[x]\n\tkey = {self.key}\n',
                     f'[{self.key}]\n\tkey = x\n', f'{self.key}\n' * 1000,
                     f'rbd: {self.key}\nrbd: {self.key[:12]}\n',
                     f'root:$6${self.key}:19000:0:99999:7:::\n'):
            self.write_keyring(text)
            answers = self.answers()
            for answer in answers:
                self.assertIn(answer['cause'],
                              ('BAD_KEY', 'BAD_KEYRING', 'REFUSED'), text)
            self.assert_not_leaked(self.key, answers)
        self.assert_not_leaked(self.key, self.service.log.read_text())

    def test_key_file_is_not_a_key_file(self):
        # Ceph prints whole lines of it, which look like rbd's error messages.
        path = self.shared_host.directory / 'keyfile'
        self.addCleanup(path.unlink, missing_ok=True)
        self.write_ceph_conf(keyfile=path)
        for text in (f'a: b\nrbd: {SECRET}\nc: d\n', f'rbd: {SECRET}!\n' * 9,
                     f"{SECRET}\nrbd: couldn't {SECRET}!\nx",
                     f'x\nrbd: hunter2: (2) {SECRET}\n', f'{SECRET}\n' * 2000):
            config.write(path, text, 0o600)
            answers = self.answers()
            for answer in answers:
                self.assertIn(answer['cause'], ('BAD_KEY', 'BAD_KEYRING'))
            self.assert_not_leaked(SECRET, answers)
            self.assertNotIn('hunter2', str(answers))

    def test_secret_file_as_ceph_conf(self):
        secret = self.shared_host.directory / 'secret'
        self.addCleanup(secret.unlink)
        self.configure(rbd_ceph_conf=secret)
        for text in (f'root:$6${SECRET}:19000:0:99999:7:::\n',
                     f'[client.nova]\n\tkey = {SECRET}\n', f'{SECRET}\n',
                     f'[{SECRET}\n', f'[global]\nx = "{SECRET}\n',
                     f'= {SECRET}\n', f'rbd: {SECRET}\n'):
            config.write(secret, text, 0o600)
            answers = self.answers()
            for answer in answers:
                self.assertNotEqual((0, ''),
                                    (answer['status'], answer['cause']))
            self.assert_not_leaked(SECRET, answers)
        self.assert_not_leaked(SECRET, self.service.log.read_text())

    def test_log_with_all_debug_output(self):
        """rbd fails while Ceph logs as much as it can."""
        self.write_ceph_conf(
            debug_ms=20, debug_auth=30, debug_monc=30, debug_rbd=20,
            log_to_stderr='true', err_to_stderr='true')
        exported, answer = self.answers()
        self.assertEqual((2, 0), (exported['status'], answer['status']))
        self.assertIn(exported['phrases'], ('error opening image', ''))
        self.assertEqual(self.cloud.ceph.fsid, answer['text'].strip())
        self.assert_not_leaked(self.key, exported, answer)

    def test_warning_of_a_download(self):
        image_id = self.upload(self.image, 'iso')
        for key, words in (
            (self.key[:20] + '!' + self.key[21:], 'the key cannot be decoded'),
            (unit_errors.NEW_KEY, 'too old for it, or the key is damaged'),
        ):
            self.write_ceph_conf(key=key)
            fetched = self.fetch(image_id)
            self.assert_by_http(words, image_id, fetched)
            self.assert_not_leaked(key, fetched.log)
            self.assert_not_leaked(self.key, fetched.log)
        self.assert_not_leaked(self.key, self.service.log.read_text())


class TestChild(BoundaryTestCase):
    """The environment of a program, and its rights."""

    PROBE = """
        id -u; id -G; pwd
        grep -E '^(Cap|NoNewPrivs|Umask)' /proc/self/status
        env; ls -l /proc/self/fd
        cat {secret} 2>&1
        (echo no > {file}) 2>&1; rm -f {file} 2>&1; mkdir {folder}/new 2>&1
        kill -0 {daemon} 2>&1; mount -t tmpfs x /mnt 2>&1; chown 0 {file} 2>&1
        head -c1 /dev/mem 2>&1; true"""

    def setUp(self):
        super().setUp()
        self.folder = self.shared_host.directory / 'roots'
        self.folder.mkdir(mode=0o777)
        self.addCleanup(shutil.rmtree, self.folder)
        # Readable for everybody, writable for root, as most of /etc is.
        self.file = config.write(self.folder / 'file', 'precious')
        self.secret = config.write(self.folder / 'secret', SECRET, 0o600)
        self.folder.chmod(0o755)

    def probe(self) -> tuple[str, dict[str, str]]:
        """Run a program in place of rbd; return its output, and parts."""
        # There is one from now on.
        self.run_one('rbd info')
        [daemon] = self.daemons()
        with self.program(self.PROBE.format(
                secret=self.secret, file=self.file, folder=self.folder,
                daemon=daemon)):
            [ended] = self.ask().answer()['runs']
        self.assertEqual(0, ended['status'])
        self.assertEqual('precious', self.file.read_text())
        self.assertEqual({'file', 'secret'}, set(os.listdir(self.folder)))
        status = os.stat(self.file)
        self.assertEqual((0, 0o644), (status.st_uid, status.st_mode & 0o777))
        lines = ended['text'].splitlines()
        self.assertEqual('/', lines[2])
        found = dict(re.findall(r'^(\w+):\s+(\S+)$', ended['text'], re.M))
        self.assertEqual('1', found['NoNewPrivs'])
        self.assertEqual('0077', found['Umask'])
        self.assertEqual({'PATH', 'LC_ALL'}, set(re.findall(
            '^([A-Z_]+)=', ended['text'], re.M)) - {'PWD', 'OLDPWD', '_'})
        # Those of ls: one more for the directory, and one for ceph.conf if
        # it is handed over.
        descriptors = re.findall(r' (\d+) -> (/dev/null|[a-z]+:)',
                                 ended['text'])
        self.assertEqual([('0', '/dev/null'), ('1', 'socket:'),
                          ('2', 'pipe:')], descriptors)
        return ended['text'], found

    def test_only_root_can_change_ceph_conf(self):
        text, found = self.probe()
        self.assertEqual(['65533', '65533'], text.splitlines()[:2])
        # To read any file is one right; there is no other.
        for name in ('CapInh', 'CapPrm', 'CapEff', 'CapAmb'):
            self.assertEqual(1 << 2, int(found[name], 16), name)
        self.assertIn(SECRET, text)

    def test_others_can_change_ceph_conf(self):
        account = self.shared_host.account
        conf = self.write_ceph_conf()
        os.chown(conf, account.uid, account.gid)
        text, found = self.probe()
        self.assertEqual([str(account.uid), str(account.gid)],
                         text.splitlines()[:2])
        for name in ('CapInh', 'CapPrm', 'CapEff', 'CapAmb'):
            self.assertEqual(0, int(found[name], 16), name)
        self.assertNotIn(SECRET, text)

    def test_it_writes_no_log(self):
        target = self.files / 'log'
        target.touch()
        target.chmod(0o666)
        self.files.chmod(0o777)
        self.write_ceph_conf(
            log_file=target, log_to_file='true', debug_rados='20',
            admin_socket=self.files / 'socket')
        image_id = self.upload(self.image, 'iso')
        for command in ('rbd export', 'rbd info', 'ceph fsid',
                        'ceph-conf --show-config-value=fsid'):
            ended = self.run_one(command, image=image_id)
            self.assertEqual(0, ended['status'])
        self.assertEqual('', target.read_text())
        self.assertEqual([target], list(self.files.iterdir()))

    def test_it_runs_no_hook(self):
        self.files.chmod(0o777)
        hook = config.write(
            self.files / 'hook', '#!/bin/sh\ntouch %s/ran\n' % self.files,
            0o755)
        self.write_ceph_conf(crush_location_hook=hook)
        image_id = self.upload(self.image, 'iso')
        self.assertEqual(0, self.run_one(image=image_id)['status'])
        self.assertEqual([hook], list(self.files.iterdir()))

    def test_it_loads_no_plugin_that_the_monitors_name(self):
        image_id = self.upload(self.image, 'iso')
        ceph = self.cloud.ceph.ceph
        for name, value in (('plugin_dir', self.files), ('rbd_plugins', 'x')):
            ceph('config', 'set', 'client.nova', name, value)
            self.addCleanup(ceph, 'config', 'rm', 'client.nova', name)
        # Without the plugin, rbd cannot open an image.
        self.assertEqual(0, self.run_one(image=image_id)['status'])

    def test_descriptors_of_the_daemon(self):
        image_id = self.upload(self.large_image, 'iso')
        with self.slow_osd():
            request = self.ask(image=image_id)
            pid = self.rbd_pid(1)
            [daemon] = self.daemons()
            ours, inherited = self.sockets(pid), self.sockets(daemon)
            request.answer()
        # Of the sockets of the daemon, it has the one for its output.
        self.assertEqual(1, len(ours & inherited))
        self.assertLess(1, len(inherited))

    @staticmethod
    def sockets(pid: int) -> set[str]:
        found = set()
        for entry in pathlib.Path('/proc/%d/fd' % pid).iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.add(os.readlink(entry))
        return {target for target in found if target.startswith('socket:')}


class TestStreams(BoundaryTestCase):
    """The decoder and rbd agree on real streams."""

    def test_against_import_diff(self):
        ceph, rng = self.cloud.ceph, random.Random(16)
        for number in range(3):
            size = rng.randrange(1, 48 * MIB)
            source = self.files / 'source'
            with open(source, 'wb') as file:
                file.truncate(size)
                for _extent in range(rng.randrange(6)):
                    offset = rng.randrange(size)
                    file.seek(offset)
                    file.write(rng.randbytes(
                        min(size - offset, rng.randrange(1, 6 * MIB))))
            name = 'source-%d' % number
            spec = ['--pool', 'images', '--image', name]
            ceph.rbd('import', '--path', source, *spec)
            if number % 2:
                # A discard makes a hole.
                ceph.rbd('resize', *spec, '--size', '1M', '--allow-shrink')
                ceph.rbd('resize', *spec, '--size', '32M')
            ceph.rbd('snap', 'create', *spec, '--snap', 'snap')
            diff, out = self.files / 'diff', self.files / 'out'
            for path in (diff, out):
                path.unlink(missing_ok=True)
            ceph.rbd('export-diff', *spec, '--snap', 'snap', '--path', diff)
            ceph.rbd('create', 'images/copy', '--size', '1M')
            ceph.rbd('import-diff', '--path', diff, 'images/copy')
            ceph.rbd('export', 'images/copy@snap', '--path', out)
            for made in ('copy', name):
                ceph.rbd('snap', 'purge', 'images/' + made)
                ceph.rbd('rm', 'images/' + made)
            self.assertEqual(self.digest(out.read_bytes()),
                             self.decoded(diff.read_bytes()), str(number))

    def decoded(self, content: bytes) -> tuple[int, str]:
        stream = memoryview(content)

        def readinto(buffer: memoryview) -> int:
            nonlocal stream
            count = min(len(buffer), len(stream), 100_003)
            buffer[:count] = stream[:count]
            stream = stream[count:]
            return count

        decoder = diff.Decoder(readinto, 'snap')
        found = []
        for offset, length in decoder.extents():
            extent = bytearray(length)
            view = memoryview(extent)
            while view:
                view = view[decoder.readinto(view):]
            found.append((offset, bytes(extent)))
        self.assertEqual(
            (decoder.size, found),
            test_hostile_streams.naive_decode(content))
        assert decoder.size is not None
        image = bytearray(decoder.size)
        for offset, data in found:
            image[offset:offset + len(data)] = data
        return self.digest(bytes(image))

    @staticmethod
    def digest(data: bytes) -> tuple[int, str]:
        return len(data), hashlib.sha256(data).hexdigest()
