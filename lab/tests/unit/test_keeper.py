# SPDX-License-Identifier: Apache-2.0

import os
import pathlib
import subprocess
import sys

import fixtures
from oslo_serialization import jsonutils
import psutil
import testtools

from lab import __main__ as command_line
from lab import errors
from lab import keeper

_HOLDER = '''
from lab import keeper
import pathlib
import sys
with keeper.Home(pathlib.Path(sys.argv[1])).held():
    print('held', flush=True)
    sys.stdin.read()
'''


class TestKeeper(testtools.TestCase):

    def setUp(self):
        super().setUp()
        parent = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.home = keeper.Home(parent / 'lab')
        self.useFixture(fixtures.EnvironmentVariable(
            'NOVA_LAB_DIR', str(self.home.path)))

    def hold(self):
        """Another process that holds the lock, as a keeper does."""
        holder = subprocess.Popen(
            [sys.executable, '-c', _HOLDER, self.home.path],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.addCleanup(holder.communicate)
        assert holder.stdout
        self.assertEqual('held\n', holder.stdout.readline())
        return holder

    def test_home_is_private_to_its_owner(self):
        self.home.path.mkdir()
        self.home.path.chmod(0o777)
        error = self.assertRaises(errors.LabError, self.home.make)
        self.assertIn('NOVA_LAB_DIR', str(error))

    def test_home_is_no_link(self):
        self.home.path.symlink_to('/tmp')
        self.assertRaises(errors.LabError, self.home.make)

    def test_default_home_is_the_users_own(self):
        self.useFixture(fixtures.EnvironmentVariable('NOVA_LAB_DIR'))
        self.assertEqual(f'nova-lab-{os.geteuid()}', keeper.home().name)

    def test_remove_leaves_what_is_not_the_labs(self):
        self.home.make()
        other = self.home.path / 'other'
        for path in (self.home.state, self.home.log, other):
            path.touch()
        self.home.remove()
        self.assertEqual(['other'], os.listdir(self.home.path))
        other.unlink()
        self.home.remove()
        self.assertFalse(self.home.path.exists())

    def test_no_lab(self):
        self.assertIsNone(self.home.owner())
        code, text = keeper.status()
        self.assertEqual(3, code)
        self.assertIn('No lab is up', text)
        self.assertIn('No lab is up', keeper.down())

    def test_the_lock_names_its_owner(self):
        holder = self.hold()
        self.assertEqual(holder.pid, self.home.owner())
        code, text = keeper.status()
        self.assertEqual(1, code)
        self.assertIn('starting', text)

    def test_a_second_lab_is_refused(self):
        self.useFixture(fixtures.MonkeyPatch('os.geteuid', lambda: 0))
        self.useFixture(fixtures.MonkeyPatch(
            'lab.process.require_programs', lambda: None))
        self.hold()
        error = self.assertRaises(errors.LabError, keeper.up)
        self.assertIn('up already', str(error))

    def test_the_lock_goes_with_its_owner(self):
        holder = self.hold()
        holder.kill()
        holder.wait()
        self.assertIsNone(self.home.owner())
        self.assertEqual(3, keeper.status()[0])
        keeper.down()
        self.assertFalse(self.home.path.exists())

    def status_with(self, pid, created):
        self.hold()
        self.home.state.write_text(jsonutils.dumps({
            'usage': 'how', 'daemons': {'it': [pid, created]}}))
        return keeper.status()

    def test_status_of_a_daemon_that_runs(self):
        created = psutil.Process().create_time()
        code, text = self.status_with(os.getpid(), created)
        self.assertEqual(0, code)
        self.assertIn('it          runs', text)
        self.assertIn('how', text)

    def test_status_of_a_daemon_whose_pid_is_anothers_now(self):
        code, text = self.status_with(os.getpid(), 1.0)
        self.assertEqual(1, code)
        self.assertIn('IS DOWN', text)

    def test_down_ends_the_owner(self):
        holder = self.hold()
        self.assertIn('is gone', keeper.down())
        self.assertEqual(-15, holder.wait(30))


class TestCommandLine(testtools.TestCase):

    def test_errors_are_told_in_a_line(self):
        def fail():
            raise errors.LabError('why not')

        self.useFixture(fixtures.MonkeyPatch(
            'lab.__main__._COMMANDS', {'up': (fail, '')}))
        stderr = self.useFixture(fixtures.StringStream('stderr')).stream
        self.useFixture(fixtures.MonkeyPatch('sys.stderr', stderr))
        self.assertEqual(1, command_line.main(['up']))
        stderr.seek(0)
        self.assertEqual('why not\n', stderr.read())

    def test_a_command_is_required(self):
        stderr = self.useFixture(fixtures.StringStream('stderr')).stream
        self.useFixture(fixtures.MonkeyPatch('sys.stderr', stderr))
        error = self.assertRaises(SystemExit, command_line.main, [])
        self.assertEqual(2, error.code)
