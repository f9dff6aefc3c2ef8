# SPDX-License-Identifier: Apache-2.0

"""Count what a run of stestr did, from its own records."""

from collections import Counter
from dataclasses import asdict
from dataclasses import dataclass
import json
import os
import pathlib
from typing import BinaryIO

from stestr.repository import file as repositories
import subunit
import testtools

# https://testtools.readthedocs.io/en/latest/api.html, StreamResult.status
_PASSED = ('success', 'xfail')


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
    stored = repositories.RepositoryFactory().open(str(repository))
    return of_stream(stored.get_latest_run().get_subunit_stream())


def of_stream(stream: BinaryIO) -> Counts:
    """Count the tests in a subunit v2 stream.

    A test that began and never ended counts as failed, and so does any
    status but success, expected failure and skip.
    """
    statuses: Counter[str] = Counter()

    def count(test: testtools.testresult.real.TestDict) -> None:
        if test['status'] != 'exists':
            statuses[test['status']] += 1

    summary = testtools.StreamToDict(count)
    summary.startTestRun()
    subunit.ByteStreamToStreamResult(stream).run(summary)
    summary.stopTestRun()
    passed = sum(statuses[status] for status in _PASSED)
    skipped = statuses['skip']
    return Counts(passed, statuses.total() - passed - skipped, skipped)


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
