# SPDX-License-Identifier: Apache-2.0

"""Fetches an image as nova-compute does, and tells what came of it."""

from collections.abc import Iterator
import contextlib
import dataclasses
import os

from oslo_utils import fileutils

import nova.conf
from nova import context as nova_context
from nova import exception
from nova.i18n import _
from nova.image.command import errors
from nova.image.command import host
from nova.image import glance
from nova.image import observe
from nova.image import transfer
import nova.privsep
import nova.privsep.path
from nova import utils
from nova.virt.libvirt import imagecache
from nova.virt.libvirt import utils as libvirt_utils

CONF = nova.conf.CONF

#: What the libvirt driver adds to the name of a file in the cache that is not
#: complete yet.
_UNFINISHED = ('.part', '.converted')

#: Of files that others, QEMU among them, are to read: what services have.
_UMASK = 0o022


@dataclasses.dataclass(frozen=True)
class Attempt:
    """A source that could not deliver the image."""
    source: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a fetch, as --json shows it."""
    image_id: str
    path: str
    #: 'rbd', 'http', or 'cache' when the image was there already.
    source: str
    #: What came before, and failed.
    failed: tuple[Attempt, ...] = ()
    verified_by: str | None = None
    #: Bytes of the image, and those written; the rest of it is holes.
    bytes: int | None = None
    written: int | None = None
    seconds: float | None = None
    #: MiB/s of the image.
    rate: float | None = None
    #: Whether Nova inspected the format; None: the image was in the cache.
    inspected: bool | None = None


class Recorder(observe.Observer):
    """Keeps what happens, and hands it on to what shows it."""

    def __init__(
        self, display: observe.Observer, image_id: str, source: str,
    ) -> None:
        self._display = display
        self._image_id = image_id
        self._source = source
        self.failed: list[Attempt] = []
        self._success: tuple[str, transfer.Report, str] | None = None

    def begins(self, source: str, size: int | None) -> None:
        if self._source == 'rbd' and source == 'http':
            raise self._no_rbd()
        self._display.begins(source, size)

    def _no_rbd(self) -> errors.CommandError:
        if self.failed:
            return errors.CommandError(
                _('Image %(image)s could not be fetched by rbd: %(reason)s') %
                {'image': self._image_id, 'reason': self.failed[-1].reason})
        return errors.CommandError(
            _('Glance tells no rbd location of image %(image)s: see '
              'nova-image-fetch --check %(image)s') %
            {'image': self._image_id})

    def moves(self, done: int, size: int | None) -> None:
        self._display.moves(done, size)

    def fails(self, source: str, reason: str) -> None:
        self.failed.append(Attempt(source, host.plain(reason)))
        # The last word is the error's, where nothing else is tried.
        if self._source != 'rbd':
            self._display.fails(source, host.plain(reason))

    def ends(
        self, source: str, report: transfer.Report, verified: str,
    ) -> None:
        self._success = (source, report, verified)
        self._display.ends(source, report, verified)

    def outcome(self, path: str, inspected: bool) -> Outcome:
        """Return the outcome; without a success, it was in the cache."""
        if self._success is None:
            return Outcome(self._image_id, path, 'cache')
        source, report, verified = self._success
        return Outcome(
            self._image_id, path, source, tuple(self.failed), verified,
            report.size, report.written, round(report.seconds, 3),
            round(report.size / 1024 ** 2 / report.seconds, 1), inspected)


def choose_source(source: str) -> None:
    """Have images come by 'rbd', by 'http', or as nova.conf has it ('auto').

    'rbd' also where nova.conf does not ask for it yet.
    """
    if source == 'auto':
        return
    schemes = ['rbd'] if source == 'rbd' else []
    CONF.set_override('allowed_direct_url_schemes', schemes, 'glance')
    CONF.set_override('enable_rbd_download', False, 'glance')


def start_privileged_side() -> None:
    """Start the privsep daemon, if it will be needed.

    In nova-compute it runs already; the time it takes to start is not the
    download's. What keeps it from starting is found out by the download.

    :raises nova.exception.InvalidConfiguration: see glance.active_handlers()
    """
    if glance.active_handlers():
        with contextlib.suppress(Exception):
            nova.privsep.sys_admin_pctxt.start()


def check_path(path: str) -> str:
    """Return the absolute path of a file that can be made.

    :raises CommandError: it exists, or cannot be made there
    """
    path = os.path.abspath(path)
    directory = os.path.dirname(path)
    if os.path.lexists(path):
        raise _exists(path)
    if not os.path.isdir(directory):
        problem = _('The directory %s does not exist.') % directory
    elif not os.access(directory, os.W_OK | os.X_OK):
        problem = _('%(user)s, as whom this runs, cannot write to '
                    '%(directory)s. Choose another directory.') % {
            'user': host.user_name(), 'directory': directory}
    else:
        return path
    raise errors.CommandError(problem, errors.Status.HOST)


def _exists(path: str) -> errors.CommandError:
    return errors.CommandError(
        _('%s exists already. Remove it, or choose another path.') % path,
        errors.Status.HOST)


def to_path(
    context: nova_context.RequestContext, image_id: str, path: str,
    recorder: Recorder,
) -> Outcome:
    """Fetch an image to a new file, outside of the cache.

    This does not inspect the format, as the libvirt driver does before it
    uses an image: the inspection needs qemu-img, and skips kernels and
    ramdisks.

    :param path: of check_path()
    :raises CommandError: the image cannot be fetched, or another process has
        created a file at path, which stays there
    """
    with _sentences(image_id), observe.watched_by(recorder):
        try:
            glance.get_default_image_service().download(
                context, image_id, dst_path=path, replace=False)
        except FileExistsError as exc:
            raise _exists(path) from exc
    return recorder.outcome(path, inspected=False)


def to_cache(
    context: nova_context.RequestContext, image_id: str, recorder: Recorder,
) -> Outcome:
    """Put an image into the cache of this host, unless it is there.

    As the libvirt driver does for a root disk: the same file, under the same
    lock, with the same inspection and, if configured, conversion to raw.

    :raises CommandError: it cannot be had, or it cannot be written as
        nova-compute would
    """
    check_cache_owner()
    name = imagecache.get_cache_fname(image_id)
    directory = cache_directory()
    path = os.path.join(directory, name)

    # The lock is that of nova.virt.libvirt.imagebackend.
    @utils.synchronized(name, external=True,
                        lock_path=os.path.join(CONF.instances_path, 'locks'))
    def fill() -> None:
        if os.path.exists(path):
            # What is used stays: the cache manager goes by its age.
            nova.privsep.path.utime(path)
            return
        with _nothing_unfinished(path):
            libvirt_utils.fetch_image(context, path, image_id)

    os.umask(_UMASK)
    with _sentences(image_id), observe.watched_by(recorder):
        fileutils.ensure_tree(directory)
        fill()
    return recorder.outcome(
        path, not CONF.workarounds.disable_deep_image_inspection)


def cache_directory() -> str:
    """Return the path of the image cache."""
    return os.path.join(
        CONF.instances_path, CONF.image_cache.subdirectory_name)


def check_cache_owner() -> None:
    """Refuse to write what nova-compute could not use.

    :raises CommandError: the cache is not this user's, or not there
    """
    path = CONF.instances_path
    try:
        owner = os.stat(path).st_uid
    except OSError as exc:
        raise errors.CommandError(
            _('The image cache is not on this host: [DEFAULT] instances_path '
              'is %(path)s: %(reason)s') %
            {'path': path, 'reason': exc.strerror},
            errors.Status.HOST) from exc
    if owner != os.geteuid():
        raise errors.CommandError(
            _('%(path)s belongs to another user than %(user)s, so what is '
              'put into the cache could not be used by nova-compute. Run '
              'this as root, or as the user of nova-compute.') %
            {'path': path, 'user': host.user_name()}, errors.Status.HOST)


@contextlib.contextmanager
def _nothing_unfinished(path: str) -> Iterator[None]:
    """Remove what is left when a fetch is interrupted.

    The libvirt driver does so for errors, but not for signals, by which a
    service does not end like this.
    """
    try:
        yield
    except BaseException:
        for suffix in _UNFINISHED:
            with contextlib.suppress(OSError):
                os.unlink(path + suffix)
        raise


@contextlib.contextmanager
def _sentences(image_id: str) -> Iterator[None]:
    """Turn whatever goes wrong with an image into a sentence."""
    try:
        yield
    except errors.CommandError:
        raise
    except exception.ImageNotFound as exc:
        raise no_such_image(image_id) from exc
    except exception.GlanceConnectionFailed as exc:
        raise errors.CommandError(
            host.describe(exc), errors.Status.SERVICE) from exc
    except Exception as exc:
        raise errors.CommandError(
            _('Image %(image)s could not be fetched: %(reason)s') %
            {'image': image_id,
             'reason': host.plain(glance.describe_failure(exc))},
        ) from exc


def no_such_image(image_id: str) -> errors.CommandError:
    """Make the error of an image that Glance does not show."""
    return errors.CommandError(
        _('Glance has no image %s that these credentials may see. To see '
          'those of other projects, the user in nova.conf needs the role '
          'admin.') % image_id, errors.Status.IMAGE)
