# SPDX-License-Identifier: Apache-2.0

import os
import unittest

from suites import loading

FOLDERS_VARIABLE = 'NOVA_TEST_FOLDERS'
"""The environment variable with the folders of tests, separated by spaces."""


def load_tests(
    loader: unittest.TestLoader, tests: unittest.TestSuite, pattern: str,
) -> unittest.TestSuite:
    suite = loader.suiteClass([])
    for folder in os.environ[FOLDERS_VARIABLE].split():
        suite.addTest(loading.loaded(loader, folder))
    return suite
