# SPDX-License-Identifier: Apache-2.0

"""The change as a patch, for those who build Nova from its source archive.

usage: python -m novabuild.patch FOLDER

Writes ``nova-RELEASE-LABEL.patch`` into FOLDER. It changes nothing but what is
in Nova's git repository as well, so it applies to a checkout of the release,
too; therefore the version stays that of the release.
"""

import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile

from novabuild import archive
from novabuild import errors
from novabuild import manifest
from novabuild import project
from novabuild import release
from novabuild import tree

Entries = dict[str, archive.Entry]
_NOTHING = archive.Entry(b'')


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0].startswith('-'):
        print(__doc__, file=sys.stderr)
        return 2
    local = os.environ.get(release.LOCAL_SDIST_VARIABLE)
    try:
        ours = project.load(pathlib.Path.cwd())
        sdist = release.sdist(
            ours.release, pathlib.Path(local) if local else None)
        content = text(ours, unpacked(sdist))
        print(write(ours, content, pathlib.Path(arguments[0])))
    except errors.BuildError as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


def write(
    ours: project.Project, content: bytes, folder: pathlib.Path,
) -> pathlib.Path:
    """Write a patch to ``folder``, which is made if need be; give its path.

    :raises BuildError: it cannot be written
    """
    path = folder / f'nova-{ours.release.version}-{ours.version.local}.patch'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with archive.replacing(path) as unfinished:
            unfinished.write_bytes(content)
    except OSError as exc:
        raise errors.BuildError(
            f'Cannot write {path}: {exc.strerror}') from exc
    return path


def unpacked(sdist: pathlib.Path) -> Entries:
    """Read all files of a source archive, each by its path in its folder."""
    found = {}
    with tarfile.open(sdist) as packed:
        for member in packed:
            stream = packed.extractfile(member)
            if stream is not None:
                name = member.name.partition('/')[2]
                found[name] = archive.Entry(
                    stream.read(), bool(member.mode & 0o100))
    return found


def changed(ours: project.Project, released: Entries) -> Entries:
    """Give the files of the source archive as the patch makes them.

    :param released: the files of the released source archive
    :raises BuildError: the tree and the release do not fit together
    """
    missing = sorted(set(ours.release.remove) - released.keys())
    if missing:
        raise errors.BuildError(
            '[nova_release] remove in setup.cfg names files that the source '
            f'archive does not have: {", ".join(missing)}.')
    layer = tree.overlay(ours)
    result = {
        name: entry for name, entry in released.items()
        if name not in ours.release.remove
    } | layer | tree.notes(ours.root)
    data = sorted(
        name for name in layer.keys() - released.keys()
        if not name.endswith('.py'))
    return result | manifest.changed(ours, released, data)


def text(ours: project.Project, released: Entries) -> bytes:
    """Give the patch: a header, and what git says the difference is.

    :param released: the files of the released source archive
    :raises BuildError: the tree and the release do not fit together, a file
        is not text, or git fails
    """
    after = changed(ours, released)
    names = sorted(
        name for name in released.keys() | after.keys()
        if released.get(name) != after.get(name))
    for name in names:
        if any(b'\0' in files.get(name, _NOTHING).data
               for files in (released, after)):
            raise errors.BuildError(
                f'{name} is not text, and a patch can only carry text.')
    return _header(ours) + _difference(
        {name: released[name] for name in names if name in released},
        {name: after[name] for name in names if name in after})


def _header(ours: project.Project) -> bytes:
    # The fields are those of https://dep-team.pages.debian.net/deps/dep3/
    return (
        f'Description: {ours.summary}\n'
        f' For the source archive nova-{ours.release.version}.tar.gz, whose '
        'SHA-256 is\n'
        f' {ours.release.sdist_sha256}.\n'
        f'Origin: other, {ours.name} {ours.version}\n'
        'Forwarded: no\n'
        '---\n').encode()


def _difference(before: Entries, after: Entries) -> bytes:
    with tempfile.TemporaryDirectory(prefix='nova-patch-') as folder:
        git = _Git(pathlib.Path(folder))
        git('init', '--quiet', '--template=', '--object-format=sha1')
        trees = [git.tree(files) for files in (before, after)]
        return git(
            'diff-tree', '-r', '--patch', '--full-index', '--no-renames',
            '--diff-algorithm=histogram', '--src-prefix=a/',
            '--dst-prefix=b/', *trees)


class _Git:
    """git in a folder of its own, deaf to the user's configuration."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder

    def __call__(self, *arguments: str) -> bytes:
        """Run git and give its output.

        :raises BuildError: it failed, or there is none
        """
        environment = {
            'PATH': os.environ.get('PATH', os.defpath),
            'HOME': str(self._folder),
            'LC_ALL': 'C',
            'GIT_CONFIG_NOSYSTEM': '1',
            'GIT_ATTR_NOSYSTEM': '1',
        }
        try:
            return subprocess.run(
                ['git', '-C', str(self._folder), *arguments], check=True,
                capture_output=True, env=environment).stdout
        except FileNotFoundError as exc:
            raise errors.BuildError(
                'git is needed to make a patch. Install git.') from exc
        except subprocess.CalledProcessError as exc:
            said = exc.stderr.decode(errors='replace').strip()
            raise errors.BuildError(
                f'git cannot compare the files: {said}') from exc

    def tree(self, files: Entries) -> str:
        """Store files; give the id by which git knows them all."""
        self('read-tree', '--empty')
        for name, entry in files.items():
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(entry.data)
            path.chmod(entry.mode)
        if files:
            self('add', '--force', '--', *files)
        return self('write-tree').decode().strip()


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
