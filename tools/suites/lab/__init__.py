# SPDX-License-Identifier: Apache-2.0

import unittest

from suites import loading


def load_tests(
    loader: unittest.TestLoader, tests: unittest.TestSuite, pattern: str,
) -> unittest.TestSuite:
    return loading.ours(loader, 'lab/tests/unit')
