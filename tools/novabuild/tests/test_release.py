# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable
import pathlib
import shutil
import subprocess
from unittest import mock

import fixtures

from novabuild import errors
from novabuild import release
from novabuild.tests import base


class ReleaseTestCase(base.TestCase):

    def setUp(self) -> None:
        super().setUp()
        self.pin = self.project().release
        self.setenv('NOVA_RELEASE_WHEEL', None)
        self.setenv('XDG_CACHE_HOME', str(self.output))

    def _pip(self, error: Exception | None = None) -> mock.MagicMock:
        """Replace pip; without an error, it delivers the archives."""
        def run(command, **kwargs):
            requirements = command[command.index('--requirement') + 1]
            self.asked = pathlib.Path(requirements).read_text()
            if error:
                raise error
            folder = command[command.index('--dest') + 1]
            only_wheels = '--only-binary' in command
            shutil.copy(self.wheel if only_wheels else self.sdist, folder)

        return self.useFixture(fixtures.MockPatch(
            'subprocess.run', side_effect=run)).mock

    def _error(self, function: Callable[..., object],
               *arguments: object) -> str:
        return str(self.assertRaises(
            errors.BuildError, function, *arguments))

    def test_local(self):
        expected = self.wheel.read_bytes()
        self.assertEqual(expected, release.wheel(self.pin, str(self.wheel)))
        self.setenv('NOVA_RELEASE_WHEEL', str(self.wheel))
        self.assertEqual(expected, release.wheel(self.pin))
        self.setenv('NOVA_RELEASE_SDIST', str(self.sdist))
        self.assertEqual(self.sdist, release.sdist(self.pin))

    def test_download_leaves_nothing(self):
        run = self._pip()
        self.assertEqual(self.wheel.read_bytes(), release.wheel(self.pin))
        command = run.call_args.args[0]
        self.assertFalse(
            pathlib.Path(command[command.index('--dest') + 1]).exists())
        self.assertIn('--no-deps', command)
        self.assertEqual(
            f'nova==1.2.0 --hash=sha256:{self.pin.sha256}\n', self.asked)

    def test_sdist_is_downloaded_once(self):
        run = self._pip()
        for _ in range(2):
            path = release.sdist(self.pin)
            self.assertEqual(self.sdist.read_bytes(), path.read_bytes())
        run.assert_called_once()
        self.assertEqual([path], list(path.parent.iterdir()))
        self.assertEqual(
            f'nova==1.2.0 --hash=sha256:{self.pin.sdist_sha256}\n', self.asked)
        path.write_bytes(b'')  # damage the cache
        self.assertEqual(path, release.sdist(self.pin))
        self.assertEqual(self.sdist.read_bytes(), path.read_bytes())

    def test_another_archive(self):
        for path in (self.wheel, self.sdist):
            with path.open('ab') as stream:
                stream.write(b'!')
        self._pip()
        for local in (None, str(self.wheel)):
            message = self._error(release.wheel, self.pin, local)
            self.assertIn('is not the nova 1.2.0 that setup.cfg pins', message)
            self.assertIn(self.pin.sha256, message)
        for archive in ('', str(self.sdist)):
            self.setenv('NOVA_RELEASE_SDIST', archive)
            self.assertIn(self.pin.sdist_sha256,
                          self._error(release.sdist, self.pin))
        self.assertEqual([], [p for p in self.output.rglob('*')
                              if p.is_file()])

    def test_missing_local_wheel(self):
        self.assertIn('No such file', self._error(
            release.wheel, self.pin, str(self.root / 'no.whl')))

    def test_pip_fails(self):
        for error, reason in (
            (subprocess.CalledProcessError(1, 'pip', 'No matching'),
             'No matching'),
            (subprocess.TimeoutExpired('pip', 600), 'after 600 seconds'),
        ):
            self._pip(error)
            for function in (release.wheel, release.sdist):
                message = self._error(function, self.pin)
                self.assertIn(reason, message)
                self.assertIn('NOVA_RELEASE_WHEEL', message)
