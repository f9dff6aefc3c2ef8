# SPDX-License-Identifier: Apache-2.0

"""The client of the privileged side, and a stand-in for that side."""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
import errno
import os
import stat
import typing as ty
from unittest import mock

import fixtures
from oslo_serialization import jsonutils

from nova.image.rbd import program as rbd_run
from nova.image import transfer
import nova.privsep.rbd
from nova import test
from nova.tests.unit.image import test_transfer
import nova.tests.unit.privsep.test_rbd

privileged = nova.tests.unit.privsep.test_rbd

Cause = rbd_run.Cause
IMAGE = {'pool': 'images', 'image': 'id', 'snapshot': 'snap'}
COMMANDS = ('one', 'two', 'three')


@dataclasses.dataclass(frozen=True)
class Program:
    """The messages that the stand-in sends for a program."""
    output: bytes = b''
    status: int = 0
    cause: str = 'UNKNOWN'
    phrases: str = ''
    #: Where it stops until the caller hangs up.
    stalls: ty.Literal['', 'before', 'after', 'outcome'] = ''
    #: The daemon ends there, instead.
    dies: bool = False


class FakeStart(fixtures.Fixture):
    """Replaces nova.privsep.rbd.start(): connects, and sends outcomes."""

    def __init__(
        self, programs: Mapping[ty.Any, Program | Sequence[Program]],
        answer: tuple[int, str] = (4001, '/etc/ceph'),
    ) -> None:
        """Make a stand-in.

        :param programs: by command, or by the number of the cluster and the
            command; of a list, each call takes the first and leaves the last
        :param answer: the uid, and the step that not only root can change
        """
        self.programs = {
            name: [each] if isinstance(each, Program) else list(each)
            for name, each in programs.items()}
        self.answer = answer
        #: Arguments of the calls, but for the address.
        self.calls: list[tuple[ty.Any, ...]] = []
        self.modes: list[int] = []
        self._socket = transfer.native('socket')
        self._select = transfer.native('select')
        self._threads: list[ty.Any] = []

    def _setUp(self) -> None:
        #: Can be read when one of the programs stalls.
        self.stalled = os.eventfd(0)
        self.addCleanup(os.close, self.stalled)
        self.addCleanup(self._join)
        self.useFixture(
            fixtures.MockPatchObject(nova.privsep.rbd, 'start', self.start))

    def _join(self) -> None:
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), 'The caller has not hung up'

    def start(
        self, address: str, commands: Sequence[str], cluster: int,
        pool: str = '', image: str = '', snapshot: str = '',
    ) -> tuple[int, str]:
        self.calls.append(
            (tuple(commands), cluster, pool, image, snapshot))
        self.modes.append(os.stat(os.path.dirname(address)).st_mode)
        connection = self._socket.socket(
            self._socket.AF_UNIX, self._socket.SOCK_SEQPACKET)
        connection.connect(address)
        thread = transfer.native('threading').Thread(
            target=self._serve,
            args=(connection, [self._take(cluster, each)
                               for each in commands]))
        self._threads.append(thread)
        thread.start()
        return self.answer

    def _take(self, cluster: int, command: str) -> Program:
        programs = (self.programs.get((cluster, command)) or
                    self.programs[command])
        return programs.pop(0) if len(programs) > 1 else programs[0]

    def _serve(self, connection: ty.Any, programs: list[Program]) -> None:
        with connection, contextlib.suppress(ConnectionError):
            for program in programs:
                if program.stalls == 'before':
                    return self._stall(connection, program)
                reader, writer = os.pipe()
                with open(writer, 'wb', 0) as output:
                    with open(reader, 'rb'):
                        self._socket.send_fds(connection, [b'x'], [reader])
                    self._write(output, program.output)
                    if program.stalls == 'after':
                        return self._stall(connection, program)
                    if program.stalls != 'outcome':
                        connection.send(jsonutils.dump_as_bytes([
                            program.status, program.cause, program.phrases]))
                if program.stalls or program.status:
                    return self._stall(connection, program)

    @staticmethod
    def _write(output: ty.BinaryIO, content: bytes) -> None:
        view = memoryview(content)
        while view:
            view = view[output.write(view):]

    def _stall(self, connection: ty.Any, program: Program) -> None:
        if not program.dies:
            os.eventfd_write(self.stalled, 1)
            poller = self._select.poll()
            poller.register(connection, 0)
            poller.poll()


