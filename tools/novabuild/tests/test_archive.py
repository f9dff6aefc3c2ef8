# SPDX-License-Identifier: Apache-2.0

import os
import pathlib
import tarfile
import time
from unittest import mock
import zipfile

import fixtures

from novabuild import archive
from novabuild import errors
from novabuild.tests import base

ENTRIES = {
    'nova/b.py': archive.Entry(b'b = 1\n' * 1000),
    'nova/a.sh': archive.Entry(b'#!/bin/sh\n', executable=True),
    'nova-1.dist-info/METADATA': archive.Entry(b'Name: nova\n'),
}


class WheelTestCase(base.TestCase):

    def _write(self, name: str = 'a.whl') -> pathlib.Path:
        path = self.output / name
        archive.write_wheel(path, ENTRIES, 'nova-1.dist-info')
        return path

    def test_order_and_modes(self):
        with zipfile.ZipFile(self._write()) as wheel:
            modes = {
                info.filename: oct(info.external_attr >> 16)
                for info in wheel.infolist()}
        self.assertEqual(
            [('nova/a.sh', '0o100755'), ('nova/b.py', '0o100644'),
             ('nova-1.dist-info/METADATA', '0o100644'),
             ('nova-1.dist-info/RECORD', '0o100644')], list(modes.items()))

    def test_record(self):
        with zipfile.ZipFile(self._write()) as wheel:
            lines = wheel.read('nova-1.dist-info/RECORD').decode().split('\n')
        # printf '#!/bin/sh\n' | openssl dgst -sha256 -binary | base64
        self.assertEqual(
            'nova/a.sh,sha256=qAdtPSjSHgIBKyDq99v3VAmmJ3E0Q5Al8oLjaOMwWr8,10',
            lines[0])
        self.assertEqual(['nova-1.dist-info/RECORD,,', ''], lines[-2:])

    def test_same_input_same_bytes(self):
        first = self._write('a.whl')
        umask = os.umask(0o077)
        self.addCleanup(os.umask, umask)
        with mock.patch('time.time', return_value=time.time() + 86400):
            second = self._write('b.whl')
        self.assertEqual(first.read_bytes(), second.read_bytes())

    def test_source_date_epoch(self):
        self.useFixture(fixtures.EnvironmentVariable(
            'SOURCE_DATE_EPOCH', '1700000000'))
        with zipfile.ZipFile(self._write()) as wheel:
            dates = {info.date_time for info in wheel.infolist()}
        self.assertEqual({(2023, 11, 14, 22, 13, 20)}, dates)

    def test_source_date_epoch_before_zip(self):
        self.useFixture(fixtures.EnvironmentVariable('SOURCE_DATE_EPOCH', '1'))
        with zipfile.ZipFile(self._write()) as wheel:
            dates = {info.date_time for info in wheel.infolist()}
        self.assertEqual({(1980, 1, 1, 0, 0, 0)}, dates)

    def test_source_date_epoch_at_the_end_of_zip(self):
        self.useFixture(fixtures.EnvironmentVariable(
            'SOURCE_DATE_EPOCH', '4354819199'))
        with zipfile.ZipFile(self._write()) as wheel:
            dates = {info.date_time for info in wheel.infolist()}
        self.assertEqual({(2107, 12, 31, 23, 59, 58)}, dates)

    def test_source_date_epoch_after_zip(self):
        self.useFixture(fixtures.EnvironmentVariable(
            'SOURCE_DATE_EPOCH', '4354819200'))
        exc = self.assertRaises(errors.BuildError, self._write)
        self.assertIn('after the year 2107', str(exc))

    def test_source_date_epoch_is_no_number(self):
        self.useFixture(fixtures.EnvironmentVariable(
            'SOURCE_DATE_EPOCH', 'today'))
        exc = self.assertRaises(errors.BuildError, self._write)
        self.assertIn('not "today"', str(exc))

    def test_failure_leaves_what_was_there(self):
        path = self._write()
        before = path.read_bytes()
        with mock.patch('zipfile.ZipFile.writestr', side_effect=OSError(28)):
            self.assertRaises(OSError, self._write)
        self.assertEqual([path], list(self.output.iterdir()))
        self.assertEqual(before, path.read_bytes())


class SdistTestCase(base.TestCase):

    def _write(self, name: str = 'a.tar.gz') -> pathlib.Path:
        path = self.output / name
        archive.write_sdist(path, ENTRIES, 'nova-1')
        return path

    def test_content(self):
        with tarfile.open(self._write()) as tar:
            members = tar.getmembers()
            script = tar.extractfile('nova-1/nova/a.sh')
            assert script is not None
            self.assertEqual(b'#!/bin/sh\n', script.read())
        self.assertEqual(
            {('nova-1/nova/a.sh', 0o755), ('nova-1/nova/b.py', 0o644),
             ('nova-1/nova-1.dist-info/METADATA', 0o644)},
            {(member.name, member.mode) for member in members})
        self.assertEqual({(0, 0, '', '')}, {
            (m.uid, m.gid, m.uname, m.gname) for m in members})

    def test_same_input_same_bytes(self):
        first = self._write('a.tar.gz')
        with mock.patch('time.time', return_value=time.time() + 86400):
            second = self._write('b.tar.gz')
        self.assertEqual(first.read_bytes(), second.read_bytes())
