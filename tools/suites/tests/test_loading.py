# SPDX-License-Identifier: Apache-2.0

import pathlib
from typing import Any
import unittest
from unittest import mock

import fixtures
import testtools

from suites import loading

MODULE = 'nova.tests.unit.test_sample'
SAMPLE = """\
import unittest


class SampleTestCase(unittest.TestCase):

    def test_one(self):
        pass

    def test_two(self):
        pass
"""
ONE = f'{MODULE}.SampleTestCase.test_one'
TWO = f'{MODULE}.SampleTestCase.test_two'


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


class LoadingTestCase(testtools.TestCase):
    """A tree, and an installed Nova with one module of tests."""

    def setUp(self) -> None:
        super().setUp()
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.root = folder / 'root'
        self.installed = folder / 'site'
        self._write(self.root, 'nova/conf/glance.py', '')
        self._write(self.installed, 'nova/conf/glance.py', '')
        self.useFixture(fixtures.MonkeyPatch(
            'suites.loading.ROOT', self.root))
        spec = mock.Mock(origin=str(self.installed / 'nova/__init__.py'))
        self.useFixture(fixtures.MockPatch(
            'importlib.util.find_spec', return_value=spec))
        self.loader = unittest.TestLoader()
        loaded = unittest.TestSuite(self._sample())
        self.load = mock.Mock(return_value=loaded)
        for name in ('loadTestsFromName', 'loadTestsFromNames'):
            self.useFixture(fixtures.MockPatchObject(
                self.loader, name, self.load))

    def _write(self, top: pathlib.Path, name: str, text: str) -> None:
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def _sample(self) -> list[unittest.TestCase]:
        names: dict[str, Any] = {'__name__': MODULE}
        exec(SAMPLE, names)
        case = names['SampleTestCase']
        return [case('test_one'), case('test_two')]

    def _both(self, name: str, text: str = '') -> None:
        self._write(self.root, name, text)
        self._write(self.installed, name, text)

    def _released(self) -> list[str]:
        suite = loading.released(self.loader, MODULE, 'exempt.txt')
        return [
            test.id() for test in suite if isinstance(test, unittest.TestCase)]

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

    def test_released(self):
        self._write(self.root, 'exempt.txt', f'{TWO}  # A reason.\n')
        self.assertEqual([ONE], self._released())

    def test_released_unknown_exemption(self):
        self._write(self.root, 'exempt.txt', f'{TWO}x  # A reason.\n')
        exc = self.assertRaises(loading.SuiteError, self._released)
        self.assertIn(f'does not have: {TWO}x', str(exc))

    def test_released_but_replaced(self):
        self._both('nova/tests/unit/test_sample.py', SAMPLE)
        self._write(self.root, 'exempt.txt', '')
        exc = self.assertRaises(loading.SuiteError, self._released)
        self.assertIn('not the released one', str(exc))
