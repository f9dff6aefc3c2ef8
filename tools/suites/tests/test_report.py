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


class MainTestCase(testtools.TestCase):

    def setUp(self) -> None:
        super().setUp()
        self.folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)

    def _tox(self, *steps: tuple[list[str], int], success: bool = True) -> str:
        """Write what tox would, for an environment with these commands."""
        outcome: dict[str, Any] = {'result': {'success': success}}
        if steps:
            outcome['test'] = [
                {'command': command, 'retcode': code}
                for command, code in steps]
        path = self.folder / 'run.tox'
        path.write_text(json.dumps({'testenvs': {'py3': outcome, 'docs': {}}}))
        return f'py3={path}'

    def _count(self, passed: int, failed: int, skipped: int) -> None:
        (self.folder / 'py3.unit.json').write_text(json.dumps(
            {'passed': passed, 'failed': failed, 'skipped': skipped}))

    def _report(self, *results: str) -> tuple[int, str]:
        """Give the exit code and the last line."""
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            code = report.main([str(self.folder), *results])
        return code, output.getvalue().splitlines()[-1]

    def test_suites_and_checks(self):
        self._count(7, 0, 2)
        result = self._tox((UNIT, 0), (['flake8'], 0),
                           ([PYTHON, 'tools/typecheck.py'], 0))
        self.assertEqual(
            (0, '9 passed, 0 failed, 2 skipped'), self._report(result))

    def test_comparison(self):
        (self.folder / 'py3.released-fast.json').write_text(json.dumps(
            {'passed': 5, 'failed': 0, 'skipped': 1}))
        result = self._tox(([PYTHON, 'tools/released', 'fast'], 0))
        self.assertEqual(
            (0, '5 passed, 0 failed, 1 skipped'), self._report(result))

    def test_failures(self):
        self._count(7, 3, 0)
        result = self._tox((UNIT, 1), (['flake8'], 1), success=False)
        self.assertEqual(
            (1, '7 passed, 4 failed, 0 skipped'), self._report(result))

    def test_suite_that_counted_nothing(self):
        result = self._tox((UNIT, 0))
        self.assertEqual(
            (1, '0 passed, 1 failed, 0 skipped'), self._report(result))

    def test_suite_that_failed_unnoticed(self):
        self._count(7, 0, 0)
        result = self._tox((UNIT, 1))
        self.assertEqual(
            (1, '7 passed, 1 failed, 0 skipped'), self._report(result))

    def test_environment_without_commands(self):
        result = self._tox(success=False)
        self.assertEqual(
            (1, '0 passed, 1 failed, 0 skipped'), self._report(result))

    def test_environment_that_failed_elsewhere(self):
        self._count(7, 0, 0)
        result = self._tox((UNIT, 0), success=False)
        self.assertEqual(
            (1, '7 passed, 1 failed, 0 skipped'), self._report(result))

    def test_environments_that_were_not_run(self):
        self._count(7, 0, 0)
        result = self._tox((UNIT, 0))
        docs = result.replace('py3=', 'docs=')
        missing = f'pep8={self.folder}/missing.tox'
        self.assertEqual(
            (1, '7 passed, 2 failed, 0 skipped'),
            self._report(result, docs, missing))
