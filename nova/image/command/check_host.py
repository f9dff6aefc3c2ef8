# SPDX-License-Identifier: Apache-2.0

"""Checks of the host itself."""

import os
import shlex

from oslo_utils import units

import nova.conf
from nova import exception
from nova.i18n import _
from nova.image.command import errors
from nova.image.command import fetch
from nova.image.command import findings
from nova.image.command import host
from nova.image.command import overhear
from nova.image import glance
import nova.privsep
import nova.privsep.utils
from nova import utils

CONF = nova.conf.CONF

#: How long the words of a helper that failed take to arrive, in seconds.
_WORDS_SECONDS = 0.3


def check_configuration(_known: findings.Known) -> findings.Finding:
    return findings.ok(_('%(files)s, read as %(user)s') % {
        'files': ', '.join(host.config_files()),
        'user': host.user_name()})


def check_options(_known: findings.Known) -> findings.Finding:
    try:
        handlers = glance.active_handlers()
    except exception.InvalidConfiguration as exc:
        # As Nova refuses to do anything with it, the other checks could not
        # be made.
        CONF.set_override('allowed_direct_url_schemes', ['rbd'], 'glance')
        raise findings.CheckFailed(
            host.describe(exc),
            _('Correct [glance] allowed_direct_url_schemes in nova.conf; '
              'nova-compute does not start with it.')) from exc
    if 'rbd' not in handlers:
        raise findings.CheckFailed(
            _('Direct downloads are switched off'),
            _('Set [glance] allowed_direct_url_schemes = rbd in nova.conf '
              'and restart nova-compute.'))
    if CONF.libvirt.images_type == 'rbd':
        raise findings.CheckFailed(
            _('[libvirt] images_type is rbd: disks are clones in Ceph, '
              'and no image is downloaded'),
            _('There is nothing to gain from direct downloads on this '
              'host. Set images_type to qcow2 or raw if disks are to be '
              'local.'))
    return findings.ok(_(
        'direct downloads are switched on, [libvirt] images_type = %s') %
        CONF.libvirt.images_type)


def check_helper(known: findings.Known) -> findings.Finding:
    command = CONF.nova_sys_admin.helper_command or shlex.join([
        *shlex.split(utils.get_root_helper()), 'privsep-helper'])
    words = overhear.Words(
        'oslo.privsep.daemon', 'privsep log: ', _WORDS_SECONDS)
    try:
        with words:
            nova.privsep.sys_admin_pctxt.start()
    except Exception as exc:
        raise findings.CheckFailed(
            _('The privsep daemon does not start: %(reason)s: %(said)s') %
            {'reason': host.describe(exc), 'said': words},
            _('Run this as root or as the user of nova-compute, and have '
              'sudo let that user run: %s') % command) from exc
    known.privileged = True
    return findings.ok(_('started by: %s') % command)


def check_cache(_known: findings.Known) -> findings.Finding:
    path = _nearest(fetch.cache_directory())
    try:
        fetch.check_cache_owner()
    except errors.CommandError as exc:
        raise findings.CheckFailed(str(exc), _(
            'See [DEFAULT] instances_path. It has to belong to the user of '
            'nova-compute, as which this command has to run.')) from exc
    try:
        direct = nova.privsep.utils.supports_direct_io(path)
    except OSError as exc:
        raise findings.CheckFailed(
            _('%(path)s: %(reason)s') %
            {'path': path, 'reason': exc.strerror},
            _('Repair the filesystem, or make room.')) from exc
    if direct:
        return findings.ok(_('%s, written by O_DIRECT') % path)
    return findings.warning(
        _('%s, whose filesystem has no O_DIRECT') % path,
        _('Images are written through the page cache, which takes memory '
          'from the guests. Use ext4 or XFS for instances_path.'))


def check_space(known: findings.Known) -> findings.Finding:
    path = _nearest(fetch.cache_directory())
    status = os.statvfs(path)
    free = status.f_bavail * status.f_frsize
    needed = known.image['size'] if known.image else 0
    detail = _('%(free).1f GiB on %(path)s') % {
        'free': free / units.Gi, 'path': path}
    if free <= needed:
        raise findings.CheckFailed(
            _('%(detail)s, and the image needs %(needed).1f GiB') %
            {'detail': detail, 'needed': needed / units.Gi},
            _('Make room there: see [image_cache] '
              'remove_unused_base_images.'))
    return findings.ok(detail)


def _nearest(path: str) -> str:
    """Return path, or the nearest directory on the way to it that exists."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path
