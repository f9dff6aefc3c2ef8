# SPDX-License-Identifier: Apache-2.0

"""The handler of ``rbd://`` locations: images straight from Ceph.

A location of Glance's RBD store names a cluster, a pool, an image and a
snapshot. If this host is a client of that cluster and the location may be
used, Nova reads an export of the snapshot, which the privileged side runs.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import dataclasses
import errno
import math
import re
import time
from typing import Any
from typing import Self
import urllib.parse
import uuid

from oslo_log import log as logging
from oslo_serialization import jsonutils

import nova.conf
from nova.i18n import _
from nova.image import compat
from nova.image.rbd import diff as rbd_diff
from nova.image.rbd import program as rbd_run
from nova.image import transfer

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)

#: glance_store quotes each part of a location so that just these are left.
_QUOTED_PART = re.compile(r'(?:[\w.~-]|%[0-9a-fA-F]{2})+', re.ASCII)
_LONGEST_NAME = 255

#: The fsid that ceph-conf prints for a file without one.
_NO_FSID = uuid.UUID(int=0)

#: How often Nova asks a cluster for its fsid if the reason for a failure is
#: missing: ceph can exit before it has written its log.
_ATTEMPTS = 3

#: Seconds for which a cluster is left out that did not tell its fsid.
_LEFT_OUT_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class Location:
    """Where Glance's RBD store keeps an image."""
    fsid: str
    pool: str
    image: str
    snapshot: str


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A Ceph cluster that this host is a client of."""
    fsid: str
    conf: str
    #: Which of the configured clusters it is.
    number: int


#: path of a ceph.conf -> fsid or error, and time.monotonic() until which it
#: is used
_known_fsids: dict[str, tuple[str | transfer.SourceError, float]] = {}


def parse(url: str) -> Location:
    """Parse ``rbd://FSID/POOL/IMAGE/SNAPSHOT``, as glance_store makes it.

    Strict: split first, decoded then, and each part held to a plain name.

    :raises transfer.SourceError: the URL is not of that form
    """
    scheme, _separator, rest = url.partition('://')
    parts = rest.split('/')
    if (scheme != 'rbd' or len(parts) != 4 or
            not all(_QUOTED_PART.fullmatch(part) for part in parts)):
        raise transfer.SourceError(
            reason=_('Its location is not of the form '
                     'rbd://FSID/POOL/IMAGE/SNAPSHOT'))
    try:
        return Location(*(
            check_name(urllib.parse.unquote(part, errors='strict'))
            for part in parts))
    except ValueError as exc:
        raise transfer.SourceError(
            reason=_('Its location cannot be used: %s') % exc) from exc


def check_name(value: str) -> str:
    """Return value if it is a plain name, safe to give to ``rbd``.

    ``rbd`` finds a pool, a namespace and a snapshot in the name of an image,
    and these override the other options.

    :raises ValueError: value has ``/`` or ``@``, looks like an option, or is
        empty, longer than 255 characters or not printable
    """
    if (not 0 < len(value) <= _LONGEST_NAME or value.startswith('-') or
            {'/', '@'} & set(value) or not value.isprintable()):
        raise ValueError(_('%.60r is not a plain name') % value)
    return value


def find_cluster(fsid: str) -> Cluster:
    """Return the cluster that has this fsid.

    :raises transfer.SourceError: this host is not known to be its client
    """
    known = []
    for number, conf in enumerate(nova.conf.glance.ceph_confs(CONF)):
        try:
            found = read_fsid(number)
        except transfer.SourceError as exc:
            known.append('%s: %s' % (conf, exc))
            continue
        if found == fsid.lower():
            return Cluster(found, conf, number)
        known.append('%s: %s' % (conf, found))
    raise transfer.SourceError(
        reason=_('It is in the Ceph cluster %(fsid)s, which is not in '
                 '[glance] rbd_ceph_conf of this host (%(known)s)') %
        {'fsid': fsid, 'known': '; '.join(known)})


def rank(url: str) -> int | None:
    """Tell which of ``[glance] rbd_ceph_conf`` a location's cluster is in.

    :returns: its place, counted from 0; None: the cluster is not there
    """
    try:
        fsid = parse(url).fsid
    except transfer.SourceError:
        # open_source() tells what is wrong with it.
        return 0
    try:
        return find_cluster(fsid).number
    except transfer.SourceError as exc:
        LOG.debug('A location is left out: %s', exc)
        return None


def read_fsid(number: int) -> str:
    """Return the fsid of a cluster: from its ceph.conf, or from itself.

    The answer is remembered. If a cluster fails to answer, it is not asked
    again for a minute.

    :param number: which of the configured clusters
    :raises transfer.SourceError: it cannot be found out
    """
    conf = nova.conf.glance.ceph_confs(CONF)[number]
    known, until = _known_fsids.get(conf, ('', -math.inf))
    if time.monotonic() >= until:
        try:
            known = read_conf(number) or ask_cluster(number)
            until = math.inf
        except rbd_run.CallError:
            raise
        except transfer.SourceError as exc:
            known, until = exc, time.monotonic() + _LEFT_OUT_SECONDS
        _known_fsids[conf] = known, until
    if isinstance(known, transfer.SourceError):
        raise transfer.SourceError(reason=str(known))
    return known


def read_conf(number: int) -> str:
    """Have Ceph read the fsid in a ceph.conf.

    :returns: '' if there is none
    :raises rbd_run.RunError: the file cannot be used
    :raises transfer.SourceError: the answer is not a UUID, or there is none
    """
    fsid = _run_for_fsid(number, 'ceph-conf --show-config-value=fsid')
    return str(fsid) if fsid != _NO_FSID else ''


def ask_cluster(number: int) -> str:
    """Ask a cluster for its fsid.

    :raises rbd_run.RunError: the cluster does not answer
    :raises transfer.SourceError: the answer is not a UUID, or there is none
    """
    attempts = _ATTEMPTS
    while True:
        attempts -= 1
        try:
            return str(_run_for_fsid(number, 'ceph fsid'))
        except rbd_run.RunError as exc:
            if not attempts or exc.cause is not rbd_run.Cause.UNKNOWN:
                raise


def _run_for_fsid(number: int, command: str) -> uuid.UUID:
    answer = run(number, command).decode('ascii', 'replace').strip()
    try:
        return uuid.UUID(answer)
    except ValueError:
        raise transfer.SourceError(
            reason=_('%s did not print an fsid') % command.partition(' ')[0]
        ) from None


def run(number: int, command: str, **names: str) -> bytes:
    """Run a program through the privileged side; return its output.

    :param number: which of the configured clusters
    :raises transfer.SourceError: it fails
    """
    program = rbd_run.Run(number, command, **names)
    program.__enter__()
    # By the native thread, since a green thread can be killed while it waits.
    return compat.in_native_thread(program.answer_and_close)()


def check_allowed(location: Location, image_id: str) -> None:
    """Refuse a location that is not one of this image's own.

    :raises transfer.SourceError: saying why
    """
    # glance_store names the RBD image like the image. A user who can set a
    # location must not get at other data by this host's rights in Ceph.
    if location.image != image_id:
        raise transfer.SourceError(
            reason=_('Its location is of the RBD image %s, not of one that '
                     'has its id') % location.image)
    if CONF.glance.rbd_pool and location.pool not in CONF.glance.rbd_pool:
        raise transfer.SourceError(
            reason=_('Its pool %s is not in [glance] rbd_pool') %
            location.pool)


@contextlib.contextmanager
def open_source(
    image: Mapping[str, Any], url: str, path: str, *, verified: bool,
) -> Iterator[transfer.Source]:
    """Open an image at its RBD location: the handler of the scheme 'rbd'.

    :param image: the image as nova.image.glance shows it
    :param url: its location
    :param path: where the image goes, for the log
    :param verified: whether the caller verifies the bytes; if not, finish()
        fails unless the snapshot still exists after its last byte
    :raises transfer.SourceError: the location cannot be used
    """
    location = parse(url)
    check_allowed(location, image['id'])
    cluster = find_cluster(location.fsid)
    # A published tempest plugin looks for the beginning of this line.
    LOG.debug('Attempting to export RBD image: [pool_name: %s] '
              '[image_uuid: %s] [snapshot_name: %s] [dst_path: %s]',
              location.pool, location.image, location.snapshot, path)
    LOG.debug('Image %s is exported from the Ceph cluster of %s',
              location.image, cluster.conf)
    # Only raw images have holes; the other formats are dense.
    sparse = image['disk_format'] == 'raw'
    with _Export(location, cluster.number,
                 'rbd export-diff' if sparse else 'rbd export',
                 verified) as export:
        if sparse:
            yield _SparseSource(export, location.snapshot)
        else:
            yield _DenseSource(export)


def data_pool(url: str) -> str | None:
    """Return the pool that has the data of an image, if it is another one.

    :raises transfer.SourceError: the image cannot be opened
    """
    location = parse(url)
    answer = run(find_cluster(location.fsid).number, 'rbd info',
                 pool=location.pool, image=location.image,
                 snapshot=location.snapshot)
    try:
        return jsonutils.loads(answer).get('data_pool')
    except (AttributeError, ValueError) as exc:
        raise transfer.SourceError(
            reason=_('rbd info did not print JSON')) from exc


class _Export:
    """An export of a snapshot, as a stream.

    Ceph reads missing objects as zeros, so an export succeeds even if the
    image is deleted during it. Ceph never reuses ids: if the image and the
    snapshot have the same ids before and after the export, they have existed
    all the time. An export that the caller does not verify makes this check.
    """

    def __init__(self, location: Location, cluster: int, command: str,
                 verified: bool) -> None:
        self._snapshot = location.snapshot
        self._look_up = not verified
        lookup = ('rbd info', 'rbd snap ls') if self._look_up else ()
        self._run = rbd_run.Run(
            cluster, *lookup, command, *lookup, pool=location.pool,
            image=location.image, snapshot=location.snapshot)
        self._ids: tuple[str, int] | None = None
        self._began = self._ended = False
        #: End a read that waits in another thread.
        self.interrupt = self._run.interrupt

    def __enter__(self) -> Self:
        self._run.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._run.__exit__(*exc_info)

    def readinto(self, buffer: memoryview) -> int:
        """Read the next bytes; 0 at the end of a stream that is complete.

        :raises transfer.SourceError: the export failed, or stalled
        """
        if not buffer:
            return 0
        if not self._began:
            if self._look_up:
                self._ids = self._find_ids()
            self._run.begin()
            count = self._run.readinto(buffer)
            self._began = True
        else:
            count = self._run.readinto(buffer, CONF.glance.rbd_stall_timeout)
        if not count:
            if self._look_up and (
                    self._ids is None or self._ids != self._find_ids()):
                raise transfer.SourceError(reason=_(
                    'the exported snapshot was not found again in Ceph after '
                    'the last byte, so the image may have been deleted during '
                    'the export'))
            self._ended = True
        return count

    def finish(self) -> None:
        """Raise SourceError unless the export was read to its end."""
        if not self._ended:
            raise transfer.SourceError(
                reason=_('The export was not read to its end'))

    def _find_ids(self) -> tuple[str, int] | None:
        """Return the ids of the image and of its snapshot, if they exist."""
        try:
            info = jsonutils.loads(self._run.answer())
            [number] = [each['id']
                        for each in jsonutils.loads(self._run.answer())
                        if each['name'] == self._snapshot]
            # This prefix contains the id of the image, in every format.
            return info['block_name_prefix'], number
        except rbd_run.RunError as exc:
            if exc.status == errno.ENOENT and self._began:
                return None
            raise
        except (KeyError, TypeError, ValueError):
            return None


class _DenseSource:
    """``rbd export``: all bytes of the image, zeros written out."""

    size = None

    def __init__(self, export: _Export) -> None:
        self.readinto = export.readinto
        self.finish = export.finish
        self.interrupt = export.interrupt

    def extents(self) -> Iterator[tuple[int, int | None]]:
        """Yield the one extent there is."""
        yield 0, None


class _SparseSource(rbd_diff.Decoder):
    """``rbd export-diff`` from nothing: the allocated extents."""

    def __init__(self, export: _Export, snapshot: str) -> None:
        super().__init__(export.readinto, snapshot)
        self.finish = export.finish
        self.interrupt = export.interrupt
