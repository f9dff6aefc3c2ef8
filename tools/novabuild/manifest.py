# SPDX-License-Identifier: Apache-2.0

"""Add what setup.cfg says to the packaging files of the release.

A released source archive has its requirements in requirements.txt, which pbr
reads, and all else in pyproject.toml, or, up to Nova 32, in setup.cfg.
"""

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


def changed(
    ours: project.Project, released: archive.Entries, data: Sequence[str],
) -> archive.Entries:
    """Return the packaging files with our additions.

    :param released: the files of the released source archive
    :param data: paths of new files that are not Python modules; a build
        includes only those that are listed
    :raises BuildError: the release is packed in an unknown way
    """
    try:
        texts = {name: released[name].data.decode()
                 for name in (_PROJECT, _REQUIREMENTS)}
        document = tomlkit.parse(texts[_PROJECT])
        if 'name' in document.get('project', {}):
            texts[_PROJECT] = _project(document, ours, data)
        else:
            texts[_SETUP] = _setup(
                released[_SETUP].data.decode(), ours, data)
    except (KeyError, tomlkit.exceptions.TOMLKitError,
            configupdater.ParsingError, configupdater.NoSectionError) as exc:
        raise errors.BuildError(
            f'The release is packed in an unknown way: {exc!r}. Add support '
            'for it to novabuild.manifest.') from exc
    present = {line.partition('#')[0].strip()
               for line in texts[_REQUIREMENTS].splitlines()}
    texts[_REQUIREMENTS] += ''.join(
        f'{line}\n' for line in ours.requires if line not in present)
    return {
        name: archive.Entry(text.encode(), released[name].executable)
        for name, text in texts.items()
    }


def _project(
    document: tomlkit.TOMLDocument, ours: project.Project,
    data: Sequence[str],
) -> str:
    if ours.requires_python:
        _merge(document, ('project',), {
            'requires-python': ours.requires_python})
    for group, points in ours.entry_points.items():
        place = ('scripts',) if group == 'console_scripts' else (
            'entry-points', group)
        _merge(document, ('project', *place), points)
    _merge(document, ('tool', 'setuptools', 'package-data'), _packages(data))
    # Up to Nova 33 only the top package is listed. The others are included
    # because nova.egg-info of the archive lists their files, but not new ones.
    setuptools = document.get('tool', {}).get('setuptools', {})
    packages = setuptools.get('packages')
    if isinstance(packages, list):
        setuptools['packages'] = {
            'find': {'include': [f'{name}*' for name in packages]}}
    return tomlkit.dumps(document)


def _merge(
    document: tomlkit.TOMLDocument, place: tuple[str, ...],
    values: dict[str, Any],
) -> None:
    """Add values to the table of that name; create it if it is missing."""
    if not values:
        return
    *parents, last = place
    parent: Any = document
    for key in parents:
        parent = parent.setdefault(key, tomlkit.table(is_super_table=True))
    if last in parent:
        parent[last].update(values)
        return
    parent[last] = tomlkit.table()
    parent[last].update(values)
    parent[last].add(tomlkit.nl())


def _setup(text: str, ours: project.Project, data: Sequence[str]) -> str:
    document = configupdater.ConfigUpdater(delimiters=('=',))
    # Names of entry points are case-sensitive.
    document.optionxform = str  # type: ignore[method-assign,assignment]
    document.read_string(text)
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
    """Add lines to an option; create it if it is missing.

    A line replaces that of the same name.
    """
    if not document.has_section(section):
        document.add_section(section)
    present = (document[section][option].as_list()
               if document.has_option(section, option) else [])
    document.set(section, option)
    by_name = {line.partition('=')[0].strip(): line
               for line in [*present, *lines]}
    document[section][option].set_values([*by_name.values()], indent='\t')


def _packages(data: Sequence[str]) -> dict[str, list[str]]:
    """Group file names by the package that contains them."""
    found: dict[str, list[str]] = {}
    for path in data:
        folder, _, name = path.rpartition('/')
        found.setdefault(folder.replace('/', '.'), []).append(name)
    return found
