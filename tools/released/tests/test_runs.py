# SPDX-License-Identifier: Apache-2.0

import io
import pathlib
import signal
from unittest import mock

import fixtures
import testtools

from released import comparison
from released import runs
from released import selection
from released import sides
from suites import counting
from suites import loading

IMAGE = 'nova.tests.unit.image.test_glance'
COMPUTE = 'nova.tests.unit.compute.test_api'
PROFILER = 'nova.tests.unit.test_profiler'
MODULES = [COMPUTE, IMAGE, PROFILER]
PARTS = (
    selection.Part('unit', (
        selection.Group('image', ('nova.tests.unit.image',), fast=True),
        selection.Group('compute', ('nova.tests.unit.compute',)))),
    selection.Part('profiler', (
        selection.Group('profiler', (PROFILER,)),), {'TEST_OSPROFILER': '1'}),
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
GOOD = TESTS.format('pass')


class ChosenTestCase(testtools.TestCase):

    def setUp(self) -> None:
        super().setUp()
        self.useFixture(fixtures.MonkeyPatch(
            'released.selection.PARTS', PARTS))
        self.overlay = {'nova/tests/unit/image/test_ours.py': None}
        self.useFixture(fixtures.MockPatch(
            'suites.loading.installed_overlay', return_value=self.overlay))

    def _chosen(self, fast: bool) -> list[runs.Run]:
        return runs.chosen(MODULES, selection.Mode.THREADS, fast)

    def test_whole(self):
        unit, profiler = self._chosen(fast=False)
        self.assertEqual({IMAGE: 'image', COMPUTE: 'compute'}, unit.groups)
        self.assertEqual({PROFILER: 'profiler'}, profiler.groups)
        self.assertNotIn('TEST_OSPROFILER', unit.environment)
        self.assertEqual('1', profiler.environment['TEST_OSPROFILER'])
        for run in (unit, profiler):
            self.assertEqual(
                'true', run.environment['OS_NOVA_DISABLE_EVENTLET_PATCHING'])

    def test_fast(self):
        [unit] = self._chosen(fast=True)
        self.assertEqual({IMAGE: 'image'}, unit.groups)

    def test_module_of_ours(self):
        self.overlay[f'{IMAGE.replace(".", "/")}.py'] = None
        exc = self.assertRaises(
            loading.SuiteError, self._chosen, fast=True)
        self.assertIn(f'This tree replaces {IMAGE}', str(exc))

    def test_only(self):
        unit, profiler = self._chosen(fast=False)
        tests = (f'{IMAGE}.A.test_a', f'setUpClass ({IMAGE}.B)')
        self.assertEqual({IMAGE: 'image'}, unit.only(tests).groups)
        self.assertEqual(tests, unit.only(tests).tests)
        self.assertEqual({}, profiler.only(tests).groups)

    def test_exempt(self):
        exemptions = {
            f'{IMAGE}.A.test_a': 'Why.', f'{COMPUTE}.A.test_b': 'Why.'}
        for fast, tests in (
                (True, [f'{IMAGE}.A.test_a']),
                (False, [f'{IMAGE}.A.test_a', f'{COMPUTE}.A.test_b'])):
            found = runs.exempt(self._chosen(fast), exemptions, fast)
            self.assertEqual(tests, list(found))


class BothTestCase(testtools.TestCase):
    """Two small packages that are called nova, and stestr itself."""

    def setUp(self) -> None:
        super().setUp()
        self.top = pathlib.Path(
            self.useFixture(fixtures.TempDir()).path).resolve()
        self.useFixture(fixtures.EnvironmentVariable(
            'TOX_ENV_DIR', str(self.top / 'tox')))
        self.output = io.TextIOWrapper(io.BytesIO())
        self.useFixture(fixtures.MonkeyPatch('sys.stdout', self.output))
        self.both = sides.Sides(
            sides.Side('pristine', self.top / 'pristine'),
            sides.Side('ours', self.top / 'ours'))
        self.run_of = runs.Run(
            'unit', {f'nova.test_{name}': name for name in 'abcd'},
            {'ASKED': 'yes'})
        for side in (self.both.pristine, self.both.ours):
            self._write(side, '__init__', '')
            for name in 'abcd':
                self._write(side, f'test_{name}', GOOD)

    def _write(self, side: sides.Side, module: str, text: str) -> None:
        path = side.folder / f'nova/{module}.py'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def _shown(self) -> str:
        self.output.seek(0)
        return self.output.read()

    def test_comparison(self):
        ours = self.both.ours
        self._write(ours, 'test_b', TESTS.format('self.fail("of ours")'))
        self._write(ours, 'test_c', 'import there_is_no_such_module')
        self._write(ours, 'test_d', TESTS.format('os._exit(3)'))
        found = comparison.Comparison(*runs.on_both(self.run_of, self.both))
        self.assertEqual(
            ['nova.test_b.ATestCase.test_other',
             'nova.test_c.ATestCase.test_good',
             'nova.test_c.ATestCase.test_other', 'nova.test_c.not_loaded',
             'nova.test_d.ATestCase.test_other'],
            found.regressions())
        self.assertEqual([], found.problems())
        for test, reason in (
                ('nova.test_b.ATestCase.test_other', 'of ours'),
                ('nova.test_c.not_loaded', 'there_is_no_such_module')):
            self.assertIn(reason, comparison.last_line(found.of_ours(test)))
        for side in ('pristine', 'ours'):
            self.assertRegex(
                self._shown(),
                rf'(?m)^{side} +\{{0\}} nova.test_a.*test_good.* ok$')
        # What the processes were asked is not left behind.
        self.assertEqual({'pristine', 'ours', 'tox'},
                         {path.name for path in self.top.iterdir()})

    def test_some_alone(self):
        self._write(
            self.both.ours, 'test_b', TESTS.format('self.skipTest("ours")'))
        # Where there is no package, there is nothing to test.
        (self.both.pristine.folder / 'nova').rename(self.top / 'nova')
        test = 'nova.test_b.ATestCase.test_other'
        pristine, ours = runs.one_by_one(self.run_of.only([test]), self.both)
        self.assertEqual(
            {test: counting.Result(counting.Outcome.SKIPPED, 'ours')}, ours)
        [failure] = pristine.values()
        self.assertEqual(counting.Outcome.FAILED, failure.outcome)
        self.assertIn('SuiteError', comparison.last_line(failure))

    def test_interrupt(self):
        def interrupted() -> None:
            with runs._begun(self.run_of, self.both.ours, 1) as begun:
                self.process = begun.process
                raise KeyboardInterrupt

        self.assertRaises(KeyboardInterrupt, interrupted)
        self.assertEqual(-signal.SIGTERM, self.process.returncode)

    def test_what_was_loaded_and_not_run(self):
        passed = counting.Result(counting.Outcome.PASSED)
        loaded = self.top / 'loaded.json'
        begun = runs._Begun(mock.Mock(), mock.Mock(), self.top, loaded)
        results = {'a': passed, 'b(one)': passed}
        self.assertEqual({}, begun._not_run(results))
        loaded.write_text('["a", "b", "c"]')
        self.assertEqual({'c': counting.Result(counting.Outcome.NOT_RUN)},
                         begun._not_run(results))
