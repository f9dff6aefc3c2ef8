# SPDX-License-Identifier: Apache-2.0

"""What an unprivileged service can have the privileged side do: one thing.

The service is the real one's user, the daemon the real daemon, by sudo.
"""

import contextlib
import hashlib
import itertools
import os
import pathlib
import random
import socket
import threading
from typing import Any

from nova.image import rbd_diff
from nova.tests.functional.image_rbd import base
from nova.tests.functional.image_rbd import service_base
from nova.tests.lab import config
from nova.tests.lab import service as lab_service
from nova.tests.unit.image import test_hostile_streams
import nova.tests.unit.privsep.test_rbd

MIB = base.MIB
unit = nova.tests.unit.privsep.test_rbd
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
            **changes}

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

    def test_secret_file_as_ceph_conf(self):
        secret = self.shared_host.directory / 'secret'
        self.addCleanup(secret.unlink)
        for text in (f'root:$6${SECRET}:19000:0:99999:7:::\n',
                     f'[client.nova]\n\tkey = {SECRET}\n', f'{SECRET}\n',
                     f'[{SECRET}\n', f'[global]\nx = "{SECRET}\n',
                     f'= {SECRET}\n'):
            config.write(secret, text, 0o600)
            with self.reader() as content:
                answer = self.ask(conf=str(secret)).answer()
            self.assertNotEqual(0, answer.get('status'))
            self.assertNotIn(SECRET, str(answer) + str(bytes(content)))
        self.assertNotIn(SECRET, self.service.log.read_text())

    def test_what_is_in_a_damaged_keyring_is_not_told(self):
        # rbd says it, as root; nobody else must get to know.
        for text in (f'[client.nova]\n\tkey = {SECRET}\n',
                     f'[client.nova]\n\tkey {SECRET}\n',
                     f'[client.nova]\n\tsecret = {SECRET}\n',
                     f'[client.nova]\n\tkey = {SECRET * 500}\n',
                     f'[{SECRET}]\n\tkey = x\n'):
            self.write_keyring(text)
            conf = self.shared_host.directory / 'other.conf'
            with self.reader():
                answer = self.ask(conf=str(conf)).answer()
            self.assertEqual(5, answer['status'])
            self.assertIn("couldn't connect", answer['said'])
            self.assertNotIn(SECRET, str(answer))
            if SECRET * 2 not in text:
                self.assertIn('error parsing file', answer['said'])
        self.assertNotIn(SECRET, self.service.log.read_text())

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
