# SPDX-License-Identifier: Apache-2.0

import importlib.util
import pathlib

from packaging import version
import testtools

from released import selection
from suites import loading

WIDE = selection.Group('wide', ('nova.tests.unit.virt',))
NARROW = selection.Group(
    'narrow', ('nova.tests.unit.virt.test_images', 'nova.tests.unit.conf'))
MODULES = [
    'nova.tests.unit.conf.test_base', 'nova.tests.unit.test_conf',
    'nova.tests.unit.virt.test_images', 'nova.tests.unit.virt.test_images_two',
]


class SelectionTestCase(testtools.TestCase):

    def test_first_group_takes_it(self):
        chosen = selection.grouped([NARROW, WIDE], MODULES)
        self.assertEqual(
            {MODULES[0]: 'narrow', MODULES[2]: 'narrow', MODULES[3]: 'wide'},
            chosen)
        for test, group in (
                (f'{MODULES[2]}.ATestCase.test_a', 'narrow'),
                (f'setUpClass ({MODULES[3]}.ATestCase)', 'wide'),
                (f'{MODULES[3]}.not_loaded', 'wide'),
                ('unittest.loader._FailedTest.a', selection.NO_GROUP)):
            self.assertEqual(group, selection.group_of(test, chosen))

    def test_absent(self):
        exc = self.assertRaises(
            loading.SuiteError, selection.grouped, [WIDE], MODULES[:2])
        self.assertIn('no tests of the group "wide"', str(exc))

    def test_released_modules(self):
        """The list fits the released modules among the installed ones."""
        spec = importlib.util.find_spec('nova')
        assert spec is not None and spec.origin is not None
        modules = selection.released_modules(
            pathlib.Path(spec.origin).parents[1])
        self.assertNotIn('nova.tests.unit.image.fake', modules)
        names = [group.name for part in selection.PARTS
                 for group in part.groups]
        self.assertEqual(len(names), len(set(names)))
        for part in selection.PARTS:
            chosen = selection.grouped(part.groups, modules)
            self.assertEqual(
                {group.name for group in part.groups}, set(chosen.values()))
        fast = [group for group in selection.PARTS[0].groups if group.fast]
        self.assertIn('nova.tests.unit.image.test_glance',
                      selection.grouped(fast, modules))

    def test_modes(self):
        for text, mode, threads in (
                ('32.2.1', 'eventlet', 'false'),
                ('33.0.2', 'eventlet', 'false'),
                ('34.0.0', 'threads', 'true'), ('35.0.0', 'threads', 'true')):
            self.assertEqual(
                mode, selection.default_mode(version.Version(text)))
            self.assertEqual(threads, selection.environment(mode)[
                'OS_NOVA_DISABLE_EVENTLET_PATCHING'])
