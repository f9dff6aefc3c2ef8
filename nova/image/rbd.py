# SPDX-License-Identifier: Apache-2.0

"""The handler of ``rbd://`` locations: images straight from Ceph.

A location of Glance's RBD store names a cluster, a pool, an image and a
snapshot. When the cluster is one that this host has a ceph.conf for, and the
location may be used, the privileged side (nova.privsep.rbd) is asked to
export that snapshot into a FIFO, which is read here, unprivileged.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import configparser
import contextlib
import dataclasses
import errno
import fcntl
import functools
import os
import re
import shutil
import signal
import tempfile
import threading
import time
from typing import Any
import urllib.parse
import uuid

from oslo_log import log as logging

import nova.conf
from nova.i18n import _
from nova.image import rbd_diff
from nova.image import transfer
import nova.privsep
import nova.privsep.rbd
import nova.privsep.rbd_errors

rbd_errors = nova.privsep.rbd_errors
CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)

#: What Ceph itself reads when it is given no other file.
_DEFAULT_CONF = '/etc/ceph/ceph.conf'

#: glance_store quotes each part of a location so that just these are left.
_QUOTED_PART = re.compile(r'(?:[\w.~-]|%[0-9a-fA-F]{2})+', re.ASCII)

#: Bytes that the FIFO holds; more than /proc/sys/fs/pipe-max-size, 1 MiB
#: unless it was changed, is not to be had unprivileged.
_PIPE_SIZE = 1024 * 1024

#: What ``rbd`` takes to fail after it has failed to connect, in seconds: its
#: own words are better than that no byte came.
_CONNECT_MARGIN = 1

#: How long an attempt that is over waits for the privileged side to end it,
#: in seconds.
_END_SECONDS = 1.0

#: Causes for which the exit status is not an errno.
_NO_ERRNO = (rbd_errors.Cause.BAD_CONF, rbd_errors.Cause.NOT_RUN,
             rbd_errors.Cause.NO_FSID, rbd_errors.Cause.SNAPSHOT_LOST)

_PREFIX = 'nova-rbd-'
_FIFO = 'stream'
#: Seconds after which a directory that nobody reads from is a leftover.
_STALE_SECONDS = 60


class ExportError(transfer.SourceError):
    """An export has failed.

    :ivar status: exit status of ``rbd``: an errno, or the negative number of
        the signal that killed it
    :ivar cause: one of nova.privsep.rbd_errors.Cause
    """

    def __init__(self, reason: str, status: int, cause: str) -> None:
        super().__init__(reason=reason)
        self.status = status
        self.cause = cause


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
            nova.privsep.rbd.check_name(
                field.name, urllib.parse.unquote(part, errors='strict'))
            for field, part in zip(dataclasses.fields(Location), parts)))
    except ValueError as exc:
        raise transfer.SourceError(
            reason=_('Its location cannot be used: %s') % exc) from exc


def find_cluster(fsid: str) -> Cluster:
    """Return the cluster that has this fsid.

    :raises transfer.SourceError: this host has no ceph.conf of it
    """
    known = []
    for conf in ceph_confs():
        try:
            found = read_fsid(conf)
        except (OSError, ValueError) as exc:
            known.append('%s: %s' % (conf, exc))
            continue
        if found == fsid.lower():
            return Cluster(found, conf)
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
        # Whoever opens it is told what is wrong with it.
        return 0
    try:
        return list(ceph_confs()).index(find_cluster(fsid).conf)
    except transfer.SourceError as exc:
        LOG.debug('A location is left out: %s', exc)
        return None


def read_fsid(conf: str) -> str:
    """Return the fsid that a ceph.conf gives for its cluster.

    :raises OSError: the file cannot be read
    :raises ValueError: it is not a ceph.conf, or has no fsid; the error
        quotes nothing of the file, which can have a key
    """
    # Ceph allows indented options, which configparser takes for more of the
    # value before.
    with open(conf, encoding='utf-8') as file:
        text = file.read().replace('\\\n', ' ')
    text = '\n'.join(line.strip() for line in text.splitlines())
    parser = configparser.ConfigParser(
        strict=False, interpolation=None, allow_no_value=True,
        inline_comment_prefixes=('#', ';'))
    try:
        parser.read_string(text, conf)
        fsid = (parser.get('global', 'fsid') or '').strip('"\'')
    except (configparser.NoSectionError, configparser.NoOptionError):
        raise ValueError(_('it has no fsid in [global]')) from None
    except configparser.Error:
        raise ValueError(_('it cannot be parsed')) from None
    try:
        return str(uuid.UUID(fsid))
    except ValueError:
        raise ValueError(_('its fsid is not a UUID')) from None


def ceph_confs() -> Sequence[str]:
    """Return the paths of the ceph.conf of each cluster of this host."""
    return (CONF.glance.rbd_ceph_conf or
            [CONF.libvirt.images_rbd_ceph_conf or _DEFAULT_CONF])


def ceph_user() -> str:
    """Return the Ceph client, without 'client.'; '' for Ceph's default."""
    return CONF.glance.rbd_user or CONF.libvirt.rbd_user or ''


