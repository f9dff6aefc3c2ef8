# SPDX-License-Identifier: Apache-2.0

"""Opens images in Ceph as sources: the export of a snapshot as a stream."""

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import errno
import functools
from typing import Any

from oslo_log import log as logging
from oslo_serialization import jsonutils

import nova.conf
from nova.i18n import _
from nova.image import compat
from nova.image import destination
from nova.image.rbd import cluster
from nova.image.rbd import diff
from nova.image.rbd import location
from nova.image.rbd import program
from nova.image import transfer

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)
_warn_once = functools.cache(LOG.warning)


@contextlib.contextmanager
def open_source(image: Mapping[str, Any], url: str, path: str, *,
                verified: bool) -> Iterator[transfer.Source]:
    """Open an image at its RBD location: the handler of the scheme 'rbd'.

    :param image: the image as nova.image.glance shows it
    :param url: its location
    :param path: the destination, for the log
    :param verified: whether the caller verifies the bytes; if not, the source
        fails unless the snapshot still exists at the end of the export
    :raises transfer.SourceError: the location cannot be used
    :raises oslo_config.cfg.Error: an option has no valid value
    """
    for text in nova.conf.glance.timeouts_out_of_range(CONF):
        _warn_once(text)
    names = location.parse(url)
    location.check_allowed(names, image['id'])
    found = cluster.find_cluster(names.fsid)
    # A published tempest plugin looks for the beginning of this line.
    LOG.debug('Attempting to export RBD image: [pool_name: %s] '
              '[image_uuid: %s] [snapshot_name: %s] [dst_path: %s]',
              names.pool, names.image, names.snapshot, path)
    LOG.debug('Exporting image %s from the Ceph cluster of %s',
              names.image, found.conf)
    # Only raw images have holes; the other formats are dense.
    sparse = image['disk_format'] == 'raw'
    if sparse:
        _check_room(found, names, image['size'], path)
    lookup = () if verified else ('rbd info', 'rbd snap ls')
    try:
        with program.Run(
                found.number, *lookup,
                'rbd export-diff' if sparse else 'rbd export', *lookup,
                pool=names.pool, image=names.image,
                snapshot=names.snapshot) as run:
            export = _Export(run, names.snapshot, verified)
            yield _SparseSource(export, names.snapshot) if sparse else export
    except transfer.SourceError as exc:
        if program.is_outage(exc):
            cluster.leave_out(found)
        raise


def data_pool(url: str) -> str | None:
    """Return the data pool of an image, None if it has no separate one.

    :raises transfer.SourceError: the image cannot be opened
    """
    names = location.parse(url)
    found = cluster.find_cluster(names.fsid)
    return _ask(found, names, 'rbd info').get('data_pool')


def _ask(found: cluster.Cluster, names: location.Location,
         command: str) -> dict[str, Any]:
    answer = program.run(found.number, command, pool=names.pool,
                         image=names.image, snapshot=names.snapshot)
    with contextlib.suppress(ValueError):
        if isinstance(result := jsonutils.loads(answer), dict):
            return result
    raise transfer.SourceError(_('%s did not print JSON') % command)


def _check_room(found: cluster.Cluster, names: location.Location,
                size: int | None, path: str) -> None:
    """Check that the filesystem has room for the data of a sparse image.

    Ceph knows the amount of data without a search if the image has the feature
    fast-diff, as by default. It counts whole objects.

    :raises nova.image.destination.DestinationError: it has not
    """
    room = compat.in_native_thread(destination.room)(path)
    if room >= (size or 0):
        return
    info = _ask(found, names, 'rbd info')
    if 'fast-diff' not in info.get('features', ()) or info.get('flags'):
        return
    needed = sum(
        each['used_size']
        for each in _ask(found, names, 'rbd du').get('images', ())
        if each.get('snapshot') == names.snapshot)
    destination.require(needed, room, path)


class _Export:
    """An export as a stream; of ``rbd export``, the bytes of the image.

    Ceph reads missing objects as zeros, so an export succeeds even if the
    image is deleted meanwhile. Ceph never reuses IDs: if the image and the
    snapshot have the same IDs before and after the export, they existed
    throughout. An export that the caller does not verify makes this check.
    """

    size = None

    def __init__(self, run: program.Run, snapshot: str,
                 verified: bool) -> None:
        self._run = run
        self._snapshot = snapshot
        self._look_up = not verified
        self._ids: tuple[str, int] | None = None
        self._began = self._ended = False
        self.interrupt = run.interrupt

    def extents(self) -> Iterator[tuple[int, int | None]]:
        """Yield the only extent."""
        yield 0, None

    def readinto(self, buffer: memoryview) -> int:
        """Read the next bytes; 0 at the end of a complete stream.

        :raises transfer.SourceError: the export failed or stalled
        """
        if not buffer:
            return 0
        if not self._began:
            if self._look_up:
                self._ids = self._find_ids()
            self._run.begin()
        count = self._run.readinto(
            buffer,
            nova.conf.glance.stall_timeout(CONF) if self._began else 0)
        self._began = True
        if not count:
            if self._look_up and (
                    self._ids is None or self._ids != self._find_ids()):
                raise transfer.SourceError(_(
                    'The snapshot was not found in Ceph after the export, so '
                    'the image may have been deleted during the export'))
            self._ended = True
        return count

    def finish(self) -> None:
        """Raise SourceError unless the export was read to the end."""
        if not self._ended:
            raise transfer.SourceError(_('The export was not read to the end'))

    def _find_ids(self) -> tuple[str, int] | None:
        """Return the IDs of the image and its snapshot, if they exist."""
        try:
            info = jsonutils.loads(self._run.answer())
            [number] = [each['id']
                        for each in jsonutils.loads(self._run.answer())
                        if each['name'] == self._snapshot]
            # In every format, this prefix contains the ID of the image.
            return info['block_name_prefix'], number
        except program.RunError as exc:
            if exc.status == errno.ENOENT and self._began:
                return None
            raise
        except (KeyError, TypeError, ValueError):
            return None


class _SparseSource(diff.Decoder):
    """The allocated extents, as ``rbd export-diff`` sends them."""

    def __init__(self, export: _Export, snapshot: str) -> None:
        super().__init__(export.readinto, snapshot)
        self.finish = export.finish
        self.interrupt = export.interrupt
