# SPDX-License-Identifier: Apache-2.0

"""Write the change as a patch, for those who build Nova from its source.

usage: python -m novabuild.patch FOLDER

Writes ``nova-RELEASE-LABEL.patch`` into FOLDER. The patch changes only files
that Nova's git repository contains too, so it also applies to a checkout of
the release. Therefore the version stays that of the release.
"""

from collections.abc import Callable
from collections.abc import Iterator
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
from typing import TypeAlias

from novabuild import archive
from novabuild import errors
from novabuild import manifest
from novabuild import project
from novabuild import release
from novabuild import tree
from novabuild import whole


Patches: TypeAlias = Iterator[tuple[str, bytes]]


def single(ours: project.Project) -> Patches:
    """Yield the name and the content of the only patch.

    :raises BuildError: the tree and the release do not fit together
    """
    before = unpacked(release.sdist(ours.release))
    yield (f'nova-{ours.release.version}-{ours.version.local}.patch',
           header(ours) + difference(before, changed(ours, before)))


def main(arguments: list[str],
         patches: Callable[[project.Project], Patches] = single) -> int:
    if len(arguments) != 1 or arguments[0].startswith('-'):
        print(__doc__, file=sys.stderr)
        return 2
    folder = pathlib.Path(arguments[0])
    try:
        for name, content in patches(project.load(pathlib.Path.cwd())):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
            print(folder / name)
    except (errors.BuildError, OSError) as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


def unpacked(sdist: pathlib.Path) -> archive.Entries:
    """Read all files of a source archive, by their paths in its folder."""
    found = {}
    with tarfile.open(sdist) as packed:
        for member in packed:
            stream = packed.extractfile(member)
            if stream is not None:
                name = member.name.partition('/')[2]
                found[name] = archive.Entry(
                    stream.read(), bool(member.mode & 0o100))
    return found


def changed(
    ours: project.Project, released: archive.Entries,
) -> archive.Entries:
    """Return the files of the source archive with the change applied.

    :param released: the files of the released source archive
    :raises BuildError: the tree and the release do not fit together
    """
    return (released | tree.overlay(ours.root) | tree.notes(ours.root)
            | manifest.changed(ours, released))


def header(ours: project.Project) -> bytes:
    """Return the lines before the patch itself.

    The fields are those of https://dep-team.pages.debian.net/deps/dep3/
    """
    return (
        f'Description: {ours.summary}\n'
        f' For the source archive nova-{ours.release.version}.tar.gz, whose '
        'SHA-256 is\n'
        f' {ours.release.sdist_sha256}.\n'
        f'Origin: other, {ours.name} {ours.version}\n'
        'Forwarded: no\n'
        '---\n').encode()


def difference(before: archive.Entries, after: archive.Entries) -> bytes:
    """Return what git prints as the difference of two file trees.

    :raises BuildError: a changed file is not text, or git fails
    """
    names = {name for name in before.keys() | after.keys()
             if before.get(name) != after.get(name)}
    trees = []
    with tempfile.TemporaryDirectory(prefix='nova-patch-') as folder:
        top = pathlib.Path(folder)
        _git(top, 'init', '--quiet', '--template=', '--object-format=sha1')
        for index, files in enumerate((before, after)):
            content = {k: v for k, v in files.items() if k in names}
            for name, entry in content.items():
                if b'\0' in entry.data:
                    raise errors.BuildError(
                        f'{name} is binary, but a patch is text.')
            work_tree = top / str(index)
            work_tree.mkdir()
            whole.write(content, work_tree)
            _git(top, '--work-tree', str(work_tree), 'add', '--all', '--force',
                 str(work_tree))
            trees.append(_git(top, 'write-tree').decode().strip())
        return _git(
            top, 'diff-tree', '-r', '--patch', '--full-index', '--no-renames',
            '--diff-algorithm=histogram', '--src-prefix=a/',
            '--dst-prefix=b/', *trees)


def _git(folder: pathlib.Path, *arguments: str) -> bytes:
    """Run git in a folder, without the user's configuration."""
    environment = {
        'PATH': os.environ.get('PATH', os.defpath),
        'HOME': str(folder),
        'LC_ALL': 'C',
        'GIT_CONFIG_NOSYSTEM': '1',
        'GIT_ATTR_NOSYSTEM': '1',
        'GIT_DIR': str(folder / '.git'),
    }
    try:
        return subprocess.run(
            ['git', *arguments], cwd=folder, check=True, capture_output=True,
            env=environment).stdout
    except FileNotFoundError as exc:
        raise errors.BuildError(
            'git is required to make a patch. Install git.') from exc
    except subprocess.CalledProcessError as exc:
        reason = exc.stderr.decode(errors='replace').strip()
        raise errors.BuildError(
            f'git cannot compare the files: {reason}') from exc


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
