# SPDX-License-Identifier: Apache-2.0

import pathlib

import testtools

from novabuild import tree

ROOT = pathlib.Path(__file__).resolve().parents[2]
TAG = b'SPDX-License-Identifier: Apache-2.0'
FIRST_LINES = 5
# The licence itself; what tools have made.
NO_TAG = {
    'LICENSE',
    'PKG-INFO',
    'doc/source/admin/performance-tables.inc',
    'doc/source/images/performance.svg',
}


class FilesTestCase(testtools.TestCase):

    def setUp(self) -> None:
        super().setUp()
        self.files = tree.source(ROOT)
        self.assertIn('README.rst', self.files)

    def test_licence(self):
        self.assertEqual([], [
            name for name, entry in self.files.items()
            if entry.data and name not in NO_TAG and
            TAG not in b''.join(entry.data.splitlines(True)[:FIRST_LINES])])

    def test_nothing_binary(self):
        def is_text(data: bytes) -> bool:
            try:
                return '\0' not in data.decode()
            except UnicodeDecodeError:
                return False

        self.assertEqual([], [
            name for name, entry in self.files.items()
            if not is_text(entry.data)])
