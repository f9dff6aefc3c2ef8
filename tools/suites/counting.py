# SPDX-License-Identifier: Apache-2.0

"""What a run of stestr found out, and how much of each it was."""

import collections
from collections.abc import Iterable
from dataclasses import asdict
from dataclasses import dataclass
import enum
import json
import os
import pathlib
from typing import BinaryIO

from stestr.repository import file as repositories
import subunit
import testtools


class Outcome(enum.StrEnum):
    """How a test ended."""

    PASSED = 'passed'
    FAILED = 'failed'
    SKIPPED = 'skipped'
    NOT_RUN = 'not run'
    """Not even begun, and so not in the records of a run."""


# https://testtools.readthedocs.io/en/latest/api.html, StreamResult.status
_OUTCOMES = {
    'success': Outcome.PASSED,
    'xfail': Outcome.PASSED,
    'skip': Outcome.SKIPPED,
}
_WORSE = (Outcome.PASSED, Outcome.SKIPPED, Outcome.FAILED)


@dataclass(frozen=True)
class Result:
    """How one test ended."""

    outcome: Outcome
    details: str = ''
    """The traceback of a failure, the reason of a skip."""


@dataclass(frozen=True)
class Counts:
    """How many tests ended how."""

    passed: int
    failed: int
    skipped: int


def runs(repository: pathlib.Path) -> set[str]:
    """Give the ids of the runs that stestr has on record."""
    stored = repository / '.stestr'
    if not stored.is_dir():
        return set()
    return {path.name for path in stored.iterdir() if path.name.isdigit()}


def of_latest_run(repository: pathlib.Path) -> Counts:
    """Count the tests of the last run on record."""
    return of_results(results_of_latest_run(repository).values())


def results_of_latest_run(repository: pathlib.Path) -> dict[str, Result]:
    """Give the tests of the last run on record, by their ids."""
    stored = repositories.RepositoryFactory().open(str(repository))
    return results(stored.get_latest_run().get_subunit_stream())


def results(stream: BinaryIO) -> dict[str, Result]:
    """Give the tests in a subunit v2 stream, by their ids.

    A test that began and never ended has failed, and so has one with any
    status but success, expected failure and skip. Of several results of one
    test the worst counts.
    """
    found: dict[str, Result] = {}

    def note(test: testtools.testresult.real.TestDict) -> None:
        if test['status'] == 'exists':
            return
        result = Result(
            _OUTCOMES.get(test['status'], Outcome.FAILED),
            _details(test['details']))
        known = found.get(test['id'])
        if known is None or _WORSE.index(known.outcome) < _WORSE.index(
                result.outcome):
            found[test['id']] = result

    summary = testtools.StreamToDict(note)
    summary.startTestRun()
    subunit.ByteStreamToStreamResult(stream).run(summary)
    summary.stopTestRun()
    return found


def of_results(results: Iterable[Result]) -> Counts:
    """Count them, but for those that were not run."""
    outcomes = collections.Counter(result.outcome for result in results)
    return Counts(
        outcomes[Outcome.PASSED], outcomes[Outcome.FAILED],
        outcomes[Outcome.SKIPPED])


def save(
    folder: pathlib.Path, label: str, counts: Counts | None, status: int,
) -> None:
    """Write the counts of a run to a file in ``folder``.

    :param counts: None when the run left no record
    :param status: the exit code of the run; when it tells of a failure that
        no test had, or when no test ran, one failure is counted for the run
    """
    counts = counts or Counts(0, 0, 0)
    ran = counts.passed or counts.failed
    if not ran or (status and not counts.failed):
        counts = Counts(counts.passed, counts.failed + 1, counts.skipped)
    environment = os.environ.get('TOX_ENV_NAME', 'none')
    path = folder / f'{environment}.{label}.json'
    path.write_text(json.dumps(asdict(counts)), encoding='utf-8')


def _details(details: dict[str, testtools.content.Content]) -> str:
    # What a test logged is there too, under other names.
    return '\n'.join(
        content.as_text().strip() for name, content in sorted(details.items())
        if name.startswith(('traceback', 'reason')))
