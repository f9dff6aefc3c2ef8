# SPDX-License-Identifier: Apache-2.0

"""Find the tests of a suite in the installed Nova."""

from collections.abc import Iterable
from collections.abc import Iterator
import importlib.util
import pathlib
import posixpath
import re
import unittest

from novabuild import archive
from novabuild import project
from novabuild import tree

ROOT = pathlib.Path(__file__).resolve().parents[2]
_TEST_FILE = re.compile(r'test_\w+\.py')


class SuiteError(Exception):
    """The suite cannot be loaded. The message says what to do about it."""


def ours(loader: unittest.TestLoader, folder: str) -> unittest.TestSuite:
    """Load the tests in this tree's files below ``folder``.

    :param folder: a path below the root of the tree, with slashes
    :raises SuiteError: there are none, or the installed Nova is not built
        from this tree
    """
    files = sorted(
        name for name in installed_overlay() if name.startswith(f'{folder}/')
        and _TEST_FILE.fullmatch(posixpath.basename(name)))
    if not files:
        raise SuiteError(f'{ROOT / folder} has no test_*.py.')
    modules = [name.removesuffix('.py').replace('/', '.') for name in files]
    return loader.loadTestsFromNames(modules)


def installed_overlay() -> dict[str, archive.Entry]:
    """Give this tree's files in Nova, known to be what is installed.

    :raises SuiteError: another Nova is installed, or none
    """
    spec = importlib.util.find_spec('nova')
    if spec is None or spec.origin is None:
        raise SuiteError('Nova is not installed here. Run the tests by tox.')
    installed = pathlib.Path(spec.origin).parents[1]
    overlay = tree.overlay(project.load(ROOT))
    for name, entry in overlay.items():
        path = installed / name
        if not path.is_file() or path.read_bytes() != entry.data:
            raise SuiteError(
                f'{path} is not the {name} of this tree. Run tox, or '
                '"pip install --no-deps --force-reinstall .", to install '
                'what is to be tested.')
    return overlay


def flat(
    tests: Iterable[unittest.TestCase | unittest.TestSuite],
) -> Iterator[unittest.TestCase]:
    """Give the tests in a suite and in those within it."""
    for test in tests:
        if isinstance(test, unittest.TestSuite):
            yield from flat(test)
        else:
            yield test
