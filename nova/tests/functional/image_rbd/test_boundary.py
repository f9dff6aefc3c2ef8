# SPDX-License-Identifier: Apache-2.0

"""What an unprivileged service can have the privileged side do: one thing.

The service is the real one's user, the daemon the real daemon, by sudo.
"""

from collections.abc import Callable
import contextlib
import hashlib
import itertools
import os
import pathlib
import random
import re
import socket
import threading
from typing import Any

from nova.image import rbd_diff
from nova.tests.functional.image_rbd import base
from nova.tests.functional.image_rbd import service_base
from nova.tests.lab import config
from nova.tests.lab import process
from nova.tests.lab import service as lab_service
from nova.tests.unit.image import test_hostile_streams
import nova.tests.unit.privsep.test_rbd
import nova.tests.unit.privsep.test_rbd_errors

MIB = base.MIB
unit = nova.tests.unit.privsep.test_rbd
unit_errors = nova.tests.unit.privsep.test_rbd_errors
SECRET = 'hunter2hunter2hunter2hunter2'


class BoundaryTestCase(service_base.ServiceTestCase):
    def setUp(self):
        super().setUp()
        self.directory = self.out().parent
        self.fifo = self.directory / 'fifo'
        os.mkfifo(self.fifo)
        os.chown(self.fifo, self.shared_host.account.uid, -1)

    def arguments(self, **changes: Any) -> dict[str, Any]:
        return {
            'command': 'export', 'conf': str(self.shared_host.ceph_conf),
            'user': 'nova', 'pool': 'images', 'image': 'none',
            'snapshot': 'snap', 'connect_timeout': 2, 'stall_timeout': 5,
            'verified': True, **changes}

    def ask(self, fifo: Any = None, **changes: Any) -> lab_service.Request:
        """Make the privileged call."""
        return self.service.ask(
            'export', fifo=str(self.fifo) if fifo is None else fifo,
            **self.arguments(**changes))

    @contextlib.contextmanager
    def reader(self):
        """Have somebody read the FIFO; give what was read."""
        content = bytearray()
        fd = os.open(self.fifo, os.O_RDONLY | os.O_NONBLOCK)
        keep = os.open(self.fifo, os.O_WRONLY)
        os.set_blocking(fd, True)

        def read() -> None:
            while data := os.read(fd, MIB):
                content.extend(data)

        thread = threading.Thread(target=read)
        thread.start()
        try:
            yield content
        finally:
            os.close(keep)
            thread.join()
            os.close(fd)


