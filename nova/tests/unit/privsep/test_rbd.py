# SPDX-License-Identifier: Apache-2.0

"""The privileged half of a direct download, with a shell in place of rbd.

The real thing runs in the privsep daemon, which is never patched by eventlet.
"""

from collections.abc import Callable
import errno
import os
import pathlib
import shutil
import signal
import stat
import time
import typing as ty
from unittest import mock

import fixtures

from nova.image import transfer
import nova.privsep.rbd
import nova.privsep.rbd_errors
from nova import test
from nova.tests import fixtures as nova_fixtures
from nova.tests.unit.image import test_transfer

rbd_errors = nova.privsep.rbd_errors

ARGUMENTS: dict[str, ty.Any] = {
    'command': 'export', 'conf': '/etc/ceph/ceph.conf', 'user': 'nova',
    'pool': 'images', 'image': 'cafe', 'snapshot': 'snap',
    'connect_timeout': 5, 'stall_timeout': 60,
}
#: Arguments of a verified export.
EXPORT = ARGUMENTS | {'verified': True}
NOTHING_SAID = 0, '', ''
GONE = -9, rbd_errors.Cause.READER_GONE, ''
FSID = 'c0ffee00-0000-4000-8000-00000000cafe'
SENTENCE = 'rbd: error opening image: (5) Input/output error'
BAD_NAMES = (
    '', None, 7, b'images', '-', '--conf=/tmp/x', '-p', 'a/b', '/', 'a@b',
    '@', 'a\nb', 'a\0b', '\x7f', 'a\u200bb', 'a\u202eb', '\udcff', 'a' * 256,
)
BAD_PATHS = (
    '', None, 7, b'/etc/ceph.conf', 'ceph.conf', './ceph.conf', '-',
    '/etc/../etc/ceph.conf', '/etc//ceph.conf', '/etc/ceph/', '/etc/./x',
    '/etc/ceph\n.conf', '/etc/\0',
)
# To Ceph these are several files, or a path of its own making.
BAD_CONFS = ('/etc/a.conf,/tmp/b', '/etc/a.conf;/tmp/b', '/etc/a /tmp/b',
             '/etc/$name.conf')
BAD_USERS = ('nova,other', 'nova;x', 'a b', '$pid', '$name')
#: Each is refused, in few words.
ENORMOUS = ('x' * 10_000_000, b'x' * 10_000_000, ['x'] * 1_000_000,
            '/' + 'x' * 10_000_000, 10 ** 3000)
BAD_SECONDS = (0, -1, 24 * 60 * 60 + 1, 1.5, '5', None, True, float('inf'))


class NativeFixture(fixtures.Fixture):
    """Has the module work as in the daemon, also in a patched process."""

    def _setUp(self) -> None:
        for name in ('os', 'select', 'subprocess', 'time'):
            self.useFixture(fixtures.MockPatchObject(
                nova.privsep.rbd, name, transfer.native(name)))


