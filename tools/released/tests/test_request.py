# SPDX-License-Identifier: Apache-2.0

import importlib
import io
import json
import pathlib
import sys
import unittest

import fixtures
import testtools

from released import request
from suites import loading

GOOD = """\
import unittest


class ATestCase(unittest.TestCase):

    def test_one(self):
        pass

    def test_two(self):
        pass
"""


class RequestTestCase(testtools.TestCase):
    """Two modules of tests, one of which cannot be imported."""

    def setUp(self) -> None:
        super().setUp()
        self.folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        for name, text in (
                ('nova/__init__.py', ''), ('released_good.py', GOOD),
                ('released_broken.py', 'raise SystemExit("no")')):
            path = self.folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        self.useFixture(fixtures.MonkeyPatch(
            'sys.path', [str(self.folder), *sys.path]))
        self.addCleanup(sys.modules.pop, 'released_good', None)
        importlib.invalidate_caches()

    def _find(self, origin: pathlib.Path | None) -> None:
        """Let Python find this nova, whichever is imported already."""
        spec = origin and importlib.util.spec_from_file_location(
            'nova', origin)
        self.useFixture(fixtures.MockPatch(
            'importlib.util.find_spec', return_value=spec))

    def _load(self, *tests: str) -> unittest.TestSuite:
        self._find(self.folder / 'nova/__init__.py')
        asked = request.Request(
            str(self.folder), ('released_good', 'released_broken'),
            str(self.folder / 'loaded.json'), tests)
        return asked.load(unittest.TestLoader())

    def _ids(self, suite: unittest.TestSuite) -> list[str]:
        return [test.id() for test in loading.flat(suite)]

    def test_all(self):
        self.assertEqual(
            ['released_good.ATestCase.test_one',
             'released_good.ATestCase.test_two',
             'released_broken.not_loaded'], self._ids(self._load()))

    def test_some(self):
        for test in ('released_good.ATestCase.test_two',
                     'released_broken.not_loaded'):
            self.assertEqual([test], self._ids(self._load(test)))
            loaded = (self.folder / 'loaded.json').read_text()
            self.assertEqual([test], json.loads(loaded))

    def test_broken_module_is_a_failing_test(self):
        result = unittest.TextTestRunner(stream=io.StringIO()).run(
            self._load('released_broken.not_loaded'))
        self.assertEqual(1, result.testsRun)
        self.assertFalse(result.wasSuccessful())

    def test_another_nova(self):
        asked = request.Request(str(self.folder), ('released_good',), '/x')
        for origin in (self.folder / 'site/nova/__init__.py', None):
            self._find(origin)
            exc = self.assertRaises(
                loading.SuiteError, asked.load, unittest.TestLoader())
            self.assertIn(f'{self.folder}/nova/__init__.py', str(exc))

    def test_there_and_back(self):
        path = self.folder / 'request.json'
        self.useFixture(fixtures.EnvironmentVariable(
            request.VARIABLE, str(path)))
        asked = request.Request('/a', ('b', 'c'), '/x', ('b.d',))
        asked.write(path)
        self.assertEqual(asked, request.received())

    def test_none(self):
        self.useFixture(fixtures.EnvironmentVariable(request.VARIABLE))
        self.assertRaises(loading.SuiteError, request.received)
