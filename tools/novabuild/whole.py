# SPDX-License-Identifier: Apache-2.0

"""A whole Nova: the released wheel with this tree laid over it."""

from dataclasses import dataclass
import pathlib
import posixpath
import zipfile

from novabuild import archive
from novabuild import errors
from novabuild import metadata
from novabuild import project
from novabuild import tree

Entries = dict[str, archive.Entry]

# Each of these describes the released wheel, not the one that is built;
# pbr.json, for one, says which commit of Nova the code is.
_NOT_KEPT = {'METADATA', 'RECORD', 'WHEEL', 'entry_points.txt', 'pbr.json'}


@dataclass(frozen=True)
class Names:
    """How the parts of a wheel are called."""

    distribution: str
    version: str

    @property
    def stem(self) -> str:
        return f'{self.distribution}-{self.version}'

    @property
    def wheel(self) -> str:
        return f'{self.stem}-py3-none-any.whl'

    @property
    def dist_info(self) -> str:
        return f'{self.stem}.dist-info'

    @property
    def data(self) -> str:
        return f'{self.stem}.data'


def names(ours: project.Project) -> Names:
    """Give the names in the wheel that is built."""
    return Names(ours.name, str(ours.version))


def released_names(ours: project.Project) -> Names:
    """Give the names in the wheel that is built from."""
    return Names(ours.name, str(ours.release.version))


def unpacked(wheel: pathlib.Path) -> Entries:
    """Read all files of a wheel, each by its path in it."""
    with zipfile.ZipFile(wheel) as archived:
        return {
            info.filename: archive.Entry(
                archived.read(info), bool(info.external_attr >> 16 & 0o100))
            for info in archived.infolist() if not info.is_dir()
        }


def entries(ours: project.Project, released: Entries) -> Entries:
    """Give every file of the whole Nova but RECORD, by its path.

    :param released: the files of the released wheel
    :raises BuildError: the tree and the release do not fit together
    """
    layer = tree.overlay(ours)
    result = _kept(ours, released) | layer | dist_info(ours, released)
    _check_packages(layer, released, result)
    return result


def dist_info(ours: project.Project, released: Entries) -> Entries:
    """Give the files of the ``.dist-info`` folder but RECORD, by path.

    :param released: the files of the released wheel
    :raises BuildError: the release is packed in an unknown way, or the
        outcome is not valid
    """
    old = _below(released, f'{released_names(ours).dist_info}/')
    try:
        description = old['METADATA'].data
        points = old['entry_points.txt'].data.decode()
    except KeyError as exc:
        raise errors.BuildError(
            f'The metadata of the released wheel has no {exc}: this build '
            'does not know how that release is packed.') from exc
    content = {k: v for k, v in old.items() if k not in _NOT_KEPT}
    content |= _licenses(ours, content)
    content |= {
        'METADATA': archive.Entry(metadata.merged(description, ours)),
        'WHEEL': archive.Entry(metadata.wheel_file()),
        'entry_points.txt': archive.Entry(
            metadata.entry_points(points, ours.entry_points)),
    }
    return {f'{names(ours).dist_info}/{k}': v for k, v in content.items()}


def _below(released: Entries, folder: str) -> Entries:
    return {
        name.removeprefix(folder): entry
        for name, entry in released.items() if name.startswith(folder)
    }


def _kept(ours: project.Project, released: Entries) -> Entries:
    """The release's own files, less those that the tree wants gone."""
    old, new = released_names(ours), names(ours)
    data = {
        f'{new.data}/{name}': entry
        for name, entry in _below(released, f'{old.data}/').items()
    }
    code = {
        name: entry for name, entry in released.items()
        if not name.startswith((f'{old.data}/', f'{old.dist_info}/'))
    }
    missing = sorted(set(ours.release.remove) - code.keys())
    if missing:
        raise errors.BuildError(
            '[nova_release] remove in setup.cfg names files that the release '
            f'does not have: {", ".join(missing)}. Take them off the list.')
    for name in ours.release.remove:
        del code[name]
    return code | data


def _licenses(ours: project.Project, content: Entries) -> Entries:
    added = {
        f'licenses/{name}': entry
        for name, entry in tree.read(ours.root, ours.license_files).items()
    }
    for name, entry in added.items():
        if name in content and content[name] != entry:
            raise errors.BuildError(
                f'The release has a {name} with another text, and its licence '
                'must stay as it is. Give the file of this tree another name.')
    return added


def _check_packages(
    layer: Entries, released: Entries, result: Entries,
) -> None:
    """Refuse what would make ``import nova`` mean the bare checkout.

    That is an ``__init__.py`` where the release has one; a folder of modules
    with no ``__init__.py`` at all is the opposite mistake.
    """
    for name in layer:
        init = posixpath.join(posixpath.dirname(name), '__init__.py')
        if name == init and name in released:
            raise errors.BuildError(
                f'{name} is part of the released Nova: with it in the tree, '
                '"import nova" would find this tree alone. Remove it.')
        if name.endswith('.py') and init not in result:
            raise errors.BuildError(
                f'{init} is missing, so {name} is in no package. Add it.')