class TestPaths(BoundaryTestCase):
    """Only into a FIFO that somebody reads."""

    def test_refused(self):
        root_file = self.files / 'precious'
        root_file.write_text(SECRET)
        root_file.chmod(0o600)
        own_file = self.directory / 'file'
        own_file.write_text(SECRET)
        for name, target in (
            ('link', own_file), ('root link', root_file),
            ('shadow', '/etc/shadow'), ('fifo link', self.fifo),
            ('nowhere', self.directory / 'new'), ('null', '/dev/null'),
        ):
            (self.directory / name).symlink_to(target)
        server = socket.socket(socket.AF_UNIX)
        self.addCleanup(server.close)
        server.bind(str(self.directory / 'socket'))
        before = self.state(root_file), self.listing()
        with self.reader() as content:
            paths: tuple[Any, ...] = (
                *map(str, self.directory.iterdir()), str(root_file),
                str(self.directory), '/dev/null', '/dev/full', '/dev/tty',
                '/', '/etc/shadow', '/proc/self/fd/1', '/dev/stdout',
                '/proc/sysrq-trigger', str(self.directory / 'new'),
                str(self.directory / 'new' / 'er'), 'fifo', './fifo', '',
                '-', str(self.directory) + '/../downloads/fifo',
                str(self.fifo) + '/', str(self.fifo) + '\0', '/' + 'x' * 5000,
                '/' + 'x' * 1_000_000, 1, [str(self.fifo)], 1.5, {},
                True)
            for path in paths:
                if path == str(self.fifo):
                    continue
                answer = self.ask(path).answer()
                self.assertIn('error', answer, repr(path))
                self.assertIn(answer['error'], (
                    'ValueError', 'FileNotFoundError', 'OSError'), repr(path))
                self.assertLess(len(answer['message']), 400)
                self.assertNotIn(SECRET, str(answer))
        self.assertEqual(b'', content)
        self.assertEqual(before, (self.state(root_file), self.listing()))
        self.assertEqual(SECRET, root_file.read_text())

    def listing(self) -> list[tuple[Any, ...]]:
        return [self.state(path) for path in sorted(self.directory.iterdir())]

    @staticmethod
    def state(path: pathlib.Path) -> tuple[Any, ...]:
        status = os.lstat(path)
        return (path, status.st_ino, status.st_mode, status.st_size,
                status.st_uid, status.st_mtime_ns)

    def test_nobody_reads(self):
        answer = self.ask().answer(20)
        self.assertEqual('OSError', answer['error'])
        self.assertIn('No such device or address', answer['message'])
        self.assertLess(answer['seconds'], 5 + service_base.SLACK)

    def test_exchanged_while_it_is_looked_at(self):
        precious = self.directory / 'precious'
        precious.write_text(SECRET)
        before = self.state(precious)
        over = threading.Event()

        def exchange() -> None:
            for number in itertools.count():
                if over.is_set():
                    return
                spare = self.directory / 'spare'
                match number % 3:
                    case 0:
                        os.mkfifo(spare)
                    case 1:
                        spare.symlink_to(precious)
                    case 2:
                        spare.hardlink_to(precious)
                os.replace(spare, self.fifo)

        thread = threading.Thread(target=exchange)
        thread.start()
        try:
            requests = [self.ask() for _number in range(100)]
            outcomes = {request.answer().get('error')
                        for request in requests}
        finally:
            over.set()
            thread.join()
        self.assertLessEqual(
            outcomes, {'ValueError', 'OSError', 'FileNotFoundError'})
        self.assertIn('ValueError', outcomes)
        after = self.state(precious)
        self.assertEqual((before[1], before[3:]), (after[1], after[3:]))
        self.assertEqual(SECRET, precious.read_text())


class TestArguments(BoundaryTestCase):
    """Plain names and numbers, and nothing is run for anything else."""

    def test_refused(self):
        cases: list[tuple[str, Any]] = [
            ('command', value) for value in
            ('import', 'rm', 'export --path /etc/x', 'Export', '', None, 7,
             'bench', '--help', ['export'])]
        names = [value for value in unit.BAD_NAMES
                 if not isinstance(value, bytes) and value != '\udcff']
        odd = [['a'], {'a': 1}, 1.5, True, 'x' * 1_000_000]
        for name in ('pool', 'image', 'snapshot', 'user'):
            cases += [(name, value) for value in names + odd
                      if (name, value) != ('user', '')]
        cases += [('user', value) for value in unit.BAD_USERS]
        cases += [('conf', value) for value in
                  (*unit.BAD_PATHS, *unit.BAD_CONFS, *odd)
                  if not isinstance(value, bytes)]
        for name in ('connect_timeout', 'stall_timeout', 'time_limit'):
            cases += [(name, value) for value in unit.BAD_SECONDS
                      if value != float('inf')]
        cases += [('verified', value) for value in (1, 0, '', 'yes', None)]
        cases += [('namespace', 'x'), ('options', ['--keyring', '/x']),
                  ('env', {'CEPH_ARGS': '--conf /tmp/x'})]
        with self.reader() as content:
            for name, value in cases:
                answer = self.ask(**{name: value}).answer()
                self.assertIn(answer.get('error'),
                              ('ValueError', 'TypeError'),
                              repr((name, value)))
                self.assertLess(len(answer['message']), 400)
        self.assertEqual(b'', content)

    def test_ceph_conf_is_not_roots(self):
        own = self.directory / 'ceph.conf'
        link = self.directory / 'link.conf'
        config.write(own, self.shared_host.ceph_conf.read_text())
        link.symlink_to(self.shared_host.ceph_conf)
        with self.reader() as content:
            for change in (lambda: os.chown(own, 65534, -1),
                           lambda: os.chown(own, 0, -1),
                           lambda: own.chmod(0o666)):
                change()
                for path in (own, link):
                    answer = self.ask(conf=str(path)).answer()
                    self.assertEqual('ValueError', answer['error'])
                    self.assertIn('must belong to root', answer['message'])
        self.assertEqual(b'', content)

    def test_pool_without_rights(self):
        # What another tenant keeps in the same cluster.
        ceph = self.cloud.ceph
        ceph.create_pool('volumes')
        path = self.files / 'volume'
        path.write_text(SECRET)
        ceph.rbd('import', '--path', path, '--pool', 'volumes', '--image',
                 'volume-1')
        ceph.rbd('snap', 'create', 'volumes/volume-1@snap')
        for changes in ({'pool': 'volumes', 'image': 'volume-1'},
                        {'image': 'volumes'}, {'image': 'volume-1'}):
            with self.reader() as content:
                answer = self.ask(**changes).answer()
            self.assertIn(answer['status'], (1, 2))
            self.assertNotIn(SECRET.encode(), content)

    def test_names_are_those_that_ceph_knows(self):
        """As odd as they may be, to rbd they are just names."""
        ceph = self.cloud.ceph
        path = self.files / 'data'
        for number, name in enumerate((
            '$HOME', 'a b', 'größe', 'a,b;c', '..', '%2F', '`id` * "x\\',
            'x' * 90,
        )):
            path.write_bytes(os.urandom(5000 + number))
            ceph.rbd('import', '--path', path, '--pool', 'images',
                     '--image', name)
            ceph.rbd('snap', 'create', '--pool', 'images', '--image', name,
                     '--snap', name)
            try:
                with self.reader() as content:
                    answer = self.ask(image=name, snapshot=name).answer()
            finally:
                ceph.rbd('snap', 'rm', '--pool', 'images', '--image', name,
                         '--snap', name)
                ceph.rbd('rm', '--pool', 'images', '--image', name)
            self.assertEqual(0, answer.get('status'), repr((name, answer)))
            self.assertEqual(path.read_bytes(), content, name)


