# SPDX-License-Identifier: Apache-2.0

import unittest

from suites import loading


def load_tests(
    loader: unittest.TestLoader, tests: unittest.TestSuite, pattern: str,
) -> unittest.TestSuite:
    top = loading.ROOT / 'tools'
    suite = loader.suiteClass([])
    for folder in ('checkout', 'novabuild/tests', 'released/tests',
                   'suites/tests'):
        suite.addTest(
            loader.discover(str(top / folder), top_level_dir=str(top)))
    return suite
