# SPDX-License-Identifier: Apache-2.0

"""Find the tests of a suite in the installed Nova."""

from collections.abc import Collection
import importlib.util
import pathlib
import re
import unittest

from novabuild import tree

ROOT = pathlib.Path(__file__).resolve().parents[2]


class SuiteError(Exception):
    """The suite cannot be loaded. The message tells the user what to do."""


def ours(loader: unittest.TestLoader, folder: str) -> unittest.TestSuite:
    """Load the tests in this tree's files below a folder.

    :param folder: path below the root of the tree, with slashes
    :raises SuiteError: there are none, or the installed Nova was not built
        from this tree
    """
    is_test = re.compile(rf'{folder}/(.+/)?test_\w+\.py')
    modules = sorted(
        name.removesuffix('.py').replace('/', '.')
        for name in installed_overlay() if is_test.fullmatch(name))
    if not modules:
        raise SuiteError(f'{ROOT / folder} has no test_*.py.')
    return loader.loadTestsFromNames(modules)


def installed_overlay() -> Collection[str]:
    """Return the paths of this tree's files in the installed Nova.

    :raises SuiteError: the installed Nova was not built from this tree, or
        none is installed
    """
    spec = importlib.util.find_spec('nova')
    if spec is None or spec.origin is None:
        raise SuiteError('Nova is not installed here. Run the tests with tox.')
    installed = pathlib.Path(spec.origin).parents[1]
    overlay = tree.overlay(ROOT)
    for name, entry in overlay.items():
        path = installed / name
        if not path.is_file() or path.read_bytes() != entry.data:
            raise SuiteError(
                f'{path} is not the {name} of this tree. Run tox, or "pip '
                'install --no-deps --force-reinstall .".')
    return overlay.keys()
