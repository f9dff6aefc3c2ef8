# SPDX-License-Identifier: Apache-2.0

import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import threading
import time
from unittest import mock

import fixtures
import psutil
import testtools
from testtools import matchers

from lab import errors
from lab import process


_WAIT = 'while true; do sleep 0.1; done'


def _gone(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class TestRequirements(testtools.TestCase):

    def test_missing_packages_are_named_once(self):
        error = self.assertRaises(
            errors.LabError, process.require_programs,
            {'no-such-a': 'pack', 'no-such-b': 'pack', 'sh': 'dash'})
        self.assertIn('Missing Debian packages: pack. ', str(error))
        self.assertNotIn('dash', str(error))
        self.assertIn('bindep.txt', str(error))

    def test_root_is_required(self):
        self.useFixture(fixtures.MonkeyPatch('os.geteuid', lambda: 1000))
        error = self.assertRaises(errors.LabError, process.require_root)
        self.assertIn('sudo', str(error))

    def test_directory_must_be_reachable(self):
        process.require_reachable(pathlib.Path('/usr/bin'))
        parent = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        directory = parent / 'lab'
        directory.mkdir(0o711)
        error = self.assertRaises(
            errors.LabError, process.require_reachable, directory)
        self.assertIn(f'{parent} has mode 0700', str(error))


class TestEnvironment(testtools.TestCase):

    def test_neither_proxies_nor_python_settings_pass(self):
        for name in ('http_proxy', 'PYTHONPATH', 'OS_TOKEN'):
            self.useFixture(fixtures.EnvironmentVariable(name, 'x'))
        env = process.clean_environment(HOME='/h')
        self.assertEqual({'PATH', 'LANG', 'LC_ALL', 'HOME'}, set(env))
        self.assertEqual('/h', env['HOME'])

    def test_a_free_port_can_be_used(self):
        port = process.free_port()
        self.assertIn(port, range(20000, 32000))
        self.assertFalse(process.listens(port))

    def test_a_port_is_used_once(self):
        port = process.free_port()
        with mock.patch('random.sample', return_value=[port]):
            self.assertRaises(errors.LabError, process.free_port)


class TestRun(testtools.TestCase):

    def test_output(self):
        self.assertEqual('a\n', process.run(['echo', 'a']))

    def test_input(self):
        self.assertEqual('b', process.run(['cat'], text='b'))

    def test_failure_tells_command_and_output(self):
        error = self.assertRaises(
            errors.LabError, process.run,
            ['sh', '-c', 'echo out; echo err >&2; exit 3'])
        for part in ('Exit status 3', 'sh -c', 'out\n', 'err'):
            self.assertIn(part, str(error))

    def test_time_is_up(self):
        begin = time.monotonic()
        error = self.assertRaises(
            errors.LabError, process.run, ['sleep', '60'], timeout=0.2)
        self.assertIn('sleep 60', str(error))
        self.assertLess(time.monotonic() - begin, 30)

    def test_no_start_while_giving_up(self):
        with process.giving_up():
            self.assertRaises(errors.LabError, process.run, ['true'])
        self.assertEqual('', process.run(['true']))

    def test_giving_up_fails_what_runs(self):
        outcome = []
        runs = os.path.join(
            self.useFixture(fixtures.TempDir()).path, 'runs')

        def work():
            try:
                process.run(['sh', '-c', 'echo > "$0"; exec sleep 60', runs])
            except errors.LabError as exc:
                outcome.append(str(exc))

        worker = threading.Thread(target=work)
        worker.start()
        self.assertTrue(process.wait_for(lambda: os.path.exists(runs), 30))
        with process.giving_up():
            worker.join(30)
        # Killed, or known to be given up before that was seen.
        self.assertEqual(1, len(outcome))
        self.assertThat(outcome[0], matchers.MatchesAny(
            matchers.StartsWith('Exit status -9: '),
            matchers.Equals('The lab is being given up')))


class TestTogether(testtools.TestCase):

    def test_all_are_done_at_the_same_time(self):
        barrier = threading.Barrier(2, timeout=30)
        process.together(barrier.wait, barrier.wait)

    def test_an_error_is_raised_when_all_have_ended(self):
        ended = []

        def fail():
            raise errors.LabError('first')

        def go_on():
            time.sleep(0.2)
            ended.append(True)

        self.assertRaises(errors.LabError, process.together, fail, go_on)
        self.assertEqual([True], ended)


class TestDaemon(testtools.TestCase):

    def setUp(self):
        super().setUp()
        self.directory = pathlib.Path(
            self.useFixture(fixtures.TempDir()).path)
        self.log = self.directory / 'log'

    def daemon(self, script, ready=lambda: True, **options):
        return process.Daemon(
            'it', ['sh', '-c', script], self.log, ready, **options)

    def test_life(self):
        flag = self.directory / 'flag'
        daemon = self.daemon(f'touch {flag}; exec sleep 60', flag.exists)
        with daemon:
            pid = daemon.pid
            self.assertTrue(daemon.alive)
            daemon.start()
            self.assertEqual(pid, daemon.pid)
        self.assertFalse(daemon.alive)
        self.assertTrue(_gone(pid))
        self.assertRaises(errors.LabError, getattr, daemon, 'pid')

    def test_it_can_be_killed_and_started_again(self):
        with self.daemon('exec sleep 60') as daemon:
            first = daemon.pid
            daemon.kill()
            self.assertFalse(daemon.alive)
            daemon.start()
            self.assertNotEqual(first, daemon.pid)
            self.assertTrue(daemon.alive)

    def test_sigterm_goes_to_the_one_that_is_wrapped(self):
        inner = f'trap "echo ended; exit" TERM; echo $$; {_WAIT}'
        daemon = self.daemon(f"sh -c '{inner}'; true", self.has_log,
                             grace=30, wrapped=True)
        with daemon:
            self.assertEqual(int(self.log.read_text()), daemon.pid)
        self.assertIn('ended', self.log.read_text())

    def has_log(self):
        return self.log.read_text().endswith('\n')

    def test_early_end_is_reported_with_the_log(self):
        daemon = self.daemon('echo why; exit 4', lambda: False)
        error = self.assertRaises(errors.LabError, daemon.setUp)
        self.assertIn('it ended with status 4', str(error))
        self.assertIn('why', str(error))

    def test_never_ready_is_reported_and_stopped(self):
        daemon = self.daemon('echo $$; exec sleep 60', lambda: False,
                             timeout=0.5, grace=5)
        error = self.assertRaises(errors.LabError, daemon.setUp)
        self.assertIn('it is not ready after', str(error))
        self.assertTrue(_gone(int(self.log.read_text())))

    def test_what_ignores_sigterm_is_killed(self):
        daemon = self.daemon('trap "" TERM; touch %s; while :; do sleep 1; '
                             'done' % (self.directory / 'flag'),
                             (self.directory / 'flag').exists, grace=0.3)
        with daemon:
            pid = daemon.pid
        self.assertTrue(_gone(pid))

    def test_children_go_too(self):
        child = self.directory / 'child'
        daemon = self.daemon(
            f'sleep 60 & echo $! > {child}.new; mv {child}.new {child}; '
            f'exit 0', child.exists)
        try:
            daemon.setUp()
        except errors.LabError:
            pass  # It may be seen ready before its end, or not.
        daemon.stop()
        pid = int(child.read_text())
        self.assertTrue(process.wait_for(lambda: _gone(pid), 10))

    def test_it_survives_the_thread_that_started_it(self):
        with self.daemon('exec sleep 60') as daemon:
            daemon.stop()
            starter = threading.Thread(target=daemon.start)
            starter.start()
            starter.join(30)
            time.sleep(0.2)
            self.assertTrue(daemon.alive)


class TestOwnersDeath(testtools.TestCase):

    OWNER = textwrap.dedent('''
        from lab import process
        import pathlib
        import sys
        import time
        directory = process.RunDirectory(sys.argv[1])
        directory.setUp()
        log = directory.path / 'log'
        daemon = process.Daemon('it', ['sleep', '60'], log, lambda: True)
        daemon.setUp()
        print(daemon.pid, flush=True)
        time.sleep(60)
        ''')

    def test_kill_leaves_nothing(self):
        parent = self.useFixture(fixtures.TempDir()).path
        owner = subprocess.Popen(
            [sys.executable, '-c', self.OWNER, parent], text=True,
            stdout=subprocess.PIPE)
        self.addCleanup(owner.communicate)
        self.addCleanup(owner.kill)
        assert owner.stdout
        pid = int(owner.stdout.readline())
        self.assertFalse(_gone(pid))
        self.assertEqual(1, len(os.listdir(parent)))
        # Until then it has not asked the kernel to die with its owner.
        self.assertTrue(process.wait_for(
            lambda: psutil.Process(pid).name() == 'sleep', 10))
        owner.send_signal(signal.SIGKILL)
        self.assertTrue(process.wait_for(lambda: _gone(pid), 10))
        self.assertTrue(
            process.wait_for(lambda: not os.listdir(parent), 10))

    def test_ordinary_end_leaves_nothing(self):
        parent = self.useFixture(fixtures.TempDir()).path
        with process.RunDirectory(parent) as directory:
            (directory.path / 'some').mkdir()
            self.assertEqual(0o711, directory.path.stat().st_mode & 0o777)
        self.assertEqual([], os.listdir(parent))


class TestLabFixture(testtools.TestCase):

    def test_the_error_itself_is_raised(self):
        class Broken(process.LabFixture):
            def _setUp(self):
                self.addCleanup(self.fail)
                raise errors.LabError('why')

            def fail(self):
                raise ValueError('then')

        class Outer(process.LabFixture):
            def _setUp(self):
                self.useFixture(Broken())

        error = self.assertRaises(errors.LabError, Outer().setUp)
        self.assertEqual('why', str(error))
        self.assertIn('then', error.__notes__[0])
