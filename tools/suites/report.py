# SPDX-License-Identifier: Apache-2.0

"""Add up tox runs: ``report.py COUNTS_FOLDER ENVIRONMENT=TOX_RESULT ...``

COUNTS_FOLDER is the value of NOVA_TEST_COUNTS in the runs. Each TOX_RESULT is
a file that tox wrote because of ``--result-json``. The last line printed is
``N passed, N failed, N skipped``. The exit status is 1 if anything failed.
"""

import json
import pathlib
import sys
from typing import Any
from typing import NamedTuple

# Programs that count their tests, with the prefixes of their labels.
_COUNTERS = {'tools/suites': '', 'tools/released': 'released-'}


class Row(NamedTuple):
    """Counts of one command of a tox environment."""

    label: str
    passed: int
    failed: int
    skipped: int


def main(arguments: list[str]) -> int:
    folder = pathlib.Path(arguments[0])
    rows = []
    for argument in arguments[1:]:
        environment, _, result = argument.partition('=')
        rows += rows_of(environment, pathlib.Path(result), folder)
    width = max(len(row.label) for row in rows)
    for row in rows:
        print(f'{row.label:{width}} {row.passed:6} passed '
              f'{row.failed:6} failed {row.skipped:6} skipped')
    passed = sum(row.passed for row in rows)
    failed = sum(row.failed for row in rows)
    skipped = sum(row.skipped for row in rows)
    print(f'{passed} passed, {failed} failed, {skipped} skipped')
    return 1 if failed else 0


def rows_of(
    environment: str, result: pathlib.Path, folder: pathlib.Path,
) -> list[Row]:
    """Return a row for each command that a tox environment ran.

    An additional row reports an environment that never ran, or that failed
    although none of its commands did.
    """
    try:
        outcome = json.loads(result.read_text())['testenvs'][environment]
        success = outcome['result']['success']
    except (OSError, ValueError, KeyError):
        outcome, success = {}, False
    rows = [_row(environment, step, folder)
            for step in outcome.get('test', [])]
    if not rows or not (success or any(row.failed for row in rows)):
        rows.append(Row(f'{environment}: did not complete', 0, 1, 0))
    return rows


def _row(
    environment: str, step: dict[str, Any], folder: pathlib.Path,
) -> Row:
    """Return the counts of a suite; any other command is one check."""
    words = [word for word in step['command'] if not word.endswith('python')]
    good = step['retcode'] == 0
    if words[0] not in _COUNTERS:
        return Row(f'{environment}: {pathlib.Path(words[0]).stem}',
                   int(good), int(not good), 0)
    label = _COUNTERS[words[0]] + words[1]
    try:
        path = folder / f'{environment}.{label}.json'
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        found = {'passed': 0, 'failed': 1, 'skipped': 0}
    failed = found['failed'] or int(not good)
    return Row(f'{environment}: {label}', found['passed'], failed,
               found['skipped'])


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
