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


class ReleaseTestCase(base.TestCase):

    def setUp(self) -> None:
        super().setUp()
        self.pin = project.load(self.root).release

    def _pip(self, returncode: int = 0, output: str = '') -> mock.MagicMock:
        """Replace pip: it delivers the archives unless it fails."""
        def run(command, **kwargs):
            requirements = command[command.index('--requirement') + 1]
            self.asked = pathlib.Path(requirements).read_text()
            if not returncode:
                folder = command[command.index('--dest') + 1]
                only_wheels = '--only-binary' in command
                shutil.copy(self.wheel if only_wheels else self.sdist, folder)
            return subprocess.CompletedProcess(command, returncode, output)

        return self.useFixture(fixtures.MockPatch(
            'subprocess.run', side_effect=run)).mock


class ObtainedTestCase(ReleaseTestCase):

    def _error(self, local: pathlib.Path | None = None) -> str:
        def obtain() -> None:
            with release.obtained(self.pin, local):
                self.fail('The block must not run.')

        return str(self.assertRaises(errors.BuildError, obtain))

    def test_local_wheel(self):
        with release.obtained(self.pin, self.wheel) as path:
            self.assertEqual(self.wheel, path)

    def test_download_leaves_nothing(self):
        run = self._pip()
        with release.obtained(self.pin) as path:
            self.assertEqual(self.wheel.read_bytes(), path.read_bytes())
        self.assertFalse(path.parent.exists())
        self.assertIn('--no-deps', run.call_args.args[0])
        self.assertEqual('nova==1.2.0\n', self.asked)

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
        self.assertIn('could not download the wheel of nova==1.2.0', message)
        self.assertIn('NOVA_RELEASE_WHEEL', message)
        self.assertIn('No matching distribution', message)

    def test_pip_hangs(self):
        self.useFixture(fixtures.MockPatch(
            'subprocess.run',
            side_effect=subprocess.TimeoutExpired('pip', 600)))
        self.assertIn('not there after 600 s', self._error())


class SdistTestCase(ReleaseTestCase):

    def setUp(self) -> None:
        super().setUp()
        self.useFixture(fixtures.EnvironmentVariable(
            'XDG_CACHE_HOME', str(self.output)))

    def test_downloaded_once(self):
        run = self._pip()
        for _ in range(2):
            path = release.sdist(self.pin)
            self.assertEqual(self.sdist.read_bytes(), path.read_bytes())
        run.assert_called_once()
        self.assertEqual([path], list(path.parent.iterdir()))

    def test_pip_knows_the_hash(self):
        self._pip()
        release.sdist(self.pin)
        self.assertEqual(
            f'nova==1.2.0 --hash=sha256:{self.pin.sdist_sha256}\n', self.asked)

    def test_damaged_in_the_cache(self):
        run = self._pip()
        release.sdist(self.pin).write_bytes(b'')
        path = release.sdist(self.pin)
        self.assertEqual(self.sdist.read_bytes(), path.read_bytes())
        self.assertEqual(2, run.call_count)

    def test_another_sdist(self):
        with self.sdist.open('ab') as sdist:
            sdist.write(b'!')
        self._pip()
        for local in (None, self.sdist):
            exc = self.assertRaises(
                errors.BuildError, release.sdist, self.pin, local)
            self.assertIn(self.pin.sdist_sha256, str(exc))
        self.assertEqual([], [p for p in self.output.rglob('*')
                              if p.is_file()])

    def test_pip_fails_for_the_sdist(self):
        self._pip(1, 'ERROR: HASHES\n')
        exc = self.assertRaises(errors.BuildError, release.sdist, self.pin)
        self.assertIn('NOVA_RELEASE_SDIST', str(exc))
        self.assertIn('HASHES', str(exc))
