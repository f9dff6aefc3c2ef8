# SPDX-License-Identifier: Apache-2.0

import io
import os
import pathlib
import tarfile
import time
from unittest import mock
import zipfile

from packaging import metadata as standard

from novabuild import archive
from novabuild import errors
from novabuild import hooks
from novabuild import metadata
from novabuild.tests import base
from novabuild import whole

ENTRIES = {
    'nova/b.py': archive.Entry(b'b = 1\n' * 1000),
    'nova/a.sh': archive.Entry(b'#!/bin/sh\n', executable=True),
    'nova-1.dist-info/METADATA': archive.Entry(b'Name: nova\n'),
}
INFO = 'nova-1.2.0+rbd.1.dist-info'


class ArchiveTestCase(base.TestCase):

    def _wheel(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(io.BytesIO(
            archive.wheel(ENTRIES, 'nova-1.dist-info')))

    def test_order_and_modes(self):
        self.assertEqual(
            [('nova/a.sh', 0o100755), ('nova/b.py', 0o100644),
             ('nova-1.dist-info/METADATA', 0o100644),
             ('nova-1.dist-info/RECORD', 0o100644)],
            [(info.filename, info.external_attr >> 16)
             for info in self._wheel().infolist()])

    def test_record(self):
        lines = self._wheel().read(
            'nova-1.dist-info/RECORD').decode().split('\n')
        # printf '#!/bin/sh\n' | openssl dgst -sha256 -binary | base64
        self.assertEqual(
            'nova/a.sh,sha256=qAdtPSjSHgIBKyDq99v3VAmmJ3E0Q5Al8oLjaOMwWr8,10',
            lines[0])
        self.assertEqual(['nova-1.dist-info/RECORD,,', ''], lines[-2:])

    def test_same_input_same_bytes(self):
        for write in (archive.wheel, archive.sdist):
            first = write(ENTRIES, 'nova-1')
            self.addCleanup(os.umask, os.umask(0o077))
            with mock.patch('time.time', return_value=time.time() + 86400):
                self.assertEqual(first, write(ENTRIES, 'nova-1'))

    def test_source_date_epoch(self):
        for text, date in (
                ('1700000000', (2023, 11, 14, 22, 13, 20)),
                ('1', (1980, 1, 1, 0, 0, 0)),
                ('4354819200', (2107, 12, 31, 23, 59, 58))):
            self.setenv('SOURCE_DATE_EPOCH', text)
            self.assertEqual({date}, {
                info.date_time for info in self._wheel().infolist()})
        self.setenv('SOURCE_DATE_EPOCH', 'today')
        self.assertRaises(ValueError, self._wheel)

    def test_sdist(self):
        packed = io.BytesIO(archive.sdist(ENTRIES, 'nova-1'))
        with tarfile.open(fileobj=packed) as tar:
            self.assertEqual(
                {(f'nova-1/{name}', entry.mode, len(entry.data), 0, 0, '', '')
                 for name, entry in ENTRIES.items()},
                {(m.name, m.mode, m.size, m.uid, m.gid, m.uname, m.gname)
                 for m in tar.getmembers()})


class MetadataTestCase(base.TestCase):

    def test_little_changes(self):
        merged, released = (standard.Metadata.from_email(text) for text in (
            metadata.merged(base.METADATA.encode(), self.project()),
            base.METADATA))
        for field, value in (
                ('version', '1.2.0+rbd.1'), ('summary', 'A whole Nova'),
                ('requires_python', '>=3.11'),
                ('description', 'Ours \u20ac\n======\n')):
            self.assertEqual(value, str(getattr(merged, field)))
        for field in ('classifiers', 'requires_dist', 'license_files',
                      'description_content_type', 'name'):
            self.assertEqual(
                getattr(released, field), getattr(merged, field))

    def test_invalid_result(self):
        released = base.METADATA.replace('2.4', '9.9').encode()
        self.assertRaises(
            ExceptionGroup, metadata.merged, released, self.project())

    def test_own(self):
        own = standard.Metadata.from_email(metadata.own(self.project()))
        self.assertEqual('1.2.0+rbd.1', str(own.version))
        self.assertIn('requires-dist', own.dynamic or [])

    def test_entry_points(self):
        merged = metadata.entry_points(
            '[d]\nx = m:x\n\n[console_scripts]\nz = m:Z\n'
            'nova-Fetch = m:old\n', self.project())
        self.assertEqual(
            f'[console_scripts]\n{base.SCRIPT}\nz = m:Z\n\n[d]\nx = m:x\n',
            merged.decode())


class WholeTestCase(base.TestCase):

    def _entries(self) -> archive.Entries:
        ours = self.project()
        return whole.entries(ours, whole.released(ours))

    def _error(self) -> str:
        return str(self.assertRaises(errors.BuildError, self._entries))

    def test_all_files(self):
        self.write('lab/ceph.py', '')
        for name in ('__init__', 'ceph'):
            self.write(f'nova/lab/{name}.py', '')
        entries = self._entries()
        self.assertEqual({
            'nova/__init__.py', 'nova/image/__init__.py',
            'nova/image/glance.py', 'nova/image/old.py',
            'nova/lab/__init__.py', 'nova/lab/ceph.py',
            'nova-1.2.0+rbd.1.data/data/etc/nova/api-paste.ini',
            f'{INFO}/METADATA', f'{INFO}/WHEEL', f'{INFO}/entry_points.txt',
            f'{INFO}/licenses/LICENSE', f'{INFO}/top_level.txt',
        }, set(entries))
        for name, ours in (('glance', True), ('old', False)):
            self.assertEqual(f'released = {not ours}\n',
                             entries[f'nova/image/{name}.py'].data.decode())

    def test_package_of_the_release(self):
        self.write('nova/image/__init__.py', '')
        self.assertIn('"import nova" would find this tree alone',
                      self._error())

    def test_module_in_no_package(self):
        self.write('nova/lab/ceph.py', '')
        self.assertIn('nova/lab/__init__.py is missing', self._error())

    def test_unknown_packing(self):
        self.release({'nova/image/__init__.py': ''})
        self.configure()
        self.assertIn('METADATA', self._error())

    def test_importable(self):
        with whole.importable(self._entries()) as folder:
            for name in ('nova/image/old.py', 'etc/nova/api-paste.ini',
                         'nova-1.2.0+rbd.1.dist-info/METADATA'):
                self.assertTrue((folder / name).is_file(), name)
        self.assertFalse(folder.exists())


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
        built = whole.unpacked((self.output / name).read_bytes())
        self.assertEqual({
            f'{INFO}/{path.relative_to(self.output / INFO)}':
                path.read_bytes()
            for path in (self.output / INFO).rglob('*') if path.is_file()
        }, {name: entry.data for name, entry in built.items()
            if name.startswith(INFO) and not name.endswith('/RECORD')})

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
        sdist = hooks.build_sdist(str(self.output))
        self.assertEqual('nova-1.2.0+rbd.1.tar.gz', sdist)
        with tarfile.open(self.output / sdist) as tar:
            tar.extractall(self.root / 'unpacked')
        os.chdir(self.root / 'unpacked/nova-1.2.0+rbd.1')
        self.assertTrue(pathlib.Path('PKG-INFO').is_file())
        again = hooks.build_wheel('.')
        self.assertEqual(
            direct.read_bytes(), pathlib.Path(again).read_bytes())