class PollSpy(fixtures.Fixture):
    """Notes how long transfers wait; a wait ends when a stand-in stalls."""

    def __init__(self, fake: FakeStart) -> None:
        self.waits: list[float] = []
        self._fake = fake

    def _setUp(self) -> None:
        native, spy = transfer.native('select'), self

        class Poll:
            def __init__(self) -> None:
                self._poll = native.poll()
                self.register = self._poll.register
                self.register(spy._fake.stalled, native.POLLIN)

            def poll(self, milliseconds: float) -> list[tuple[int, int]]:
                spy.waits.append(milliseconds / 1000)
                return [(fd, events) for fd, events in self._poll.poll(60_000)
                        if fd != spy._fake.stalled]

        spies = {'select': mock.Mock(poll=Poll, POLLIN=native.POLLIN)}
        real = transfer.native
        self.useFixture(fixtures.MockPatchObject(
            transfer, 'native', lambda name: spies.get(name) or real(name)))


class RunTestCase(test.NoDBTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.useFixture(test_transfer.LeakCheck())
        self.temporary = self.useFixture(fixtures.TempDir()).path
        self.useFixture(
            fixtures.MonkeyPatch('tempfile.tempdir', self.temporary))
        self.flags(rbd_ceph_conf=['/etc/a.conf', '/etc/b.conf'],
                   rbd_user='nova', rbd_connect_timeout=7, group='glance')

    def fake(self, *programs: Program, **kwargs: ty.Any) -> FakeStart:
        return self.useFixture(
            FakeStart(dict(zip(COMMANDS, programs)), **kwargs))

    @contextlib.contextmanager
    def run_all(
        self, *programs: Program, **names: ty.Any,
    ) -> Iterator[rbd_run.Run]:
        """Have these programs run."""
        self.fake(*programs)
        with rbd_run.Run(0, *COMMANDS[:len(programs)], **names) as run:
            yield run

    def failure(self, *programs: Program, **names: ty.Any) -> str:
        """Return why one of these programs fails, which is the last one."""
        with self.run_all(*programs, **names) as run:
            for _program in programs[1:]:
                run.answer()
            return str(self.assertRaises(transfer.SourceError, run.answer))


class TestRun(RunTestCase):
    def test_answers(self) -> None:
        fake = self.fake(Program(b'first'), Program(),
                         Program(bytes(range(256)) * 4095))
        with rbd_run.Run(1, *COMMANDS, **IMAGE) as run:
            # Not a descriptor of this process goes to another program.
            for fd in os.listdir('/proc/self/fd'):
                with contextlib.suppress(OSError):
                    target = os.readlink('/proc/self/fd/' + fd)
                    if target.startswith(('socket', 'anon_inode:[eventfd')):
                        self.assertFalse(os.get_inheritable(int(fd)), target)
            self.assertEqual([], os.listdir(self.temporary))
            self.assertEqual(b'first', run.answer())
            self.assertFalse(os.get_inheritable(run._reader))
            self.assertEqual(b'', run.answer())
            self.assertEqual(bytes(range(256)) * 4095, run.answer())
        self.assertEqual(
            [(COMMANDS, 1, 'images', 'id', 'snap')], fake.calls)
        self.assertEqual([0o700], [stat.S_IMODE(each) for each in fake.modes])

    def test_stream(self) -> None:
        content = test_transfer.noise(3_000_000)
        with self.run_all(Program(content), **IMAGE) as run:
            run.begin()
            found, block = b'', memoryview(bytearray(100_000))
            while count := run.readinto(block, 5):
                found += block[:count]
        self.assertEqual(
            test_transfer.digest(content), test_transfer.digest(found))

    def test_not_read_to_the_end(self) -> None:
        """The context ends, and the program with it."""
        for program in (Program(bytes(3_000_000)), Program(stalls='before'),
                        Program(b'x', stalls='after'),
                        Program(stalls='outcome')):
            with self.run_all(program):
                pass
            with contextlib.suppress(KeyError), self.run_all(program) as run:
                if program.stalls != 'before':
                    run.begin()
                raise KeyError

    def test_answer_and_close(self) -> None:
        self.fake(Program(b'first'))
        # The fixtures find what is not closed.
        self.assertEqual(
            b'first', rbd_run.Run(0, 'one').__enter__().answer_and_close())
        self.fake(Program(b'', 1))
        self.assertRaises(
            rbd_run.RunError,
            rbd_run.Run(0, 'one').__enter__().answer_and_close)

    def test_answer_is_too_long(self) -> None:
        self.assertEqual(
            'The output of one is too long',
            self.failure(Program(bytes(3_000_000))))

    def test_rights(self) -> None:
        for answer, rights in (
            ((65533, ''), 'as the user ID 65533, which can read any file'),
            ((0, '/tmp/x'),
             'as the user root, because root is not the only user that can '
             'change /tmp/x'),
            ((4294000000, '/tmp/x'),
             'as the user ID 4294000000, because root is not the only user '
             'that can change /tmp/x'),
        ):
            self.fake(Program(), answer=answer)
            with rbd_run.Run(0, 'one') as run:
                self.assertEqual(rights, run.rights)

    def test_with_the_privileged_side(self) -> None:
        """Both sides together, with a shell in place of the programs."""
        self.useFixture(privileged.PrivilegedSide())
        conf = os.path.join(self.temporary, 'a.conf')
        with open(conf, 'w'):
            self.flags(rbd_ceph_conf=[conf], group='glance')
        for name, new in (
            ('_served_user', lambda: (os.getuid(), os.getgid())),
            ('_rights', lambda _user, _owners: (0, [])),
            ('_COMMANDS', {'sh': ['-c', 'head -c 3000000 /dev/zero'],
                           'sh -u': ['-c', 'echo "error opening image" >&2; '
                                           'exit 2']}),
        ):
            self.useFixture(
                fixtures.MockPatchObject(nova.privsep.rbd, name, new))
        with rbd_run.Run(0, 'sh', 'sh -u',
                         **privileged.NAMES) as run:
            run.begin()
            total, block = 0, memoryview(bytearray(1 << 20))
            while count := run.readinto(block):
                total += count
            self.assertEqual(3_000_000, total)
            error = self.assertRaises(rbd_run.RunError, run.answer)
        self.assertEqual((2, Cause.UNKNOWN), (error.status, error.cause))
        self.assertIn('(No such file or directory): error opening image',
                      str(error))


class TestFailures(RunTestCase):
    def test_text(self) -> None:
        for program, text in (
            (Program(b'x', 5), 'three ended with status 5 (Input/output '
                               'error)'),
            (Program(b'', 2, phrases='error opening pool, export error'),
             'three ended with status 2 (No such file or directory): error '
             'opening pool, export error'),
            (Program(b'', -9), 'three ended with status -9 (Killed)'),
            (Program(b'', 124), 'three took too long and was ended'),
            (Program(b'', 110, 'NO_ANSWER', 'export error'),
             'three ended with status 110 (Connection timed out): no monitor '
             'answered within 7 seconds: export error'),
            (Program(b'', 1, 'BAD_KEY'),
             'three ended with status 1 (Operation not permitted): the key '
             'cannot be decoded (it runs as the user ID 4001, because root is '
             'not the only user that can change /etc/ceph)'),
            (Program(b'', 127, 'NOT_INSTALLED', 'export error'),
             rbd_run.explain(Cause.NOT_INSTALLED, 'three')),
        ):
            self.assertEqual(
                text, self.failure(Program(b'1'), Program(), program))

    def test_attributes(self) -> None:
        with self.run_all(Program(b'', 13, 'REFUSED')) as run:
            error = self.assertRaises(rbd_run.RunError, run.answer)
        self.assertEqual((13, Cause.REFUSED), (error.status, error.cause))

    def test_causes(self) -> None:
        """Each cause has its own text."""
        rights = 'it runs as the user ID 4001, because '
        texts = set()
        for cause in set(Cause) - {Cause.UNKNOWN}:
            text = rbd_run.explain(cause, 'one')
            texts.add(text)
            failure = self.failure(Program(b'', 13, cause.name))
            self.assertIn(text, failure)
            # These need no errno, which would be a wrong one.
            self.assertEqual(cause.name not in (
                'NO_SETPRIV', 'NOT_INSTALLED', 'OLD_SETPRIV',
                'NOT_PERMITTED', 'NOT_RUN', 'BAD_CONF'),
                'one ended with status 13 (Permission denied)' in failure)
            self.assertEqual(
                cause.name in ('BAD_CONF', 'NO_KEYRING', 'BAD_KEYRING',
                               'BAD_KEY'), rights in failure)
        self.assertEqual(len(Cause) - 1, len(texts - {''}))
        self.assertEqual('', rbd_run.explain(Cause.UNKNOWN))

    def test_program_that_can_read_any_file(self) -> None:
        self.fake(Program(b'', 13, 'NO_KEYRING'), answer=(65533, ''))
        with rbd_run.Run(0, 'one') as run:
            error = self.assertRaises(rbd_run.RunError, run.answer)
        self.assertEqual(
            'one ended with status 13 (Permission denied): it finds no '
            'keyring that it can read', str(error))

    def test_causes_that_say_what_to_do(self) -> None:
        for cause, words in (
            (Cause.NEW_KEY, 'ceph auth rotate client.nova --key-type=aes'),
            (Cause.NEW_KEY, 'install Ceph 19.2.6, 20.2.4 or newer'),
            (Cause.REFUSED, 'refuse client.nova'),
            (Cause.OLD_SETPRIV, 'install util-linux 2.33 or newer'),
            (Cause.NO_ANSWER, 'within 7 seconds'),
        ):
            self.assertIn(words, rbd_run.explain(cause))
        self.flags(rbd_user='', group='glance')
        self.assertIn('client.admin', rbd_run.explain(Cause.REFUSED))

    def test_daemon_ends(self) -> None:
        for stalls in ('before', 'after', 'outcome'):
            self.assertEqual(
                'The privsep daemon closed the connection', self.failure(
                    Program(), Program(b'x', stalls=stalls, dies=True)))

    def test_call_fails(self) -> None:
        for error, reason in (
            (PermissionError('no nova.conf'), 'no nova.conf'),
            (FileNotFoundError(errno.ENOENT, 'No such file or directory'),
             'No such file or directory'),
            (ValueError('Not allowed'), 'Not allowed'),
        ):
            with mock.patch.object(nova.privsep.rbd, 'start',
                                   side_effect=error):
                failure = self.assertRaises(
                    rbd_run.CallError, rbd_run.Run(1, 'one').__enter__)
            self.assertEqual(
                f'The privileged call for /etc/b.conf failed: {reason}',
                str(failure))
            self.assertEqual([], os.listdir(self.temporary))

    def test_no_directory_for_the_socket(self) -> None:
        # Not an error of the destination: another source may help.
        for name in ('tempfile.mkdtemp', 'os.path.join'):
            with mock.patch(name, side_effect=OSError(
                    errno.ENOSPC, 'No space left on device')):
                self.assertRaisesRegex(
                    rbd_run.CallError, ': No space left on device$',
                    rbd_run.Run(0, 'one').__enter__)


class TestWaiting(RunTestCase):
    def test_limits(self) -> None:
        for connect, stall, names, patience in (
            (9, 60, IMAGE, 60), (59, 60, IMAGE, 60), (60, 60, IMAGE, 61),
            (60, 9, IMAGE, 61), (9, 60, {}, 19), (60, 9, {}, 70),
        ):
            option = 'stall' if names else 'connect'
            self.flags(rbd_connect_timeout=connect, rbd_stall_timeout=stall,
                       group='glance')
            for stalls in ('before', 'after', 'outcome'):
                fake = self.fake(Program(b'', stalls=stalls))
                with (PollSpy(fake) as spy,
                      rbd_run.Run(0, 'one', **names) as run):
                    failure = self.assertRaises(
                        transfer.SourceError, run.answer)
                self.assertEqual(
                    f'one sent no data for {patience} seconds: Ceph is down '
                    f'or too slow, see [glance] rbd_{option}_timeout',
                    str(failure))
                self.assertEqual({patience}, set(spy.waits))

    def test_limit_of_the_caller(self) -> None:
        fake = self.fake(Program(b'x', stalls='after'))
        with PollSpy(fake) as spy, rbd_run.Run(0, 'one') as run:
            run.begin()
            block = memoryview(bytearray(9))
            self.assertEqual(1, run.readinto(block))
            self.assertRaisesRegex(
                transfer.SourceError, 'no data for 3 seconds', run.readinto,
                block, 3)
        self.assertEqual(3, spy.waits[-1])

    def test_interruption(self) -> None:
        for stalls in ('before', 'after', 'outcome'):
            with self.run_all(Program(b'', stalls=stalls)) as run:
                failures: list[str] = []

                def read() -> None:
                    try:
                        run.answer()
                    except transfer.SourceError as error:
                        failures.append(str(error))

                thread = transfer.native('threading').Thread(target=read)
                thread.start()
                run.interrupt()
                thread.join(60)
                self.assertEqual(['It was interrupted'], failures)
