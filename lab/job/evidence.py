# SPDX-License-Identifier: Apache-2.0
"""Checks of logs and files on the compute host and of the services."""

import dataclasses
import hashlib
import os
import pathlib
import re
import typing as ty

from oslo_serialization import jsonutils
import psutil

from lab import errors
from lab import glance
from lab.job import region as lab_region
from lab import process

# Nova's other directories beside those of instances. The last one contains
# snapshots while Nova creates them.
_KEPT = {'_base', 'compute_nodes', 'locks', 'snapshots'}

# Suffixes of incomplete files.
_UNFINISHED = ('.part', '.partial', '.converted')

_FETCHED = re.compile(
    r'INFO nova\.image\.download .*Image (?P<image>\S+) fetched by '
    r'(?P<source>\w+): (?P<size>\d+) bytes, .* in (?P<seconds>[\d.]+) s, .*'
    r'verified by (?P<verified>\w+)')

# Published tempest tests look for it.
_EXPORT = re.compile(
    r'DEBUG nova\.\S+ .*Attempting to export RBD image: '
    r'\[pool_name: (?P<pool>\S+)\] \[image_uuid: (?P<image>\S+)\] '
    r'\[snapshot_name: (?P<snapshot>\S+)\] \[dst_path: (?P<path>\S+)\]')

_WARNING = re.compile(r' (WARNING nova\.image\.\S+ .*)')


def require(condition: object, message: str) -> None:
    """:raises LabError: with the message, unless the condition holds"""
    if not condition:
        raise errors.LabError(message)


@dataclasses.dataclass(frozen=True)
class Fetched:
    """The lines of the compute log about a downloaded image."""

    image: str
    source: str
    size: str
    seconds: str
    verified: str


