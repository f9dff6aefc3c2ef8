# SPDX-License-Identifier: Apache-2.0

import importlib.util
import pathlib

import fixtures
from packaging import version
import testtools

from released import selection

WIDE = selection.Group('wide', ('nova.tests.unit.virt',))
NARROW = selection.Group(
    'narrow', ('nova.tests.unit.virt.test_images', 'nova.tests.unit.conf'))
MODULES = [
    'nova.tests.unit.conf.test_base', 'nova.tests.unit.test_conf',
    'nova.tests.unit.virt.test_images', 'nova.tests.unit.virt.test_images_two',
]


class GroupsTestCase(testtools.TestCase):

    def test_first_group_takes_it(self):
        self.assertEqual(
            [('nova.tests.unit.conf.test_base', 'narrow'),
             ('nova.tests.unit.virt.test_images', 'narrow'),
             ('nova.tests.unit.virt.test_images_two', 'wide')],
            list(selection.grouped([NARROW, WIDE], MODULES).items()))

    def test_group_without_tests(self):
        exc = self.assertRaises(
            selection.SelectionError, selection.grouped, [WIDE], MODULES[:2])
        self.assertIn('no tests of the group "wide"', str(exc))

    def test_absent(self):
        part = selection.Part('unit', (NARROW, WIDE))
        self.useFixture(fixtures.MonkeyPatch(
            'released.selection.PARTS', (part,)))
        self.assertEqual(
            ['nova.tests.unit.virt.test_images'],
            selection.absent(['nova.tests.unit.conf.test_base',
                              'nova.tests.unit.virt.test_images_two']))

    def test_group_of(self):
        chosen = selection.grouped([NARROW, WIDE], MODULES)
        module = 'nova.tests.unit.virt.test_images'
        for test, group in (
                (f'{module}.ATestCase.test_a', 'narrow'),
                (f'setUpClass ({module}_two.ATestCase)', 'wide'),
                (f'{module}_two.not_loaded', 'wide'),
                ('unittest.loader._FailedTest.a', selection.NO_GROUP)):
            self.assertEqual(group, selection.group_of(test, chosen))


class ReleasedTestCase(testtools.TestCase):
    """The list, and the released modules among the installed ones."""

    def setUp(self) -> None:
        super().setUp()
        spec = importlib.util.find_spec('nova')
        assert spec is not None and spec.origin is not None
        self.modules = selection.released_modules(
            pathlib.Path(spec.origin).parents[1])

    def test_modules(self):
        self.assertIn('nova.tests.unit.image.test_glance', self.modules)
        self.assertNotIn('nova.tests.unit.image.fake', self.modules)

    def test_groups(self):
        names = []
        for part in selection.PARTS:
            chosen = selection.grouped(part.groups, self.modules)
            self.assertEqual(
                {group.name for group in part.groups}, set(chosen.values()))
            names += [group.name for group in part.groups]
        self.assertEqual(len(names), len(set(names)))

    def test_fast_groups(self):
        [part] = [part for part in selection.PARTS
                  if any(group.fast for group in part.groups)]
        chosen = selection.grouped(
            [group for group in part.groups if group.fast], self.modules)
        self.assertIn('nova.tests.unit.image.test_glance', chosen)


class ModeTestCase(testtools.TestCase):

    def test_usual(self):
        for text, mode in (('32.2.1', 'eventlet'), ('33.0.2', 'eventlet'),
                           ('34.0.0', 'threads'), ('35.0.0', 'threads')):
            self.assertEqual(
                mode, selection.usual_mode(version.Version(text)))

    def test_environment(self):
        for mode, disabled in (('threads', 'true'), ('eventlet', 'false')):
            self.assertEqual(disabled, selection.Mode(mode).environment[
                'OS_NOVA_DISABLE_EVENTLET_PATCHING'])
