# SPDX-License-Identifier: Apache-2.0

import unittest

from released import request


def load_tests(
    loader: unittest.TestLoader, tests: unittest.TestSuite, pattern: str,
) -> unittest.TestSuite:
    return request.received().load(loader)
