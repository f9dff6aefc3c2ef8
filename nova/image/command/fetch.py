# SPDX-License-Identifier: Apache-2.0

"""Downloads an image as nova-compute does."""

import contextlib
import functools
import io
import os
import sys
import time
import typing as ty

from oslo_concurrency import lockutils
from oslo_utils import fileutils
from oslo_utils import units

import nova.conf
from nova import context as nova_context
from nova import exception
from nova.i18n import _
from nova.image import command
from nova.image.command import host
from nova.image import download
from nova.image import errors
from nova.image import glance
from nova.image import transfer
import nova.privsep
import nova.privsep.path
from nova.virt import images
from nova.virt.libvirt import imagecache
from nova.virt.libvirt import utils as libvirt_utils

CONF = nova.conf.CONF
Status = command.Status

_STATUSES: dict[type[Exception], Status] = {
    exception.GlanceConnectionFailed: Status.SERVICE,
    exception.InvalidConfiguration: Status.HOST}


def run(
    image_id: str, path: str | None, source: str | None, quiet: bool,
) -> dict[str, ty.Any]:
    """Download an image.

    :param path: path of a new file; None: the image cache
    :param source: 'rbd': Ceph, even if nova.conf does not enable it; 'http':
        Glance; 'auto' or None: the sources that nova.conf enables
    :param quiet: print nothing
    :returns: the JSON object, see the man page
    :raises CommandError: the download failed
    """
    if source in ('rbd', 'http'):
        schemes = ['rbd'] if source == 'rbd' else []
        CONF.set_override('allowed_direct_url_schemes', schemes, 'glance')
        CONF.set_override('enable_rbd_download', False, 'glance')
    reporter = Reporter(image_id, source == 'rbd', quiet)
    result = reporter.result
    try:
        if path:
            _check_path(path)
        if glance.active_handlers():
            # In nova-compute, the privsep daemon runs already: do not count
            # its start. If it does not start, the download says why.
            with contextlib.suppress(Exception):
                nova.privsep.sys_admin_pctxt.start()
        context = host.log_in()[1]
        if path:
            glance.get_default_image_service().download(
                context, image_id, dst_path=path, replace=False,
                progress=reporter)
        result['path'] = path or to_cache(context, image_id, reporter)
    except command.CommandError:
        raise
    except FileExistsError as exc:
        raise command.CommandError(
            _('%s exists already. Remove it, or choose another path.') %
            (path or exc.filename), Status.HOST) from exc
    except exception.ImageNotFound as exc:
        raise command.CommandError(
            _('Glance shows no image %s to the user in nova.conf, who needs '
              'the role admin to see images of other projects.') % image_id,
            Status.IMAGE) from exc
    except Exception as exc:
        raise command.CommandError(
            _('Image %(image)s could not be downloaded: %(reason)s') %
            {'image': image_id, 'reason': errors.describe(exc)},
            _STATUSES.get(type(exc), Status.FAILED)) from exc
    finally:
        reporter.clear()
    if result['source'] != 'cache':
        result['inspected'] = not (
            path or CONF.workarounds.disable_deep_image_inspection)
    if not quiet:
        _show(result)
    return result


def _check_path(path: str) -> None:
    if os.path.lexists(path):
        raise FileExistsError
    directory = os.path.dirname(path)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise command.CommandError(
            _('The directory %(directory)s does not exist, or %(user)s cannot '
              'write to it: choose another one.') %
            {'directory': directory, 'user': host.user_name()}, Status.HOST)


def to_cache(
    context: nova_context.RequestContext, image_id: str,
    progress: download.Progress,
) -> str:
    """Download an image to the cache of this host, unless it is there.

    The libvirt driver's code does so: the file and the lock are those of a
    root disk, and the image is inspected and, if configured, converted.

    :returns: the path of the file
    :raises CommandError: see check_cache_owner()
    """
    check_cache_owner()
    # fetch_image() takes no progress argument, and uses this object.
    images.IMAGE_API = api = glance.API()
    setattr(api, 'download',
            functools.partial(api.download, progress=progress))
    # The usual umask of services, so that QEMU can read the file.
    os.umask(0o022)
    manager = imagecache.ImageCacheManager()
    fileutils.ensure_tree(manager.cache_dir)
    name = imagecache.get_cache_fname(image_id)
    path = os.path.join(manager.cache_dir, name)
    # nova.virt.libvirt.imagebackend takes the same lock.
    with lockutils.lock(name, 'nova-', external=True,
                        lock_path=manager.lock_path):
        if os.path.exists(path):
            # The cache manager removes images that were not used for long.
            nova.privsep.path.utime(path)
            return path
        try:
            libvirt_utils.fetch_image(context, path, image_id)
        except BaseException:
            # The libvirt driver removes incomplete files after errors only,
            # not after signals.
            fileutils.delete_if_exists(path + '.part')
            fileutils.delete_if_exists(path + '.converted')
            raise
    return path


