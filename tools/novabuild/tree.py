# SPDX-License-Identifier: Apache-2.0

"""The files of this tree that go into an archive."""

from collections.abc import Iterable
from collections.abc import Iterator
import fnmatch
import os
import pathlib
import subprocess

from novabuild import archive
from novabuild import errors
from novabuild import project

_LEFTOVERS = (
    '__pycache__', '*.py[cod]', '*~', '*.bak', '*.orig', '*.rej', '*.swp',
    '#*#', '.git', '.hypothesis', '.mypy_cache', '.stestr', '.tox',
)


def overlay(ours: project.Project) -> dict[str, archive.Entry]:
    """Give the files of ``nova/``, each by its path in Nova.

    What is there counts, tracked by git or not, so that a file is built and
    tested before it is committed. What editors and tools leave does not.

    :raises BuildError: one of them cannot be read or is not a plain file
    """
    found = read(
        ours.root, _walk(ours.root / 'nova', ours.root, _LEFTOVERS + ('.*',)))
    if not found:
        raise errors.BuildError(
            f'{ours.root / "nova"} has no files, so there is nothing to lay '
            'over the released Nova. Is this a whole checkout?')
    return found


def notes(root: pathlib.Path) -> dict[str, archive.Entry]:
    """Give the release notes of this tree, each by its path below ``root``.

    :raises BuildError: one of them cannot be read or is not a plain file
    """
    folder = root / 'releasenotes/notes'
    return read(root, _walk(folder, root, _LEFTOVERS + ('.*',)))


def source(root: pathlib.Path) -> dict[str, archive.Entry]:
    """Give the files of a source archive, each by its path below ``root``.

    In a git checkout they are the files that git knows or does not ignore;
    elsewhere, as in an unpacked source archive, all that are there.

    :raises BuildError: one of them cannot be read or is not a plain file, or
        git fails
    """
    if (root / '.git').exists():
        return read(root, _ask_git(root))
    return read(root, _walk(root, root, _LEFTOVERS))


def read(
    root: pathlib.Path, names: Iterable[str],
) -> dict[str, archive.Entry]:
    """Read the files ``names`` below ``root``.

    :raises BuildError: one of them cannot be read or is not a plain file
    """
    return {name: _entry(root, name) for name in names}


def _entry(root: pathlib.Path, name: str) -> archive.Entry:
    path = root / name
    if path.is_symlink() or not path.is_file():
        raise errors.BuildError(
            f'{path} is not a plain file. Archives of this tree hold plain '
            'files only: replace it, or move it away.')
    try:
        executable = bool(path.stat().st_mode & 0o100)
        return archive.Entry(path.read_bytes(), executable)
    except OSError as exc:
        raise errors.BuildError(
            f'Cannot read {path}: {exc.strerror}') from exc


def _walk(
    top: pathlib.Path, root: pathlib.Path, leftovers: tuple[str, ...],
) -> Iterator[str]:
    def wanted(name: str) -> bool:
        return not any(fnmatch.fnmatchcase(name, p) for p in leftovers)

    for folder, folders, files in os.walk(top):
        folders[:] = sorted(filter(wanted, folders))
        for name in sorted(filter(wanted, files)):
            yield pathlib.Path(folder, name).relative_to(root).as_posix()


def _ask_git(root: pathlib.Path) -> list[str]:
    command = ['git', '-C', str(root), 'ls-files', '-z', '--cached',
               '--others', '--exclude-standard', '--deduplicate']
    try:
        listed = subprocess.run(
            command, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError as exc:
        raise errors.BuildError(
            f'{root} is a git checkout, and git is needed to tell its files '
            'from leftovers. Install git.') from exc
    except subprocess.CalledProcessError as exc:
        raise errors.BuildError(
            f'git cannot list the files of {root}: {exc.stderr.strip()}'
        ) from exc
    names = sorted(name for name in listed.split('\0') if name)
    # A file deleted from the work tree is still listed until it is staged.
    return [name for name in names if os.path.lexists(root / name)]
