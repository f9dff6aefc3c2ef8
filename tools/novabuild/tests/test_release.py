# SPDX-License-Identifier: Apache-2.0

import pathlib
import shutil
import subprocess
from unittest import mock

import fixtures

from novabuild import errors
from novabuild import project
from novabuild import release
from novabuild.tests import base


class ObtainedTestCase(base.TestCase):

    def setUp(self) -> None:
        super().setUp()
        self.pin = project.load(self.root).release

    def _error(self, local: pathlib.Path | None = None) -> str:
        def obtain() -> None:
            with release.obtained(self.pin, local):
                self.fail('The block must not run.')

        return str(self.assertRaises(errors.BuildError, obtain))

    def _pip(self, returncode: int = 0, output: str = '') -> mock.MagicMock:
        """Replace pip: it delivers the wheel unless it fails."""
        def run(command, **kwargs):
            if not returncode:
                folder = command[command.index('--dest') + 1]
                shutil.copy(self.wheel, folder)
            return subprocess.CompletedProcess(command, returncode, output)

        return self.useFixture(fixtures.MockPatch(
            'subprocess.run', side_effect=run)).mock

    def test_local_wheel(self):
        with release.obtained(self.pin, self.wheel) as path:
            self.assertEqual(self.wheel, path)

    def test_download_leaves_nothing(self):
        run = self._pip()
        with release.obtained(self.pin) as path:
            self.assertEqual(self.wheel.read_bytes(), path.read_bytes())
        self.assertFalse(path.parent.exists())
        command = run.call_args.args[0]
        self.assertEqual('nova==1.2.0', command[-1])
        self.assertIn('--no-deps', command)

    def test_another_wheel(self):
        with self.wheel.open('ab') as wheel:
            wheel.write(b'!')
        self._pip()
        for local in (None, self.wheel):
            message = self._error(local)
            self.assertIn('is not the nova 1.2.0 that setup.cfg pins', message)
            self.assertIn(self.pin.sha256, message)
            self.assertIn('Nothing was built', message)

    def test_missing_local_wheel(self):
        self.assertIn('No such file', self._error(self.root / 'no.whl'))

    def test_pip_fails(self):
        self._pip(1, 'ERROR: No matching distribution found\n')
        message = self._error()
        self.assertIn('could not download nova==1.2.0', message)
        self.assertIn('NOVA_RELEASE_WHEEL', message)
        self.assertIn('No matching distribution', message)

    def test_pip_hangs(self):
        self.useFixture(fixtures.MockPatch(
            'subprocess.run',
            side_effect=subprocess.TimeoutExpired('pip', 600)))
        self.assertIn('not there after 600 s', self._error())