def check_cache_owner() -> None:
    """Check that nova-compute can use files that this user creates.

    :raises CommandError: the cache does not exist, or has another owner
    """
    path = CONF.instances_path
    if not os.path.exists(path) or os.stat(path).st_uid != os.geteuid():
        raise command.CommandError(
            _('[DEFAULT] instances_path is %(path)s, which does not exist or '
              'does not belong to %(user)s: run this command as root or as '
              'the user of nova-compute.') %
            {'path': path, 'user': host.user_name()}, Status.HOST)


class Reporter(download.Progress):
    """Shows a download's progress on standard error, and records its result.

    :param only_rbd: end the download instead of trying HTTP
    :ivar result: the JSON object, see the man page
    """

    def __init__(self, image_id: str, only_rbd: bool, quiet: bool) -> None:
        self.result: dict[str, ty.Any] = {
            'result': 'ok', 'image_id': image_id, 'path': '',
            'source': 'cache', 'failed': [], 'verified_by': None,
            'bytes': None, 'written': None, 'seconds': None, 'rate': None,
            'inspected': None}
        self._only_rbd = only_rbd
        self._stream = io.StringIO() if quiet else sys.stderr
        #: Text before and after a line that the next one replaces, and the
        #: seconds between two such lines.
        self._erase, self._end, self._interval = (
            ('\r\x1b[K', '', 0.1) if self._stream.isatty() else
            ('', '\n', 10.0))

    def on_source_started(self, source: str, size: int | None) -> None:
        if self._only_rbd and source == 'http':
            failed = self.result['failed']
            raise command.CommandError(
                _('Image %(image)s could not be downloaded via rbd: '
                  '%(reason)s') % {
                    'image': self.result['image_id'],
                    'reason': failed[-1]['reason'] if failed else _(
                        'Glance returns no rbd location, see --check')})
        self._source = source
        self._start = time.monotonic()
        self._next = self._start + self._interval
        self._print(_('Downloading via %s') % source, self._end)

    def on_progress(self, done: int, size: int | None) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._interval
        self._print(
            _('%(source)s: %(done)d of %(size)s MiB, %(rate).1f MiB/s') % {
                'source': self._source, 'done': done / units.Mi,
                'size': '?' if size is None else size // units.Mi,
                'rate': done / units.Mi / (now - self._start)}, self._end)

    def on_source_failed(self, source: str, reason: str) -> None:
        reason = command.one_line(reason)
        self.result['failed'].append({'source': source, 'reason': reason})
        # With only one source, the error gives the reason.
        if not self._only_rbd:
            self._print(_('Download via %(source)s failed: %(reason)s') % {
                'source': source, 'reason': reason}, '\n')

    def on_complete(
        self, source: str, report: transfer.Report, verified_by: str,
    ) -> None:
        self.result.update(
            source=source, verified_by=verified_by, bytes=report.size,
            written=report.written, seconds=round(report.seconds, 3),
            rate=round(report.size / units.Mi / report.seconds, 1))

    def clear(self) -> None:
        """Remove the line that shows the progress from the terminal."""
        self._print('', '')

    def _print(self, line: str, end: str) -> None:
        print(self._erase + line, end=end, file=self._stream, flush=True)


def _show(result: dict[str, ty.Any]) -> None:
    if result['source'] == 'cache':
        print(_('Image %(image_id)s is already in the cache: %(path)s') %
              result)
        return
    print(_('Image %(image_id)s is at %(path)s\n'
            '  source       %(source)s\n'
            '  verified by  %(verified_by)s\n'
            '  bytes        %(bytes)d\n'
            '  written      %(written)d\n'
            '  seconds      %(seconds).2f\n'
            '  MiB/s        %(rate).1f') % result)
    if not result['inspected']:
        print(_('Nova did not inspect the format of the image, which can '
                'refer to other files on this host.'))
