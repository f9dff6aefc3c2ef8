# SPDX-License-Identifier: Apache-2.0

"""What passes on the release has to pass on our build."""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Set
from dataclasses import dataclass
from dataclasses import field

from suites import counting
from suites.counting import Outcome

Results = Mapping[str, counting.Result]
_NOT_RUN = counting.Result(Outcome.NOT_RUN)


@dataclass(frozen=True)
class Comparison:
    """The results of both sides, and which of ours are excused."""

    pristine: Results
    ours: Results
    exempt: Mapping[str, str] = field(default_factory=dict)
    """Reasons, by the ids of tests."""
    unreliable: Mapping[str, str] = field(default_factory=dict)
    """What a second run said against a difference, by the ids of tests."""
    idle: tuple[str, ...] = ()
    """Parts of the tests of which none has passed on the release."""

    @property
    def tests(self) -> Set[str]:
        return self.pristine.keys() | self.ours.keys()

    def of_pristine(self, test: str) -> counting.Result:
        return self.pristine.get(test, _NOT_RUN)

    def of_ours(self, test: str) -> counting.Result:
        return self.ours.get(test, _NOT_RUN)

    def regressions(self) -> list[str]:
        """Give the tests that do worse on our build, and are not exempt."""
        return sorted(test for test in self.tests - self.exempt.keys()
                      if self._is_worse(test))

    def fail_on_both(self) -> list[str]:
        return sorted(
            test for test in self.tests
            if _fails(self.of_pristine(test)) and _fails(self.of_ours(test)))

    def skipped_on_both(self) -> list[str]:
        return sorted(
            test for test in self.tests
            if self.of_pristine(test).outcome is Outcome.SKIPPED
            and self.of_ours(test).outcome is Outcome.SKIPPED)

    def only_on_ours(self) -> list[str]:
        """Give the tests that pass on our build and not on the release."""
        return sorted(
            test for test in self.tests if _passes(self.of_ours(test))
            and not _passes(self.of_pristine(test)))

    def problems(self) -> list[str]:
        """Say what makes the comparison itself worthless."""
        return [*self._of_release(), *self._of_exemptions()]

    def is_bad(self) -> bool:
        return bool(self.regressions() or self.problems())

    def after(self, again: 'Comparison') -> 'Comparison':
        """Give this comparison as a second run of the regressions leaves it.

        What it shows in favour of a test takes the place of the first result.
        """
        unreliable = {
            test: excuse for test in self.regressions()
            if (excuse := again._excuse(test, test in self.pristine))}
        return Comparison(
            _replaced(self.pristine, again.pristine, unreliable.keys()),
            _replaced(self.ours, again.ours, unreliable.keys()),
            self.exempt, unreliable, self.idle)

    def counts(self) -> counting.Counts:
        """Count what ran on our build, but for what is exempt."""
        found = counting.of_results(
            self.of_ours(test) for test in self.tests - self.exempt.keys())
        not_run = sum(self.of_ours(test).outcome is Outcome.NOT_RUN
                      for test in self.regressions())
        return counting.Counts(
            found.passed, found.failed + not_run + len(self.problems()),
            found.skipped)

    def _excuse(self, test: str, is_released: bool) -> str:
        """Say what a run of this test alone has shown in its favour."""
        if _passes(self.of_ours(test)):
            return 'run alone, it passes'
        if test in self.pristine and not _passes(self.pristine[test]):
            return 'run alone, it does not pass on the release either'
        if not is_released and self.ours and test not in self.ours:
            return 'run alone, it does not come back'
        return ''

    def _is_worse(self, test: str) -> bool:
        if test in self.pristine:
            return _passes(self.pristine[test]) and not _passes(
                self.of_ours(test))
        return _fails(self.of_ours(test)) and test in self.ours

    def _of_release(self) -> Iterator[str]:
        for part in self.idle:
            yield f'No test of the part "{part}" has passed on the release.'
        for test, result in sorted(self.pristine.items()):
            if test.endswith('.not_loaded'):
                yield (f'{test.removesuffix(".not_loaded")} cannot be '
                       f'imported on the release: {last_line(result)}')
            elif result.outcome is Outcome.NOT_RUN:
                yield f'{test} was loaded and not run on the release.'

    def _of_exemptions(self) -> Iterator[str]:
        for test in sorted(self.exempt):
            if test not in self.pristine:
                yield f'{test} is exempt, and the release has no such test.'
            elif not _passes(self.pristine[test]):
                yield (f'{test} is exempt, and does not pass on the release '
                       'either.')
            elif _passes(self.of_ours(test)):
                yield f'{test} is exempt, and passes: take it off the list.'


def is_idle(results: Results) -> bool:
    """Tell whether no test has passed."""
    return not any(_passes(result) for result in results.values())


def last_line(result: counting.Result) -> str:
    """Say why a test did not pass, in a line."""
    lines = result.details.strip().splitlines()
    return lines[-1].strip() if lines else result.outcome.value


def _replaced(
    results: Results, by: Results, tests: Set[str],
) -> dict[str, counting.Result]:
    kept = {test: result for test, result in results.items()
            if test not in tests}
    return kept | {test: by[test] for test in tests if test in by}


def _passes(result: counting.Result) -> bool:
    return result.outcome is Outcome.PASSED


def _fails(result: counting.Result) -> bool:
    return result.outcome in (Outcome.FAILED, Outcome.NOT_RUN)
