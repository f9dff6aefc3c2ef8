# SPDX-License-Identifier: Apache-2.0

import hashlib
import json
import pathlib
from unittest import mock

import fixtures

from novabuild import archive
from novabuild import project
from novabuild.tests import base
from novabuild import whole
from suites import __main__ as program
from suites import results

PASSED = results.Result(results.PASSED)
FAILED = results.Result(results.FAILED)


class OthersTestCase(base.TestCase):

    def setUp(self) -> None:
        super().setUp()
        sha256 = hashlib.sha256(self.wheel.read_bytes()).hexdigest()
        self.configure(rest=''.join(
            f'[nova_release:{each}]\nsha256 = {sha256}\n'
            f'sdist_sha256 = {sha256}\n' for each in ('1.1.0', '1.0.0')))
        for name, value in (('PYTHONPATH', '/x'), ('TOX_ENV_NAME', 'py3'),
                            ('NOVA_TEST_COUNTS', str(self.output))):
            self.setenv(name, value)
        for name, stand_in in (('suites.loading.ROOT', self.root),
                               ('novabuild.whole.released', self._released)):
            self.useFixture(fixtures.MonkeyPatch(name, stand_in))

    def _released(self, ours: project.Project) -> archive.Entries:
        return {name.replace('1.2.0', str(ours.release.version)): entry
                for name, entry in whole.unpacked(
                    self.wheel.read_bytes()).items()}

    def _run(
        self, *outcomes: tuple[int, list[results.Result]],
    ) -> tuple[int, list[int]]:
        """Run on two releases; return the exit status and the counts."""
        self.built: list[str] = []
        left = iter(outcomes)

        def run(name, tests, options, environment):
            self.assertEqual(('others', '--serial'), (name, options[-1]))
            release = environment['NOVA_RELEASE']
            folder, other = environment['PYTHONPATH'].split(':')
            self.assertEqual('/x', other)
            self.assertEqual(
                'released = False\n',
                pathlib.Path(folder, 'nova/image/glance.py').read_text())
            self.assertTrue(pathlib.Path(
                folder, f'nova-{release}+rbd.1.dist-info/METADATA').is_file())
            self.built.append(release)
            status, found = next(left)
            return status, dict(enumerate(found))

        with mock.patch.object(results, 'run', run):
            status = program.main(['others', '--serial'])
        saved = json.loads((self.output / 'py3.others.json').read_text())
        return status, list(saved.values())

    def test_sum(self):
        for first, second in ((0, 0), (0, 1), (1, 0)):
            self.assertEqual(
                (first or second, [3, first + second, 0]),
                self._run((first, [PASSED] * 2 + [FAILED] * first),
                          (second, [PASSED] + [FAILED] * second)))
        self.assertEqual(['1.1.0', '1.0.0'], self.built)

    def test_no_results(self):
        self.setenv('NOVA_RELEASE', '1.1.0')
        self.assertEqual(
            (100, [3, 1, 0]), self._run((100, []), (0, [PASSED] * 3)))
        self.assertEqual(['1.2.0', '1.0.0'], self.built)
