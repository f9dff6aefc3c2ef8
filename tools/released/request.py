# SPDX-License-Identifier: Apache-2.0

"""What a process of stestr is to load, and from where."""

from collections.abc import Iterator
from dataclasses import asdict
from dataclasses import dataclass
import importlib
import importlib.util
import json
import os
import pathlib
import unittest

from novabuild import archive
from suites import loading

VARIABLE = 'NOVA_RELEASED_TESTS'
"""The environment variable that names the file with the request."""


@dataclass(frozen=True)
class Request:
    """Modules of tests, and the Nova that they are to be those of."""

    folder: str
    """Where the package nova is."""
    modules: tuple[str, ...]
    loaded: str
    """The file to write the ids of the loaded tests to, as a list in JSON."""
    tests: tuple[str, ...] = ()
    """The only ones to run; empty: all of the modules."""

    def write(self, path: pathlib.Path) -> None:
        """Write it for a process that has this path in its environment."""
        path.write_text(json.dumps(asdict(self)), encoding='utf-8')

    def load(self, loader: unittest.TestLoader) -> unittest.TestSuite:
        """Load the tests, and write down which.

        A module that cannot be imported is a failing test, so that the others
        run all the same.

        :raises SuiteError: another Nova would be tested
        """
        self._check()
        tests = [
            test for module in self.modules for test in _tests(loader, module)
            if not self.tests or test.id() in self.tests]
        # Each worker of stestr loads them, and writes the same.
        path = pathlib.Path(self.loaded)
        with archive.replacing(path) as unfinished:
            unfinished.write_text(json.dumps([test.id() for test in tests]))
        return loader.suiteClass(tests)

    def _check(self) -> None:
        spec = importlib.util.find_spec('nova')
        wanted = pathlib.Path(self.folder, 'nova', '__init__.py')
        if spec is None or spec.origin != str(wanted):
            raise loading.SuiteError(
                f'The tests are to be those of {wanted}, but Python finds '
                f'{spec and spec.origin}. Is PYTHONSAFEPATH or another '
                'PYTHONPATH in force?')


class NotLoaded(unittest.TestCase):
    """Stands for the tests of a module that cannot be imported."""

    def __init__(self, module: str, reason: BaseException) -> None:
        super().__init__('fail_to_load')
        self.module = module
        self.reason = reason

    def id(self) -> str:
        return f'{self.module}.not_loaded'

    def fail_to_load(self) -> None:
        raise self.reason


def received() -> Request:
    """Give the request that this process was started with.

    :raises SuiteError: there is none
    """
    path = os.environ.get(VARIABLE)
    if not path:
        raise loading.SuiteError(
            'These tests are run by "python tools/released".')
    values = json.loads(pathlib.Path(path).read_text(encoding='utf-8'))
    return Request(
        values['folder'], tuple(values['modules']), values['loaded'],
        tuple(values['tests']))


def _tests(
    loader: unittest.TestLoader, module: str,
) -> Iterator[unittest.TestCase]:
    try:
        found = importlib.import_module(module)
    # Whatever a broken module does, SystemExit included, is a finding.
    except (Exception, SystemExit) as exc:
        yield NotLoaded(module, exc)
        return
    yield from loading.flat(loader.loadTestsFromModule(found))
