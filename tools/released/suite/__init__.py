# SPDX-License-Identifier: Apache-2.0

import importlib
import importlib.util
import os
import unittest

from suites import loading

MODULES_VARIABLE = 'NOVA_RELEASED_TESTS'
"""The environment variable with the modules to load, separated by spaces."""


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
    """Load tests; a module that cannot be imported becomes a failing test.

    :raises SuiteError: the tests would test another Nova
    """
    modules = os.environ.get(MODULES_VARIABLE)
    if not modules:
        raise loading.SuiteError('"python tools/released" runs these tests.')
    spec = importlib.util.find_spec('nova')
    expected = os.path.join(os.environ['PYTHONPATH'], 'nova/__init__.py')
    if spec is None or spec.origin != expected:
        raise loading.SuiteError(
            f'{expected} should be tested, but Python finds '
            f'{spec and spec.origin}.')
    suite = unittest.TestSuite()
    for module in modules.split():
        try:
            suite.addTest(
                loader.loadTestsFromModule(importlib.import_module(module)))
        # SystemExit is as wrong as any other reason.
        except (Exception, SystemExit) as exc:
            suite.addTest(NotLoaded(module, exc))
    return suite
