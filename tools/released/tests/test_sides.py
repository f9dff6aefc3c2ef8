# SPDX-License-Identifier: Apache-2.0

from collections.abc import Iterator
import contextlib
import importlib.util
import pathlib
import zipfile

import fixtures
import testtools

from novabuild import errors
from novabuild import project
from novabuild import release
from released import sides
from suites import loading


class PreparedTestCase(testtools.TestCase):
    """A released wheel of two files, and the Nova that is installed here."""

    def setUp(self) -> None:
        super().setUp()
        self.tree = project.load(loading.ROOT)
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.wheel = folder / 'nova.whl'
        data = f'nova-{self.tree.release.version}.data/data/etc/nova'
        with zipfile.ZipFile(self.wheel, 'w') as archive:
            archive.writestr('nova/__init__.py', 'RELEASED = True\n')
            archive.writestr(f'{data}/api-paste.ini', 'released')
        self.local: list[pathlib.Path | None] = []
        self.useFixture(fixtures.MonkeyPatch(
            'novabuild.release.obtained', self._obtained))
        self.useFixture(fixtures.MockPatch('suites.loading.installed_overlay'))

    @contextlib.contextmanager
    def _obtained(
        self, pin: project.Release, local: pathlib.Path | None,
    ) -> Iterator[pathlib.Path]:
        self.assertEqual(self.tree.release, pin)
        self.local.append(local)
        yield self.wheel

    def test_pristine(self):
        with sides.prepared(self.tree) as both:
            folder = both.pristine.folder
            self.assertEqual(
                'RELEASED = True\n', (folder / 'nova/__init__.py').read_text())
            self.assertEqual(
                'released', (folder / 'etc/nova/api-paste.ini').read_text())
        self.assertFalse(folder.exists())

    def test_ours(self):
        spec = importlib.util.find_spec('nova')
        assert spec is not None and spec.origin is not None
        installed = pathlib.Path(spec.origin)
        with sides.prepared(self.tree) as both:
            folder = both.ours.folder
            self.assertTrue((folder / 'nova/__init__.py').samefile(installed))
            # Nova's API does not start without it.
            self.assertTrue((folder / 'etc/nova/api-paste.ini').is_file())
        self.assertFalse(folder.exists())
        self.assertTrue(installed.is_file())

    def test_wheel_at_hand(self):
        for path in (None, '/a/nova.whl'):
            self.useFixture(fixtures.EnvironmentVariable(
                release.LOCAL_WHEEL_VARIABLE, path))
            with sides.prepared(self.tree):
                pass
        self.assertEqual([None, pathlib.Path('/a/nova.whl')], self.local)

    def test_no_release(self):
        self.wheel.unlink()
        exc = errors.BuildError('There is no wheel.')
        self.useFixture(fixtures.MockPatch(
            'novabuild.release.obtained', side_effect=exc))
        self.assertRaises(
            errors.BuildError, sides.prepared(self.tree).__enter__)
