# SPDX-License-Identifier: Apache-2.0

import email

from packaging import metadata as standard

from novabuild import errors
from novabuild import metadata
from novabuild import project
from novabuild.tests import base


class MergedTestCase(base.TestCase):

    def _merged(self) -> bytes:
        return metadata.merged(
            base.METADATA.encode(), project.load(self.root))

    def test_little_changes(self):
        before = base.METADATA.splitlines()
        after = self._merged().decode().splitlines()
        self.assertEqual(
            {'Version: 1.2.0', 'Summary: Cloud computing fabric controller'},
            set(before) - set(after))
        self.assertEqual(
            {'Version: 1.2.0+rbd.1', 'Summary: A whole Nova'},
            set(after) - set(before))
        self.assertEqual(len(before), len(after))

    def test_additions(self):
        self.configure(
            metadata=(
                'classifiers =\n    Topic :: System\n'
                '    Environment :: OpenStack\n'
                'project_urls =\n    Home = https://example.org/\n'),
            rest='[options]\ninstall_requires =\n    oslo.log>=4\n')
        message = email.message_from_bytes(self._merged())
        self.assertEqual(['Environment :: OpenStack', 'Topic :: System'],
                         message.get_all('Classifier'))
        self.assertEqual(['Home, https://example.org/'],
                         message.get_all('Project-URL'))
        self.assertEqual(['pbr>=5.8.0', 'oslo.log>=4'],
                         message.get_all('Requires-Dist'))
        self.assertEqual(['LICENSE'], message.get_all('License-File'))

    def test_pythons(self):
        self.configure(rest='[options]\npython_requires = >=3.12\n')
        message = email.message_from_bytes(self._merged())
        self.assertEqual(['>=3.12'], message.get_all('Requires-Python'))

    def test_readme(self):
        self.configure(metadata='long_description = file: README.rst\n')
        self.write('README.rst', 'Ours\n====\n\n\u20ac\n')
        merged = standard.Metadata.from_email(self._merged())
        self.assertEqual('Ours\n====\n\n\u20ac\n', merged.description)
        self.assertEqual('text/x-rst', merged.description_content_type)

    def test_missing_readme(self):
        self.configure(metadata='long_description = file: README.rst\n')
        exc = self.assertRaises(errors.BuildError, self._merged)
        self.assertIn('README.rst', str(exc))

    def test_invalid_outcome(self):
        released = base.METADATA.replace('2.4', '9.9').encode()
        exc = self.assertRaises(
            errors.BuildError, metadata.merged, released,
            project.load(self.root))
        self.assertIn('The metadata is not valid', str(exc))
        self.assertIn('9.9', str(exc))


class OtherFilesTestCase(base.TestCase):

    def test_own(self):
        own = standard.Metadata.from_email(
            metadata.own(project.load(self.root)))
        self.assertEqual('1.2.0+rbd.1', str(own.version))
        self.assertIn('requires-dist', own.dynamic or [])

    def test_entry_points(self):
        released = '[b]\nx = m:x\n\n[a]\nKeep = m:k\nchange = m:old\n'
        merged = metadata.entry_points(
            released, {'a': {'change': 'm:new'}, 'c': {'add': 'm:a'}})
        self.assertEqual(
            '[a]\nKeep = m:k\nchange = m:new\n\n[b]\nx = m:x\n\n'
            '[c]\nadd = m:a\n', merged.decode())
