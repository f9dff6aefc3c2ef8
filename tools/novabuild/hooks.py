# SPDX-License-Identifier: Apache-2.0

"""The build hooks of PEP 517. Build frontends run them in the tree's root.

https://peps.python.org/pep-0517/#build-backend-interface
"""

from collections.abc import Mapping
import pathlib
from typing import Any

from novabuild import archive
from novabuild import errors
from novabuild import metadata
from novabuild import project
from novabuild import tree
from novabuild import whole

LOCAL_WHEEL_SETTING = 'release-wheel'
Settings = Mapping[str, Any] | None


def prepare_metadata_for_build_wheel(
    metadata_directory: str, config_settings: Settings = None,
) -> str:
    ours = project.load(pathlib.Path.cwd())
    released = whole.released(ours, _local(config_settings))
    whole.write(
        whole.dist_info(ours, released), pathlib.Path(metadata_directory))
    return f'{whole.stem(ours.version)}.dist-info'


def build_wheel(
    wheel_directory: str, config_settings: Settings = None,
    metadata_directory: str | None = None,
) -> str:
    ours = project.load(pathlib.Path.cwd())
    stem = whole.stem(ours.version)
    released = whole.released(ours, _local(config_settings))
    packed = archive.wheel(
        whole.entries(ours, released), f'{stem}.dist-info')
    filename = f'{stem}-py3-none-any.whl'
    pathlib.Path(wheel_directory, filename).write_bytes(packed)
    return filename


def build_sdist(
    sdist_directory: str, config_settings: Settings = None,
) -> str:
    ours = project.load(pathlib.Path.cwd())
    stem = whole.stem(ours.version)
    content = tree.source(ours.root)
    content['PKG-INFO'] = archive.Entry(metadata.own(ours))
    filename = f'{stem}.tar.gz'
    pathlib.Path(sdist_directory, filename).write_bytes(
        archive.sdist(content, stem))
    return filename


def _local(settings: Settings) -> str | None:
    """Return the path of the released wheel in the settings, if any."""
    unknown = set(settings or ()) - {LOCAL_WHEEL_SETTING}
    if unknown:
        raise errors.BuildError(
            f'Unknown build setting: {", ".join(sorted(unknown))}. The only '
            f'one is {LOCAL_WHEEL_SETTING}=PATH of the released wheel.')
    return (settings or {}).get(LOCAL_WHEEL_SETTING)
