# SPDX-License-Identifier: Apache-2.0

import testtools

from released import comparison
from suites import counting
from suites.counting import Outcome

PASSED = counting.Result(Outcome.PASSED)
FAILED = counting.Result(Outcome.FAILED, 'Traceback\n  File\nValueError: x\n')
SKIPPED = counting.Result(Outcome.SKIPPED, 'no such thing')
NOT_RUN = counting.Result(Outcome.NOT_RUN)


class RegressionsTestCase(testtools.TestCase):

    def _regressions(
        self, pristine: comparison.Results, ours: comparison.Results,
        *exempt: str,
    ) -> list[str]:
        return comparison.Comparison(
            pristine, ours, dict.fromkeys(exempt, 'why')).regressions()

    def test_same(self):
        both = {'a': PASSED, 'b': FAILED, 'c': SKIPPED}
        self.assertEqual([], self._regressions(both, both))

    def test_whatever_is_not_a_pass(self):
        ours = {'a': FAILED, 'b': SKIPPED, 'c': NOT_RUN, 'd': PASSED}
        self.assertEqual(
            ['a', 'b', 'c', 'missing'],
            self._regressions(dict.fromkeys([*ours, 'missing'], PASSED), ours))

    def test_what_did_not_pass_before(self):
        pristine = {'a': FAILED, 'b': SKIPPED, 'c': NOT_RUN}
        self.assertEqual(
            [], self._regressions(pristine, dict.fromkeys(pristine, FAILED)))
        self.assertEqual([], self._regressions(pristine, {}))

    def test_what_only_ours_has(self):
        self.assertEqual(
            ['a.not_loaded', 'b'],
            self._regressions({}, {
                'a.not_loaded': FAILED, 'b': NOT_RUN, 'c': SKIPPED,
                'd': PASSED}))

    def test_exempt(self):
        self.assertEqual(['b'], self._regressions(
            {'a': PASSED, 'b': PASSED}, {'a': FAILED, 'b': FAILED}, 'a'))


class ProblemsTestCase(testtools.TestCase):

    def _problem(
        self, pristine: comparison.Results, ours: comparison.Results,
        *exempt: str,
    ) -> str:
        [problem] = comparison.Comparison(
            pristine, ours, dict.fromkeys(exempt, 'why')).problems()
        return problem

    def test_none(self):
        compared = comparison.Comparison(
            {'a': PASSED, 'b': PASSED, 'c': FAILED, 'd': SKIPPED},
            {'a': PASSED, 'b': FAILED}, {'b': 'why'})
        self.assertEqual([], compared.problems())
        self.assertFalse(compared.is_bad())

    def test_part_that_did_not_run(self):
        compared = comparison.Comparison(
            {'a': PASSED}, {'a': PASSED}, idle=('functional',))
        self.assertEqual(
            ['No test of the part "functional" has passed on the release.'],
            compared.problems())
        self.assertTrue(compared.is_bad())
        self.assertTrue(compared.after(compared).is_bad())
        for results, idle in (({}, True), ({'a': FAILED, 'b': SKIPPED}, True),
                              ({'a': FAILED, 'b': PASSED}, False)):
            self.assertEqual(idle, comparison.is_idle(results))

    def test_release_cannot_be_imported(self):
        problem = self._problem(
            {'a': PASSED, 'nova.b.not_loaded': FAILED}, {'a': PASSED})
        self.assertEqual(
            'nova.b cannot be imported on the release: ValueError: x', problem)

    def test_release_ends_early(self):
        ours = {'a': PASSED, 'b': PASSED}
        self.assertIn('b was loaded and not run', self._problem(
            {'a': PASSED, 'b': NOT_RUN}, ours))

    def test_needless_exemptions(self):
        self.assertIn('passes: take it off', self._problem(
            {'a': PASSED, 'b': PASSED}, {'a': PASSED, 'b': PASSED}, 'b'))
        self.assertIn('has no such test', self._problem(
            {'a': PASSED}, {'a': PASSED}, 'b'))
        for result in (FAILED, SKIPPED):
            self.assertIn('on the release either', self._problem(
                {'a': PASSED, 'b': result}, {'a': PASSED, 'b': FAILED}, 'b'))

    def test_regression_is_bad(self):
        self.assertTrue(comparison.Comparison(
            {'a': PASSED, 'b': PASSED}, {'a': PASSED}).is_bad())


class AfterTestCase(testtools.TestCase):
    """Three tests did worse, and ran again."""

    def setUp(self) -> None:
        super().setUp()
        self.first = comparison.Comparison(
            {'a': PASSED, 'b': PASSED, 'c': PASSED, 'd': PASSED},
            {'a': FAILED, 'b': FAILED, 'c': FAILED, 'd': PASSED,
             'setUpClass (x)': FAILED})

    def _after(
        self, pristine: comparison.Results, ours: comparison.Results,
    ) -> comparison.Comparison:
        return self.first.after(comparison.Comparison(pristine, ours))

    def test_confirmed(self):
        again = {'a': PASSED, 'b': PASSED, 'c': PASSED}
        found = self._after(
            again, {'a': FAILED, 'b': SKIPPED, 'setUpClass (x)': FAILED})
        self.assertEqual(self.first, found)
        self.assertEqual(
            ['a', 'b', 'c', 'setUpClass (x)'], found.regressions())

    def test_not_confirmed(self):
        found = self._after(
            {'a': PASSED, 'b': FAILED, 'c': PASSED},
            {'a': PASSED, 'b': FAILED, 'c': FAILED})
        self.assertEqual(['c'], found.regressions())
        self.assertEqual(
            {'a': 'run alone, it passes',
             'b': 'run alone, it does not pass on the release either',
             'setUpClass (x)': 'run alone, it does not come back'},
            found.unreliable)
        self.assertEqual(['b'], found.fail_on_both())
        self.assertEqual(counting.Counts(2, 2, 0), found.counts())

    def test_nothing_ran_again(self):
        self.assertEqual(self.first, self._after({}, {}))


class CountsTestCase(testtools.TestCase):

    def test_exempt_tests_do_not_count(self):
        compared = comparison.Comparison(
            dict.fromkeys('abcde', PASSED),
            {'a': PASSED, 'b': FAILED, 'c': FAILED, 'd': SKIPPED},
            {'c': 'why'})
        # b and e, which did not run at all.
        self.assertEqual(counting.Counts(1, 2, 1), compared.counts())

    def test_problems_count(self):
        compared = comparison.Comparison(
            {'a': PASSED}, {'a': PASSED}, {'a': 'why'})
        self.assertEqual(counting.Counts(0, 1, 0), compared.counts())

    def test_failures_on_both_count(self):
        both = {'a': PASSED, 'b': FAILED, 'c': SKIPPED}
        compared = comparison.Comparison(both, both)
        self.assertFalse(compared.is_bad())
        self.assertEqual(counting.Counts(1, 1, 1), compared.counts())


class LastLineTestCase(testtools.TestCase):

    def test_it(self):
        self.assertEqual('ValueError: x', comparison.last_line(FAILED))
        self.assertEqual('not run', comparison.last_line(NOT_RUN))
