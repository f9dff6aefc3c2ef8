# SPDX-License-Identifier: Apache-2.0

"""A test that passes on the release must pass on our build."""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from collections.abc import Set
import dataclasses
from dataclasses import dataclass
from dataclasses import field

from released import runs
from suites import results

_NOT_RUN = results.Result(results.NOT_RUN)


@dataclass(frozen=True)
class Comparison:
    """The results of both sides, by test ID."""

    pristine: results.Results
    ours: results.Results
    exempt: Mapping[str, str] = field(default_factory=dict)
    """Reasons of exemptions, by test ID."""
    unreliable: Mapping[str, str] = field(default_factory=dict)
    """Reasons to ignore a failure, from a second run, by test ID."""
    selected: Sequence[runs.Run] = ()

    @property
    def tests(self) -> Set[str]:
        return self.pristine.keys() | self.ours.keys()

    def of_pristine(self, test: str) -> results.Result:
        return self.pristine.get(test, _NOT_RUN)

    def of_ours(self, test: str) -> results.Result:
        return self.ours.get(test, _NOT_RUN)

    def regressions(self) -> list[str]:
        """Return the tests that do worse on our build and are not exempt."""
        return sorted(test for test in self.tests - self.exempt.keys()
                      if self._is_worse(test))

    def problems(self) -> list[str]:
        """Return what makes the comparison itself worthless."""
        return [*self._of_release(), *self._of_exemptions()]

    def is_bad(self) -> bool:
        return bool(self.regressions() or self.problems())

    def findings(self) -> Iterator[str]:
        """Return the lines to print."""
        for name, side in (('the release', self.of_pristine),
                           ('ours', self.of_ours)):
            counts = results.count(map(side, self.tests))
            # A test that did not run has not passed.
            failed = len(self.tests) - counts.passed - counts.skipped
            yield (f'On {name}: {counts.passed} passed, {failed} failed, '
                   f'{counts.skipped} skipped.')
        yield (f'{len(self.exempt)} exempt, {len(self.regressions())} '
               'regressions.')
        for test in self.regressions():
            result = self.of_ours(test)
            yield (f'REGRESSION {test}: {self.of_pristine(test).outcome} on '
                   f'the release, {result.outcome} on ours: '
                   f'{last_line(result)}')
        for problem in self.problems():
            yield f'PROBLEM {problem}'
        for test, excuse in sorted(self.unreliable.items()):
            yield f'Unreliable: {test} did worse on ours; {excuse}.'

    def after(self, again: 'Comparison') -> 'Comparison':
        """Return this comparison, corrected by a second run of regressions.

        If the second run excuses a failure, it replaces the first result.
        """
        excused = {test: excuse for test in self.regressions()
                   if (excuse := self._excuse(test, again))}
        return dataclasses.replace(
            self, unreliable=excused,
            pristine=_corrected(self.pristine, again.pristine, excused),
            ours=_corrected(self.ours, again.ours, excused))

    def counts(self) -> results.Counts:
        """Count the results of our build, without those of exempt tests."""
        found = results.count(
            self.of_ours(test) for test in self.tests - self.exempt.keys())
        not_run = [test for test in self.regressions()
                   if test not in self.ours]
        return found._replace(
            failed=found.failed + len(not_run) + len(self.problems()))

    def _is_worse(self, test: str) -> bool:
        if test in self.pristine:
            return _passes(self.pristine[test]) and not _passes(
                self.of_ours(test))
        return self.of_ours(test).outcome == results.FAILED

    def _excuse(self, test: str, again: 'Comparison') -> str:
        if _passes(again.of_ours(test)):
            return 'it passes when it runs alone'
        if test in again.pristine and not _passes(again.pristine[test]):
            return 'it fails on the release too when it runs alone'
        if test not in self.pristine and again.ours and (
                test not in again.ours):
            return 'it does not recur when it runs alone'
        return ''

    def _of_release(self) -> Iterator[str]:
        for run in self.selected:
            if not any(_passes(result) and run.has(test)
                       for test, result in self.pristine.items()):
                yield f'No test of the run "{run.name}" passed on the release.'
        for test, result in sorted(self.pristine.items()):
            if test.endswith('.not_loaded'):
                yield (f'{test.removesuffix(".not_loaded")} cannot be '
                       f'imported on the release: {last_line(result)}')
            elif result.details == results.NEVER_ENDED:
                yield f'{test} never ended on the release.'
        for test in sorted(self.ours.keys() - self.pristine.keys()):
            if self.ours[test].outcome != results.FAILED:
                yield f'{test} did not run on the release.'

    def _of_exemptions(self) -> Iterator[str]:
        for test in sorted(self.exempt):
            if test not in self.pristine:
                yield f'{test} is exempt, but the release has no such test.'
            elif not _passes(self.pristine[test]):
                yield f'{test} is exempt, but fails on the release too.'
            elif _passes(self.of_ours(test)):
                yield f'{test} is exempt, but passes. Remove the exemption.'


def last_line(result: results.Result) -> str:
    """Return one line that says why a test did not pass."""
    return result.details.strip().rpartition('\n')[2].strip() or result.outcome


def _corrected(
    first: results.Results, second: results.Results, tests: Mapping[str, str],
) -> results.Results:
    """Take the results of these tests from the second run."""
    return {test: result for test, result in first.items()
            if test not in tests} | {
        test: second[test] for test in tests if test in second}


def _passes(result: results.Result) -> bool:
    return result.outcome == results.PASSED
