# SPDX-License-Identifier: Apache-2.0

from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import io
import pathlib
from typing import Any
from unittest import mock

import fixtures
import testtools

from lab import errors
from lab.job import __main__ as job
from lab.job import scenario
from lab import process


class FakeRegion(process.LabFixture):
    """A directory with a log."""

    def _setUp(self) -> None:
        self.directory = self.useFixture(process.RunDirectory()).path
        (self.directory / 'glance').mkdir()
        (self.directory / 'glance' / 'glance.log').write_text('something')

    def daemons(self) -> list[process.Daemon]:
        return []


class TestRun(testtools.TestCase):

    def setUp(self):
        super().setUp()
        self.logs = pathlib.Path(
            self.useFixture(fixtures.TempDir()).path) / 'logs'
        self.out, self.err = io.StringIO(), io.StringIO()
        self.regions: list[FakeRegion] = []
        self.outcomes: list[str | Exception] = ['1 seen', '2 seen']
        self.asked: list[str] = []
        self.useFixture(fixtures.MockPatchObject(
            job.lab_region, 'Region', self.make_region))
        self.useFixture(fixtures.MockPatchObject(
            job.scenario, 'Scenario', self.make_scenario))
        self.useFixture(fixtures.MockPatch('signal.signal'))

    def make_region(self) -> FakeRegion:
        self.regions.append(FakeRegion())
        return self.regions[-1]

    def make_scenario(self, *_arguments: object) -> Any:
        return mock.Mock(steps=self.steps)

    def steps(self, passes: Iterable[str]) -> Iterator[scenario.Step]:
        self.asked += passes
        for number, outcome in enumerate(self.outcomes):
            action = mock.Mock(side_effect=[outcome])
            yield scenario.Step(f'Step {number}', action)

    def run_job(self, *arguments: str) -> int:
        with (contextlib.redirect_stdout(self.out),
              contextlib.redirect_stderr(self.err)):
            return job.main(['--logs', str(self.logs), *arguments])

    def kept(self) -> list[str]:
        return [path.read_text() for path in self.logs.rglob('glance.log')]

    def assert_nothing_left(self):
        [region] = self.regions
        self.assertFalse(region.directory.exists())

    def test_all_is_well(self):
        self.assertEqual(0, self.run_job())

        for text in ('Start the cloud', 'Step 0', '1 seen', '2 seen',
                     'End the cloud'):
            # In the progress and in the table.
            self.assertEqual(2, self.out.getvalue().count(text), text)
        self.assertEqual('', self.err.getvalue())
        self.assertEqual(list(scenario.PASSES), self.asked)
        self.assertFalse(self.logs.exists())
        self.assert_nothing_left()

    def test_one_pass(self):
        self.run_job('--pass', 'raw')

        self.assertEqual(['raw'], self.asked)

    def test_a_step_fails(self):
        self.outcomes = ['1 seen', errors.LabError('it is not so'), 'never']

        self.assertEqual(1, self.run_job())

        self.assertIn('FAILED', self.out.getvalue())
        self.assertNotIn('never', self.out.getvalue())
        self.assertIn('\nit is not so\n', self.err.getvalue())
        self.assertNotIn('Traceback', self.err.getvalue())
        self.assertIn(f'The logs are in {self.logs}/run-',
                      self.err.getvalue())
        self.assertEqual(['something'], self.kept())
        self.assert_nothing_left()

    def test_a_step_has_a_bug(self):
        self.outcomes = [KeyError('name')]

        self.assertEqual(1, self.run_job())

        self.assertIn('Traceback', self.err.getvalue())
        self.assertEqual(['something'], self.kept())
        self.assert_nothing_left()

    def test_interrupted(self):
        action = mock.Mock(side_effect=KeyboardInterrupt)
        with mock.patch.object(
                self, 'steps', lambda passes: [scenario.Step('x', action)]):
            self.assertEqual(130, self.run_job())

        self.assertIn('nothing is left', self.err.getvalue())
        self.assertFalse(self.logs.exists())
        self.assert_nothing_left()
