# SPDX-License-Identifier: Apache-2.0

from novabuild import archive
from novabuild import errors
from novabuild import project
from novabuild.tests import base
from novabuild import whole


class EntriesTestCase(base.TestCase):

    def _entries(self) -> whole.Entries:
        return whole.entries(
            project.load(self.root), whole.unpacked(self.wheel))

    def _error(self) -> str:
        return str(self.assertRaises(errors.BuildError, self._entries))

    def test_all_files(self):
        self.write('nova/image/new.py', 'released = False\n')
        self.write('lab/ceph.py', '')
        info = 'nova-1.2.0+rbd.1.dist-info'
        self.assertEqual({
            'nova/__init__.py', 'nova/image/__init__.py',
            'nova/image/glance.py', 'nova/image/new.py', 'nova/image/old.py',
            'nova-1.2.0+rbd.1.data/data/etc/nova/api-paste.ini',
            f'{info}/METADATA', f'{info}/WHEEL', f'{info}/entry_points.txt',
            f'{info}/licenses/LICENSE', f'{info}/top_level.txt',
        }, set(self._entries()))

    def test_ours_over_theirs(self):
        entries = self._entries()
        self.assertEqual(
            b'released = False\n', entries['nova/image/glance.py'].data)
        self.assertEqual(
            b'released = True\n', entries['nova/image/old.py'].data)

    def test_removal(self):
        self.configure(release='remove =\n    nova/image/old.py\n')
        self.assertNotIn('nova/image/old.py', self._entries())

    def test_removal_of_nothing(self):
        self.configure(release='remove =\n    nova/image/older.py\n')
        self.assertIn('does not have: nova/image/older.py', self._error())

    def test_own_licence(self):
        self.configure(metadata='    LICENSE.ours\n')
        self.write('LICENSE.ours', 'MIT\n')
        entries = self._entries()
        info = 'nova-1.2.0+rbd.1.dist-info'
        self.assertEqual(
            archive.Entry(b'MIT\n'), entries[f'{info}/licenses/LICENSE.ours'])
        self.assertIn(b'License-File: LICENSE.ours\n',
                      entries[f'{info}/METADATA'].data)

    def test_licence_of_the_release_stays(self):
        self.write('LICENSE', 'MIT\n')
        self.assertIn('LICENSE with another text', self._error())

    def test_package_of_the_release(self):
        self.write('nova/image/__init__.py', '')
        self.assertIn('"import nova" would find this tree alone',
                      self._error())

    def test_module_in_no_package(self):
        self.write('nova/lab/ceph.py', '')
        self.assertIn('nova/lab/__init__.py is missing', self._error())

    def test_new_package(self):
        self.write('nova/lab/__init__.py', '')
        self.write('nova/lab/ceph.py', '')
        self.assertIn('nova/lab/ceph.py', self._entries())

    def test_unknown_packing(self):
        self.release({'nova/image/__init__.py': ''})
        self.configure()
        self.assertIn("has no 'METADATA'", self._error())
