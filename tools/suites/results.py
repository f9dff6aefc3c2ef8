# SPDX-License-Identifier: Apache-2.0

"""Run tests with stestr; read and count their results."""

import collections
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import json
import os
import pathlib
import shutil
import subprocess
import sys
from typing import BinaryIO
from typing import NamedTuple

from stestr.repository import file as repositories
import subunit
import testtools

from suites import loading
from suites import suite

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


Results = dict[str, Result]
"""Results by test ID."""


class Counts(NamedTuple):
    """Numbers of tests by outcome."""

    passed: int
    failed: int
    skipped: int


def run(
    name: str, tests: Iterable[str], options: Sequence[str],
    environment: Mapping[str, str], folder: pathlib.Path | None = None,
    forget: bool = False,
) -> tuple[int, Results]:
    """Run a suite; return the exit status of stestr, and the results.

    :param name: name of the folder in which stestr stores results
    :param tests: folders of this tree, or released modules
    :param folder: the current folder of the tests
    :param forget: delete the results of earlier runs, and with them the
        recorded times, by which stestr distributes tests to processes
    """
    repository = pathlib.Path(
        os.environ.get('TOX_ENV_DIR') or loading.ROOT, '.stestr', name)
    if forget:
        shutil.rmtree(repository, ignore_errors=True)
    repository.mkdir(parents=True, exist_ok=True)
    before = _stored(repository)
    status = subprocess.run(
        [sys.executable, '-m', 'stestr', '--top-dir', loading.ROOT / 'tools',
         '--test-path', loading.ROOT / 'tools/suites/suite', '--repo-url',
         repository, 'run', *options],
        cwd=folder, env={**os.environ, suite.VARIABLE: ' '.join(tests),
                         **environment}).returncode
    if _stored(repository) == before:
        return status, {}
    latest = repositories.RepositoryFactory().open(
        str(repository)).get_latest_run()
    return status, read(latest.get_subunit_stream())


def read(stream: BinaryIO) -> Results:
    """Return the results in a subunit v2 stream.

    A test that never ended has failed, and so has one with any status but
    success, expected failure and skip. A failure replaces other results of the
    same test.
    """
    found: Results = {}

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


def judge(counts: Counts, status: int) -> Counts:
    """Count the run itself as one failure if no test accounts for that.

    :param status: exit status of the run, which fails also if no test ran
    """
    failed = status or not counts.passed
    return counts._replace(failed=counts.failed or int(bool(failed)))


def save(label: str, counts: Counts) -> None:
    """Write counts to a file in the folder NOVA_TEST_COUNTS, if set."""
    if folder := os.environ.get('NOVA_TEST_COUNTS'):
        environment = os.environ.get('TOX_ENV_NAME', 'none')
        path = pathlib.Path(folder, f'{environment}.{label}.json')
        path.write_text(json.dumps(counts._asdict()), encoding='utf-8')


def _stored(repository: pathlib.Path) -> set[str]:
    """Return the IDs of the stored runs."""
    return {path.name for path in (repository / '.stestr').glob('*')
            if path.name.isdigit()}
