# SPDX-License-Identifier: Apache-2.0

import testtools

from released import comparison
from released import runs
from suites import results

PASSED = results.Result(results.PASSED)
FAILED = results.Result(results.FAILED, 'Traceback\n  File\nValueError: x\n')
SKIPPED = results.Result(results.SKIPPED, 'no such thing')
KILLED = results.Result(results.FAILED, results.NEVER_ENDED)


def compare(
    pristine: results.Results, ours: results.Results, *exempt: str,
) -> comparison.Comparison:
    return comparison.Comparison(pristine, ours, dict.fromkeys(exempt, 'why'))


class RegressionsTestCase(testtools.TestCase):

    def test_regressions(self):
        all_pass = dict.fromkeys(('a', 'b', 'c', 'd'), PASSED)
        none_passes = {'a': FAILED, 'b': SKIPPED}
        both = {'a': PASSED, 'b': FAILED, 'c': SKIPPED}
        for pristine, ours, exempt, expected in (
            (both, both, [], []),
            (all_pass, {'a': FAILED, 'b': SKIPPED, 'c': PASSED}, [],
             ['a', 'b', 'd']),
            (none_passes, dict.fromkeys(none_passes, FAILED), [], []),
            (none_passes, {}, [], []),
            ({}, {'a.not_loaded': FAILED, 'b': SKIPPED, 'c': PASSED}, [],
             ['a.not_loaded']),
            (all_pass, all_pass | {'a': FAILED, 'b': FAILED}, ['a'], ['b']),
        ):
            compared = compare(pristine, ours, *exempt)
            self.assertEqual(expected, compared.regressions())
            if expected:
                self.assertTrue(compared.is_bad())


class ProblemsTestCase(testtools.TestCase):

    def test_none(self):
        compared = compare(
            {'a': PASSED, 'b': PASSED, 'c': FAILED, 'd': SKIPPED},
            {'a': PASSED, 'b': FAILED}, 'b')
        self.assertEqual([], compared.problems())
        self.assertFalse(compared.is_bad())

    def test_idle_run(self):
        for found, idle in (({}, True), ({'a': FAILED, 'b': SKIPPED}, True),
                            ({'a': FAILED, 'b': PASSED}, False)):
            found = {f'm.{name}': result for name, result in found.items()}
            compared = comparison.Comparison(
                found | {'other.a': PASSED}, found | {'other.a': PASSED},
                selected=[runs.Run('functional', ['m'], {})])
            self.assertEqual(
                ['No test of the run "functional" passed on the release.'
                 ] * idle, compared.problems())
            self.assertEqual(idle, compared.is_bad())
            self.assertEqual(idle, compared.after(compared).is_bad())

    def test_each(self):
        good = {'a': PASSED}
        for pristine, ours, exempt, message in (
            ({'nova.b.not_loaded': FAILED}, {}, [],
             'nova.b cannot be imported on the release: ValueError: x'),
            ({'b': KILLED}, {'b': KILLED}, [],
             'b never ended on the release.'),
            ({}, {'b': PASSED}, [], 'b did not run on the release.'),
            ({'b': PASSED}, {'b': PASSED}, ['b'], 'b is exempt, but passes.'),
            ({}, {}, ['b'], 'the release has no such test'),
            ({'b': FAILED}, {'b': FAILED}, ['b'], 'fails on the release too'),
            ({'b': SKIPPED}, {'b': FAILED}, ['b'], 'fails on the release too'),
        ):
            compared = compare(good | pristine, good | ours, *exempt)
            [problem] = compared.problems()
            self.assertIn(message, problem)
            self.assertTrue(compared.is_bad())


class AfterTestCase(testtools.TestCase):
    """Regressions that ran again."""

    def setUp(self) -> None:
        super().setUp()
        self.first = compare(
            dict.fromkeys('abcd', PASSED),
            {'a': FAILED, 'b': FAILED, 'c': FAILED, 'd': PASSED,
             'setUpClass (x)': FAILED})

    def test_confirmed(self):
        again = dict.fromkeys('abc', PASSED)
        self.assertEqual(self.first, self.first.after(compare(
            again, {'a': FAILED, 'b': SKIPPED, 'setUpClass (x)': FAILED})))
        self.assertEqual(self.first, self.first.after(compare({}, {})))

    def test_not_confirmed(self):
        found = self.first.after(compare(
            {'a': PASSED, 'b': FAILED, 'c': PASSED},
            {'a': PASSED, 'b': FAILED, 'c': FAILED}))
        self.assertEqual(['c'], found.regressions())
        self.assertEqual(
            {'a': 'it passes when it runs alone',
             'b': 'it fails on the release too when it runs alone',
             'setUpClass (x)': 'it does not recur when it runs alone'},
            found.unreliable)
        self.assertEqual(results.Counts(2, 2, 0), found.counts())


class CountsTestCase(testtools.TestCase):

    def test_counts(self):
        both = {'a': PASSED, 'b': FAILED, 'c': SKIPPED}
        for pristine, ours, exempt, counts in (
            # c is exempt; b fails, and e did not run.
            (dict.fromkeys('abcde', PASSED),
             {'a': PASSED, 'b': FAILED, 'c': FAILED, 'd': SKIPPED}, ['c'],
             (1, 2, 1)),
            # A needless exemption is a problem.
            ({'a': PASSED}, {'a': PASSED}, ['a'], (0, 1, 0)),
            (both, both, [], (1, 1, 1)),
        ):
            self.assertEqual(
                counts, compare(pristine, ours, *exempt).counts())

    def test_last_line(self):
        self.assertEqual('ValueError: x', comparison.last_line(FAILED))
        self.assertEqual('passed', comparison.last_line(PASSED))
