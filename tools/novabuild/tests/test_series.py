# SPDX-License-Identifier: Apache-2.0

import ast
import pathlib

import testtools

from novabuild import errors
from novabuild import series
from novabuild import tree

ROOT = pathlib.Path(__file__).resolve().parents[3]


def imported(name: str, code: bytes) -> set[str]:
    """Return the paths that the imports of a module may refer to."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            modules |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {f'{node.module}.{each.name}' for each in node.names}
    return {module.replace('.', '/') + ending
            for module in modules for ending in ('.py', '/__init__.py')}


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
            for name in names:
                if name.endswith('.py'):
                    used = imported(name, self.files[name].data)
                    self.assertEqual(set(), used & later, name)
