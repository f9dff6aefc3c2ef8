# SPDX-License-Identifier: Apache-2.0

import unittest

from suites import loading


def load_tests(
    loader: unittest.TestLoader, tests: unittest.TestSuite, pattern: str,
) -> unittest.TestSuite:
    return loading.released(
        loader, 'nova.tests.unit.image.test_glance',
        exempt='nova/tests/released-exempt.txt')
