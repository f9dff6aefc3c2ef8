# SPDX-License-Identifier: Apache-2.0

"""``nova-status`` with a check of the options of direct downloads."""

from collections.abc import Iterator
import os
import pathlib
import stat
from typing import Any

from oslo_config import cfg
from oslo_upgradecheck import upgradecheck

# It selects the concurrency mode, so it comes before the rest of Nova.
from nova.cmd import status
import nova.conf
from nova.i18n import _
from nova.image import glance

CONF = nova.conf.CONF


class UpgradeCommands(status.UpgradeCommands):
    """The commands of the release, with one more check."""

    def _check_direct_downloads(self) -> upgradecheck.Result:
        """Report how Nova uses the options, without any use of Ceph."""
        details = []
        try:
            for detail in _details():
                details.append(detail)
        except cfg.Error as exc:
            details.append(_('nova-compute does not start with this value, '
                             'or uses only HTTP: %s') % exc)
        if not details:
            return upgradecheck.Result(upgradecheck.Code.SUCCESS)
        return upgradecheck.Result(
            upgradecheck.Code.WARNING, '. '.join([*details, '']).strip())

    _upgrade_checks: Any = (
        *status.UpgradeCommands._upgrade_checks,
        (_('Direct image downloads'), _check_direct_downloads))


def _details() -> Iterator[str]:
    yield from glance.ignored_schemes()
    if 'rbd' not in glance.active_handlers():
        return
    if CONF.glance.enable_rbd_download:
        yield _('[glance] enable_rbd_download still works but is deprecated: '
                'use allowed_direct_url_schemes = rbd')
    if CONF.glance.rbd_pool:
        yield _('[glance] rbd_pool, which had no effect up to Nova 34, now '
                'lists the only pools that Nova downloads from directly: '
                '%s') % ', '.join(CONF.glance.rbd_pool)
    for path in nova.conf.glance.ceph_confs(CONF):
        try:
            step = _changeable_step(path)
        except OSError as exc:
            yield _('%(path)s, which direct downloads need on this host if it '
                    'runs nova-compute, cannot be checked: %(reason)s') % {
                'path': path, 'reason': exc.strerror}
            continue
        if step:
            yield _('Root is not the only user that can change %(step)s: rbd '
                    'runs as the user of nova-compute, which must be able to '
                    'read %(path)s and the keyring') % {
                'step': step, 'path': path}
    yield from nova.conf.glance.timeouts_out_of_range(CONF)


def _changeable_step(path: str) -> pathlib.Path | None:
    """Return the file or a directory that not only root can change.

    nova.privsep.rbd decides by more than owners and modes, at each download.
    """
    real = pathlib.Path(os.path.realpath(path))
    for step in (real, *real.parents):
        found = step.stat()
        fixed = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
        if found.st_uid or not fixed and found.st_mode & 0o022:
            return step
    return None


def main() -> int | None:
    """Run ``nova-status``."""
    status.CATEGORIES['upgrade'] = UpgradeCommands
    return status.main()
