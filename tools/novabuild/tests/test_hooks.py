# SPDX-License-Identifier: Apache-2.0

import os
import pathlib
import tarfile
import zipfile

from novabuild import errors
from novabuild import hooks
from novabuild.tests import base

INFO = 'nova-1.2.0+rbd.1.dist-info'


class HooksTestCase(base.TestCase):

    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(os.chdir, pathlib.Path.cwd())
        os.chdir(self.root)

    def test_wheel_has_the_prepared_metadata(self):
        folder = hooks.prepare_metadata_for_build_wheel(str(self.output))
        self.assertEqual(INFO, folder)
        name = hooks.build_wheel(str(self.output))
        self.assertEqual('nova-1.2.0+rbd.1-py3-none-any.whl', name)
        with zipfile.ZipFile(self.output / name) as wheel:
            built = {
                entry: wheel.read(entry) for entry in wheel.namelist()
                if entry.startswith(INFO) and not entry.endswith('/RECORD')}
        self.assertEqual(built, {
            path.relative_to(self.output).as_posix(): path.read_bytes()
            for path in (self.output / INFO).rglob('*') if path.is_file()})

    def test_wrong_release_builds_nothing(self):
        self.configure(sha256='0' * 64)
        for hook in (hooks.build_wheel,
                     hooks.prepare_metadata_for_build_wheel):
            self.assertRaises(errors.BuildError, hook, str(self.output))
        self.assertEqual([], list(self.output.iterdir()))

    def test_settings(self):
        self.setenv('NOVA_RELEASE_WHEEL', '/nonexistent')
        hooks.build_wheel(
            str(self.output), {'release-wheel': str(self.wheel)})
        self.assertEqual(1, len(list(self.output.iterdir())))
        exc = self.assertRaises(
            errors.BuildError, hooks.build_wheel, str(self.output),
            {'wheel': str(self.wheel)})
        self.assertIn('Unknown build setting: wheel', str(exc))

    def test_sdist_builds_the_same_wheel(self):
        self.write('nova/image/new.py', 'new = True\n')
        direct = self.output / hooks.build_wheel(str(self.output))
        archive = self.output / hooks.build_sdist(str(self.output))
        self.assertEqual('nova-1.2.0+rbd.1.tar.gz', archive.name)
        unpacked = self.output / 'unpacked'
        with tarfile.open(archive) as tar:
            tar.extractall(unpacked)
        os.chdir(unpacked / 'nova-1.2.0+rbd.1')
        self.assertTrue(pathlib.Path('PKG-INFO').is_file())
        again = unpacked / hooks.build_wheel(str(unpacked))
        self.assertEqual(direct.read_bytes(), again.read_bytes())
