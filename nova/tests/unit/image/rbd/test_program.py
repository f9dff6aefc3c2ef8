# SPDX-License-Identifier: Apache-2.0

"""The client of the privileged side, with a fake of that side."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import errno
import os
import stat
import typing as ty
from unittest import mock

import fixtures

from nova.image import compat
from nova.image.rbd import program
from nova.image import transfer
import nova.privsep.rbd
from nova.tests.unit.image import fakes as common
from nova.tests.unit.image.rbd import fakes
import nova.tests.unit.privsep.rbd_fakes

rbd_fakes = nova.tests.unit.privsep.rbd_fakes
Cause = program.Cause
Program = fakes.Program
COMMANDS = ('one', 'two', 'three')
SUCCESS = Program(b'first')


class RunTestCase(fakes.RbdTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.useFixture(
            fixtures.MonkeyPatch('tempfile.tempdir', self.directory))
        self.flags(rbd_ceph_conf=['/etc/a.conf', '/etc/b.conf'],
                   rbd_user='nova', rbd_connect_timeout=7, group='glance')

    @contextlib.contextmanager
    def run_all(self, *programs: Program, names: dict[str, str] | None = None,
                number: int = 0, **kwargs: ty.Any) -> Iterator[program.Run]:
        """Have these programs run."""
        self.fake_start = self.fake(dict(zip(COMMANDS, programs)), **kwargs)
        with program.Run(number, *COMMANDS[:len(programs)],
                         **(names or {})) as run:
            yield run

    def failure(self, *programs: Program, **kwargs: ty.Any) -> str:
        """Return why the last of these programs fails."""
        with self.run_all(*programs, **kwargs) as run:
            for _program in programs[1:]:
                run.answer()
            return str(self.assertRaises(transfer.SourceError, run.answer))


class TestRun(RunTestCase):
    def test_answers(self) -> None:
        third = bytes(range(256)) * 4095
        with self.run_all(SUCCESS, Program(), Program(third), number=1,
                          names=fakes.NAMES) as run:
            # No other program that starts now gets a descriptor.
            for fd in os.listdir('/proc/self/fd'):
                with contextlib.suppress(OSError):
                    target = os.readlink('/proc/self/fd/' + fd)
                    if target.startswith(('socket', 'anon_inode:[eventfd')):
                        self.assertFalse(os.get_inheritable(int(fd)), target)
            self.assertEqual([], os.listdir(self.directory))
            self.assertEqual(b'first', run.answer())
            self.assertFalse(os.get_inheritable(run._output.fileno()))
            self.assertEqual([b'', third], [run.answer(), run.answer()])
        self.assertEqual([(COMMANDS, 1, *fakes.NAMES.values())],
                         self.fake_start.calls)
        self.assertEqual([0o700], list(map(stat.S_IMODE,
                                           self.fake_start.modes)))

    def test_stream(self) -> None:
        content = common.noise(3_000_000)
        with self.run_all(Program(content), names=fakes.NAMES) as run:
            run.begin()
            found, block = b'', memoryview(bytearray(100_000))
            while count := run.readinto(block, 5):
                found += block[:count]
        self.assertEqual(common.digest(content), common.digest(found))

    def test_not_read_to_the_end(self) -> None:
        """The context ends, and the program with it."""
        for each in (Program(bytes(3_000_000)), Program(stalls='before'),
                     Program(b'x', stalls='after'),
                     Program(stalls='outcome')):
            with self.run_all(each):
                pass
            with contextlib.suppress(KeyError), self.run_all(each) as run:
                if each.stalls != 'before':
                    run.begin()
                raise KeyError

    def test_answer_is_too_long(self) -> None:
        self.assertEqual('The output of one is too long',
                         self.failure(Program(bytes(3_000_000))))

    def test_rights(self) -> None:
        step = ', because root is not the only user that can change /tmp/x'
        for answer, rights in (
            ((65533, ''), 'as the user ID 65533, which can read any file'),
            ((0, '/tmp/x'), 'as the user root' + step),
            ((4294000000, '/tmp/x'), 'as the user ID 4294000000' + step),
        ):
            with self.run_all(Program(), answer=answer) as run:
                self.assertEqual(rights, run.rights)

    def test_with_the_privileged_side(self) -> None:
        """Both sides together, with a shell in place of the programs."""
        self.useFixture(rbd_fakes.PrivilegedSide())
        conf = os.path.join(self.directory, 'a.conf')
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
        with program.Run(0, 'sh', 'sh -u', **fakes.NAMES) as run:
            run.begin()
            total, block = 0, memoryview(bytearray(1 << 20))
            while count := run.readinto(block):
                total += count
            self.assertEqual(3_000_000, total)
            error = self.assertRaises(program.RunError, run.answer)
        self.assertEqual((2, Cause.UNKNOWN), (error.status, error.cause))
        self.assertIn('(No such file or directory): error opening image',
                      str(error))


class TestSingleProgram(RunTestCase):
    """run() closes everything; the fixtures find what it does not."""

    def test_in_a_native_thread(self) -> None:
        for each, finish in (
            (SUCCESS, lambda: self.assertEqual(
                b'first', program.run(0, 'one'))),
            (Program(b'', 1), lambda: self.assertRaises(
                program.RunError, program.run, 0, 'one')),
        ):
            self.fake({'one': each})
            with mock.patch.object(
                    compat, 'in_native_thread',
                    side_effect=lambda target: target) as in_native_thread:
                finish()
            in_native_thread.assert_called_once()

    def test_killed_green_thread(self) -> None:
        """The native thread goes on, and nothing closes its descriptors."""
        targets = []

        class Killed(BaseException):
            pass

        def in_native_thread(target: Callable[[], bytes]) -> mock.Mock:
            targets.append(target)
            return mock.Mock(side_effect=Killed)

        self.fake({'one': SUCCESS})
        with mock.patch.object(compat, 'in_native_thread', in_native_thread):
            self.assertRaises(Killed, program.run, 0, 'one')
        [answer] = targets
        self.assertEqual(b'first', answer())


class TestFailures(RunTestCase):
    def test_text(self) -> None:
        for each, text in (
            (Program(b'x', 5), 'three exited with status 5 (Input/output '
                               'error)'),
            (Program(b'', 2, phrases='error opening pool, export error'),
             'three exited with status 2 (No such file or directory): error '
             'opening pool, export error'),
            (Program(b'', -9), 'three exited with status -9 (Killed)'),
            (Program(b'', 124),
             'three exceeded its time limit and was terminated'),
            (Program(b'', 110, 'NO_ANSWER', 'export error'),
             'three exited with status 110 (Connection timed out): no '
             'monitor answered within 7 seconds: export error'),
            (Program(b'', 1, 'BAD_KEY'),
             'three exited with status 1 (Operation not permitted): the key '
             'cannot be decoded (the program runs as the user ID 4001, '
             'because root is not the only user that can change /etc/ceph)'),
            (Program(b'', 127, 'NOT_INSTALLED', 'export error'),
             program.explain(Cause.NOT_INSTALLED, 'three')),
            *((Program(b'x', stalls=stalls, dies=True),
               'The privsep daemon closed the connection')
              for stalls in ('before', 'after', 'outcome')),
        ):
            self.assertEqual(text, self.failure(SUCCESS, Program(), each))

    def test_causes(self) -> None:
        """Each cause has its own text."""
        texts = set()
        for cause in set(Cause) - {Cause.UNKNOWN}:
            text = program.explain(cause, 'one')
            texts.add(text)
            with self.run_all(Program(b'', 13, cause.name)) as run:
                error = self.assertRaises(program.RunError, run.answer)
            self.assertEqual((13, cause), (error.status, error.cause))
            self.assertIn(text, str(error))
            # Beside these causes, an errno would be a wrong one.
            self.assertEqual(cause.name not in (
                'NO_SETPRIV', 'NOT_INSTALLED', 'OLD_SETPRIV',
                'NOT_PERMITTED', 'NOT_RUN', 'BAD_CONF'),
                'one exited with status 13 (Permission denied)' in str(error))
            self.assertEqual(
                cause.name in ('BAD_CONF', 'NO_KEYRING', 'BAD_KEYRING',
                               'BAD_KEY'),
                '(the program runs as the user ID 4001, ' in str(error))
        self.assertEqual(len(Cause) - 1, len(texts - {''}))
        self.assertEqual('', program.explain(Cause.UNKNOWN))

    def test_program_that_can_read_any_file(self) -> None:
        self.assertEqual(
            'one exited with status 13 (Permission denied): no readable '
            'keyring was found', self.failure(
                Program(b'', 13, 'NO_KEYRING'), answer=(65533, '')))

    def test_causes_that_say_what_to_do(self) -> None:
        self.flags(rbd_connect_timeout=999, group='glance')
        for cause, words in (
            (Cause.NEW_KEY, 'ceph auth rotate client.nova --key-type=aes'),
            (Cause.NEW_KEY, 'install Ceph 19.2.6, 20.2.4 or newer'),
            (Cause.REFUSED, 'refuse client.nova'),
            (Cause.OLD_SETPRIV, 'install util-linux 2.33 or newer'),
            (Cause.NO_ANSWER, 'within 300 seconds'),
        ):
            self.assertIn(words, program.explain(cause))
        self.flags(rbd_user='', group='glance')
        self.assertIn('client.admin', program.explain(Cause.REFUSED))

    def test_call_fails(self) -> None:
        start, full = 'nova.privsep.rbd.start', 'No space left on device'
        for where, error, reason in (
            (start, PermissionError('no nova.conf'), 'no nova.conf'),
            (start, FileNotFoundError(errno.ENOENT, 'No such file'),
             'No such file'),
            (start, ValueError('Not allowed'), 'Not allowed'),
            (start, ValueError(), 'ValueError'),
            (start, IndexError('list index out of range'),
             'nova.conf has changed since the privsep daemon read it: restart '
             'nova-compute'),
            # These are no errors of the destination: another source may help.
            ('tempfile.mkdtemp', OSError(errno.ENOSPC, full), full),
            ('os.path.join', OSError(errno.ENOSPC, full), full),
            ('os.eventfd', OSError(errno.EMFILE, 'Too many open files'),
             'Too many open files'),
        ):
            self.fake({'one': Program(stalls='before')})
            with mock.patch(where, side_effect=error):
                failure = self.assertRaises(
                    program.CallError, program.Run(1, 'one').__enter__)
            self.assertEqual(
                f'The privileged call for /etc/b.conf failed: {reason}',
                str(failure))
            self.assertEqual([], os.listdir(self.directory))


class TestWaiting(RunTestCase):
    def test_limits(self) -> None:
        for connect, stall, names, patience in (
            (9, 60, fakes.NAMES, 60), (59, 60, fakes.NAMES, 60),
            (60, 60, fakes.NAMES, 61), (60, 9, fakes.NAMES, 61),
            (9, 60, {}, 19), (60, 9, {}, 70),
            # Nova replaces values out of range.
            (0, 0, fakes.NAMES, 2), (999, 0, fakes.NAMES, 301),
            (5, 999_999, fakes.NAMES, 86400), (0, 5, {}, 11),
        ):
            option = 'stall' if names else 'connect'
            self.flags(rbd_connect_timeout=connect, rbd_stall_timeout=stall,
                       group='glance')
            for stalls in ('before', 'after', 'outcome'):
                with self.run_all(
                        Program(b'', stalls=stalls), names=names) as run:
                    with fakes.PollSpy(self.fake_start) as spy:
                        failure = self.assertRaises(
                            transfer.SourceError, run.answer)
                self.assertEqual(
                    f'No data received from one for {patience} seconds: Ceph '
                    f'is down or too slow, see [glance] rbd_{option}_timeout',
                    str(failure))
                self.assertEqual({patience}, set(spy.waits))

    def test_limit_of_the_caller(self) -> None:
        with self.run_all(Program(b'x', stalls='after')) as run:
            with fakes.PollSpy(self.fake_start) as spy:
                run.begin()
                block = memoryview(bytearray(9))
                self.assertEqual(1, run.readinto(block))
                self.assertRaisesRegex(
                    transfer.SourceError, 'from one for 3 seconds',
                    run.readinto, block, 3)
        self.assertEqual(3, spy.waits[-1])

    def test_interruption(self) -> None:
        for stalls in ('before', 'after', 'outcome'):
            with self.run_all(Program(b'', stalls=stalls)) as run:
                self.assert_interrupted(run.interrupt, run.answer)
