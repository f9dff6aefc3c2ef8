# SPDX-License-Identifier: Apache-2.0

import importlib
import importlib.util
import os
import unittest

from suites import loading

VARIABLE = 'NOVA_TESTS'
"""The environment variable that lists what to load, separated by spaces:
folders of this tree, or released modules.
"""


class NotLoaded(unittest.TestCase):
    """Represents the tests of a module that cannot be imported."""

    def __init__(self, module: str, reason: BaseException) -> None:
        super().__init__('fail_to_load')
        self.module = module
        self.reason = reason

    def id(self) -> str:
        return f'{self.module}.not_loaded'

    def fail_to_load(self) -> None:
        raise self.reason


def load_tests(
    loader: unittest.TestLoader, tests: unittest.TestSuite, pattern: str,
) -> unittest.TestSuite:
    """Load tests.

    :raises SuiteError: the tests would test another Nova or another lab
    """
    suite = loader.suiteClass([])
    for name in os.environ[VARIABLE].split():
        load = loading.loaded if '/' in name else _released
        suite.addTest(load(loader, name))
    return suite


def _released(loader: unittest.TestLoader, module: str) -> unittest.TestSuite:
    """Load a module; if it cannot be imported, it becomes a failing test."""
    spec = importlib.util.find_spec('nova')
    expected = os.path.join(os.environ['PYTHONPATH'], 'nova/__init__.py')
    if spec is None or spec.origin != expected:
        raise loading.SuiteError(
            f'{expected} should be tested, but Python finds '
            f'{spec and spec.origin}.')
    try:
        return loader.loadTestsFromModule(importlib.import_module(module))
    # SystemExit is as wrong as any other reason.
    except (Exception, SystemExit) as exc:
        return loader.suiteClass([NotLoaded(module, exc)])
