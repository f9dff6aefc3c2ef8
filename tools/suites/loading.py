# SPDX-License-Identifier: Apache-2.0

"""Find tests: in the installed Nova, in the installed lab, or in tools/."""

import importlib.util
import pathlib
import re
import unittest

from novabuild import archive
from novabuild import tree

ROOT = pathlib.Path(__file__).resolve().parents[2]
_LAB_FILES = ('.py', '/constraints.txt')


class SuiteError(Exception):
    """The suite cannot be loaded. The message tells the user what to do."""


def loaded(loader: unittest.TestLoader, folder: str) -> unittest.TestSuite:
    """Load the tests in this tree's files below a folder.

    :param folder: path below the root of the tree, with slashes
    :raises SuiteError: there are none, or the installed Nova, or the installed
        lab, was not built from this tree
    """
    if folder.startswith('tools/'):
        return loader.discover(
            str(ROOT / folder), top_level_dir=str(ROOT / 'tools'))
    files = tree.overlay(ROOT)
    _check_installed('nova', files)
    if folder.startswith('lab/'):
        files = {name: entry for name, entry in tree.source(ROOT).items()
                 if name.startswith('lab/') and name.endswith(_LAB_FILES)}
        _check_installed('lab', files)
    is_test = re.compile(rf'{folder}/(.+/)?test_\w+\.py')
    modules = sorted(
        name.removesuffix('.py').replace('/', '.')
        for name in files if is_test.fullmatch(name))
    if not modules:
        raise SuiteError(f'{ROOT / folder} has no test_*.py.')
    return loader.loadTestsFromNames(modules)


def _check_installed(package: str, files: archive.Entries) -> None:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SuiteError(
            f'The package {package} is not installed. Run the tests with tox.')
    installed = pathlib.Path(spec.origin).parents[1]
    if installed == ROOT:
        raise SuiteError(
            f'Python imports {package} from the checkout instead of the '
            'installed package. Run the tests with tools/suites.')
    for name, entry in files.items():
        path = installed / name
        if not path.is_file() or path.read_bytes() != entry.data:
            folder = './lab' if package == 'lab' else '.'
            raise SuiteError(
                f'{path} differs from {name} in this tree. Run tox, or "pip '
                f'install --no-deps --force-reinstall {folder}".')
