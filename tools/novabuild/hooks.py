# SPDX-License-Identifier: Apache-2.0

"""The build hooks of PEP 517 and PEP 660.

Whoever calls them runs them in the root of the source tree.
https://peps.python.org/pep-0517/#build-backend-interface
"""

from collections.abc import Mapping
import os
import pathlib
from typing import Any

from novabuild import archive
from novabuild import errors
from novabuild import metadata
from novabuild import project
from novabuild import release
from novabuild import tree
from novabuild import whole

Settings = Mapping[str, Any] | None


def prepare_metadata_for_build_wheel(
    metadata_directory: str, config_settings: Settings = None,
) -> str:
    ours = project.load(pathlib.Path.cwd())
    with release.obtained(ours.release, _local(config_settings)) as wheel:
        content = whole.dist_info(ours, whole.unpacked(wheel))
    for name, entry in content.items():
        path = pathlib.Path(metadata_directory, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(entry.data)
    return whole.names(ours).dist_info


def build_wheel(
    wheel_directory: str, config_settings: Settings = None,
    metadata_directory: str | None = None,
) -> str:
    ours = project.load(pathlib.Path.cwd())
    names = whole.names(ours)
    with release.obtained(ours.release, _local(config_settings)) as wheel:
        content = whole.entries(ours, whole.unpacked(wheel))
    archive.write_wheel(
        pathlib.Path(wheel_directory, names.wheel), content, names.dist_info)
    return names.wheel


def build_sdist(
    sdist_directory: str, config_settings: Settings = None,
) -> str:
    ours = project.load(pathlib.Path.cwd())
    stem = whole.names(ours).stem
    content = tree.source(ours.root)
    content['PKG-INFO'] = archive.Entry(metadata.own(ours))
    filename = f'{stem}.tar.gz'
    archive.write_sdist(
        pathlib.Path(sdist_directory, filename), content, stem)
    return filename


def build_editable(
    wheel_directory: str, config_settings: Settings = None,
    metadata_directory: str | None = None,
) -> str:
    raise errors.BuildError(
        'This tree has no editable install: it holds only the files of Nova '
        'that it changes, and an import of "nova" needs them all in one '
        'place. Use "pip install ." again after a change; with --no-deps it '
        'takes seconds.')


def _local(settings: Settings) -> pathlib.Path | None:
    """The released wheel that the caller has at hand, if any."""
    known = {release.LOCAL_WHEEL_SETTING}
    unknown = sorted(set(settings or {}) - known)
    if unknown:
        raise errors.BuildError(
            f'Unknown build setting: {", ".join(unknown)}. There is one: '
            f'{release.LOCAL_WHEEL_SETTING}=PATH of the released wheel.')
    path = (settings or {}).get(release.LOCAL_WHEEL_SETTING) or os.environ.get(
        release.LOCAL_WHEEL_VARIABLE)
    return pathlib.Path(path) if path else None
