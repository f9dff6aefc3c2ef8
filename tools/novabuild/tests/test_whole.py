# SPDX-License-Identifier: Apache-2.0

from novabuild import archive
from novabuild import errors
from novabuild.tests import base
from novabuild import whole


class WholeTestCase(base.TestCase):

    def _entries(self) -> archive.Entries:
        ours = self.project()
        return whole.entries(ours, whole.released(ours))

    def _error(self) -> str:
        return str(self.assertRaises(errors.BuildError, self._entries))

    def test_all_files(self):
        self.write('nova/lab/__init__.py', '')
        self.write('lab/ceph.py', '')
        self.write('nova/lab/ceph.py', 'released = False\n')
        info = 'nova-1.2.0+rbd.1.dist-info'
        entries = self._entries()
        self.assertEqual({
            'nova/__init__.py', 'nova/image/__init__.py',
            'nova/image/glance.py', 'nova/image/old.py',
            'nova/lab/__init__.py', 'nova/lab/ceph.py',
            'nova-1.2.0+rbd.1.data/data/etc/nova/api-paste.ini',
            f'{info}/METADATA', f'{info}/WHEEL', f'{info}/entry_points.txt',
            f'{info}/licenses/LICENSE', f'{info}/top_level.txt',
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