def client_name() -> str:
    """Return the whole name of the Ceph client, for people."""
    return 'client.' + (ceph_user() or 'admin')


def check_allowed(location: Location, image_id: str) -> None:
    """Refuse a location that is not one of this image's own.

    :raises transfer.SourceError: saying why
    """
    # glance_store names the RBD image like the image. Whoever can set a
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
    # Holes are worth a richer stream only where there are any: the formats
    # other than raw are dense.
    sparse = image['disk_format'] == 'raw'
    with _slots(), _Export(
            location, cluster, 'export-diff' if sparse else 'export',
            verified) as export:
        if sparse:
            yield _SparseSource(export, location.snapshot)
        else:
            yield _DenseSource(export)


@functools.cache
def _slots() -> contextlib.AbstractContextManager[bool]:
    """Leave the privsep daemon a thread for the rest of Nova.

    An export occupies one as long as it lasts.
    """
    threads = nova.privsep.sys_admin_pctxt.conf.thread_pool_size
    return threading.BoundedSemaphore(max(1, threads - 1))


@functools.cache
def _remove_leftovers() -> None:
    """Remove the FIFOs of processes that were killed, once."""
    with os.scandir(tempfile.gettempdir()) as entries:
        found = [entry.path for entry in entries
                 if entry.name.startswith(_PREFIX)]
    for path in found:
        with contextlib.suppress(OSError):
            if _is_leftover(path):
                shutil.rmtree(path, ignore_errors=True)


def _is_leftover(directory: str) -> bool:
    status = os.lstat(directory)
    if (status.st_uid != os.geteuid() or
            time.time() - status.st_mtime < _STALE_SECONDS):
        return False
    try:
        os.close(os.open(
            os.path.join(directory, _FIFO),
            os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC))
    except OSError as exc:
        # Nobody reads it, or it was not even made.
        return exc.errno in (errno.ENXIO, errno.ENOENT)
    return False


class _Export:
    """The output of a privileged export, as a stream."""

    def __init__(
        self, location: Location, cluster: Cluster, command: str,
        verified: bool,
    ) -> None:
        self._arguments = {
            'command': command,
            'conf': cluster.conf,
            'user': ceph_user(),
            'pool': location.pool,
            'image': location.image,
            'snapshot': location.snapshot,
            'connect_timeout': CONF.glance.rbd_connect_timeout,
            'stall_timeout': CONF.glance.rbd_stall_timeout,
            'verified': verified,
        }
        connect = CONF.glance.rbd_connect_timeout + _CONNECT_MARGIN
        # Before the first byte and after the last one, the privileged side
        # runs rbd twice to look up the snapshot, and sends no data.
        lookup = 0 if verified else 2 * connect
        self._stall = CONF.glance.rbd_stall_timeout + lookup
        self._patience = max(self._stall, connect + lookup)
        self._began = self._ended = False
        self._failure: ExportError | str | None = _(
            'The export was interrupted')
        self._resources = contextlib.ExitStack()
        # Green under eventlet, as calls to the privsep daemon have to be.
        self._call = threading.Thread(
            target=self._run, name='image-rbd-export', daemon=True)

    def __enter__(self) -> '_Export':
        with self._resources as stack:
            try:
                _remove_leftovers()
                self._make_fifo(stack)
            except OSError as exc:
                raise transfer.SourceError(
                    reason=_('No FIFO can be made: %s') % exc) from exc
            try:
                self._call.start()
            except RuntimeError:
                os.close(self._writer)
                raise
            self._resources = stack.pop_all()
        return self

    def _make_fifo(self, stack: contextlib.ExitStack) -> None:
        self._directory = tempfile.mkdtemp(prefix=_PREFIX)
        stack.callback(self._wait)
        # Before that: a call that has not come to open it must fail at once.
        stack.callback(self._remove_fifo)
        self._fifo = os.path.join(self._directory, _FIFO)
        os.mkfifo(self._fifo, 0o600)
        flags = os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        self._reader = os.open(self._fifo, os.O_RDONLY | flags)
        # The privileged side ends rbd, and the call, when this is closed.
        stack.callback(os.close, self._reader)
        with contextlib.suppress(PermissionError):
            fcntl.fcntl(self._reader, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        select = transfer.native('select')
        self._poller = select.poll()
        self._poller.register(self._reader, select.POLLIN)
        self._interruption = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        stack.callback(os.close, self._interruption)
        self._poller.register(self._interruption, select.POLLIN)
        # As long as this is open the stream does not end, so that its end
        # means that the outcome is known.
        self._writer = os.open(self._fifo, os.O_WRONLY | flags)

    def __exit__(self, *exc_info: object) -> None:
        self._resources.close()

    def readinto(self, buffer: memoryview) -> int:
        """Read the next bytes; 0 at the end of a stream that is complete.

        :raises transfer.SourceError: the export failed, or stalled
        """
        ready = [fd for fd, _event in
                 self._poller.poll(self._patience * 1000)]
        if not ready:
            raise transfer.SourceError(
                reason=_('No byte came for %d seconds: Ceph is down or too '
                         'slow, see [glance] rbd_stall_timeout') %
                self._patience)
        if self._interruption in ready:
            raise transfer.SourceError(reason=_('It was interrupted'))
        if not self._began:
            self._began = True
            self._patience = self._stall
            # Both ends have it open: nothing is left for a crash to leave.
            self._remove_fifo()
        count = os.readv(self._reader, [buffer]) if buffer else 0
        if not count:
            self._ended = bool(buffer)
            self.finish()
        return count

    def interrupt(self) -> None:
        """End a readinto() that waits in another thread."""
        os.eventfd_write(self._interruption, 1)

    def finish(self) -> None:
        """Raise SourceError unless the export succeeded and was read in full.

        The outcome is known when the stream ends, so this does not wait for
        the privileged call, which a native thread cannot do under eventlet.
        """
        match self._failure:
            case ExportError() as error:
                raise ExportError(str(error), error.status, error.cause)
            case str() as reason:
                raise transfer.SourceError(reason=reason)
        if not self._ended:
            raise transfer.SourceError(
                reason=_('The export was not read to its end'))

    def _remove_fifo(self) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)

    def _wait(self) -> None:
        if not self._call.is_alive():
            return
        self._call.join(_END_SECONDS)
        if self._call.is_alive():
            # Queued in the daemon behind other calls, where it will find no
            # FIFO; or its rbd hangs in the kernel, where it cannot be killed;
            # or oslo.privsep has not noticed that the daemon has died.
            LOG.warning('The privsep daemon has not ended an export of image '
                        '%s that was given up.', self._arguments['image'])

    def _run(self) -> None:
        command = self._arguments['command']
        try:
            status, cause, said = nova.privsep.rbd.export(
                self._fifo, **self._arguments)
            self._failure = ExportError(
                describe('rbd %s' % command, status, cause, said),
                status, cause) if status or cause else None
        except Exception as exc:
            self._failure = _('The privileged export failed: %s') % exc
        finally:
            os.close(self._writer)