class TestSecrets(BoundaryTestCase):
    """Ceph quotes keys and damaged files; no quotation passes."""

    def setUp(self):
        super().setUp()
        [self.key] = re.findall(
            r'key = (\S+)', self.shared_host.keyring.read_text())

    def answers(
        self, conf: pathlib.Path, service: lab_service.Service | None = None,
    ) -> list[dict[str, Any]]:
        """Make both privileged calls; return what they return."""
        ask = (service or self.service).ask
        with self.reader() as content:
            exported = ask('export', fifo=str(self.fifo),
                           **self.arguments(conf=str(conf))).answer()
        answer = ask('fsid', conf=str(conf), user='nova',
                     connect_timeout=2).answer()
        self.assertEqual(b'', content)
        return [exported, answer]

    def assert_not_leaked(self, secret: str, *where: object) -> None:
        """Assert that no eight characters in a row of it appear anywhere."""
        for text in map(str, where):
            for place in range(max(1, len(secret) - 7)):
                self.assertNotIn(secret[place:place + 8], text)

    def damaged(self) -> list[tuple[str, str]]:
        """Return keys that do not work, each with the expected cause."""
        new_key = unit_errors.NEW_KEY
        keys = [(new_key, 'new-key'), (unit_errors.KEY, 'refused')]
        for place in (0, 1, 7, 20, len(self.key) - 3):
            changed = '!' if place != 7 else ' '
            keys.append((self.key[:place] + changed + self.key[place + 1:],
                         ''))
        keys += [(self.key[:-4], ''), ('AQ' + self.key, ''),
                 (new_key[:30] + '!' + new_key[31:], 'new-key'),
                 ('!' + new_key[1:], 'bad-key'), (SECRET * 500, '')]
        return keys

    def check_keys(self, write: Callable[[str], pathlib.Path]) -> None:
        """Try each of these keys; write() returns the path of ceph.conf."""
        for key, cause in self.damaged():
            answers = self.answers(write(key))
            for answer in answers:
                self.assertIn(answer['cause'], (cause,) if cause else
                              ('bad-key', 'bad-keyring', 'refused'), key)
                self.assertLess(0, answer['status'])
            # rbd's sentence is dropped where Ceph's log is written into it.
            self.assertIn(answers[0]['said'],
                          ("rbd: couldn't connect to the cluster!", ''))
            self.assertEqual('', answers[1]['said'])
            # Each half of a damaged key is still a secret.
            for part in (key, self.key, unit_errors.NEW_KEY):
                self.assert_not_leaked(part, answers)
        for part in (self.key, unit_errors.KEY, unit_errors.NEW_KEY, SECRET):
            self.assert_not_leaked(part, self.service.log.read_text())

    @property
    def conf(self) -> pathlib.Path:
        return self.shared_host.directory / 'other.conf'

    def test_keyring(self):
        def write(key: str) -> pathlib.Path:
            self.write_keyring(f'[client.nova]\n\tkey = {key}\n')
            return self.conf

        self.check_keys(write)

    def test_key_in_ceph_conf(self):
        self.check_keys(lambda key: self.write_ceph_conf(key=key))

    def test_key_file(self):
        path = self.shared_host.directory / 'keyfile'
        self.addCleanup(path.unlink, missing_ok=True)

        def write(key: str) -> pathlib.Path:
            config.write(path, key + '\n', 0o600)
            return self.write_ceph_conf(keyfile=path)

        self.check_keys(write)

    def test_sections_of_ceph_conf(self):
        key = self.key[:20] + '!' + self.key[21:]
        for section in ('client', 'client.nova'):
            conf = self.write_ceph_conf()
            conf.write_text(conf.read_text() + f'[{section}]\nkey = {key}\n')
            answers = self.answers(conf)
            self.assertEqual(['bad-key'] * 2,
                             [answer['cause'] for answer in answers])
            self.assert_not_leaked(self.key, answers)

    def test_environment_of_the_service(self):
        """rbd and ceph ignore CEPH_ARGS of the service."""
        missing = self.write_ceph_conf(keyring='/nowhere/keyring')
        for key in (self.key[:9] + '!' + self.key[10:], unit_errors.NEW_KEY):
            with lab_service.Service(
                    self.shared_host,
                    prefix=('env', f'CEPH_ARGS=--key {key}')) as service:
                for conf, status, cause in (
                    (self.shared_host.ceph_conf, [2, 0], ''),
                    (missing, [13, 13], 'no-keyring'),
                ):
                    answers = self.answers(conf, service)
                    self.assertEqual(
                        (status, [cause] * 2),
                        ([answer['status'] for answer in answers],
                         [answer['cause'] for answer in answers]))
                    self.assert_not_leaked(key, answers)
            self.assert_not_leaked(key, service.log.read_text())
            self.assertTrue(process.wait_for(
                lambda: len(self.daemons()) == 1, 10))

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
            answers = self.answers(self.conf)
            for answer in answers:
                self.assertIn(answer['cause'],
                              ('bad-key', 'bad-keyring', 'refused'), text)
            self.assert_not_leaked(self.key, answers)
        self.assert_not_leaked(self.key, self.service.log.read_text())

    def test_key_file_is_not_a_key_file(self):
        # Ceph prints whole lines of it, which look like rbd's error messages.
        path = self.shared_host.directory / 'keyfile'
        self.addCleanup(path.unlink, missing_ok=True)
        conf = self.write_ceph_conf(keyfile=path)
        for text in (f'a: b\nrbd: {SECRET}\nc: d\n', f'rbd: {SECRET}!\n' * 9,
                     f"{SECRET}\nrbd: couldn't {SECRET}!\nx",
                     f'x\nrbd: hunter2: (2) {SECRET}\n', f'{SECRET}\n' * 2000):
            config.write(path, text, 0o600)
            answers = self.answers(conf)
            for answer in answers:
                self.assertIn(answer['cause'], ('bad-key', 'bad-keyring'))
            self.assert_not_leaked(SECRET, answers)
            self.assertNotIn('hunter2', str(answers))

    def test_secret_file_as_ceph_conf(self):
        secret = self.shared_host.directory / 'secret'
        self.addCleanup(secret.unlink)
        for text in (f'root:$6${SECRET}:19000:0:99999:7:::\n',
                     f'[client.nova]\n\tkey = {SECRET}\n', f'{SECRET}\n',
                     f'[{SECRET}\n', f'[global]\nx = "{SECRET}\n',
                     f'= {SECRET}\n', f'rbd: {SECRET}\n'):
            config.write(secret, text, 0o600)
            answers = self.answers(secret)
            for answer in answers:
                self.assertNotEqual((0, ''),
                                    (answer['status'], answer['cause']))
            self.assert_not_leaked(SECRET, answers)
        self.assert_not_leaked(SECRET, self.service.log.read_text())

    def test_log_with_all_debug_output(self):
        """rbd fails while Ceph logs as much as it can."""
        conf = self.write_ceph_conf(
            debug_ms=20, debug_auth=30, debug_monc=30, debug_rbd=20,
            log_to_stderr='true', err_to_stderr='true')
        exported, answer = self.answers(conf)
        self.assertEqual((2, 0), (exported['status'], answer['status']))
        self.assertLessEqual(
            {exported['said']},
            {'', 'rbd: error opening image none: (2) No such file or '
                 'directory'})
        self.assertEqual(self.cloud.ceph.fsid, answer['said'])
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
    """What rbd starts with, and what it may do."""

    def test_what_it_starts_with(self):
        image_id = self.upload(self.large_image, 'iso')
        with self.slow_osd(), self.reader() as content:
            request = self.ask(image=image_id)
            pid = self.rbd_pid(1)
            proc = pathlib.Path('/proc/%d' % pid)
            status = dict(
                line.split(':', 1) for line in
                (proc / 'status').read_text().splitlines())
            environment = (proc / 'environ').read_bytes().split(b'\0')
            [daemon] = self.daemons()
            descriptors, inherited = self.sockets(pid), self.sockets(daemon)
            standard = [os.readlink(proc / 'fd' / str(number))
                        for number in range(3)]
            folder = os.readlink(proc / 'cwd')
            self.assertEqual(0, request.answer()['status'])
        self.assertEqual(self.large_image.stat().st_size, len(content))
        # Reading any file is one right; there is no other.
        for name in ('CapPrm', 'CapEff', 'CapBnd'):
            self.assertEqual(1 << 2, int(status[name], 16), name)
        for name in ('CapInh', 'CapAmb'):
            self.assertEqual(0, int(status[name], 16), name)
        self.assertEqual('1', status['NoNewPrivs'].strip())
        self.assertEqual('0077', status['Umask'].strip())
        self.assertEqual('/', folder)
        self.assertEqual(
            {b'PATH', b'LC_ALL'},
            {entry.partition(b'=')[0] for entry in environment if entry})
        self.assertEqual(['/dev/null', str(self.fifo)], standard[:2])
        self.assertTrue(standard[2].startswith('pipe:'), standard)
        self.assertTrue(inherited)
        self.assertEqual(set(), descriptors & inherited)

    @staticmethod
    def sockets(pid: int) -> set[str]:
        found = set()
        for entry in pathlib.Path('/proc/%d/fd' % pid).iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.add(os.readlink(entry))
        return {target for target in found if target.startswith('socket:')}

    def test_it_cannot_write(self):
        """Root's right to write anywhere is not among its rights."""
        target = self.files / 'log'
        target.write_text('')
        target.chmod(0o600)
        os.chown(target, 12345, 12345)
        self.write_ceph_conf(
            log_file=target, log_to_file='true', debug_rados='20',
            admin_socket=self.directory / 'socket')
        conf = self.shared_host.directory / 'other.conf'
        image_id = self.upload(self.image, 'iso')
        with self.reader():
            answer = self.ask(image=image_id, conf=str(conf)).answer()
        self.assertEqual(0, answer['status'])
        self.assertEqual('', target.read_text())
        self.assertEqual([self.fifo], list(self.directory.iterdir()))


class TestStreams(BoundaryTestCase):
    """What our decoder makes of real streams, and what rbd makes of them."""

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
                # What is discarded is a hole again.
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

        decoder = rbd_diff.Decoder(readinto, 'snap')
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
