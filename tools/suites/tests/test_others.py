# SPDX-License-Identifier: Apache-2.0

import contextlib
import hashlib
import pathlib
from unittest import mock

import fixtures

from novabuild import project
from novabuild import release
from novabuild.tests import base
from suites import __main__ as program
from suites import counting
from suites import others


class OthersTestCase(base.TestCase):

    def setUp(self) -> None:
        super().setUp()
        sha256 = hashlib.sha256(self.wheel.read_bytes()).hexdigest()
        self.configure(rest=''.join(
            f'[nova_release:{each}]\nsha256 = {sha256}\n'
            f'sdist_sha256 = {sha256}\n' for each in ('1.1.0', '1.0.0')))
        self.useFixture(fixtures.MonkeyPatch(
            'suites.loading.ROOT', self.root))
        self.useFixture(fixtures.MockPatchObject(
            release, 'obtained',
            side_effect=lambda pin: contextlib.nullcontext(self._of(pin))))

    def _of(self, pin: project.Release) -> pathlib.Path:
        self.release({
            name.replace('1.2.0', str(pin.version)): text
            for name, text in base.RELEASED.items()})
        return self.wheel

    def test_releases(self):
        self.assertEqual(['1.1.0', '1.0.0'], others.releases())
        self.useFixture(fixtures.EnvironmentVariable('NOVA_RELEASE', '1.1.0'))
        self.assertEqual(['1.2.0', '1.0.0'], others.releases())

    def test_built(self):
        self.useFixture(fixtures.EnvironmentVariable('PYTHONPATH', '/x'))
        with others.built('1.1.0') as environment:
            folder, other = environment['PYTHONPATH'].split(':')
            self.assertEqual(
                {'NOVA_RELEASE': '1.1.0', 'PYTHONPATH': f'{folder}:/x'},
                environment)
            top = pathlib.Path(folder)
            self.assertEqual(
                'released = False\n',
                (top / 'nova/image/glance.py').read_text())
            self.assertTrue((top / 'nova/image/old.py').is_file())
            self.assertTrue((top / 'etc/nova/api-paste.ini').is_file())
            self.assertIn(
                'Version: 1.1.0+rbd.1',
                (top / 'nova-1.1.0+rbd.1.dist-info/METADATA').read_text())
        self.assertFalse(top.exists())

    def _run(self, *outcomes: program.Done) -> program.Done:
        with mock.patch.object(program, '_run', side_effect=outcomes) as run:
            done = program._run_on_others('others', ['--serial'])
        self.assertEqual(
            [('others', ['--serial'])] * 2,
            [call.args[:2] for call in run.call_args_list])
        return done

    def test_sum(self):
        self.assertEqual(
            program.Done(0, counting.Counts(7, 0, 1)),
            self._run(program.Done(0, counting.Counts(4, 0, 1)),
                      program.Done(0, counting.Counts(3, 0, 0))))

    def test_one_fails(self):
        for first, second in ((0, 1), (1, 0)):
            self.assertEqual(
                1, self._run(
                    program.Done(first, counting.Counts(4, first, 1)),
                    program.Done(second, counting.Counts(3, second, 0)),
                ).status)

    def test_no_record(self):
        self.assertEqual(
            program.Done(100, counting.Counts(3, 1, 0)),
            self._run(program.Done(100, None),
                      program.Done(0, counting.Counts(3, 0, 0))))
