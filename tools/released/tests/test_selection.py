# SPDX-License-Identifier: Apache-2.0

import importlib.util
import pathlib

from packaging import version
import testtools

from released import selection
from suites import loading

MODULES = [
    'nova.tests.unit.conf.test_base', 'nova.tests.unit.test_conf',
    'nova.tests.unit.virt.test_images', 'nova.tests.unit.virt.test_images_two',
]


class SelectionTestCase(testtools.TestCase):

    def test_matching(self):
        self.assertEqual([MODULES[0], MODULES[2]], selection.matching(
            ['nova.tests.unit.virt.test_images', 'nova.tests.unit.conf'],
            MODULES))
        exc = self.assertRaises(
            loading.SuiteError, selection.matching, ['nova.tests.unit.virt'],
            MODULES[:2])
        self.assertIn('no tests in nova.tests.unit.virt', str(exc))
        self.assertEqual([], selection.matching([*selection.NEW], MODULES))

    def test_released_modules(self):
        """The list fits the released modules among the installed ones."""
        spec = importlib.util.find_spec('nova')
        assert spec is not None and spec.origin is not None
        modules = selection.released_modules(
            pathlib.Path(spec.origin).parents[1])
        self.assertNotIn('nova.tests.unit.image.fake', modules)
        names = sum((part.prefixes for part in selection.PARTS), ())
        self.assertEqual(len(names), len(set(names)))
        self.assertEqual(set(), selection.NEW.difference(names))
        self.assertIn('nova.tests.functional.regressions.test_bug_2143972',
                      selection.matching(names, modules))
        self.assertIn('nova.tests.unit.image.test_glance', selection.matching(
            selection.PARTS[0].fast, modules))

    def test_modes(self):
        for text, mode, threads in (
                ('32.2.1', 'eventlet', 'false'),
                ('33.0.2', 'eventlet', 'false'),
                ('34.0.0', 'threads', 'true'), ('35.0.0', 'threads', 'true')):
            self.assertEqual(
                mode, selection.default_mode(version.Version(text)))
            self.assertEqual(threads, selection.environment(mode)[
                'OS_NOVA_DISABLE_EVENTLET_PATCHING'])
