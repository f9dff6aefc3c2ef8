# SPDX-License-Identifier: Apache-2.0

"""Find the tests of a suite in the installed Nova, or in the lab."""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
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
_LAB_FILES = ('.py', '/constraints.txt')
_EXEMPT = 'released-exempt.txt'
_EXEMPT_LINE = re.compile(r'(?P<id>\S+)\s+#\s*(?P<reason>\S.*)')


class SuiteError(Exception):
    """The suite cannot be loaded. The message says what to do about it."""


def ours(loader: unittest.TestLoader, folder: str) -> unittest.TestSuite:
    """Load the tests in this tree's files below ``folder``.

    :param folder: a path below the root of the tree, with slashes
    :raises SuiteError: there are none, or what is installed is not built
        from this tree
    """
    installed = installed_overlay()
    if folder.startswith('lab/'):
        installed |= installed_lab()
    files = sorted(
        name for name in installed if name.startswith(f'{folder}/')
        and _TEST_FILE.fullmatch(posixpath.basename(name)))
    if not files:
        raise SuiteError(f'{ROOT / folder} has no test_*.py.')
    modules = [name.removesuffix('.py').replace('/', '.') for name in files]
    return loader.loadTestsFromNames(modules)


def exempt() -> dict[str, str]:
    """Give the exempt tests of the release at hand, and the reason for each.

    :raises SuiteError: a line has no reason, or a test is named twice
    """
    own = ROOT / 'releases' / str(project.load(ROOT).release.version)
    files = [ROOT / 'tools' / _EXEMPT, own / _EXEMPT]
    return exemptions(''.join(
        path.read_text(encoding='utf-8') for path in files if path.exists()))


def exemptions(text: str) -> dict[str, str]:
    """Read exempt test ids, and the reason for each.

    :raises SuiteError: a line has no reason, or a test is named twice
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith('#'):
            continue
        match = _EXEMPT_LINE.fullmatch(line.strip())
        if match is None:
            raise SuiteError(
                f'Line {number} of the exempt tests is not "TEST_ID  # '
                f'REASON": {line}')
        if match['id'] in found:
            raise SuiteError(
                f'Line {number} of the exempt tests names a test again: '
                f'{match["id"]}')
        found[match['id']] = match['reason']
    return found


def installed_overlay() -> dict[str, archive.Entry]:
    """Give this tree's files in Nova, known to be what is installed.

    :raises SuiteError: another Nova is installed, or none
    """
    overlay = tree.overlay(project.load(ROOT))
    _check_installed('nova', overlay)
    return overlay


def installed_lab() -> dict[str, archive.Entry]:
    """Return the files of the lab, after a check that they are installed.

    :raises SuiteError: another lab is installed, or none
    """
    files = {
        name: entry for name, entry in tree.source(ROOT).items()
        if name.startswith('lab/') and name.endswith(_LAB_FILES)}
    _check_installed('lab', files)
    return files


def _check_installed(
    package: str, files: Mapping[str, archive.Entry],
) -> None:
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


def flat(
    tests: Iterable[unittest.TestCase | unittest.TestSuite],
) -> Iterator[unittest.TestCase]:
    """Give the tests in a suite and in those within it."""
    for test in tests:
        if isinstance(test, unittest.TestSuite):
            yield from flat(test)
        else:
            yield test