class Reader:
    """Reads a FIFO in a thread of its own, until its end."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self.content = b''
        self._most: int | None = None
        self._native = transfer.native('os')
        self._thread = transfer.native('threading').Thread(target=self._read)

    def start(self, hang_up_after: int | None = None) -> 'Reader':
        """Start reading, up to so many bytes if told so."""
        self._most = hang_up_after
        self._thread.start()
        return self

    def close(self) -> bytes:
        """Wait for the end; return all there was."""
        self._thread.join()
        return self.content

    def _read(self) -> None:
        poller = transfer.native('select').poll()
        poller.register(self._fd)
        # As long as there was no writer poll(2) waits, even for POLLHUP.
        while self._most is None or len(self.content) < self._most:
            poller.poll(60_000)
            chunk = self._native.read(self._fd, 65536)
            if not chunk:
                break
            self.content += chunk
        self._native.close(self._fd)


class PrivsepRbdTestCase(test.NoDBTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.useFixture(nova_fixtures.PrivsepFixture())
        self.useFixture(NativeFixture())
        self.useFixture(test_transfer.LeakCheck())
        self.directory = self.useFixture(fixtures.TempDir()).path
        self.fifo = os.path.join(self.directory, 'stream')
        os.mkfifo(self.fifo)

    def set(self, name: str, new: object) -> None:
        self.useFixture(
            fixtures.MockPatchObject(nova.privsep.rbd, name, new))


class TestNames(test.NoDBTestCase):
    def test_good(self) -> None:
        for name in ('images', 'a', 'a' * 255, 'glance-images.ssd_1', '.mgr',
                     'c0ffee00-0000-4000-8000-00000000cafe', 'a b', 'a%2Fb',
                     'größe', 'a-', 'a,b', '\\', "'", '$HOME', '*'):
            self.assertEqual(
                name, nova.privsep.rbd.check_name('pool', name))

    def test_bad(self) -> None:
        for name in BAD_NAMES:
            error = self.assertRaises(
                ValueError, nova.privsep.rbd.check_name, 'the pool', name)
            self.assertIn('the pool', str(error))
            # The error goes to a log: it must not break lines there.
            self.assertTrue(str(error).isprintable(), repr(name))


class TestCommandLine(test.NoDBTestCase):
    def command_line(self, **changes: ty.Any) -> list[str]:
        return nova.privsep.rbd._command_line(**(ARGUMENTS | changes))

    def test_all_of_it(self) -> None:
        for command in ('export', 'export-diff'):
            self.assertEqual(
                ['setpriv', '--no-new-privs', '--pdeathsig', 'KILL',
                 '--inh-caps=-all',
                 '--bounding-set=-all,+dac_read_search', '--',
                 'rbd', command, '--conf', '/etc/ceph/ceph.conf',
                 '--pool', 'images', '--image', 'cafe', '--id', 'nova',
                 '--client-mount-timeout', '5',
                 '--rados-mon-op-timeout', '5',
                 '--rados-osd-op-timeout', '3840',
                 '--admin-socket=', '--log-file=', '--log-to-file=false',
                 '--snap', 'snap', '--path', '-', '--no-progress'],
                self.command_line(command=command))

    def test_without_user(self) -> None:
        self.assertNotIn('--id', self.command_line(user=''))

    def test_bad_values(self) -> None:
        cases: list[tuple[str, ty.Any]] = [
            ('command', command) for command in
            ('import', 'rm', 'export --x', 'Export', '', None, 'ls')]
        for name in ('pool', 'image', 'snapshot'):
            cases += [(name, value) for value in BAD_NAMES]
        cases += [('user', value) for value in BAD_NAMES + BAD_USERS
                  if value != '']
        cases += [('conf', value) for value in BAD_PATHS + BAD_CONFS]
        for name in ('connect_timeout', 'stall_timeout'):
            cases += [(name, value) for value in BAD_SECONDS]
        for name, value in cases:
            error = self.assertRaises(
                ValueError, self.command_line, **{name: value})
            self.assertTrue(str(error).isprintable(), repr(value))

    def test_longest_times(self) -> None:
        line = self.command_line(connect_timeout=1, stall_timeout=86400)
        self.assertIn('1', line)
        self.assertIn('86400', line)

    def test_enormous_values(self) -> None:
        for name in ARGUMENTS:
            for value in ENORMOUS:
                error = self.assertRaises(
                    ValueError, self.command_line, **{name: value})
                self.assertLess(len(str(error)), 300)


class TestOpenFifo(PrivsepRbdTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.set('_OPEN_SECONDS', 0.1)

    def test_refused(self) -> None:
        other = os.path.join(self.directory, 'other')
        pathlib.Path(other).write_bytes(b'precious')
        link = os.path.join(self.directory, 'link')
        os.symlink(other, link)
        fifo_link = os.path.join(self.directory, 'fifo link')
        os.symlink(self.fifo, fifo_link)
        # With a reader at its end, or else it would be refused for that.
        reader = os.open(self.fifo, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        for path in (other, link, fifo_link, self.directory, '/dev/null'):
            self.assertRaisesRegex(
                ValueError, 'not a FIFO', nova.privsep.rbd._open_fifo, path)
        self.assertEqual(b'precious', pathlib.Path(other).read_bytes())

    def test_missing_is_not_made(self) -> None:
        os.unlink(self.fifo)
        self.assertRaises(
            FileNotFoundError, nova.privsep.rbd._open_fifo, self.fifo)
        self.assertEqual([], os.listdir(self.directory))

    def test_nobody_reads(self) -> None:
        error = self.assertRaises(
            OSError, nova.privsep.rbd._open_fifo, self.fifo)
        self.assertEqual(errno.ENXIO, error.errno)

    def test_reader_comes_late(self) -> None:
        self.set('_OPEN_SECONDS', 60)
        readers: list[int] = []

        def pause(_seconds: float) -> None:
            readers.append(os.open(self.fifo, os.O_RDONLY | os.O_NONBLOCK))

        with mock.patch.object(nova.privsep.rbd.time, 'sleep', pause):
            fd = nova.privsep.rbd._open_fifo(self.fifo)
        self.addCleanup(os.close, readers[0])
        self.addCleanup(os.close, fd)
        self.assertEqual(1, len(readers))
        self.assertTrue(stat.S_ISFIFO(os.fstat(fd).st_mode))
        self.assertTrue(os.get_blocking(fd))
        self.assertFalse(os.get_inheritable(fd))

    def test_exchanged_for_a_file_at_the_last_moment(self) -> None:
        def exchange(
            replace: Callable[[], object],
        ) -> Callable[[str, int], int]:
            real = os.open

            def late(path: str, flags: int) -> int:
                os.unlink(path)
                replace()
                self.assertFalse(flags & (os.O_CREAT | os.O_TRUNC))
                return real(path, flags)

            return late

        other = os.path.join(self.directory, 'other')
        pathlib.Path(other).write_bytes(b'precious')
        for replace, error in (
            (lambda: os.link(other, self.fifo), ValueError),
            (lambda: os.symlink(other, self.fifo), OSError),
            (lambda: None, FileNotFoundError),
        ):
            with (mock.patch.object(
                      nova.privsep.rbd.os, 'open', exchange(replace)),
                  mock.patch.object(nova.privsep.rbd.time, 'sleep') as sleep):
                self.assertRaises(
                    error, nova.privsep.rbd._open_fifo, self.fifo)
            # Only for a reader it is worth waiting.
            sleep.assert_not_called()
            self.assertEqual(b'precious', pathlib.Path(other).read_bytes())
            if os.path.lexists(self.fifo):
                os.unlink(self.fifo)
            os.mkfifo(self.fifo)


class TestCephConf(PrivsepRbdTestCase):
    """It can name libraries for rbd to load, so it has to be root's."""

    def test_roots(self) -> None:
        for path in ('/etc/passwd', '/'):
            nova.privsep.rbd._check_roots_own(path)

    def test_others_can_write(self) -> None:
        conf = os.path.join(self.directory, 'ceph.conf')
        pathlib.Path(conf).touch()
        for mode in (0o666, 0o664, 0o662):
            os.chmod(conf, mode)
            self.assertRaisesRegex(
                ValueError, 'must belong to root',
                nova.privsep.rbd._check_roots_own, conf)

    def test_others_can_write_to_its_directory(self) -> None:
        self.set('os', mock.Mock(
            wraps=nova.privsep.rbd.os, path=os.path,
            lstat=lambda path: mock.Mock(
                st_uid=0,
                st_mode={'/': 0o40755, '/open': 0o40777,
                         '/tmp': 0o41777}.get(path, 0o100644))))
        nova.privsep.rbd._check_roots_own('/tmp/ceph.conf')
        self.assertRaisesRegex(
            ValueError, '/open must belong to root',
            nova.privsep.rbd._check_roots_own, '/open/ceph.conf')

    def test_owner_is_somebody_else(self) -> None:
        self.set('os', mock.Mock(
            wraps=nova.privsep.rbd.os, path=os.path,
            lstat=lambda path: mock.Mock(
                st_uid=42 if path == '/home/nova' else 0,
                st_mode=0o40755)))
        self.assertRaisesRegex(
            ValueError, '/home/nova must belong to root',
            nova.privsep.rbd._check_roots_own, '/home/nova/ceph.conf')

    def test_link_to_a_file_of_another_user(self) -> None:
        """The link itself, and the directories above it, are root's."""
        home = os.path.join(os.path.realpath(self.directory), 'home')
        os.mkdir(home)
        link = os.path.join(self.directory, 'ceph.conf')
        os.symlink(os.path.join(home, 'ceph.conf'), link)
        self.set('os', mock.Mock(
            wraps=nova.privsep.rbd.os, path=os.path,
            lstat=lambda path: mock.Mock(
                st_uid=42 if path == home else 0, st_mode=0o40755)))
        self.assertRaisesRegex(
            ValueError, f'{home} must belong to root',
            nova.privsep.rbd._check_roots_own, link)

    def test_nothing_is_run(self) -> None:
        conf = os.path.join(self.directory, 'ceph.conf')
        pathlib.Path(conf).touch()
        os.chmod(conf, 0o666)
        with mock.patch.object(nova.privsep.rbd, '_Child') as child:
            self.assertRaises(
                ValueError, nova.privsep.rbd.export, self.fifo,
                **(EXPORT | {'conf': conf}))
        child.assert_not_called()

    def test_missing(self) -> None:
        self.assertRaises(
            FileNotFoundError, nova.privsep.rbd._check_roots_own,
            os.path.join(self.directory, 'ceph.conf'))


