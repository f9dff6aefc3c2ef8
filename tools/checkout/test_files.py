# SPDX-License-Identifier: Apache-2.0

import ast
import importlib.metadata
import pathlib

from docutils import core
import testtools

from novabuild import errors
from novabuild import project
from novabuild import series
from novabuild import tree
from novabuild import whole

ROOT = pathlib.Path(__file__).resolve().parents[2]
TAG = 'SPDX-License-Identifier: Apache-2.0'
FIRST_LINES = 5
# The folders of the product and of its unit tests.
SHIPPED = ('nova/conf/', 'nova/image/', 'nova/privsep/', 'nova/tests/unit/')
NOT_SHIPPED = {'lab', 'novabuild', 'released', 'suites'}
# The licence itself, and generated files.
NO_TAG = {
    'LICENSE',
    'PKG-INFO',
    'doc/source/admin/performance-tables.inc',
    'doc/source/images/performance.svg',
}
# Indexes include no files, and show the source text after any warning.
AS_AN_INDEX = {
    '_disable_config': True,
    'file_insertion_enabled': False,
    'raw_enabled': False,
    'report_level': 2,
    'halt_level': 2,
}


class FilesTestCase(testtools.TestCase):

    def test_text_with_licence(self):
        files = tree.source(ROOT)
        self.assertIn('README.rst', files)
        for name, entry in files.items():
            text = entry.data.decode()  # an error if it is binary
            self.assertNotIn('\0', text, name)
            if text and name not in NO_TAG:
                head = text.splitlines()[:FIRST_LINES]
                self.assertIn(TAG, '\n'.join(head), name)

    def test_licence_is_that_of_nova(self):
        found = importlib.metadata.distribution('nova').read_text(
            'licenses/LICENSE')
        self.assertEqual((ROOT / 'LICENSE').read_text(), found)

    def test_readme_renders_on_an_index(self):
        ours = project.load(ROOT, project.load(ROOT).pinned[0])
        shown = core.publish_string(
            ours.readme, writer='html5', settings_overrides=AS_AN_INDEX)
        self.assertIn(f'{whole.stem(ours.version)}-py3-none-any.whl',
                      shown.decode())

    def test_shipped_files(self):
        """The wheel and the patch contain nothing of the lab or the tools."""
        files = tree.overlay(ROOT)
        self.assertIn('nova/image/glance.py', files)
        for name, entry in files.items():
            self.assertTrue(name.startswith(SHIPPED), name)
            # A build of the patched release would leave out other files.
            self.assertTrue(name.endswith('.py'), name)
            self.assertEqual(set(), NOT_SHIPPED.intersection(
                module.partition('.')[0] for module in imported(entry.data)))


class SeriesTestCase(testtools.TestCase):

    def setUp(self) -> None:
        super().setUp()
        self.files = tree.overlay(ROOT) | tree.notes(ROOT)

    def test_each_file_is_in_one_patch(self):
        steps = series.divide([*self.files, 'pyproject.toml'])
        self.assertNotIn(set(), steps)
        self.assertEqual(
            {*self.files, 'pyproject.toml'}, set().union(*steps))

    def test_file_in_no_patch(self):
        error = self.assertRaises(
            errors.BuildError, series.divide, ['nova/image/new.py'])
        self.assertIn('nova/image/new.py belongs to 0 patches', str(error))

    def test_module_comes_before_its_users(self):
        later = set(self.files)
        for names in series.divide(self.files):
            later -= names
            for name in names - tree.notes(ROOT).keys():
                used = {module.replace('.', '/') + ending
                        for module in imported(self.files[name].data)
                        for ending in ('.py', '/__init__.py')}
                self.assertEqual(set(), used & later, name)


def imported(code: bytes) -> set[str]:
    """Return the names of all modules that Python code may import."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f'{node.module}.{each.name}' for each in node.names}
    return found
