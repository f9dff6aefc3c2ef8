# SPDX-License-Identifier: Apache-2.0

"""Say in the release's own packaging files what setup.cfg adds.

This is the one place that knows how a released source archive is described:
entry points and package data in pyproject.toml, requirements in
requirements.txt, which pbr reads.
"""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import tomlkit
import tomlkit.exceptions

from novabuild import archive
from novabuild import errors
from novabuild import project

_PROJECT = 'pyproject.toml'
_REQUIREMENTS = 'requirements.txt'
_SCRIPTS = {'console_scripts': 'scripts', 'gui_scripts': 'gui-scripts'}


def changed(
    ours: project.Project, released: dict[str, archive.Entry],
    data: Sequence[str],
) -> dict[str, archive.Entry]:
    """Give those packaging files that are to change, by their paths.

    :param released: the files of the released source archive
    :param data: paths of new files that are not Python modules; a build takes
        only those along that it is told of
    :raises BuildError: the release is described in another way
    """
    result = {}
    if ours.entry_points or data:
        before = _text(released, _PROJECT)
        result[_PROJECT] = _project(before, ours.entry_points, data)
    if ours.requires:
        before = _text(released, _REQUIREMENTS)
        result[_REQUIREMENTS] = _requirements(before, ours.requires)
    return {
        name: archive.Entry(after.encode(), released[name].executable)
        for name, after in result.items()
    }


def _text(released: dict[str, archive.Entry], name: str) -> str:
    if name not in released:
        raise errors.BuildError(_unknown(f'it has no {name}'))
    return released[name].data.decode()


def _project(
    text: str, entry_points: dict[str, dict[str, str]], data: Sequence[str],
) -> str:
    try:
        document = tomlkit.parse(text)
    except tomlkit.exceptions.TOMLKitError as exc:
        raise errors.BuildError(_unknown(f'{_PROJECT}: {exc}')) from exc
    if 'name' not in document.get('project', {}):
        raise errors.BuildError(_unknown(f'{_PROJECT} has no project name'))
    for group, points in entry_points.items():
        key = _SCRIPTS.get(group)
        place = ('project', key) if key else ('project', 'entry-points', group)
        _merge(document, place, points)
    _merge(document, ('tool', 'setuptools', 'package-data'), _packages(data))
    return tomlkit.dumps(document)


def _packages(data: Sequence[str]) -> dict[str, list[str]]:
    """Give the names of files by the package that they are in."""
    found: dict[str, list[str]] = {}
    for path in data:
        folder, _, name = path.rpartition('/')
        found.setdefault(folder.replace('/', '.'), []).append(name)
    return found


def _merge(
    document: tomlkit.TOMLDocument, place: tuple[str, ...],
    values: Mapping[str, str | list[str]],
) -> None:
    """Put values into the table of that name; make it if there is none."""
    if not values:
        return
    *parents, last = place
    parent: Any = document
    for key in parents:
        parent = parent.setdefault(key, tomlkit.table(is_super_table=True))
    if last in parent:
        parent[last].update(values)
        return
    table = tomlkit.table()
    table.update(values)
    table.add(tomlkit.nl())
    parent[last] = table


def _requirements(text: str, requires: Sequence[str]) -> str:
    present = {line.partition('#')[0].strip() for line in text.splitlines()}
    added = [line for line in requires if line not in present]
    return ''.join([text, *(f'{line}\n' for line in added)])


def _unknown(what: str) -> str:
    return (
        f'The released source archive is described in an unknown way: {what}. '
        'Teach novabuild.manifest how that release is packed.')
