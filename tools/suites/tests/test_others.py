# SPDX-License-Identifier: Apache-2.0

import hashlib
import pathlib
from unittest import mock

import fixtures

from novabuild import archive
from novabuild import project
from novabuild.tests import base
from novabuild import whole
from suites import __main__ as program
from suites import counting


class OthersTestCase(base.TestCase):

    def setUp(self) -> None:
        super().setUp()
        sha256 = hashlib.sha256(self.wheel.read_bytes()).hexdigest()
        self.configure(rest=''.join(
            f'[nova_release:{each}]\nsha256 = {sha256}\n'
            f'sdist_sha256 = {sha256}\n' for each in ('1.1.0', '1.0.0')))
        self.setenv('PYTHONPATH', '/x')
        self.useFixture(fixtures.MonkeyPatch(
            'suites.loading.ROOT', self.root))
        self.useFixture(fixtures.MonkeyPatch(
            'novabuild.whole.released', self._released))

    def _released(self, ours: project.Project) -> archive.Entries:
        return {name.replace('1.2.0', str(ours.release.version)): entry
                for name, entry in whole.unpacked(self.wheel).items()}

    def _run(self, *outcomes: program.Done) -> program.Done:
        """Run on two releases; look at what they get."""
        self.built: list[str] = []
        left = iter(outcomes)

        def run(name, options, environment):
            self.assertEqual(('others', ['--serial']), (name, options))
            release = environment['NOVA_RELEASE']
            folder, other = environment['PYTHONPATH'].split(':')
            self.assertEqual('/x', other)
            self.assertEqual(
                'released = False\n',
                pathlib.Path(folder, 'nova/image/glance.py').read_text())
            metadata = pathlib.Path(
                folder, f'nova-{release}+rbd.1.dist-info/METADATA')
            self.assertTrue(metadata.is_file())
            self.built.append(release)
            return next(left)

        with mock.patch.object(program, '_run', run):
            return program._run_on_others('others', ['--serial'])

    def test_sum(self):
        for first, second in ((0, 0), (0, 1), (1, 0)):
            self.assertEqual(
                program.Done(
                    first or second, counting.Counts(7, first + second, 1)),
                self._run(
                    program.Done(first, counting.Counts(4, first, 1)),
                    program.Done(second, counting.Counts(3, second, 0))))
        self.assertEqual(['1.1.0', '1.0.0'], self.built)

    def test_no_results(self):
        self.setenv('NOVA_RELEASE', '1.1.0')
        self.assertEqual(
            program.Done(100, counting.Counts(3, 1, 0)),
            self._run(program.Done(100, None),
                      program.Done(0, counting.Counts(3, 0, 0))))
        self.assertEqual(['1.2.0', '1.0.0'], self.built)
