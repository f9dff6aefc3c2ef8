# SPDX-License-Identifier: Apache-2.0

from collections.abc import Collection
from collections.abc import Sequence
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
from suites import loading
from suites import results

MODULE = 'nova.tests.unit.image.test_glance'
PASSED = results.Result(results.PASSED)
FAILED = results.Result(results.FAILED, 'Traceback\nValueError: of ours')
Pairs = dict[str, list[results.Result]]


class MainTestCase(testtools.TestCase):
    """Everything but the tests themselves, whose results are made up."""

    def setUp(self) -> None:
        super().setUp()
        self.folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        for name, value in (('NOVA_TEST_COUNTS', str(self.folder)),
                            ('TOX_ENV_NAME', 'py3')):
            self.useFixture(fixtures.EnvironmentVariable(name, value))
        part = selection.Part('unit', (), (MODULE,))
        both = [runs.Side(name, self.folder) for name in ('pristine', 'ours')]
        for name, stand_in in (
                ('runs.sides', lambda ours: contextlib.nullcontext(both)),
                ('selection.PARTS', (part,)),
                ('selection.released_modules', lambda folder: [MODULE]),
                ('runs.run', self._run)):
            self.useFixture(fixtures.MonkeyPatch(f'released.{name}', stand_in))
        self.results: Pairs = {'good': [PASSED] * 2}
        self.again: Pairs = {}
        release = str(project.load(loading.ROOT).release.version)
        self.exempt: Pairs = {
            test.removeprefix(f'{MODULE}.'): [PASSED, FAILED]
            for test in exemptions.of(release)}

    def _run(
        self, run: runs.Run, both: Sequence[runs.Side],
        only: Collection[str] = (),
    ) -> list[results.Results]:
        self.assertEqual([MODULE], run.modules)
        pairs = self.again if only else self.exempt | self.results
        if only:
            self.assertEqual(
                {f'{MODULE}.{name}' for name in self.again}, set(only))
        return [{f'{MODULE}.{name}': pair[side]
                 for name, pair in pairs.items()} for side in (0, 1)]

    def _main(self, status: int, counts: tuple[int, int, int]) -> str:
        """Compare the exit status and the counts; return the output."""
        output = io.StringIO()
        with (contextlib.redirect_stdout(output),
              contextlib.redirect_stderr(output)):
            self.assertEqual(status, program.main(['fast']))
        saved = (self.folder / 'py3.released-fast.json').read_text()
        self.assertEqual(counts, tuple(json.loads(saved).values()))
        return output.getvalue()

    def test_good(self):
        output = self._main(0, (1, 0, 0))
        exempt = len(self.exempt)
        self.assertIn(
            f'On the release: {exempt + 1} passed, 0 failed, 0 skipped.\n'
            f'On ours: 1 passed, {exempt} failed, 0 skipped.\n'
            f'{exempt} exempt, 0 regressions.\n', output)
        self.assertNotIn('REGRESSION', output)

    def test_regression(self):
        self.results['bad'] = self.again['bad'] = [PASSED, FAILED]
        self.assertIn(
            f'REGRESSION {MODULE}.bad: passed on the release, failed on '
            'ours: ValueError: of ours\n', self._main(1, (1, 1, 0)))

    def test_unreliable(self):
        self.results['bad'] = [PASSED, FAILED]
        self.again['bad'] = [PASSED, PASSED]
        self.assertIn(f'Unreliable: {MODULE}.bad', self._main(0, (2, 0, 0)))

    def test_failure_on_both(self):
        self.results['bad'] = [FAILED, FAILED]
        self.assertNotIn(f'{MODULE}.bad', self._main(0, (1, 1, 0)))

    def test_needless_exemption(self):
        name = next(iter(self.exempt))
        self.exempt[name] = [PASSED, PASSED]
        self.assertIn(f'PROBLEM {MODULE}.{name} is exempt, but passes',
                      self._main(1, (1, 1, 0)))

    def test_exemptions_of_other_modules(self):
        self.exempt = {}
        with fixtures.MonkeyPatch('released.exemptions.of', lambda release: {
                'nova.tests.unit.test_other.A.test_a': 'Why.'}):
            self._main(0, (1, 0, 0))

    def test_nothing_ran(self):
        problems = len(self.exempt) + 1
        self.exempt, self.results = {}, {}
        self.assertIn('No test of the run "unit" passed',
                      self._main(1, (0, problems, 0)))

    def test_no_release(self):
        def refused(ours: project.Project) -> None:
            raise loading.SuiteError('Nova is not installed here.')

        self.useFixture(fixtures.MonkeyPatch('released.runs.sides', refused))
        self.assertEqual('Nova is not installed here.\n',
                         self._main(1, (0, 1, 0)))
