# SPDX-License-Identifier: Apache-2.0

"""Read setup.cfg, which describes the wheel to build.

The keys are a subset of those of setuptools. ``[nova_release]`` pins the Nova
release to build from, ``[nova_release:VERSION]`` an alternative one.
"""

import configparser
from dataclasses import dataclass
import os
import pathlib
import re

from packaging import specifiers
from packaging import version

from novabuild import errors

RELEASE_VARIABLE = 'NOVA_RELEASE'
SCRIPTS = 'console_scripts'
_PIN = 'nova_release'
_KEYS = {
    'metadata': {'name', 'version', 'description', 'long_description'},
    'options': {'python_requires'},
    'options.entry_points': {SCRIPTS},
}


@dataclass(frozen=True)
class Release:
    """The released Nova that a build starts from."""

    version: version.Version
    sha256: str
    """SHA-256 of the wheel, to build from."""
    sdist_sha256: str
    """SHA-256 of the source archive, to patch."""


@dataclass(frozen=True)
class Project:
    """Additions of this tree to the metadata of the release."""

    root: pathlib.Path
    name: str
    version: version.Version
    summary: str
    readme: str
    requires_python: str
    scripts: dict[str, str]
    release: Release
    pinned: tuple[str, ...]
    """Versions of all pinned releases, the default one first."""


def load(root: pathlib.Path, wanted: str | None = None) -> Project:
    """Read ``setup.cfg`` in ``root``.

    :param wanted: version of a pinned release; by default that in the
        environment variable NOVA_RELEASE, or else the one in
        ``[nova_release]``
    :raises BuildError: the file is missing or wrong, or does not pin that
        release
    """
    path = root / 'setup.cfg'
    try:
        return _project(
            root, parsed(path.read_text(encoding='utf-8')),
            wanted or os.environ.get(RELEASE_VARIABLE))
    except (OSError, ValueError, configparser.Error) as exc:
        raise errors.BuildError(f'{path}: {exc}') from exc


def parsed(text: str) -> configparser.RawConfigParser:
    """Parse a file like setup.cfg, or like entry_points.txt of a wheel."""
    parser = configparser.RawConfigParser(delimiters=('=',))
    # Names of entry points are case-sensitive.
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return parser


def _project(
    root: pathlib.Path, parser: configparser.RawConfigParser,
    wanted: str | None,
) -> Project:
    for section, known in _KEYS.items():
        if unknown := set(parser.options(section)) - known:
            raise ValueError(
                f'[{section}] has unknown keys: {", ".join(sorted(unknown))}')
    default = parser.get(_PIN, 'version')
    own = version.Version(parser.get('metadata', 'version'))
    if own.local is None or own.public != default:
        raise ValueError(
            f'[metadata] version is {own}, but it must be the release and a '
            f'local label: {default}+LABEL')
    pins = {default: _PIN} | {
        section.partition(':')[2]: section for section in parser.sections()
        if section.startswith(f'{_PIN}:')}
    chosen = wanted or default
    if chosen not in pins:
        raise ValueError(
            f'{RELEASE_VARIABLE} is {chosen}, which is not a pinned release. '
            f'Set it to one of {", ".join(pins)}.')
    kind, _, readme = parser.get('metadata', 'long_description').partition(':')
    if kind != 'file':
        raise ValueError('[metadata] long_description must be "file: NAME"')
    scripts = parser.get('options.entry_points', SCRIPTS)
    return Project(
        root=root,
        name=parser.get('metadata', 'name'),
        version=version.Version(f'{chosen}+{own.local}'),
        summary=parser.get('metadata', 'description'),
        readme=(root / readme.strip()).read_text(encoding='utf-8'),
        requires_python=str(specifiers.SpecifierSet(
            parser.get('options', 'python_requires'))),
        scripts=dict(parsed(f'[{SCRIPTS}]{scripts}')[SCRIPTS]),
        release=Release(
            version.Version(chosen),
            _sha256(parser, pins[chosen], 'sha256'),
            _sha256(parser, pins[chosen], 'sdist_sha256')),
        pinned=tuple(pins),
    )


def _sha256(
    parser: configparser.RawConfigParser, section: str, key: str,
) -> str:
    text = parser.get(section, key)
    if not re.fullmatch('[0-9a-f]{64}', text):
        raise ValueError(f'[{section}] {key} is not 64 hex digits: {text}')
    return text