def describe(program: str, status: int, cause: str, said: str) -> str:
    """Return a sentence about a failed run of ``rbd`` or ``ceph``.

    :param program: the command, as the sentence names it
    :param status: its exit status
    :param cause: one of nova.privsep.rbd_errors.Cause
    :param said: its error messages, one per line
    """
    parts = [part for part in (explain(cause), *said.splitlines()) if part]
    if cause in _NO_ERRNO:
        return '; '.join(parts)
    failure = _('%(program)s ended with status %(status)d (%(meaning)s)') % {
        'program': program, 'status': status, 'meaning': _meaning(status)}
    return ': '.join(filter(None, [failure, '; '.join(parts)]))


def _meaning(status: int) -> str:
    return (os.strerror(status) if status >= 0
            else signal.strsignal(-status) or '-')


def explain(cause: str) -> str:
    """Return the text for one of nova.privsep.rbd_errors.Cause, or ''."""
    known = rbd_errors.Cause
    return {
        known.NO_KEYRING: _('no keyring was found'),
        known.BAD_KEYRING: _('the keyring cannot be parsed'),
        known.BAD_KEY: _('the key cannot be decoded'),
        known.NEW_KEY: _(
            'the key begins with Ag (type AES-256), and rbd on this host is '
            'too old for it, or the key is damaged: install Ceph 19.2.6, '
            '20.2.4 or newer, or make a key of the old type by "ceph auth '
            'rotate %s --key-type=aes"') % client_name(),
        known.REFUSED: _(
            'the monitors refuse %s: the keyring has no key of this client, '
            'or not the key that the cluster has') % client_name(),
        known.NO_MONITOR: _('mon host in ceph.conf yields no address'),
        known.NO_ANSWER: _('no monitor answered within %d seconds') %
        CONF.glance.rbd_connect_timeout,
        known.BAD_CONF: _('ceph.conf cannot be parsed'),
        known.NOT_RUN: _('rbd is not installed on this host, or cannot be '
                         'run'),
        known.TOO_LONG: _('it took too long and was killed'),
        known.READER_GONE: _('it was killed because the stream was closed'),
        known.STUCK: _('it hangs in the kernel and cannot be killed'),
        known.NO_FSID: _('its answer is not an fsid'),
        known.SNAPSHOT_LOST: _(
            'the exported snapshot was not found again in Ceph after the last '
            'byte, so the image may have been deleted during the export'),
    }.get(rbd_errors.Cause(cause), '')


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