class TestExport(PrivsepRbdTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.useFixture(fixtures.MockPatchObject(
            nova.privsep.rbd, '_check_roots_own'))

    def export(
        self, script: str, reader: Reader | None = None, **changes: ty.Any,
    ) -> rbd_errors.Outcome:
        """Export, with a shell script in the place of rbd."""
        with mock.patch.object(
                nova.privsep.rbd, '_command_line',
                return_value=['sh', '-c', script]):
            try:
                return nova.privsep.rbd.export(
                    self.fifo, **(EXPORT | changes))
            finally:
                if reader is not None:
                    reader.close()

    def reader(self, hang_up_after: int | None = None) -> Reader:
        return Reader(self.fifo).start(hang_up_after)

    def test_output_arrives(self) -> None:
        reader = self.reader()
        self.assertEqual(NOTHING_SAID, self.export('echo some bytes', reader))
        self.assertEqual(b'some bytes\n', reader.content)

    def test_more_than_the_pipe_holds(self) -> None:
        reader = self.reader()
        self.assertEqual(
            NOTHING_SAID, self.export('head -c 3000000 /dev/zero', reader))
        self.assertEqual(3_000_000, reader.content.count(0))
        self.assertEqual(3_000_000, len(reader.content))

    def test_nothing_to_write(self) -> None:
        reader = self.reader()
        self.assertEqual(NOTHING_SAID, self.export('true', reader))
        self.assertEqual(b'', reader.content)

    def test_status_and_what_it_said(self) -> None:
        reader = self.reader()
        self.assertEqual(
            (2, '', SENTENCE), self.export(
                f'echo half; echo "{SENTENCE}" >&2; exit 2', reader))
        self.assertEqual(b'half\n', reader.content)

    def test_success_returns_no_messages(self) -> None:
        self.assertEqual(NOTHING_SAID, self.export(
            f'echo "{SENTENCE}" >&2', self.reader()))

    def test_died_of_a_signal(self) -> None:
        self.assertEqual(
            (-6, '', SENTENCE), self.export(
                f'echo "{SENTENCE}" >&2; kill -ABRT $$', self.reader()))

    def test_says_very_much(self) -> None:
        self.assertEqual(
            (5, rbd_errors.Cause.REFUSED, SENTENCE), self.export(
                'yes 0123456789 | head -c 1100000 >&2; '
                'echo 2026 handle_auth_bad_method >&2; '
                f'echo "{SENTENCE}" >&2; exit 5', self.reader()))

    def test_says_what_is_in_a_keyring(self) -> None:
        key = 'AQBsecretSECRETsecretSECRETsecretSECRETse=='
        self.assertEqual(
            (5, rbd_errors.Cause.BAD_KEY, SENTENCE), self.export(
                f'echo "auth: failed to decode key \'{key}\'" >&2; '
                f'echo "rbd: no such key {key}, sorry" >&2; '
                f'echo "{SENTENCE}" >&2; exit 5', self.reader()))

    def test_names_of_the_caller_pass(self) -> None:
        pool = 'glanceimagesofthefastcluster'
        line = f"rbd: error opening pool '{pool}': (5) Input/output error"
        script = f'echo "{line}" >&2; exit 5'
        self.assertEqual(
            (5, '', line), self.export(script, self.reader(), pool=pool))

    def test_unknown_name_does_not_pass(self) -> None:
        line = 'rbd: error glanceimagesofthefast: (5) Input/output error'
        self.assertEqual((5, '', ''), self.export(
            f'echo "{line}" >&2; exit 5', self.reader()))

    def test_says_one_line_longer_than_is_kept(self) -> None:
        # The beginning of the line is lost, so its end could be anything.
        self.assertEqual((5, '', ''), self.export(
            f'head -c 16384 /dev/zero | tr "\\0" S >&2; echo "{SENTENCE}" '
            '>&2; exit 5', self.reader()))

    def test_cut_at_the_beginning_of_a_message(self) -> None:
        # The last 16 KiB are kept. They begin with the end of a line, which
        # looks like a complete error message.
        filler = 16384 - len(SENTENCE) - 1
        for before, said in (('', SENTENCE), ('x', '')):
            self.assertEqual((5, '', said), self.export(
                f'printf "%s%s\\n" "{before}" "{SENTENCE}" >&2; '
                f'head -c {filler} /dev/zero | tr "\\0" S >&2; exit 5',
                self.reader()), before)

    def test_says_what_is_no_text(self) -> None:
        self.assertEqual(
            (5, '', SENTENCE), self.export(
                "printf 'rbd: a\\377b: (5) Input/output error\\n' >&2; "
                f'echo "{SENTENCE}" >&2; exit 5', self.reader()))

    def test_closes_stderr_early(self) -> None:
        reader = self.reader()
        real = nova.privsep.rbd._Child._read_stderr
        calls = []

        def count(child: nova.privsep.rbd._Child) -> bool:
            calls.append(child)
            return real(child)

        with mock.patch.object(
                nova.privsep.rbd._Child, '_read_stderr', count):
            self.assertEqual(
                (3, '', SENTENCE), self.export(
                    f'echo "{SENTENCE}" >&2; exec 2>&-; sleep 0.2; exit 3',
                    reader))
        # To look at a closed pipe over and over would cost a whole CPU.
        self.assertLess(len(calls), 10)

    def test_a_grandchild_keeps_stderr_open(self) -> None:
        reader = self.reader()
        outcome = self.export(
            f'sleep 600 >&2 & echo $!; echo "{SENTENCE}" >&2; exit 3')
        self.assertEqual((3, '', SENTENCE), outcome)
        os.kill(int(reader.close()), 9)

    def test_program_is_not_there(self) -> None:
        reader = self.reader()
        with mock.patch.object(
                nova.privsep.rbd, '_command_line',
                return_value=['/no/such/program']):
            self.assertRaises(FileNotFoundError, nova.privsep.rbd.export,
                              self.fifo, **EXPORT)
        self.assertEqual(b'', reader.close())

    def test_rbd_is_not_installed(self) -> None:
        reader = self.reader()
        empty = os.path.join(self.directory, 'bin')
        os.mkdir(empty)
        setpriv = shutil.which(
            'setpriv', path=nova.privsep.rbd.ENVIRONMENT['PATH'])
        assert setpriv is not None, 'util-linux is missing'
        os.symlink(setpriv, os.path.join(empty, 'setpriv'))
        self.set('ENVIRONMENT', {'PATH': empty})
        line = ['setpriv', '--pdeathsig', 'KILL', '--', 'rbd', 'export']
        with mock.patch.object(nova.privsep.rbd, '_command_line',
                               return_value=line):
            outcome = nova.privsep.rbd.export(self.fifo, **EXPORT)
        reader.close()
        self.assertEqual((127, rbd_errors.Cause.NOT_RUN, ''), outcome)

    def test_reader_hangs_up_on_a_child_that_writes(self) -> None:
        reader = self.reader(hang_up_after=10)
        outcome = self.export('exec cat /dev/zero', reader)
        # By whichever comes first: its own SIGPIPE, or ours.
        self.assertIn(outcome[0], (-13, -9))
        self.assertEqual('', outcome[2])

    def test_reader_hangs_up_on_a_child_that_does_not_write(self) -> None:
        reader = self.reader(hang_up_after=1)
        self.assertEqual(
            GONE, self.export('echo $$; exec sleep 600', reader))
        # Gone, and not a zombie either.
        self.assertRaises(ProcessLookupError, os.kill, int(reader.content), 0)

    def test_hangs_in_the_kernel(self) -> None:
        # There no signal reaches it, which a test cannot have.
        self.set('_KILLED_SECONDS', 0.1)
        reader = self.reader(hang_up_after=1)
        with mock.patch.object(nova.privsep.rbd.os, 'killpg') as killpg:
            outcome = self.export('echo $$; exec sleep 600', reader)
        pid = int(reader.content)
        killpg.assert_called_once_with(pid, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        self.assertEqual((-9, rbd_errors.Cause.STUCK, ''), outcome)

    def test_its_children_are_killed_with_it(self) -> None:
        reader = self.reader(hang_up_after=1)
        self.export('sleep 600 & echo $!; wait', reader)
        self._wait_until_dead(int(reader.content))

    def test_reader_hangs_up_on_a_child_that_ignores_signals(self) -> None:
        reader = self.reader(hang_up_after=1)
        outcome = self.export(
            "trap '' HUP INT TERM PIPE; echo $$; while :; do sleep 1; done",
            reader)
        self.assertEqual(GONE, outcome)

    def test_time_is_up(self) -> None:
        reader = self.reader()
        outcome = self.export(
            f'echo before; echo "{SENTENCE}" >&2; exec sleep 600', reader,
            time_limit=1)
        self.assertEqual(
            (-9, rbd_errors.Cause.TOO_LONG, SENTENCE), outcome)
        self.assertEqual(b'before\n', reader.content)

    def test_watching_fails(self) -> None:
        reader = self.reader(hang_up_after=1)
        with mock.patch.object(
                nova.privsep.rbd._Child, '_read_stderr',
                side_effect=OSError(errno.EIO, 'stderr')):
            self.assertRaisesRegex(
                OSError, 'stderr', self.export,
                'echo $$; echo >&2; exec sleep 600', reader)
        self.assertRaises(ProcessLookupError, os.kill, int(reader.content), 0)

    def test_bad_values_run_nothing(self) -> None:
        with mock.patch.object(nova.privsep.rbd, '_Child') as child:
            for name, value in (
                ('pool', 'a/b'), ('image', '-x'), ('snapshot', 'a@b'),
                ('user', '../x'), ('conf', 'x'), ('command', 'rm'),
                ('connect_timeout', 0), ('stall_timeout', '60'),
                ('time_limit', 0), ('time_limit', 86401),
                ('verified', 1), ('verified', None), ('verified', 'yes'),
            ):
                self.assertRaises(
                    ValueError, nova.privsep.rbd.export, self.fifo,
                    **(EXPORT | {name: value}))
            for path in BAD_PATHS:
                self.assertRaises(
                    ValueError, nova.privsep.rbd.export, path, **EXPORT)
            child.assert_not_called()

    def test_a_file_is_never_touched(self) -> None:
        os.unlink(self.fifo)
        self.assertRaises(FileNotFoundError, self.export, 'echo x')
        self.assertEqual([], os.listdir(self.directory))
        pathlib.Path(self.fifo).write_bytes(b'precious')
        before = os.stat(self.fifo)
        self.assertRaises(ValueError, self.export, 'echo x')
        self.assertEqual(b'precious', pathlib.Path(self.fifo).read_bytes())
        after = os.stat(self.fifo)
        self.assertEqual((before.st_ino, before.st_mtime_ns, before.st_mode),
                         (after.st_ino, after.st_mtime_ns, after.st_mode))

    def test_what_the_child_starts_with(self) -> None:
        """A known environment, and no more descriptors than it needs."""
        secret = os.open(self.directory, os.O_RDONLY)
        self.addCleanup(os.close, secret)
        os.set_inheritable(secret, True)
        reader = self.reader()
        with mock.patch.dict(os.environ, {'CEPH_ARGS': '--conf /tmp/x'}):
            self.export('umask; pwd; env; readlink /proc/$$/fd/0; '
                        'ls /proc/$$/fd; cut -d " " -f 6 /proc/$$/stat; '
                        'echo $$', reader)
        lines = reader.content.decode().split('\n')
        self.assertEqual(['0077', '/'], lines[:2])
        self.assertIn('/dev/null', lines)
        known = {'PATH', 'LC_ALL', 'PWD', 'OLDPWD', 'SHLVL', '_'}
        names = {line.split('=')[0] for line in lines if '=' in line}
        self.assertEqual(set(), names - known)
        fds = [line for line in lines if line in map(str, range(100))]
        self.assertEqual(['0', '1', '2'], fds)
        # A session of its own: it can be killed as a whole.
        self.assertEqual(lines[-2], lines[-3])

    def _wait_until_dead(self, pid: int) -> None:
        """Its new parent may take a moment to bury it."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                state = pathlib.Path('/proc/%d/stat' % pid).read_text()
            except (FileNotFoundError, ProcessLookupError):
                return
            if state.rpartition(')')[2].split()[0] == 'Z':
                return
            time.sleep(0.01)
        self.fail('%d is still there' % pid)


class TestUnverified(PrivsepRbdTestCase):
    """An export fails if the snapshot disappears during it."""

    BEFORE = ('{"block_name_prefix": "rbd_data.1"}',
              '[{"name": "other", "id": 3}, {"name": "snap", "id": 4}]')

    def setUp(self) -> None:
        super().setUp()
        self.useFixture(fixtures.MockPatchObject(
            nova.privsep.rbd, '_check_roots_own'))
        # A shell script replaces the program that runs rbd.
        self.program = pathlib.Path(self.directory, 'setpriv')
        self.set('_CONFINED', (str(self.program),))

    def answer(self, info: str, snapshots: str) -> None:
        """Set the answers of ``rbd info`` and ``rbd snap ls``."""
        for name, text in (('info', info), ('snap', snapshots)):
            pathlib.Path(self.directory, name).write_text(text)

    def export(
        self, script: str = 'echo bytes', after: tuple[str, str] = BEFORE,
        **changes: ty.Any,
    ) -> rbd_errors.Outcome:
        """Export; Ceph's answers change during the export."""
        for name, text in zip(('info', 'snap'), after):
            pathlib.Path(self.directory, f'{name}.new').write_text(text)
        self.program.write_text(
            '#!/bin/sh\n'
            f'cd {self.directory}; echo "$*" >> commands; shift\n'
            'case $1 in\n'
            'export*) ' + script + '; status=$?\n'
            'for name in info snap; do mv $name.new $name; done\n'
            'exit $status;;\n'
            '*) [ -s $1 ] || { echo "' + SENTENCE + '" >&2; exit 5; }\n'
            'cat $1;;\n'
            'esac\n')
        self.program.chmod(0o755)
        reader = Reader(self.fifo).start()
        try:
            return nova.privsep.rbd.export(
                self.fifo, **(EXPORT | {'verified': False} | changes))
        finally:
            self.content = reader.close()

    def commands(self) -> list[str]:
        """Return the commands that were run, without their options."""
        path = pathlib.Path(self.directory, 'commands')
        text = path.read_text() if path.exists() else ''
        return [line.partition(' --')[0] for line in text.splitlines()]

    def test_undisturbed(self) -> None:
        for command in ('export', 'export-diff'):
            self.answer(*self.BEFORE)
            self.assertEqual(NOTHING_SAID, self.export(command=command))
            self.assertEqual(b'bytes\n', self.content)
            self.assertEqual(
                ['rbd info', 'rbd snap ls', f'rbd {command}', 'rbd info',
                 'rbd snap ls'], self.commands()[-5:])

    def test_verified_export_needs_no_lookup(self) -> None:
        self.assertEqual(NOTHING_SAID, self.export(verified=True))
        self.assertEqual(['rbd export'], self.commands())

    def test_lookup_commands(self) -> None:
        self.answer(*self.BEFORE)
        self.export()
        info, listing = pathlib.Path(
            self.directory, 'commands').read_text().splitlines()[:2]
        options = (
            ' --conf /etc/ceph/ceph.conf --pool images --image cafe '
            '--id nova --client-mount-timeout 5 --rados-mon-op-timeout 5 '
            '--rados-osd-op-timeout 3840 --admin-socket= --log-file= '
            '--log-to-file=false --format json')
        self.assertEqual(('rbd info' + options, 'rbd snap ls' + options),
                         (info, listing))

    def test_snapshot_deleted_or_replaced(self) -> None:
        info, listing = self.BEFORE
        for after in (
            (info, '[]'), (info, '[{"name": "other", "id": 4}]'),
            (info, '[{"name": "snap", "id": 5}]'),
            ('{"block_name_prefix": "rbd_data.2"}', listing),
            (info, 'null'), (info, '{}'), (info, '[null]'), (info, '['),
            ('{}', listing), ('[]', listing), ('x', listing),
            (info, '[{"name": "snap", "id": 4}, {"name": "snap", "id": 4}]'),
        ):
            self.answer(*self.BEFORE)
            self.assertEqual(
                (0, rbd_errors.Cause.SNAPSHOT_LOST, ''),
                self.export(after=after), str(after))
            self.assertEqual(b'bytes\n', self.content)

    def test_lookup_fails_after_the_export(self) -> None:
        info, listing = self.BEFORE
        for after in (('', listing), (info, '')):
            self.answer(*self.BEFORE)
            self.assertEqual(
                (5, rbd_errors.Cause.SNAPSHOT_LOST, SENTENCE),
                self.export(after=after))

    def test_nothing_to_compare_with(self) -> None:
        # Both lookups agree, but neither finds the snapshot.
        for info, listing in (('{}', '[]'), (self.BEFORE[0], '[]'),
                              ('{}', self.BEFORE[1])):
            self.answer(info, listing)
            self.assertEqual(
                (0, rbd_errors.Cause.SNAPSHOT_LOST, ''),
                self.export(after=(info, listing)))

    def test_lookup_fails_before_the_export(self) -> None:
        info, listing = self.BEFORE
        for before, ran in ((('', listing), 1), ((info, ''), 2)):
            self.answer(*before)
            pathlib.Path(self.directory, 'commands').unlink(missing_ok=True)
            self.assertEqual((5, '', SENTENCE), self.export())
            self.assertEqual(ran, len(self.commands()))
            self.assertEqual(b'', self.content)

    def test_export_fails(self) -> None:
        self.answer(*self.BEFORE)
        self.assertEqual(
            (5, '', SENTENCE),
            self.export(f'(echo "{SENTENCE}" >&2; exit 5)'))
        self.assertEqual(3, len(self.commands()))

    def test_long_answer(self) -> None:
        # The answer is longer than the buffer of a pipe.
        many = ','.join('{"name": "s%d", "id": %d}' % (number, number)
                        for number in range(10, 5000))
        answer = self.BEFORE[0], '[%s,{"name":"snap","id":4}]' % many
        self.answer(*answer)
        self.assertEqual(NOTHING_SAID, self.export(after=answer))

    def test_reader_closes_during_the_lookup(self) -> None:
        self.answer(*self.BEFORE)
        self.program.write_text(
            f'#!/bin/sh\necho >{self.fifo}; exec sleep 600\n')
        self.program.chmod(0o755)
        reader = Reader(self.fifo).start(hang_up_after=1)
        self.assertEqual(GONE, nova.privsep.rbd.export(
            self.fifo, **(EXPORT | {'verified': False})))
        reader.close()

    def test_time_limit_during_the_lookup(self) -> None:
        self.answer(*self.BEFORE)
        self.program.write_text('#!/bin/sh\nexec sleep 600\n')
        self.program.chmod(0o755)
        reader = Reader(self.fifo).start()
        self.assertEqual(
            (-9, rbd_errors.Cause.TOO_LONG, ''), nova.privsep.rbd.export(
                self.fifo, time_limit=1, **(EXPORT | {'verified': False})))
        reader.close()


class TestFsid(PrivsepRbdTestCase):
    """The other thing that a cluster can be asked for."""

    def setUp(self) -> None:
        super().setUp()
        self.conf = self.useFixture(fixtures.MockPatchObject(
            nova.privsep.rbd, '_check_roots_own')).mock
        # A shell script in the place of what would run ceph.
        self.program = pathlib.Path(self.directory, 'setpriv')

    def fsid(self, script: str = '', **changes: ty.Any) -> rbd_errors.Outcome:
        self.program.write_text('#!/bin/sh\n' + script)
        self.program.chmod(0o755)
        self.set('_CONFINED', (str(self.program),))
        return nova.privsep.rbd.fsid(**{
            'conf': '/etc/ceph/ceph.conf', 'user': 'nova',
            'connect_timeout': 5, **changes})

    def test_answer(self) -> None:
        self.assertEqual((0, '', FSID), self.fsid(f'echo {FSID}'))
        self.conf.assert_called_once_with('/etc/ceph/ceph.conf')

    def test_answer_is_not_an_fsid(self) -> None:
        for answer in ('hunter2', '', FSID + 'x', f'{FSID} {FSID}',
                       "$(printf '\\377')"):
            self.assertEqual((0, rbd_errors.Cause.NO_FSID, ''),
                             self.fsid(f'echo "{answer}"'))

    def output_of(self, script: str, **changes: ty.Any) -> str:
        """Return the output of a script that runs in place of ceph."""
        path = pathlib.Path(self.directory, 'output')
        self.assertEqual((0, '', FSID), self.fsid(
            f'({script}) > {path}; echo {FSID}', **changes))
        return path.read_text()

    def test_what_is_run(self) -> None:
        self.assertEqual(
            'ceph --conf /etc/ceph/ceph.conf --id nova '
            '--connect-timeout 5 --admin-socket= --log-file= '
            '--log-to-file=false fsid\n', self.output_of('echo "$@"'))
        self.assertEqual(
            'ceph --conf /etc/ceph/ceph.conf --connect-timeout 5 '
            '--admin-socket= --log-file= --log-to-file=false fsid\n',
            self.output_of('echo "$@"', user=''))

    def test_confined(self) -> None:
        self.assertEqual(
            ('setpriv', '--no-new-privs', '--pdeathsig', 'KILL',
             '--inh-caps=-all', '--bounding-set=-all,+dac_read_search', '--'),
            nova.privsep.rbd._CONFINED)
        out = self.output_of('env; umask; pwd; ls -l /proc/self/fd')
        lines = out.splitlines()
        for line in ('LC_ALL=C.UTF-8', '0077', '/'):
            self.assertIn(line, lines)
        self.assertNotIn('HOME=', out)
        self.assertNotIn(self.directory + '/', out.replace(
            str(self.program), '').replace(f'{self.directory}/output', ''))

    def test_failure(self) -> None:
        key = 'AQBsecretSECRETsecretSECRETsecretSECRETse=='
        self.assertEqual(
            (22, rbd_errors.Cause.BAD_KEY, ''), self.fsid(
                f'echo "failed to decode key \'{key}\'" >&2; '
                'echo "[errno 22] RADOS invalid argument (error connecting '
                'to the cluster)" >&2; exit 1'))

    def test_asked_again_if_the_cause_is_missing(self) -> None:
        count = pathlib.Path(self.directory, 'count')
        script = (f'echo >> {count}; [ $(wc -l < {count}) -lt %d ] || '
                  'echo "no keyring found" >&2; exit 13')
        for told_at, cause, attempts in ((1, 'no-keyring', 1),
                                         (3, 'no-keyring', 3), (4, '', 3)):
            count.unlink(missing_ok=True)
            self.assertEqual((13, cause, ''), self.fsid(script % told_at))
            self.assertEqual(attempts, len(count.read_text()))

    def test_takes_too_long(self) -> None:
        self.set('_KILLED_SECONDS', -0.9)
        self.assertEqual(
            (-9, rbd_errors.Cause.TOO_LONG, ''),
            self.fsid('exec sleep 60', connect_timeout=1))

    def test_bad_arguments(self) -> None:
        for changes in (
            {'conf': 'ceph.conf'}, {'conf': '/etc/../ceph.conf'},
            {'conf': '/etc/ceph.conf,/tmp/x'}, {'conf': '/etc/$name'},
            {'conf': '--conf'}, {'conf': None}, {'user': '-x'},
            {'user': 'a/b'}, {'user': 'a@b'}, {'user': 'a b'},
            {'connect_timeout': 0}, {'connect_timeout': '5'},
            {'connect_timeout': 1.5},
        ):
            self.assertRaises(
                ValueError, self.fsid, f'touch {self.directory}/run',
                **changes)
        self.conf.side_effect = ValueError
        self.assertRaises(ValueError, self.fsid,
                          f'touch {self.directory}/run')
        self.assertFalse(os.path.exists(f'{self.directory}/run'))
