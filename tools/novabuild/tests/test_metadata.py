# SPDX-License-Identifier: Apache-2.0

from packaging import metadata as standard

from novabuild import metadata
from novabuild.tests import base


class MetadataTestCase(base.TestCase):

    def _merged(self) -> standard.Metadata:
        return standard.Metadata.from_email(metadata.merged(
            base.METADATA.encode(), self.project()))

    def test_little_changes(self):
        merged = self._merged()
        released = standard.Metadata.from_email(base.METADATA)
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
