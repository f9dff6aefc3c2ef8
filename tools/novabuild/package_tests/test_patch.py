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
from novabuild import patch
from novabuild import project
from novabuild import release
from novabuild import whole

T = TypeVar('T')
# What a package of a distribution says about itself.
OWN_FIELDS = {'version', 'summary', 'description'}


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
    text = entries[f'{info}/METADATA'].data
    fields = metadata.Metadata.from_email(text, validate=True)
    return {name: getattr(fields, name) for name in metadata.parse_email(
        text)[0] if name not in OWN_FIELDS}


class PatchTestCase(base.TestCase):

    def setUp(self) -> None:
        super().setUp()
        local = os.environ.get(release.LOCAL_SDIST_VARIABLE)
        self.sdist = release.sdist(
            self.project.release, pathlib.Path(local) if local else None)
        self.pristine = patch.unpacked(self.sdist)
        base.run(base.ROOT / 'tools/make-patch.sh', self.top / 'patches',
                 environment={'NOVA_RELEASE_SDIST': str(self.sdist)})
        [self.written] = (self.top / 'patches').iterdir()

    def _unpack(self, name: str) -> pathlib.Path:
        shutil.unpack_archive(self.sdist, self.top / name)
        [folder] = (self.top / name).iterdir()
        return folder

    def _files(self, folder: pathlib.Path) -> dict[str, archive.Entry]:
        return {
            path.relative_to(folder).as_posix(): archive.Entry(
                path.read_bytes(), bool(path.stat().st_mode & 0o100))
            for path in folder.rglob('*') if path.is_file()}

    def test_both_ways_to_apply_and_the_way_back(self):
        self.assertEqual(
            f'nova-{self.project.release.version}-'
            f'{self.project.version.local}.patch', self.written.name)
        folder = self._unpack('patch')
        apply = ('patch', '-p1', '--batch', '--fuzz=0', '-i', self.written)
        base.run(*apply, cwd=folder)
        patched = self._files(folder)
        self.assertEqual([], differing(code(self._ours()), code(patched)))
        self.assertEqual([], differing(
            patch.changed(self.project, self.pristine), patched))
        base.run(*apply, '--reverse', cwd=folder)
        self.assertEqual([], differing(self.pristine, self._files(folder)))
        base.run('git', 'apply', self.written, cwd=folder, environment={
            'GIT_CEILING_DIRECTORIES': str(self.top)})
        self.assertEqual([], differing(patched, self._files(folder)))

    def test_the_wheel_that_pbr_builds(self):
        folder = self._unpack('pbr')
        base.run('git', 'apply', self.written, cwd=folder, environment={
            'GIT_CEILING_DIRECTORIES': str(self.top)})
        [built] = self.wheel(folder, 'wheels')[0].iterdir()
        theirs, ours = whole.unpacked(built), self._ours()
        self.assertEqual([], differing(code(ours), code(theirs)))
        released = whole.released_names(self.project).dist_info
        info = whole.names(self.project).dist_info
        self.assertEqual(points(ours, info), points(theirs, released))
        self.assertEqual(
            described(ours, info), described(theirs, released))

    def _ours(self) -> whole.Entries:
        local = os.environ.get(release.LOCAL_WHEEL_VARIABLE)
        with release.obtained(
                self.project.release,
                pathlib.Path(local) if local else None) as wheel:
            return whole.entries(self.project, whole.unpacked(wheel))
