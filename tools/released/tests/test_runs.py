# SPDX-License-Identifier: Apache-2.0

import importlib.util
import pathlib
from unittest import mock

import fixtures
import testtools

from novabuild.tests import base
from released import comparison
from released import runs
from released import selection
from suites import loading
from suites import results
from suites import suite

IMAGE = 'nova.tests.unit.image.test_glance'
COMPUTE = 'nova.tests.unit.compute.test_api'
PROFILER = 'nova.tests.unit.test_profiler'
PARTS = (
    selection.Part('unit', ('nova.tests.unit.image', COMPUTE),
                   ('nova.tests.unit.image',)),
    selection.Part('profiler', (PROFILER,),
                   environment={'TEST_OSPROFILER': '1'}),
)
TESTS = """\
import os
import unittest


class ATestCase(unittest.TestCase):

    def test_good(self):
        self.assertEqual('yes', os.environ['ASKED'])

    def test_other(self):
        {}
"""


class SidesTestCase(base.TestCase):

    def test_sides(self):
        with runs.sides(self.project()) as both:
            self.assertEqual(
                [('pristine', 'released = True\n'),
                 ('ours', 'released = False\n')],
                [(side.name,
                  (side.folder / 'nova/image/glance.py').read_text())
                 for side in both])
            for side in both:
                # Nova's API does not start without it.
                self.assertTrue(
                    (side.folder / 'etc/nova/api-paste.ini').is_file())
        for side in both:
            self.assertFalse(side.folder.exists())


class ChosenTestCase(testtools.TestCase):

    def setUp(self) -> None:
        super().setUp()
        self.useFixture(fixtures.MonkeyPatch(
            'released.selection.PARTS', PARTS))
        self.overlay = {'nova/tests/unit/image/test_ours.py': None}
        self.useFixture(fixtures.MockPatch(
            'novabuild.tree.overlay', return_value=self.overlay))

    def _chosen(self, fast: bool) -> list[runs.Run]:
        return runs.chosen(
            [COMPUTE, IMAGE, PROFILER], 'threads', fast)

    def test_chosen(self):
        [unit] = self._chosen(fast=True)
        self.assertEqual([IMAGE], unit.modules)
        unit, profiler = self._chosen(fast=False)
        self.assertEqual([COMPUTE, IMAGE], unit.modules)
        self.assertEqual([PROFILER], profiler.modules)
        self.assertNotIn('TEST_OSPROFILER', unit.environment)
        self.assertEqual('1', profiler.environment['TEST_OSPROFILER'])
        for run in (unit, profiler):
            self.assertEqual(
                'true', run.environment['OS_NOVA_DISABLE_EVENTLET_PATCHING'])

    def test_module_of_ours(self):
        self.overlay[f'{IMAGE.replace(".", "/")}.py'] = None
        exc = self.assertRaises(
            loading.SuiteError, self._chosen, fast=True)
        self.assertIn(f'This tree replaces {IMAGE}', str(exc))


class RunTestCase(testtools.TestCase):
    """Two small packages with the name nova, and the real stestr."""

    def setUp(self) -> None:
        super().setUp()
        self.top = pathlib.Path(
            self.useFixture(fixtures.TempDir()).path).resolve()
        self.useFixture(fixtures.EnvironmentVariable(
            'TOX_ENV_DIR', str(self.top / 'tox')))
        self.pristine, self.ours = self.both = [
            runs.Side(name, self.top / name) for name in ('pristine', 'ours')]
        self.run_of = runs.Run(
            'unit', [f'nova.test_{name}' for name in 'abcd'],
            {'ASKED': 'yes'})
        for side in self.both:
            self._write(side, '__init__', '')
            for name in 'abcd':
                self._write(side, f'test_{name}', TESTS.format('pass'))

    def _write(self, side: runs.Side, module: str, text: str) -> None:
        path = side.folder / f'nova/{module}.py'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def test_has(self):
        for test, has in (('nova.test_a.ATestCase.test_a', True),
                          ('setUpClass (nova.test_b.ATestCase)', True),
                          ('nova.test_c.not_loaded', True),
                          ('nova.test_another.ATestCase.test_a', False)):
            self.assertEqual(has, self.run_of.has(test))

    def test_comparison(self):
        self._write(self.ours, 'test_b', TESTS.format('self.fail("of ours")'))
        self._write(self.ours, 'test_c', 'raise SystemExit("no such module")')
        self._write(self.ours, 'test_d', TESTS.format('os._exit(3)'))
        pristine, ours = runs.run(self.run_of, self.both)
        found = comparison.Comparison(pristine, ours)
        self.assertEqual(
            ['nova.test_b.ATestCase.test_other',
             'nova.test_c.ATestCase.test_good',
             'nova.test_c.ATestCase.test_other', 'nova.test_c.not_loaded',
             'nova.test_d.ATestCase.test_other'],
            found.regressions())
        self.assertEqual([], found.problems())
        for test, reason in (
                ('nova.test_b.ATestCase.test_other', 'of ours'),
                ('nova.test_c.not_loaded', 'no such module'),
                ('nova.test_d.ATestCase.test_other', results.NEVER_ENDED)):
            self.assertIn(reason, comparison.last_line(found.of_ours(test)))

    def test_some_alone(self):
        self._write(
            self.ours, 'test_b', TESTS.format('self.skipTest("ours")'))
        # Without a package in the folder, another Nova would be tested.
        (self.pristine.folder / 'nova').rename(self.top / 'nova')
        test = 'nova.test_b.ATestCase.test_other'
        pristine, ours = runs.run(self.run_of, self.both, [test])
        self.assertEqual(
            {test: results.Result(results.SKIPPED, 'ours')}, ours)
        self.assertNotIn(results.PASSED, {
            result.outcome for result in pristine.values()})

    def test_another_nova(self):
        loader = mock.Mock()
        for name, value in ((suite.VARIABLE, 'a b'), ('PYTHONPATH', '/there')):
            self.useFixture(fixtures.EnvironmentVariable(name, value))
        for origin in ('/here/nova/__init__.py', None):
            spec = origin and importlib.util.spec_from_file_location(
                'nova', origin)
            with mock.patch('importlib.util.find_spec', return_value=spec):
                exc = self.assertRaises(
                    loading.SuiteError, suite.load_tests, loader, None, None)
            self.assertIn('/there/nova/__init__.py', str(exc))
