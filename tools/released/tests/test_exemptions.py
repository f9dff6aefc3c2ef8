# SPDX-License-Identifier: Apache-2.0

import testtools

from released import exemptions
from suites import loading

TEXT = """\
# Comment
[all]
a.all = See # 2.
[1.1 1.0]
a.old = Not any more.
[1.0]
a.Oldest = Never.
"""


class ExemptionsTestCase(testtools.TestCase):

    def test_releases(self):
        every = {'a.all': 'See # 2.'}
        old = every | {'a.old': 'Not any more.'}
        for release, expected in (('1.2', every), ('1.1', old),
                                  ('1.0', old | {'a.Oldest': 'Never.'})):
            self.assertEqual(expected, exemptions.of(release, TEXT))

    def test_bad_lines(self):
        for text in ('a', 'a =', 'a = x\na = y', 'a = x\n[1.2]\na = y'):
            self.assertRaises(loading.SuiteError, exemptions.of, '1.2',
                              f'[all]\n{text}')
