# SPDX-License-Identifier: Apache-2.0

"""What setup.cfg says about the wheel to build.

The keys are those of setuptools' declarative setup.cfg, as far as they are
needed, and sections of our own that pin the released Nova: ``[nova_release]``,
and ``[nova_release:VERSION]`` for each other one that can be built from.
"""

from collections.abc import Iterator
import configparser
import contextlib
from dataclasses import dataclass
import os
import pathlib
import re

from packaging import requirements
from packaging import specifiers
from packaging import version

from novabuild import errors

RELEASE_VARIABLE = 'NOVA_RELEASE'
_SHA256 = re.compile(r'[0-9a-f]{64}')
_KEYS = {
    'metadata': {
        'name', 'version', 'description', 'long_description', 'classifiers',
        'project_urls', 'license_files',
    },
    'options': {'install_requires', 'python_requires'},
    'nova_release': {'version', 'sha256', 'sdist_sha256', 'remove'},
}
_OTHER = 'nova_release:'
_OTHER_KEYS = _KEYS['nova_release'] - {'version'}


@dataclass(frozen=True)
class Release:
    """The released Nova that a build starts from."""

    version: version.Version
    sha256: str
    """Of the wheel, which a build starts from."""
    sdist_sha256: str
    """Of the source archive, which the patch is for."""
    remove: tuple[str, ...]
    """Paths in the released wheel that the result must not have."""


@dataclass(frozen=True)
class Project:
    """What this tree adds to the release's own metadata."""

    root: pathlib.Path
    name: str
    version: version.Version
    summary: str
    readme: pathlib.PurePosixPath | None
    classifiers: tuple[str, ...]
    project_urls: tuple[str, ...]
    license_files: tuple[str, ...]
    requires_python: str
    requires: tuple[str, ...]
    entry_points: dict[str, dict[str, str]]
    release: Release


def load(root: pathlib.Path, wanted: str | None = None) -> Project:
    """Read ``setup.cfg`` in ``root``.

    :param wanted: which of the pinned releases to build from; by default what
        the environment variable NOVA_RELEASE says, or else the one in
        ``[nova_release]``
    :raises BuildError: it is missing, incomplete, or says something unknown,
        or pins no such release
    """
    with _read(root / 'setup.cfg') as parser:
        return _project(
            root, parser, wanted or os.environ.get(RELEASE_VARIABLE))


def releases(root: pathlib.Path) -> list[str]:
    """Give the versions of the pinned releases, the usual one first.

    :raises BuildError: ``setup.cfg`` is missing or incomplete
    """
    with _read(root / 'setup.cfg') as parser:
        return list(_pinned(parser, _version(parser, 'nova_release')))


@contextlib.contextmanager
def _read(path: pathlib.Path) -> Iterator[configparser.RawConfigParser]:
    """Give what a file says; whatever is wrong is said to be wrong there."""
    parser = _parser()
    try:
        with path.open(encoding='utf-8') as lines:
            parser.read_file(lines)
    except (OSError, UnicodeDecodeError, configparser.Error) as exc:
        raise errors.BuildError(f'Cannot read {path}: {exc}') from exc
    try:
        yield parser
    except errors.BuildError as exc:
        raise errors.BuildError(f'{path}: {exc}') from exc


def parse_entry_points(text: str) -> dict[str, dict[str, str]]:
    """Read the text of an ``entry_points.txt``: group, name, object."""
    parser = _parser()
    parser.read_string(text)
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
    _refuse_unknown_keys(parser)
    usual = _version(parser, 'nova_release')
    own = _version(parser, 'metadata')
    _check_versions(own, usual)
    release = _release(parser, usual, wanted)
    return Project(
        root=root,
        name=_required(parser, 'metadata', 'name'),
        version=version.Version(f'{release.version}+{own.local}'),
        summary=_required(parser, 'metadata', 'description'),
        readme=_readme(parser),
        classifiers=_list(parser, 'metadata', 'classifiers'),
        project_urls=_project_urls(parser),
        license_files=_list(parser, 'metadata', 'license_files'),
        requires_python=_requires_python(parser),
        requires=_requires(parser),
        entry_points=_entry_points(parser),
        release=release,
    )


def _release(
    parser: configparser.RawConfigParser, usual: version.Version,
    wanted: str | None,
) -> Release:
    pinned = _pinned(parser, usual)
    chosen = wanted or str(usual)
    if chosen not in pinned:
        raise errors.BuildError(
            f'{RELEASE_VARIABLE} is {chosen}, and no such release is pinned '
            f'here. Set it to one of {", ".join(sorted(pinned))}.')
    section = pinned[chosen]
    return Release(
        version=_parsed_version(section, chosen),
        sha256=_sha256(parser, section, 'sha256'),
        sdist_sha256=_sha256(parser, section, 'sdist_sha256'),
        remove=_list(parser, section, 'remove'),
    )


