# SPDX-License-Identifier: Apache-2.0

import io
import os
import tarfile
import time
from unittest import mock
import zipfile

from novabuild import archive
from novabuild.tests import base

ENTRIES = {
    'nova/b.py': archive.Entry(b'b = 1\n' * 1000),
    'nova/a.sh': archive.Entry(b'#!/bin/sh\n', executable=True),
    'nova-1.dist-info/METADATA': archive.Entry(b'Name: nova\n'),
}


class ArchiveTestCase(base.TestCase):

    def _wheel(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(io.BytesIO(
            archive.wheel(ENTRIES, 'nova-1.dist-info')))

    def test_order_and_modes(self):
        self.assertEqual(
            [('nova/a.sh', '0o100755'), ('nova/b.py', '0o100644'),
             ('nova-1.dist-info/METADATA', '0o100644'),
             ('nova-1.dist-info/RECORD', '0o100644')],
            [(info.filename, oct(info.external_attr >> 16))
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
            umask = os.umask(0o077)
            self.addCleanup(os.umask, umask)
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
