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

from packaging import requirements
from packaging import specifiers
from packaging import version

from novabuild import errors

RELEASE_VARIABLE = 'NOVA_RELEASE'
_PIN = 'nova_release'
_KEYS = {
    'metadata': {'name', 'version', 'description', 'long_description'},
    'options': {'install_requires', 'python_requires'},
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
    requires: tuple[str, ...]
    entry_points: dict[str, dict[str, str]]
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
    parser = _parser()
    try:
        parser.read_string(path.read_text(encoding='utf-8'), str(path))
        return _project(
            root, parser, wanted or os.environ.get(RELEASE_VARIABLE))
    except (OSError, ValueError, configparser.Error) as exc:
        raise errors.BuildError(f'{path}: {exc}') from exc


def merged_entry_points(
    released: str, ours: dict[str, dict[str, str]],
) -> dict[str, dict[str, str]]:
    """Parse an ``entry_points.txt`` and add ours, which take precedence."""
    parser = _parser()
    parser.read_string(released)
    parser.read_dict(ours)
    return {group: dict(parser[group]) for group in parser.sections()}


def _parser() -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(delimiters=('=',))
    # Names of entry points and of projects are case-sensitive.
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    return parser


def _project(
    root: pathlib.Path, parser: configparser.RawConfigParser,
    wanted: str | None,
) -> Project:
    for section, known in _KEYS.items():
        unknown = set(parser[section] if section in parser else ()) - known
        if unknown:
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
    return Project(
        root=root,
        name=parser.get('metadata', 'name'),
        version=version.Version(f'{chosen}+{own.local}'),
        summary=parser.get('metadata', 'description'),
        readme=_readme(root, parser),
        requires_python=str(specifiers.SpecifierSet(
            parser.get('options', 'python_requires', fallback=''))),
        requires=tuple(
            str(requirements.Requirement(line)) for line in parser.get(
                'options', 'install_requires', fallback='').splitlines()
            if line),
        entry_points=_entry_points(parser),
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


def _readme(root: pathlib.Path, parser: configparser.RawConfigParser) -> str:
    kind, _, name = parser.get('metadata', 'long_description').partition(':')
    if kind != 'file':
        raise ValueError('[metadata] long_description must be "file: NAME"')
    return (root / name.strip()).read_text(encoding='utf-8')


def _entry_points(
    parser: configparser.RawConfigParser,
) -> dict[str, dict[str, str]]:
    section = 'options.entry_points'
    groups = parser[section] if section in parser else {}
    return merged_entry_points('\n'.join(
        f'[{group}]{lines}' for group, lines in groups.items()), {})