def _pinned(
    parser: configparser.RawConfigParser, usual: version.Version,
) -> dict[str, str]:
    """Give the sections that pin releases, by their versions."""
    return {str(usual): 'nova_release'} | {
        section.removeprefix(_OTHER): section
        for section in parser.sections() if section.startswith(_OTHER)}


def _refuse_unknown_keys(parser: configparser.RawConfigParser) -> None:
    for section in parser.sections():
        known = (_OTHER_KEYS if section.startswith(_OTHER) else
                 _KEYS.get(section))
        if known is None:
            continue
        unknown = sorted(set(parser.options(section)) - known)
        if unknown:
            raise errors.BuildError(
                f'[{section}] has keys this build does not know: '
                f'{", ".join(unknown)}. It knows {", ".join(sorted(known))}.')


def _required(
    parser: configparser.RawConfigParser, section: str, key: str,
) -> str:
    value = parser.get(section, key, fallback='').strip()
    if not value:
        raise errors.BuildError(f'[{section}] {key} is missing: set it.')
    return value


def _list(
    parser: configparser.RawConfigParser, section: str, key: str,
) -> tuple[str, ...]:
    lines = parser.get(section, key, fallback='').splitlines()
    return tuple(line.strip() for line in lines if line.strip())


def _version(
    parser: configparser.RawConfigParser, section: str,
) -> version.Version:
    return _parsed_version(section, _required(parser, section, 'version'))


def _parsed_version(section: str, text: str) -> version.Version:
    try:
        return version.Version(text)
    except version.InvalidVersion as exc:
        raise errors.BuildError(
            f'[{section}] version is not a PEP 440 version: {text}') from exc


def _check_versions(
    ours: version.Version, released: version.Version,
) -> None:
    if ours.local is None or ours.public != str(released):
        raise errors.BuildError(
            f'[metadata] version is {ours}, but it must be the release and a '
            f'local label: {released}+LABEL.')


def _sha256(
    parser: configparser.RawConfigParser, section: str, key: str,
) -> str:
    text = _required(parser, section, key).lower()
    if not _SHA256.fullmatch(text):
        raise errors.BuildError(
            f'[{section}] {key} is not 64 hexadecimal digits: {text}')
    return text


def _readme(
    parser: configparser.RawConfigParser,
) -> pathlib.PurePosixPath | None:
    value = parser.get('metadata', 'long_description', fallback='').strip()
    if not value:
        return None
    kind, _, path = value.partition(':')
    if kind != 'file' or not path.strip().endswith('.rst'):
        raise errors.BuildError(
            '[metadata] long_description must be "file: NAME.rst", '
            f'not "{value}".')
    return pathlib.PurePosixPath(path.strip())


def _project_urls(parser: configparser.RawConfigParser) -> tuple[str, ...]:
    urls = []
    for line in _list(parser, 'metadata', 'project_urls'):
        label, equals, url = (part.strip() for part in line.partition('='))
        if not (label and equals and url):
            raise errors.BuildError(
                f'[metadata] project_urls has a line that is not '
                f'"Label = URL": {line}')
        urls.append(f'{label}, {url}')
    return tuple(urls)


def _requires_python(parser: configparser.RawConfigParser) -> str:
    text = parser.get('options', 'python_requires', fallback='').strip()
    try:
        specifiers.SpecifierSet(text)
    except specifiers.InvalidSpecifier as exc:
        raise errors.BuildError(
            '[options] python_requires must be like ">=3.11", '
            f'not "{text}".') from exc
    return text


def _requires(parser: configparser.RawConfigParser) -> tuple[str, ...]:
    lines = _list(parser, 'options', 'install_requires')
    for line in lines:
        try:
            requirements.Requirement(line)
        except requirements.InvalidRequirement as exc:
            raise errors.BuildError(
                f'[options] install_requires has a line that is not a '
                f'requirement: {line}') from exc
    return lines


def _entry_points(
    parser: configparser.RawConfigParser,
) -> dict[str, dict[str, str]]:
    section = 'options.entry_points'
    if not parser.has_section(section):
        return {}
    groups: dict[str, dict[str, str]] = {}
    for group in parser.options(section):
        lines = '\n'.join(_list(parser, section, group))
        try:
            groups |= parse_entry_points(f'[{group}]\n{lines}\n')
        except configparser.Error as exc:
            raise errors.BuildError(
                f'[{section}] {group} must have lines "name = module:object": '
                f'{exc}') from exc
    return groups
