# SPDX-License-Identifier: Apache-2.0

"""Add what setup.cfg says to the packaging files of the release.

A released source archive describes itself in pyproject.toml, or, up to Nova
32, in setup.cfg.
"""

from typing import Any

import configupdater
import tomlkit
import tomlkit.exceptions

from novabuild import archive
from novabuild import errors
from novabuild import project


def changed(
    ours: project.Project, released: archive.Entries,
) -> archive.Entries:
    """Return the packaging file with our additions.

    :param released: the files of the released source archive
    :raises BuildError: the release is packed in an unknown way
    """
    try:
        document = tomlkit.parse(released['pyproject.toml'].data.decode())
        if 'name' in document.get('project', {}):
            name, text = 'pyproject.toml', _project(document, ours)
        else:
            name = 'setup.cfg'
            text = _setup(released[name].data.decode(), ours)
    except (KeyError, tomlkit.exceptions.TOMLKitError,
            configupdater.ParsingError, configupdater.NoSectionError) as exc:
        raise errors.BuildError(
            f'The release is packed in an unknown way: {exc!r}. Add support '
            'for it to novabuild.manifest.') from exc
    return {name: archive.Entry(text.encode(), released[name].executable)}


def _project(document: tomlkit.TOMLDocument, ours: project.Project) -> str:
    table: Any = document['project']
    table['requires-python'] = ours.requires_python
    table['scripts'].update(ours.scripts)
    # Up to Nova 33 only the top package is listed. The others are included
    # because nova.egg-info of the archive lists their files, but not new ones.
    setuptools = document.get('tool', {}).get('setuptools', {})
    packages = setuptools.get('packages')
    if isinstance(packages, list):
        setuptools['packages'] = {
            'find': {'include': [f'{name}*' for name in packages]}}
    return tomlkit.dumps(document)


def _setup(text: str, ours: project.Project) -> str:
    document = configupdater.ConfigUpdater(delimiters=('=',))
    # Names of entry points are case-sensitive.
    document.optionxform = str  # type: ignore[method-assign,assignment]
    document.read_string(text)
    document.set('metadata', 'python_requires', ours.requires_python)
    scripts = document['entry_points']['console_scripts']
    # One of the same name replaces that of the release.
    by_name = {line.partition('=')[0].strip(): line
               for line in scripts.as_list()}
    by_name |= {name: f'{name} = {value}'
                for name, value in ours.scripts.items()}
    scripts.set_values([*by_name.values()], indent='\t')
    return str(document)
