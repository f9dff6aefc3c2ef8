# SPDX-License-Identifier: Apache-2.0

"""Read the files of this tree."""

from collections.abc import Iterable
from collections.abc import Iterator
import fnmatch
import os
import pathlib
import subprocess

from novabuild import archive
from novabuild import errors

_LEFTOVERS = (
    '__pycache__', '*.py[cod]', '*~', '*.bak', '*.orig', '*.rej', '*.swp',
    '#*#', '.git', '.hypothesis', '.mypy_cache', '.stestr', '.tox',
)


def overlay(root: pathlib.Path) -> archive.Entries:
    """Return the files of ``nova/``, by their paths in Nova.

    Files that git does not track are included, so that a new file can be
    tested before it is committed. What editors and tools leave is not.

    :raises BuildError: there are no files, or one is not a plain file
    """
    found = _below(root, 'nova')
    if not found:
        raise errors.BuildError(
            f'{root / "nova"} is missing or empty. Is this a whole checkout?')
    return found


def notes(root: pathlib.Path) -> archive.Entries:
    """Return the release notes of this tree, by their paths.

    :raises BuildError: one of them is not a plain file
    """
    return _below(root, 'releasenotes/notes')


def source(root: pathlib.Path) -> archive.Entries:
    """Return the files of a source archive, by their paths below ``root``.

    In a git checkout these are the files that git does not ignore, in an
    unpacked source archive all files.

    :raises BuildError: one of them is not a plain file, or git fails
    """
    if (root / '.git').exists():
        return read(root, _ask_git(root))
    return read(root, _walk(root, root, _LEFTOVERS))


def read(root: pathlib.Path, names: Iterable[str]) -> archive.Entries:
    """Read files below ``root``.

    :raises BuildError: one of them is not a plain file
    """
    return {name: _entry(root / name) for name in names}


def _below(root: pathlib.Path, folder: str) -> archive.Entries:
    return read(root, _walk(root / folder, root, (*_LEFTOVERS, '.*')))


def _entry(path: pathlib.Path) -> archive.Entry:
    if path.is_symlink() or not path.is_file():
        raise errors.BuildError(
            f'{path} is not a plain file. Replace it, or move it away.')
    return archive.Entry(
        path.read_bytes(), bool(path.stat().st_mode & 0o100))


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
    except (OSError, subprocess.CalledProcessError) as exc:
        raise errors.BuildError(
            f'git cannot list the files of {root}: '
            f'{getattr(exc, "stderr", exc)}') from exc
    # A file deleted from the work tree is listed until that is staged.
    return sorted(name for name in listed.split('\0')
                  if name and os.path.lexists(root / name))
