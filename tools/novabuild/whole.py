# SPDX-License-Identifier: Apache-2.0

"""A whole Nova: the released wheel with this tree laid over it."""

from collections.abc import Iterator
import contextlib
import io
import pathlib
import posixpath
import tempfile
import zipfile

from novabuild import archive
from novabuild import errors
from novabuild import metadata
from novabuild import project
from novabuild import release
from novabuild import tree

# These describe the released wheel only: pbr.json contains its git commit.
_NOT_KEPT = {'METADATA', 'RECORD', 'WHEEL', 'entry_points.txt', 'pbr.json'}


def stem(version: object) -> str:
    """Return the beginning of the names of a wheel and of its folders."""
    return f'nova-{version}'


def released(
    ours: project.Project, local: str | None = None,
) -> archive.Entries:
    """Get the released wheel and read its files.

    :param local: path of the wheel, if it is not to be downloaded
    :raises BuildError: there is no such wheel, or its SHA-256 differs
    """
    return unpacked(release.wheel(ours.release, local))


def unpacked(wheel: bytes) -> archive.Entries:
    """Read all files of a wheel."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as packed:
        return {
            info.filename: archive.Entry(
                packed.read(info), bool(info.external_attr >> 16 & 0o100))
            for info in packed.infolist() if not info.is_dir()
        }


def entries(
    ours: project.Project, released: archive.Entries,
) -> archive.Entries:
    """Return every file of the whole Nova but RECORD.

    :param released: the files of the released wheel
    :raises BuildError: the tree and the release do not fit together
    """
    old, new = stem(ours.release.version), stem(ours.version)
    layer = tree.overlay(ours.root)
    result = {
        name.replace(f'{old}.data/', f'{new}.data/', 1): entry
        for name, entry in released.items()
        if not name.startswith(f'{old}.dist-info/')
    } | layer | dist_info(ours, released)
    _check_packages(layer, released, result)
    return result


def dist_info(
    ours: project.Project, released: archive.Entries,
) -> archive.Entries:
    """Return the files of the ``.dist-info`` folder but RECORD.

    :param released: the files of the released wheel
    :raises BuildError: the release is packed in an unknown way
    :raises ExceptionGroup: the merged metadata are invalid
    """
    folder = f'{stem(ours.release.version)}.dist-info/'
    old = {
        name.removeprefix(folder): entry
        for name, entry in released.items() if name.startswith(folder)}
    if missing := {'METADATA', 'entry_points.txt'} - old.keys():
        raise errors.BuildError(
            f'The released wheel has no {missing} in {folder}: novabuild does '
            'not support the way in which that release is packed.')
    content = {k: v for k, v in old.items() if k not in _NOT_KEPT} | {
        'METADATA': archive.Entry(
            metadata.merged(old['METADATA'].data, ours)),
        'WHEEL': archive.Entry(metadata.WHEEL),
        'entry_points.txt': archive.Entry(metadata.entry_points(
            old['entry_points.txt'].data.decode(), ours)),
    }
    return {f'{stem(ours.version)}.dist-info/{k}': v
            for k, v in content.items()}


@contextlib.contextmanager
def importable(content: archive.Entries) -> Iterator[pathlib.Path]:
    """Write the files of a wheel to a folder, for Python to import them."""
    with tempfile.TemporaryDirectory(prefix='nova-') as name:
        folder = pathlib.Path(name).resolve()
        write(content, folder)
        # Nova looks for its configuration files beside its package.
        [data] = folder.glob('nova-*.data/data/etc')
        (folder / 'etc').symlink_to(data)
        yield folder


def write(content: archive.Entries, folder: pathlib.Path) -> None:
    """Write files below a folder."""
    for name, entry in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(entry.data)
        path.chmod(entry.mode)


def _check_packages(
    layer: archive.Entries, released: archive.Entries,
    result: archive.Entries,
) -> None:
    """Reject a tree in which ``import nova`` would find the bare checkout.

    That is one with an ``__init__.py`` that the release has as well. A folder
    of modules without any ``__init__.py`` is the opposite mistake.
    """
    for name in layer:
        init = posixpath.join(posixpath.dirname(name), '__init__.py')
        if name == init and name in released:
            raise errors.BuildError(
                f'{name} is part of the released Nova. With it in the tree, '
                '"import nova" would find this tree alone. Remove it.')
        if name.endswith('.py') and init not in result:
            raise errors.BuildError(
                f'{init} is missing, so {name} is in no package. Add it.')