class Evidence:
    """Looks at the host, its log, and those of the services.

    What is said of the log is of the part since begin().
    """

    def __init__(self, region: lab_region.Region) -> None:
        self._region = region
        self._begin = 0

    @property
    def _log(self) -> pathlib.Path:
        return self._region.compute.log

    @property
    def _instances(self) -> pathlib.Path:
        return self._region.host.instances

    def begin(self) -> None:
        """Look at nothing of the log that is there now."""
        self._begin = self._log.stat().st_size

    def lines(self) -> list[str]:
        """The lines of the compute log."""
        with open(self._log, 'rb') as file:
            file.seek(self._begin)
            return file.read().decode('utf-8', 'replace').splitlines()

    def _found(self, pattern: re.Pattern[str]) -> list[re.Match[str]]:
        return [match for line in self.lines()
                if (match := pattern.search(line))]

    def fetched(self) -> list[Fetched]:
        """The images that were fetched."""
        return [Fetched(**match.groupdict())
                for match in self._found(_FETCHED)]

    def exports(self) -> list[dict[str, str]]:
        """Return pool, image, snapshot and path of each export."""
        return [match.groupdict() for match in self._found(_EXPORT)]

    def warnings(self) -> list[str]:
        """The warnings of Nova's image service."""
        return [match[1] for match in self._found(_WARNING)]

    def said(self, text: str) -> bool:
        """Return whether a line of the compute log contains this text."""
        return any(text in line for line in self.lines())

    def errors(self) -> str:
        """The last errors in the compute log, for messages."""
        found = [line for line in self.lines() if ' ERROR ' in line]
        return '\n'.join(found[-20:])

    def require_fetched(self, image: ty.Any, source: str,
                        verified: str) -> str:
        """The image was fetched, it alone, once, and is in the cache.

        :param image: as Glance shows it
        :param source: rbd or http
        :param verified: what it was verified by
        :returns: what was seen
        :raises LabError: it is not so
        """
        found = self.fetched()
        require(
            [(one.image, one.source, int(one.size), one.verified)
             for one in found] ==
            [(image['id'], source, image['size'], verified)],
            f'The compute log should say that image {image["id"]} was '
            f'fetched by {source}, {image["size"]} bytes, verified by '
            f'{verified}. It says: {found}')
        self._require_downloads(image, int(source == 'http'))
        self._require_same(image)
        return (f'{image["size"]} bytes by {source} in {found[0].seconds} s, '
                f'verified by {verified}; Glance served its file '
                f'{"once" if source == "http" else "never"}')

    def require_fetched_from_ceph(self, image: ty.Any,
                                  verified: str) -> str:
        """Call require_fetched() for an rbd download without warnings."""
        seen = self.require_fetched(image, 'rbd', verified)
        self._require_export(image)
        require(not self.warnings(),
                f'There should be no warning; there is: {self.warnings()}')
        return seen

    def _require_export(self, image: ty.Any) -> None:
        """The published line of the log is there, once, for this image."""
        found = self.exports()
        require(
            [(one['pool'], one['image'], one['snapshot'])
             for one in found] == [(glance.POOL, image['id'], 'snap')],
            f'The compute log should tell of one export, of image '
            f'{image["id"]}; it tells of {found}')
        require(found[0]['path'].startswith(
            str(self.cached(image['id']))),
            f'It should go to the image cache, not to {found[0]["path"]}')

    def require_cache_hit(self, image: ty.Any) -> str:
        """Nothing was fetched, and this image never over HTTP.

        :returns: what was seen
        :raises LabError: it is not so
        """
        require(not self.fetched() and not self.exports(),
                f'Nothing should be fetched; the compute log has '
                f'{self.fetched()} and {self.exports()}')
        self._require_downloads(image, 0)
        return 'no export; Glance served its file never'

    def require_holes(self, image: ty.Any) -> str:
        """The file in the cache takes less of the disk than its size.

        :returns: what was seen
        :raises LabError: it is not so
        """
        taken = self.cached(image['id']).stat().st_blocks * 512
        require(taken < image['size'],
                f'The image has holes, but takes {taken} of {image["size"]} '
                f'bytes in the cache')
        return f'{taken} bytes of the disk'

    def _require_downloads(self, image: ty.Any, count: int) -> None:
        seen = self._region.cloud.glance.downloads(image['id'])
        require(seen == count,
                f'Glance should have had {count} requests for the file of '
                f'image {image["id"]}; its log has {seen}')

    def _require_same(self, image: ty.Any) -> None:
        path = self.cached(image['id'])
        require(path.exists(), f'{path} should be there')
        with open(path, 'rb') as file:
            digest = hashlib.file_digest(file, image['os_hash_algo'])
        require(digest.hexdigest() == image['os_hash_value'],
                f'{path} is not what Glance recorded')

    def cached(self, image_id: str) -> pathlib.Path:
        """Return the path of an image in the image cache."""
        name = hashlib.sha1(image_id.encode(), usedforsecurity=False)
        return self._instances / '_base' / name.hexdigest()

    def require_refused(self, image: ty.Any) -> None:
        """An image was tried by all ways, and nothing of it is kept.

        :raises LabError: it is not so
        """
        self._require_export(image)
        self._require_downloads(image, 1)
        self._require_nothing_cached(image)

    def require_not_fetched(self, image: ty.Any) -> None:
        """Require that an image was not exported, and is not in the cache.

        :raises LabError: the image was exported, or is in the cache
        """
        require(not self.exports(),
                f'Nothing should be exported; the compute log has '
                f'{self.exports()}')
        self._require_nothing_cached(image)

    def _require_nothing_cached(self, image: ty.Any) -> None:
        require(not self.fetched(),
                f'No image should be used; the compute log has '
                f'{self.fetched()}')
        name = self.cached(image['id']).name
        found = [entry for entry in os.listdir(self._instances / '_base')
                 if name in entry]
        require(not found, f'Of image {image["id"]}, nothing should be in '
                           f'the cache; there is {found}')

    def disk(self, server_id: str) -> dict[str, ty.Any]:
        """Return the output of qemu-img for the root disk of a server."""
        # Its QEMU has locked it.
        return jsonutils.loads(process.run([
            'qemu-img', 'info', '--force-share', '--output', 'json',
            self._instances / server_id / 'disk']))

    def require_overlay(self, server_id: str, image_id: str) -> str:
        """A root disk is a qcow2 on the image in the cache.

        :returns: what was seen
        :raises LabError: it is not so
        """
        disk = self.disk(server_id)
        base = self.cached(image_id)
        seen = disk['format'], disk.get('backing-filename')
        require(seen == ('qcow2', str(base)),
                f'The disk should be a qcow2 on {base}; it is {seen}')
        return f'qcow2 overlay on _base/{base.name[:8]}...'

    def require_raw(self, server_id: str) -> str:
        """A root disk is a raw file of its own.

        :returns: what was seen
        :raises LabError: it is not so
        """
        disk = self.disk(server_id)
        seen = disk['format'], disk.get('backing-filename')
        require(seen == ('raw', None),
                f'The disk should be a raw file of its own; it is {seen}')
        return 'a raw file of its own'

    def compute_user(self) -> str:
        """The name of the user that nova-compute runs as."""
        [pid] = [one.pid for one in map(
            psutil.Process, self._region.host.pids(
                str(self._region.host.python.parent / 'nova-compute')))]
        return psutil.Process(pid).username()

    def leftovers(self) -> list[str]:
        """Return leftovers after all servers and images were deleted."""
        return [
            *(f'domain {name}' for name in self._region.libvirt.virsh(
                'list', '--all', '--name').split()),
            *(f'instance directory {name}' for name in sorted(
                set(os.listdir(self._instances)) - _KEPT)),
            *(f'snapshot {path}' for path in
              self._instances.glob('snapshots/*')),
            *(f'unfinished file {path}' for path in
              self._instances.rglob('*') if path.suffix in _UNFINISHED),
            *(f'socket {path}' for path in
              self._region.host.directory.glob('tmp/nova-rbd-*')),
            *(f'RBD image {name}' for name in self._region.cloud.ceph.rbd(
                'ls', '--pool', glance.POOL).split()),
            *(f'process {pid}, rbd' for pid in self._region.host.pids('rbd')),
        ]
