# SPDX-License-Identifier: Apache-2.0

"""The patch as packagers use it: on the real source archive."""

from collections.abc import Mapping
import shutil
from typing import TypeVar

from packaging import metadata

from novabuild import archive
from novabuild.package_tests import base
from novabuild import project
from novabuild import release
from novabuild import whole

T = TypeVar('T')
# A package of a distribution has its own values.
OWN_FIELDS = {
    'version', 'summary', 'description', 'description_content_type'}


def code(entries: archive.Entries) -> dict[str, bytes]:
    return {name: entry.data for name, entry in entries.items()
            if name.startswith('nova/')}


def differing(one: Mapping[str, T], other: Mapping[str, T]) -> list[str]:
    """Return the keys that differ; the values would be too long to show."""
    return sorted(name for name in one.keys() | other.keys()
                  if one.get(name) != other.get(name))


def described(entries: archive.Entries, version: object) -> dict[str, object]:
    """Return the metadata; the order of requirements has no meaning."""
    info = f'{whole.stem(version)}.dist-info'
    text = entries[f'{info}/METADATA'].data
    fields = metadata.Metadata.from_email(text, validate=True)
    found = {name: getattr(fields, name) for name in metadata.parse_email(
        text)[0] if name not in OWN_FIELDS}
    return found | {
        'requires_dist': sorted(map(str, fields.requires_dist or ())),
        'entry_points': project.parsed(
            entries[f'{info}/entry_points.txt'].data.decode())}


class PatchTestCase(base.TestCase):
    """One test, because the source archive has 5000 files."""

    def setUp(self) -> None:
        super().setUp()
        sdist = release.sdist(self.project.release)
        base.run(base.ROOT / 'tools/make-patch.sh', self.top / 'patches',
                 environment={'NOVA_RELEASE_SDIST': str(sdist)})
        [self.written] = (self.top / 'patches').iterdir()
        shutil.unpack_archive(sdist, self.top / 'source')
        [self.source] = (self.top / 'source').iterdir()
        self.pristine = self._files()
        self.ours = whole.entries(self.project, whole.released(self.project))

    def _files(self) -> archive.Entries:
        return {
            path.relative_to(self.source).as_posix(): archive.Entry(
                path.read_bytes(), bool(path.stat().st_mode & 0o100))
            for path in self.source.rglob('*') if path.is_file()}

    def test_same_content_as_the_wheel(self):
        self.assertEqual(
            f'nova-{self.project.release.version}-'
            f'{self.project.version.local}.patch', self.written.name)
        patched = self._by_patch_and_back()
        self.assertEqual([], differing(code(self.ours), code(patched)))
        # Among the files of a checkout, git would ignore all of them.
        base.run('git', 'apply', self.written, cwd=self.source, environment={
            'GIT_CEILING_DIRECTORIES': str(self.top)})
        self.assertEqual([], differing(patched, self._files()))
        base.run('git', 'apply', '--reverse', self.written, cwd=self.source,
                 environment={'GIT_CEILING_DIRECTORIES': str(self.top)})
        self._check_series(patched)
        self._check_built()

    def _check_series(self, patched: archive.Entries) -> None:
        base.run(base.ROOT / 'tools/make-patch.sh', '--series',
                 self.top / 'series', environment={
                     'NOVA_RELEASE_SDIST': str(release.sdist(
                         self.project.release))})
        # The files in the archive may belong to another user.
        git = ('git', '-c', 'safe.directory=*', '-c', 'user.name=a', '-c',
               'user.email=a@example.com')
        base.run(*git, 'init', '--quiet', cwd=self.source)
        base.run(*git, 'add', '--all', '--force', cwd=self.source)
        base.run(*git, 'commit', '--quiet', '-m', 'x', cwd=self.source)
        series = sorted((self.top / 'series').iterdir())
        self.assertGreater(len(series), 5)
        base.run(*git, 'am', '--quiet', *series, cwd=self.source)
        shutil.rmtree(self.source / '.git')
        self.assertEqual([], differing(patched, self._files()))

    def _by_patch_and_back(self) -> archive.Entries:
        command = ('patch', '-p1', '--batch', '--fuzz=0', '-i', self.written)
        base.run(*command, cwd=self.source)
        patched = self._files()
        others = {name for name in differing(self.pristine, patched)
                  if not name.startswith(('nova/', 'releasenotes/notes/'))}
        self.assertEqual(set(), others - {'pyproject.toml', 'setup.cfg'})
        base.run(*command, '--reverse', cwd=self.source)
        self.assertEqual([], differing(self.pristine, self._files()))
        return patched

    def _check_built(self) -> None:
        """Let pbr build the patched source; compare its wheel with ours."""
        # The pbr of this environment is quicker; with it, pip wants no
        # constraints for a build.
        folder, _ = self.wheel(
            self.source, 'wheels', '--no-build-isolation',
            environment={'PIP_BUILD_CONSTRAINT': ''})
        [built] = folder.iterdir()
        theirs = whole.unpacked(built.read_bytes())
        self.assertEqual([], differing(code(self.ours), code(theirs)))
        self.assertEqual(
            described(self.ours, self.project.version),
            described(theirs, self.project.release.version))
