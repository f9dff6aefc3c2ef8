# SPDX-License-Identifier: Apache-2.0

from collections.abc import Iterator
import contextlib
import io
import json
import pathlib

import fixtures
import testtools

from novabuild import project
from released import __main__ as program
from released import exemptions
from released import runs
from released import selection
from released import sides
from suites import counting
from suites import loading

MODULE = 'nova.tests.unit.image.test_glance'
PASSED = counting.Result(counting.Outcome.PASSED)
FAILED = counting.Result(
    counting.Outcome.FAILED, 'Traceback\nValueError: of ours')


@contextlib.contextmanager
def _prepared(tree: project.Project) -> Iterator[sides.Sides]:
    folder = pathlib.Path('/there/is/no/such/folder')
    yield sides.Sides(
        sides.Side('pristine', folder), sides.Side('ours', folder))


class MainTestCase(testtools.TestCase):
    """All but the tests themselves, whose results are made up."""

    def setUp(self) -> None:
        super().setUp()
        self.folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        for name, value in (('NOVA_TEST_COUNTS', str(self.folder)),
                            ('TOX_ENV_NAME', 'py3')):
            self.useFixture(fixtures.EnvironmentVariable(name, value))
        self.useFixture(fixtures.MonkeyPatch(
            'released.sides.prepared', _prepared))
        group = selection.Group('image', (MODULE,), fast=True)
        self.useFixture(fixtures.MonkeyPatch(
            'released.selection.PARTS', (selection.Part('unit', (group,)),)))
        self.useFixture(fixtures.MockPatch(
            'released.selection.released_modules', return_value=[MODULE]))
        self.results: dict[str, list[counting.Result]] = {'good': [PASSED] * 2}
        self.again: dict[str, list[counting.Result]] = {}
        self.useFixture(fixtures.MonkeyPatch(
            'released.runs.on_both', self._on_both))
        self.useFixture(fixtures.MonkeyPatch(
            'released.runs.one_by_one', self._one_by_one))
        self.exempt = {
            test.removeprefix(f'{MODULE}.'): [PASSED, FAILED]
            for test in exemptions.of(
                str(project.load(loading.ROOT).release.version))}

    def _on_both(
        self, run: runs.Run, both: sides.Sides,
    ) -> tuple[runs.Results, runs.Results]:
        self.assertEqual((), run.tests)
        return self._made_up(self.exempt | self.results)

    def _one_by_one(
        self, run: runs.Run, both: sides.Sides,
    ) -> tuple[runs.Results, runs.Results]:
        self.assertEqual([MODULE], list(run.groups))
        self.assertEqual(
            {f'{MODULE}.{name}' for name in self.again}, set(run.tests))
        return self._made_up(self.again)

    def _made_up(
        self, results: dict[str, list[counting.Result]],
    ) -> tuple[runs.Results, runs.Results]:
        pristine, ours = ({
            f'{MODULE}.{name}': pair[side] for name, pair in results.items()
        } for side in (0, 1))
        return pristine, ours

    def _main(self, *arguments: str) -> tuple[int, str, dict[str, int]]:
        """Give the exit code, the output, and what is counted."""
        output = io.StringIO()
        with (contextlib.redirect_stdout(output),
              contextlib.redirect_stderr(output)):
            code = program.main(['fast', *arguments])
        counts = (self.folder / 'py3.released-fast.json').read_text()
        return code, output.getvalue(), json.loads(counts)

    def test_good(self):
        code, output, counts = self._main()
        self.assertEqual(0, code)
        self.assertEqual({'passed': 1, 'failed': 0, 'skipped': 0}, counts)
        number, failed = len(self.exempt) + 1, len(self.exempt)
        cells = ['all', number, number, 0, 0, 1, failed, 0, failed, 0]
        self.assertIn(
            cells, [[int(cell) if cell.isdigit() else cell for cell in (
                cell.strip() for cell in line.strip('|').split('|'))]
                for line in output.splitlines()])
        self.assertNotIn('REGRESSION', output)

    def test_regression(self):
        self.results['bad'] = self.again['bad'] = [PASSED, FAILED]
        code, output, counts = self._main()
        self.assertEqual(1, code)
        self.assertEqual({'passed': 1, 'failed': 1, 'skipped': 0}, counts)
        self.assertIn(
            f'REGRESSION {MODULE}.bad: passed on the release, failed on '
            'ours: ValueError: of ours\n', output)

    def test_unreliable(self):
        self.results['bad'] = [PASSED, FAILED]
        self.again['bad'] = [PASSED, PASSED]
        code, output, counts = self._main()
        self.assertEqual(0, code)
        self.assertEqual({'passed': 2, 'failed': 0, 'skipped': 0}, counts)
        self.assertIn(f'Unreliable: {MODULE}.bad', output)

    def test_failures_on_both_are_told(self):
        self.results['bad'] = [FAILED, FAILED]
        code, output, counts = self._main()
        self.assertEqual(0, code)
        self.assertEqual({'passed': 1, 'failed': 1, 'skipped': 0}, counts)
        self.assertIn('Failed on both: 1; -v lists', output)
        self.assertNotIn(f'{MODULE}.bad', output)
        _code, output, _counts = self._main('-v')
        self.assertIn(f'    {MODULE}.bad: ValueError: of ours\n', output)

    def test_needless_exemption(self):
        name = next(iter(self.exempt))
        self.exempt[name] = [PASSED, PASSED]
        code, output, counts = self._main()
        self.assertEqual(1, code)
        self.assertEqual(1, counts['failed'])
        self.assertIn(f'PROBLEM {MODULE}.{name} is exempt, and passes', output)

    def test_nothing_ran(self):
        self.exempt, self.results = {}, {}
        code, output, counts = self._main()
        self.assertEqual(1, code)
        self.assertIn('No test of the part "unit" has passed', output)

    def test_no_release(self):
        def refused(tree: project.Project) -> sides.Sides:
            raise loading.SuiteError('Nova is not installed here.')

        self.useFixture(fixtures.MonkeyPatch(
            'released.sides.prepared', refused))
        code, output, counts = self._main()
        self.assertEqual(1, code)
        self.assertEqual({'passed': 0, 'failed': 1, 'skipped': 0}, counts)
        self.assertEqual('Nova is not installed here.\n', output)
