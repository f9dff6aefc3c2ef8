# SPDX-License-Identifier: Apache-2.0

"""Downloads an image as nova-compute does."""

import contextlib
import functools
import os

from oslo_utils import fileutils

import nova.conf
from nova import context as nova_context
from nova import exception
from nova.i18n import _
from nova.image import command
from nova.image.command import host
from nova.image.command import progress
from nova.image import download
from nova.image import errors
from nova.image import glance
import nova.privsep
import nova.privsep.path
from nova import utils
from nova.virt import images
from nova.virt.libvirt import imagecache
from nova.virt.libvirt import utils as libvirt_utils

CONF = nova.conf.CONF
Context = nova_context.RequestContext
Status = command.Status


def run(
    image_id: str, path: str | None, source: str | None,
    reporter: progress.Reporter,
) -> None:
    """Download an image.

    :param path: path of a new file; None: the image cache
    :param source: 'rbd': Ceph, even if nova.conf does not enable it; 'http':
        Glance; 'auto' or None: the sources that nova.conf enables
    :raises CommandError: the download failed
    """
    if source in ('rbd', 'http'):
        schemes = ['rbd'] if source == 'rbd' else []
        CONF.set_override('allowed_direct_url_schemes', schemes, 'glance')
        CONF.set_override('enable_rbd_download', False, 'glance')
    if path:
        check_path(path)
    _start_privsep()
    context = host.log_in()[1]
    outcome = reporter.outcome
    try:
        if path:
            outcome.update(path=path, inspected=False)
            to_path(context, image_id, path, reporter)
        else:
            outcome['path'] = to_cache(context, image_id, reporter)
            if outcome['source'] != 'cache':
                outcome['inspected'] = (
                    not CONF.workarounds.disable_deep_image_inspection)
    except command.CommandError:
        raise
    except exception.ImageNotFound as exc:
        raise command.CommandError(no_access(image_id), Status.IMAGE) from exc
    except exception.GlanceConnectionFailed as exc:
        raise command.CommandError(
            command.describe(exc), Status.SERVICE) from exc
    except Exception as exc:
        raise command.CommandError(
            _('Image %(image)s could not be downloaded: %(reason)s') %
            {'image': image_id, 'reason': command.one_line(
                errors.describe(exc))}) from exc


def _start_privsep() -> None:
    if glance.active_handlers():
        # In nova-compute, the privsep daemon runs already: do not count its
        # start. If it does not start, the download says why.
        with contextlib.suppress(Exception):
            nova.privsep.sys_admin_pctxt.start()


def check_path(path: str) -> None:
    """Check that a file can be created.

    :param path: its absolute path
    :raises CommandError: the file exists, or its directory is not writable
    """
    if os.path.lexists(path):
        raise _exists(path)
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        raise command.CommandError(
            _('The directory %s does not exist.') % directory, Status.HOST)
    if not os.access(directory, os.W_OK | os.X_OK):
        raise command.CommandError(
            _('The user %(user)s cannot write to %(directory)s. Choose '
              'another directory.') %
            {'user': host.user_name(), 'directory': directory}, Status.HOST)


def _exists(path: str) -> command.CommandError:
    return command.CommandError(
        _('%s exists already. Remove it, or choose another path.') % path,
        Status.HOST)


def to_path(
    context: Context, image_id: str, path: str, progress: download.Progress,
) -> None:
    """Download an image to a new file, without inspecting its format.

    :raises CommandError: another process created the file, which stays there
    """
    try:
        glance.get_default_image_service().download(
            context, image_id, dst_path=path, replace=False, progress=progress)
    except FileExistsError as exc:
        raise _exists(path) from exc


def to_cache(
    context: Context, image_id: str, progress: download.Progress,
) -> str:
    """Download an image to the cache of this host, unless it is there.

    The libvirt driver's code does so: the file and the lock are those of a
    root disk, and the image is inspected and, if configured, converted.

    :returns: the path of the file
    :raises CommandError: see check_cache_owner()
    """
    check_cache_owner()
    name = imagecache.get_cache_fname(image_id)
    path = os.path.join(cache_directory(), name)

    # nova.virt.libvirt.imagebackend takes the same lock.
    @utils.synchronized(name, external=True,
                        lock_path=os.path.join(CONF.instances_path, 'locks'))
    def fill() -> None:
        if os.path.exists(path):
            # The cache manager removes images that were not used for long.
            nova.privsep.path.utime(path)
            return
        try:
            libvirt_utils.fetch_image(context, path, image_id)
        except BaseException:
            # The libvirt driver removes incomplete files after errors only,
            # not after signals.
            for suffix in ('.part', '.converted'):
                with contextlib.suppress(OSError):
                    os.unlink(path + suffix)
            raise

    # fetch_image() takes no progress argument, and uses this object.
    images.IMAGE_API = api = glance.API()
    setattr(api, 'download',
            functools.partial(api.download, progress=progress))
    # The usual umask of services, so that QEMU can read the file.
    os.umask(0o022)
    fileutils.ensure_tree(cache_directory())
    fill()
    return path


def cache_directory() -> str:
    return os.path.join(
        CONF.instances_path, CONF.image_cache.subdirectory_name)


def check_cache_owner() -> None:
    """Check that nova-compute can use files that this user creates.

    :raises CommandError: the cache does not exist, or has another owner
    """
    path = CONF.instances_path
    try:
        owner = os.stat(path).st_uid
    except OSError as exc:
        raise command.CommandError(
            _('This host has no image cache: [DEFAULT] instances_path is '
              '%(path)s: %(reason)s') %
            {'path': path, 'reason': exc.strerror}, Status.HOST) from exc
    if owner != os.geteuid():
        raise command.CommandError(
            _('%(user)s does not own %(path)s, so nova-compute could not use '
              'the image. Run this command as root or as the user of '
              'nova-compute.') %
            {'path': path, 'user': host.user_name()}, Status.HOST)


def no_access(image_id: str) -> str:
    """Return a message about an image that Glance does not show."""
    return _('Glance shows no image %s to the user in nova.conf, who needs '
             'the role admin to see images of other projects.') % image_id
