# SPDX-License-Identifier: Apache-2.0

import pathlib
import unittest
from unittest import mock

import fixtures
import testtools

from novabuild import project
from suites import loading


SETUP = f"""\
[metadata]
name = nova
version = 1.2.0+rbd.1
description = A whole Nova

[nova_release]
version = 1.2.0
sha256 = {'a' * 64}
sdist_sha256 = {'b' * 64}
"""


class LoadingTestCase(testtools.TestCase):
    """A tree, and an installed Nova to load tests from."""

    def setUp(self) -> None:
        super().setUp()
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.root = folder / 'root'
        self.installed = folder / 'site'
        self._write(self.root, 'setup.cfg', SETUP)
        self._write(self.root, 'nova/conf/glance.py', '')
        self.useFixture(fixtures.EnvironmentVariable(project.RELEASE_VARIABLE))
        self._write(self.installed, 'nova/conf/glance.py', '')
        self.useFixture(fixtures.MonkeyPatch(
            'suites.loading.ROOT', self.root))
        spec = mock.Mock(origin=str(self.installed / 'nova/__init__.py'))
        self.useFixture(fixtures.MockPatch(
            'importlib.util.find_spec', return_value=spec))
        self.loader = unittest.TestLoader()
        self.load = self.useFixture(fixtures.MockPatchObject(
            self.loader, 'loadTestsFromNames')).mock

    def _write(self, top: pathlib.Path, name: str, text: str) -> None:
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def _both(self, name: str, text: str = '') -> None:
        self._write(self.root, name, text)
        self._write(self.installed, name, text)

    def test_ours(self):
        self._both('nova/tests/unit/image/test_b.py')
        self._both('nova/tests/unit/test_a.py')
        self._both('nova/tests/unit/base.py')
        self._both('nova/tests/functional/test_c.py')
        loading.ours(self.loader, 'nova/tests/unit')
        self.load.assert_called_once_with(
            ['nova.tests.unit.image.test_b', 'nova.tests.unit.test_a'])

    def test_ours_are_none(self):
        exc = self.assertRaises(
            loading.SuiteError, loading.ours, self.loader, 'nova/tests/unit')
        self.assertIn('has no test_*.py', str(exc))

    def test_another_nova_is_installed(self):
        self._both('nova/tests/unit/test_a.py')
        self._write(self.root, 'nova/conf/glance.py', 'changed = True\n')
        exc = self.assertRaises(
            loading.SuiteError, loading.ours, self.loader, 'nova/tests/unit')
        self.assertIn('is not the nova/conf/glance.py of this tree', str(exc))

    def test_no_nova_is_installed(self):
        with mock.patch('importlib.util.find_spec', return_value=None):
            exc = self.assertRaises(
                loading.SuiteError, loading.ours, self.loader, 'nova/tests')
        self.assertIn('Nova is not installed', str(exc))
