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
                ('description', 'Ours \u20ac\n======\n')):
            self.assertEqual(value, str(getattr(merged, field)))
        for field in ('classifiers', 'requires_dist', 'license_files',
                      'requires_python', 'description_content_type', 'name'):
            self.assertEqual(
                getattr(released, field), getattr(merged, field))

    def test_requirements(self):
        self.configure(rest=(
            '[options]\npython_requires = >=3.12\n'
            'install_requires =\n    pbr>=5.8.0\n    oslo.log>=4\n'))
        merged = self._merged()
        self.assertEqual('>=3.12', str(merged.requires_python))
        self.assertEqual(['pbr>=5.8.0', 'oslo.log>=4'],
                         [str(each) for each in merged.requires_dist or ()])

    def test_invalid_result(self):
        released = base.METADATA.replace('2.4', '9.9').encode()
        self.assertRaises(
            ExceptionGroup, metadata.merged, released, self.project())

    def test_own(self):
        own = standard.Metadata.from_email(metadata.own(self.project()))
        self.assertEqual('1.2.0+rbd.1', str(own.version))
        self.assertIn('requires-dist', own.dynamic or [])

    def test_entry_points(self):
        self.configure(rest=(
            '[options.entry_points]\na =\n    change = m:new\n'
            'c =\n    Add = m:a\n'))
        merged = metadata.entry_points(
            '[b]\nx = m:x\n\n[a]\nKeep = m:k\nchange = m:old\n',
            self.project())
        self.assertEqual(
            '[a]\nKeep = m:k\nchange = m:new\n\n[b]\nx = m:x\n\n'
            '[c]\nAdd = m:a\n', merged.decode())
