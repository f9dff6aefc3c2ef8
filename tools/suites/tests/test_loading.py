# SPDX-License-Identifier: Apache-2.0

import pathlib
import unittest
from unittest import mock

import fixtures
import testtools

from novabuild import project
from suites import loading


class ExemptionsTestCase(testtools.TestCase):

    def test_lines(self):
        self.assertEqual(
            {'a.b': 'Not any more.', 'a.c': 'See # 2.'},
            loading.exemptions(
                '# Comment\n\na.b  # Not any more.\na.c # See # 2.\n'))

    def test_no_reason(self):
        for line in ('a.b', 'a.b #', 'a.b # '):
            exc = self.assertRaises(
                loading.SuiteError, loading.exemptions, line)
            self.assertIn('Line 1', str(exc))

    def test_twice(self):
        exc = self.assertRaises(
            loading.SuiteError, loading.exemptions, 'a # x\na # y\n')
        self.assertIn('Line 2', str(exc))


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
        self.useFixture(fixtures.MockPatch(
            'importlib.util.find_spec',
            lambda name: mock.Mock(
                origin=str(self.installed / name / '__init__.py'))))
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
        self._both('lab/tests/unit/test_c.py')
        loading.ours(self.loader, 'nova/tests/unit')
        self.load.assert_called_once_with(
            ['nova.tests.unit.image.test_b', 'nova.tests.unit.test_a'])

    def test_lab(self):
        self._both('lab/constraints.txt', 'a==1\n')
        self._both('lab/tests/unit/test_a.py')
        self._write(self.root, 'lab/pyproject.toml', '')
        loading.ours(self.loader, 'lab/tests/unit')
        self.load.assert_called_once_with(['lab.tests.unit.test_a'])

    def test_another_lab_is_installed(self):
        for name in ('lab/constraints.txt', 'lab/tests/functional/base.py'):
            self._both('lab/tests/unit/test_a.py')
            self._both(name)
            self._write(self.root, name, 'changed==1')
            exc = self.assertRaises(
                loading.SuiteError, loading.ours, self.loader,
                'lab/tests/unit')
            self.assertIn(f'differs from {name} in this tree', str(exc))
            self._write(self.installed, name, 'changed==1')

    def test_lab_of_the_checkout(self):
        self._both('lab/tests/unit/test_a.py')
        self.installed = self.root
        exc = self.assertRaises(
            loading.SuiteError, loading.installed_lab)
        self.assertIn('from the checkout', str(exc))

    def test_ours_are_none(self):
        exc = self.assertRaises(
            loading.SuiteError, loading.ours, self.loader, 'nova/tests/unit')
        self.assertIn('has no test_*.py', str(exc))

    def test_another_nova_is_installed(self):
        self._both('nova/tests/unit/test_a.py')
        self._write(self.root, 'nova/conf/glance.py', 'changed = True\n')
        exc = self.assertRaises(
            loading.SuiteError, loading.ours, self.loader, 'nova/tests/unit')
        self.assertIn(
            'differs from nova/conf/glance.py in this tree', str(exc))

    def test_form_of_the_release(self):
        self._both('nova/tests/unit/test_a.py')
        path = 'nova/conf/glance.py'
        self._write(self.root, f'releases/1.2.0/{path}', 'older = True\n')
        self.assertRaises(
            loading.SuiteError, loading.ours, self.loader, 'nova/tests/unit')
        self._write(self.installed, path, 'older = True\n')
        loading.ours(self.loader, 'nova/tests/unit')
        self.load.assert_called_once()

    def test_exempt_tests_of_a_release(self):
        self._write(self.root, 'tools/released-exempt.txt', 'a.b # x\n')
        self.assertEqual({'a.b': 'x'}, loading.exempt())
        extra = 'releases/1.2.0/released-exempt.txt'
        self._write(self.root, extra, 'a.c # y\n')
        self.assertEqual({'a.b': 'x', 'a.c': 'y'}, loading.exempt())
        self._write(self.root, extra, 'a.b # y\n')
        self.assertRaises(loading.SuiteError, loading.exempt)

    def test_no_nova_is_installed(self):
        with mock.patch('importlib.util.find_spec', return_value=None):
            exc = self.assertRaises(
                loading.SuiteError, loading.ours, self.loader, 'nova/tests')
        self.assertIn('nova is not installed', str(exc))
