# SPDX-License-Identifier: Apache-2.0

"""The patch as packagers use it: on the real source archive."""

from collections.abc import Mapping
import os
import pathlib
import shutil
from typing import TypeVar

from packaging import metadata

from novabuild import archive
from novabuild.package_tests import base
from novabuild import project
from novabuild import release
from novabuild import whole

T = TypeVar('T')
# What a package of a distribution says about itself.
OWN_FIELDS = {
    'version', 'summary', 'description', 'description_content_type'}


def code(entries: whole.Entries) -> dict[str, bytes]:
    return {name: entry.data for name, entry in entries.items()
            if name.startswith('nova/')}


def differing(one: Mapping[str, T], other: Mapping[str, T]) -> list[str]:
    """Give what two mappings do not agree on; their content would be long."""
    return sorted(name for name in one.keys() | other.keys()
                  if one.get(name) != other.get(name))


def points(entries: whole.Entries, info: str) -> dict[str, dict[str, str]]:
    return project.parse_entry_points(
        entries[f'{info}/entry_points.txt'].data.decode())


def described(entries: whole.Entries, info: str) -> dict[str, object]:
    """The metadata of a wheel; the order of requirements has no meaning."""
    text = entries[f'{info}/METADATA'].data
    fields = metadata.Metadata.from_email(text, validate=True)
    found = {name: getattr(fields, name) for name in metadata.parse_email(
        text)[0] if name not in OWN_FIELDS}
    return found | {
        'requires_dist': sorted(map(str, fields.requires_dist or ()))}


class PatchTestCase(base.TestCase):
    """One test, because the source archive has 5000 files."""

    def setUp(self) -> None:
        super().setUp()
        local = os.environ.get(release.LOCAL_SDIST_VARIABLE)
        sdist = release.sdist(
            self.project.release, pathlib.Path(local) if local else None)
        base.run(base.ROOT / 'tools/make-patch.sh', self.top / 'patches',
                 environment={'NOVA_RELEASE_SDIST': str(sdist)})
        [self.written] = (self.top / 'patches').iterdir()
        shutil.unpack_archive(sdist, self.top / 'source')
        [self.source] = (self.top / 'source').iterdir()
        self.pristine = self._files()
        self.ours = self._ours()

    def _files(self) -> whole.Entries:
        return {
            path.relative_to(self.source).as_posix(): archive.Entry(
                path.read_bytes(), bool(path.stat().st_mode & 0o100))
            for path in self.source.rglob('*') if path.is_file()}

    def _ours(self) -> whole.Entries:
        local = os.environ.get(release.LOCAL_WHEEL_VARIABLE)
        with release.obtained(
                self.project.release,
                pathlib.Path(local) if local else None) as wheel:
            return whole.entries(self.project, whole.unpacked(wheel))

    def test_it_gives_what_the_wheel_has(self):
        self.assertEqual(
            f'nova-{self.project.release.version}-'
            f'{self.project.version.local}.patch', self.written.name)
        patched = self._by_patch_and_back()
        self.assertEqual([], differing(code(self.ours), code(patched)))
        self._by_git()
        self.assertEqual([], differing(patched, self._files()))
        self._check_built()

    def _by_patch_and_back(self) -> whole.Entries:
        command = ('patch', '-p1', '--batch', '--fuzz=0', '-i', self.written)
        base.run(*command, cwd=self.source)
        patched = self._files()
        others = {name for name in differing(self.pristine, patched)
                  if not name.startswith(('nova/', 'releasenotes/notes/'))}
        self.assertEqual(
            set(), others - {'pyproject.toml', 'setup.cfg',
                             'requirements.txt'})
        base.run(*command, '--reverse', cwd=self.source)
        self.assertEqual([], differing(self.pristine, self._files()))
        return patched

    def _by_git(self) -> None:
        # Among the files of a checkout it would pass over all of them.
        base.run('git', 'apply', self.written, cwd=self.source, environment={
            'GIT_CEILING_DIRECTORIES': str(self.top)})

    def _check_built(self) -> None:
        """Have pbr build the patched source; compare its wheel with ours."""
        # With the pbr of this environment, which is quicker; pip wants no
        # constraints for a build then.
        folder, _ = self.wheel(
            self.source, 'wheels', '--no-build-isolation',
            environment={'PIP_BUILD_CONSTRAINT': ''})
        [built] = folder.iterdir()
        theirs = whole.unpacked(built)
        self.assertEqual([], differing(code(self.ours), code(theirs)))
        info = whole.names(self.project).dist_info
        released = whole.released_names(self.project).dist_info
        self.assertEqual(points(self.ours, info), points(theirs, released))
        self.assertEqual(
            described(self.ours, info), described(theirs, released))
