# SPDX-License-Identifier: Apache-2.0

import pathlib
import unittest
from unittest import mock

import fixtures
import testtools

from suites import loading


class LoadingTestCase(testtools.TestCase):
    """A tree, and an installed Nova to load tests from."""

    def setUp(self) -> None:
        super().setUp()
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.root = folder / 'root'
        self.installed = folder / 'site'
        self._write('nova/conf/glance.py')
        self.useFixture(fixtures.MonkeyPatch(
            'suites.loading.ROOT', self.root))
        self.useFixture(fixtures.MockPatch(
            'importlib.util.find_spec', lambda name: mock.Mock(
                origin=str(self.installed / name / '__init__.py'))))
        self.loader = unittest.TestLoader()
        self.load = self.useFixture(fixtures.MockPatchObject(
            self.loader, 'loadTestsFromNames')).mock

    def _write(self, name: str) -> None:
        for top in (self.root, self.installed):
            path = top / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text('')

    def _error(self, folder: str = 'nova/tests/unit') -> str:
        return str(self.assertRaises(
            loading.SuiteError, loading.loaded, self.loader, folder))

    def test_ours(self):
        for name in ('unit/image/test_b', 'unit/test_a', 'unit/base',
                     'unit/not_test_d', 'functional/test_c'):
            self._write(f'nova/tests/{name}.py')
        loading.loaded(self.loader, 'nova/tests/unit')
        self.load.assert_called_once_with(
            ['nova.tests.unit.image.test_b', 'nova.tests.unit.test_a'])

    def test_no_tests(self):
        self.assertIn('has no test_*.py', self._error())

    def test_another_nova_is_installed(self):
        self._write('nova/tests/unit/test_a.py')
        (self.root / 'nova/conf/glance.py').write_text('changed = True\n')
        self.assertIn(
            'differs from nova/conf/glance.py in this tree', self._error())

    def test_no_nova_is_installed(self):
        with mock.patch('importlib.util.find_spec', return_value=None):
            self.assertIn('nova is not installed', self._error())

    def test_lab(self):
        self._write('lab/constraints.txt')
        self._write('lab/tests/unit/test_a.py')
        (self.root / 'lab/pyproject.toml').write_text('')
        loading.loaded(self.loader, 'lab/tests/unit')
        self.load.assert_called_once_with(['lab.tests.unit.test_a'])

    def test_another_lab_is_installed(self):
        for name in ('lab/constraints.txt', 'lab/tests/functional/base.py'):
            self._write(name)
            (self.root / name).write_text('changed==1')
            self.assertIn(f'differs from {name} in this tree',
                          self._error('lab/tests/unit'))
            (self.installed / name).write_text('changed==1')

    def test_package_of_the_checkout(self):
        self.installed = self.root
        self.assertIn('from the checkout', self._error())
