# SPDX-License-Identifier: Apache-2.0

"""Say in the release's own packaging files what setup.cfg adds.

This is the one place that knows how a released source archive is described:
requirements in requirements.txt, which pbr reads, and all else in
pyproject.toml, or, up to Nova 32, in setup.cfg.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import configupdater
import tomlkit
import tomlkit.exceptions

from novabuild import archive
from novabuild import errors
from novabuild import project

_PROJECT = 'pyproject.toml'
_SETUP = 'setup.cfg'
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
    if ours.entry_points or ours.requires_python or data:
        name, described = _description(released)
        result[name] = described(_text(released, name), ours, data)
    if ours.requires:
        before = _text(released, _REQUIREMENTS)
        result[_REQUIREMENTS] = _requirements(before, ours.requires)
    return {
        name: archive.Entry(after.encode(), released[name].executable)
        for name, after in result.items()
    }


def _description(
    released: dict[str, archive.Entry],
) -> tuple[str, Callable[[str, project.Project, Sequence[str]], str]]:
    """Give the name of the file that describes the package, and its form."""
    try:
        document = tomlkit.parse(_text(released, _PROJECT))
    except tomlkit.exceptions.TOMLKitError as exc:
        raise errors.BuildError(_unknown(f'{_PROJECT}: {exc}')) from exc
    if 'name' in document.get('project', {}):
        return _PROJECT, _project
    if _SETUP in released:
        return _SETUP, _setup
    raise errors.BuildError(_unknown(f'{_PROJECT} has no project name'))


def _text(released: dict[str, archive.Entry], name: str) -> str:
    if name not in released:
        raise errors.BuildError(_unknown(f'it has no {name}'))
    return released[name].data.decode()


def _project(text: str, ours: project.Project, data: Sequence[str]) -> str:
    document = tomlkit.parse(text)
    if ours.requires_python:
        _merge(document, ('project',), {
            'requires-python': ours.requires_python})
    for group, points in ours.entry_points.items():
        key = _SCRIPTS.get(group)
        place = ('project', key) if key else ('project', 'entry-points', group)
        _merge(document, place, points)
    _merge(document, ('tool', 'setuptools', 'package-data'), _packages(data))
    _find_packages(document)
    return tomlkit.dumps(document)


def _find_packages(document: tomlkit.TOMLDocument) -> None:
    """Have all packages found, where only the one on top is listed.

    Up to Nova 33 the others come along because nova.egg-info of the source
    archive lists their files, and it does not list new ones.
    """
    setuptools = document.get('tool', {}).get('setuptools', {})
    packages = setuptools.get('packages')
    if isinstance(packages, list):
        setuptools['packages'] = {
            'find': {'include': [f'{name}*' for name in packages]}}


def _setup(text: str, ours: project.Project, data: Sequence[str]) -> str:
    document = configupdater.ConfigUpdater(delimiters=('=',))
    # Names of entry points are case-sensitive.
    document.optionxform = str  # type: ignore[method-assign,assignment]
    try:
        document.read_string(text)
    except configupdater.ParsingError as exc:
        raise errors.BuildError(_unknown(f'{_SETUP}: {exc}')) from exc
    if not document.has_option('metadata', 'name'):
        raise errors.BuildError(_unknown(f'{_SETUP} has no name'))
    if ours.requires_python:
        document.set('metadata', 'python_requires', ours.requires_python)
    for group, points in ours.entry_points.items():
        _add(document, 'entry_points', group, [
            f'{name} = {value}' for name, value in points.items()])
    for package, names in _packages(data).items():
        _add(document, 'options.package_data', package, names)
    return str(document)


def _add(
    document: configupdater.ConfigUpdater, section: str, option: str,
    lines: Sequence[str],
) -> None:
    """Put lines at the end of an option; make it if there is none."""
    if not document.has_section(section):
        document.add_section(section)
    present = (document[section][option].as_list()
               if document.has_option(section, option) else [])
    document.set(section, option)
    document[section][option].set_values(
        [*present, *lines], indent='\t')


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
