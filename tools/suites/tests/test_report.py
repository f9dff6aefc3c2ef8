# SPDX-License-Identifier: Apache-2.0

import contextlib
import io
import json
import pathlib
from typing import Any

import fixtures
import testtools

from suites import report

PYTHON = '/tree/.tox/py3/bin/python'
UNIT = [PYTHON, 'tools/suites', 'unit', '--serial']
RELEASED = [PYTHON, 'tools/released', 'fast']
GOOD = (7, 0, 2)


class MainTestCase(testtools.TestCase):

    def _report(
        self, expected: str, *steps: tuple[list[str], int],
        success: bool = True, counts: tuple[int, int, int] | None = GOOD,
        label: str = 'unit', environments: tuple[str, ...] = ('py3',),
    ) -> None:
        """Compare the last line after a run of tox with these commands."""
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        if counts:
            (folder / f'py3.{label}.json').write_text(json.dumps(
                dict(zip(('passed', 'failed', 'skipped'), counts))))
        outcome: dict[str, Any] = {'result': {'success': success}}
        if steps:
            outcome['test'] = [{'command': command, 'retcode': code}
                               for command, code in steps]
        (folder / 'run.tox').write_text(
            json.dumps({'testenvs': {'py3': outcome, 'docs': {}}}))
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            code = report.main([str(folder), *(
                f'{name}={folder}/{"run" if name != "pep8" else "missing"}.tox'
                for name in environments)])
        self.assertEqual(expected, output.getvalue().splitlines()[-1])
        self.assertEqual(int(', 0 failed' not in expected), code)

    def test_suites_and_checks(self):
        self._report('9 passed, 0 failed, 2 skipped', (UNIT, 0),
                     (['flake8'], 0), ([PYTHON, 'tools/typecheck.py'], 0))
        self._report('7 passed, 0 failed, 2 skipped', (RELEASED, 0),
                     label='released-fast')

    def test_failures(self):
        self._report('7 passed, 4 failed, 0 skipped', (UNIT, 1),
                     (['flake8'], 1), success=False, counts=(7, 3, 0))
        # A failure that no test accounts for.
        self._report('7 passed, 1 failed, 2 skipped', (UNIT, 1))
        # A suite without counts.
        self._report('0 passed, 1 failed, 0 skipped', (UNIT, 0), counts=None)

    def test_environment_that_fails(self):
        self._report('0 passed, 1 failed, 0 skipped', success=False)
        self._report(
            '7 passed, 1 failed, 2 skipped', (UNIT, 0), success=False)

    def test_environments_that_did_not_run(self):
        self._report('7 passed, 2 failed, 2 skipped', (UNIT, 0),
                     environments=('py3', 'docs', 'pep8'))
