# SPDX-License-Identifier: Apache-2.0

"""The two Novas that are compared: the release, and what is installed."""

from collections.abc import Iterator
import contextlib
from dataclasses import dataclass
import importlib.util
import os
import pathlib
import sysconfig
import tempfile
import zipfile

from novabuild import project
from novabuild import release
from novabuild import whole
from suites import loading


@dataclass(frozen=True)
class Side:
    """A Nova, in a folder that comes first where Python looks for modules.

    Nova looks for its ``etc`` beside its package, and keeps its state there.
    """

    name: str
    folder: pathlib.Path


@dataclass(frozen=True)
class Sides:
    pristine: Side
    ours: Side


@contextlib.contextmanager
def prepared(tree: project.Project) -> Iterator[Sides]:
    """Give both, for as long as the block runs.

    :raises SuiteError: the installed Nova is not built from this tree
    :raises BuildError: the release cannot be had
    """
    loading.installed_overlay()
    with tempfile.TemporaryDirectory(prefix='nova-released-') as name:
        top = pathlib.Path(name).resolve()
        pristine = Side('pristine', top / 'pristine')
        ours = Side('ours', top / 'ours')
        with release.obtained(tree.release, _local()) as wheel:
            _unpack(wheel, pristine.folder, whole.released_names(tree))
        _link(ours.folder)
        yield Sides(pristine, ours)


def _local() -> pathlib.Path | None:
    path = os.environ.get(release.LOCAL_WHEEL_VARIABLE)
    return pathlib.Path(path) if path else None


def _unpack(
    wheel: pathlib.Path, folder: pathlib.Path, names: whole.Names,
) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    (folder / 'etc').symlink_to(folder / names.data / 'data/etc')


def _link(folder: pathlib.Path) -> None:
    spec = importlib.util.find_spec('nova')
    assert spec is not None and spec.origin is not None
    folder.mkdir()
    (folder / 'nova').symlink_to(pathlib.Path(spec.origin).parent)
    data = pathlib.Path(sysconfig.get_path('data'))
    (folder / 'etc').symlink_to(data / 'etc')
