# SPDX-License-Identifier: Apache-2.0

import ast
import pathlib

import testtools

from novabuild import project
from novabuild import tree

ROOT = pathlib.Path(__file__).resolve().parents[2]
TAG = b'SPDX-License-Identifier: Apache-2.0'
FIRST_LINES = 5
# What the wheel and the patch contain: the product and its unit tests.
SHIPPED = (
    'nova/conf/', 'nova/image/', 'nova/privsep/', 'nova/tests/unit/')
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


class ShippedTestCase(testtools.TestCase):
    """What only proves, such as the lab, stays out of the wheel."""

    def setUp(self) -> None:
        super().setUp()
        self.files = tree.overlay(project.load(ROOT))
        self.assertIn('nova/image/glance.py', self.files)

    def test_folders(self):
        self.assertEqual(
            [], [name for name in self.files if not name.startswith(SHIPPED)])

    def test_imports(self):
        self.assertEqual({}, {
            name: found for name, entry in self.files.items()
            if name.endswith('.py') and (found := imported(
                entry.data) & {'lab', 'novabuild', 'released', 'suites'})})


def imported(code: bytes) -> set[str]:
    """Return the names of the top-level packages that Python code imports."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or '')
    return {name.partition('.')[0] for name in found}
