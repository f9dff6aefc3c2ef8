# SPDX-License-Identifier: Apache-2.0

"""Read and count the results that stestr has stored."""

import collections
from collections.abc import Iterable
import json
import os
import pathlib
from typing import BinaryIO
from typing import NamedTuple

from stestr.repository import file as repositories
import subunit
import testtools

PASSED = 'passed'
FAILED = 'failed'
SKIPPED = 'skipped'
NOT_RUN = 'not run'
NEVER_ENDED = 'The test began and never ended.'
# https://testtools.readthedocs.io/en/latest/api.html, StreamResult.status
_OUTCOMES = {'success': PASSED, 'xfail': PASSED, 'skip': SKIPPED}


class Result(NamedTuple):
    """Outcome of one test."""

    outcome: str
    details: str = ''
    """The traceback of a failure, the reason of a skip."""


class Counts(NamedTuple):
    """Numbers of tests by outcome."""

    passed: int
    failed: int
    skipped: int


def runs(repository: pathlib.Path) -> set[str]:
    """Return the IDs of the stored runs."""
    return {path.name for path in (repository / '.stestr').glob('*')
            if path.name.isdigit()}


def latest(repository: pathlib.Path) -> dict[str, Result]:
    """Return the results of the latest stored run, by test ID."""
    stored = repositories.RepositoryFactory().open(str(repository))
    return results(stored.get_latest_run().get_subunit_stream())


def results(stream: BinaryIO) -> dict[str, Result]:
    """Return the results in a subunit v2 stream, by test ID.

    A test that never ended has failed, and so has one with any status but
    success, expected failure and skip. A failure replaces other results of the
    same test.
    """
    found: dict[str, Result] = {}

    def note(test: testtools.testresult.real.TestDict) -> None:
        known = found.get(test['id'])
        if test['status'] == 'exists' or (known and known.outcome == FAILED):
            return
        outcome = _OUTCOMES.get(test['status'], FAILED)
        # Skip the details that contain log messages.
        details = '\n'.join(
            content.as_text().strip()
            for name, content in sorted(test['details'].items())
            if name.startswith(('traceback', 'reason')))
        # Only a failure without a test's end has no traceback.
        if outcome == FAILED and not details:
            details = NEVER_ENDED
        found[test['id']] = Result(outcome, details)

    summary = testtools.StreamToDict(note)
    summary.startTestRun()
    subunit.ByteStreamToStreamResult(stream).run(summary)
    summary.stopTestRun()
    return found


def count(results: Iterable[Result]) -> Counts:
    outcomes = collections.Counter(result.outcome for result in results)
    return Counts(outcomes[PASSED], outcomes[FAILED], outcomes[SKIPPED])


def save(label: str, counts: Counts | None, status: int) -> None:
    """Write counts to a file in the folder NOVA_TEST_COUNTS, if that is set.

    :param counts: None if the run stored no results
    :param status: exit status of the run; if no test accounts for a failure,
        or if no test ran, the run itself counts as one failure
    """
    folder = os.environ.get('NOVA_TEST_COUNTS')
    if not folder:
        return
    counts = counts or Counts(0, 0, 0)
    ran = counts.passed or counts.failed
    if not ran or (status and not counts.failed):
        counts = counts._replace(failed=counts.failed + 1)
    environment = os.environ.get('TOX_ENV_NAME', 'none')
    path = pathlib.Path(folder, f'{environment}.{label}.json')
    path.write_text(json.dumps(counts._asdict()), encoding='utf-8')
