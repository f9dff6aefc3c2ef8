# SPDX-License-Identifier: Apache-2.0

"""Find tests: in the installed Nova, in the installed lab, or in tools/."""

from collections.abc import Collection
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
    :raises SuiteError: there are none, or the installed Nova was not built
        from this tree
    """
    if folder.startswith('tools/'):
        return loader.discover(
            str(ROOT / folder), top_level_dir=str(ROOT / 'tools'))
    installed = installed_overlay()
    if folder.startswith('lab/'):
        installed = installed_lab()
    is_test = re.compile(rf'{folder}/(.+/)?test_\w+\.py')
    modules = sorted(
        name.removesuffix('.py').replace('/', '.')
        for name in installed if is_test.fullmatch(name))
    if not modules:
        raise SuiteError(f'{ROOT / folder} has no test_*.py.')
    return loader.loadTestsFromNames(modules)


def installed_overlay() -> Collection[str]:
    """Return the paths of this tree's files in the installed Nova.

    :raises SuiteError: the installed Nova was not built from this tree, or
        none is installed
    """
    return _installed('nova', tree.overlay(ROOT))


def installed_lab() -> Collection[str]:
    """Return the paths of the lab's files, which are installed.

    :raises SuiteError: another lab is installed, or none
    """
    return _installed('lab', {
        name: entry for name, entry in tree.source(ROOT).items()
        if name.startswith('lab/') and name.endswith(_LAB_FILES)})


def _installed(package: str, files: archive.Entries) -> Collection[str]:
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
    return files.keys()
