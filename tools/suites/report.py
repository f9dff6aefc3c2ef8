# SPDX-License-Identifier: Apache-2.0

"""Add up tox runs: ``report.py COUNTS_FOLDER ENVIRONMENT=TOX_RESULT ...``

COUNTS_FOLDER is what NOVA_TEST_COUNTS named during the runs, each TOX_RESULT
a file that tox wrote because of ``--result-json``. The last line printed is
``N passed, N failed, N skipped``; the exit code is 1 when anything failed.
"""

import json
import pathlib
import sys
from typing import Any
from typing import NamedTuple


# Programs that count their tests, and what they write before the first of
# their arguments.
_COUNTERS = {'tools/suites': '', 'tools/released': 'released-'}


class Row(NamedTuple):
    """What one command of a tox environment did."""

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
    failed = sum(row.failed for row in rows)
    print(f'{sum(row.passed for row in rows)} passed, {failed} failed, '
          f'{sum(row.skipped for row in rows)} skipped')
    return 1 if failed else 0


def rows_of(
    environment: str, result: pathlib.Path, folder: pathlib.Path,
) -> list[Row]:
    """Give a row for each command that a tox environment ran.

    An environment that failed without any of its commands failing, or that
    was never run, has a row that says so.
    """
    try:
        outcome = json.loads(result.read_text())['testenvs'][environment]
        success = outcome['result']['success']
    except (OSError, ValueError, KeyError):
        outcome, success = {}, False
    steps = outcome.get('test', [])
    rows = [_row(environment, step, folder) for step in steps]
    if not rows or not (success or any(row.failed for row in rows)):
        rows.append(Row(f'{environment}: did not run to its end', 0, 1, 0))
    return rows


def _row(
    environment: str, step: dict[str, Any], folder: pathlib.Path,
) -> Row:
    """A suite has counted its tests; any other command is one check."""
    program, *arguments = step['command']
    good = step['retcode'] == 0
    if arguments and arguments[0] in _COUNTERS:
        label = _COUNTERS[arguments[0]] + arguments[1]
        counts = _counts(folder / f'{environment}.{label}.json')
        if not good and not counts[1]:
            counts = (counts[0], 1, counts[2])
        return Row(f'{environment}: {label}', *counts)
    words = [program, *arguments]
    name = next(word for word in words if not word.endswith('python'))
    return Row(f'{environment}: {pathlib.Path(name).stem}',
               int(good), int(not good), 0)


def _counts(path: pathlib.Path) -> tuple[int, int, int]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return 0, 1, 0
    return found['passed'], found['failed'], found['skipped']


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
