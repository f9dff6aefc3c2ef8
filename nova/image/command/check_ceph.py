# SPDX-License-Identifier: Apache-2.0

"""Checks of the Ceph clusters that this host is a client of."""

import nova.conf
from nova.i18n import _
from nova.image.command import findings
from nova.image.command import host
from nova.image import rbd
import nova.privsep.rbd
import nova.privsep.rbd_errors

rbd_errors = nova.privsep.rbd_errors
CONF = nova.conf.CONF


def check_conf(known: findings.Known, conf: str) -> findings.Finding:
    try:
        fsid = rbd.read_fsid(conf)
        nova.privsep.rbd.check_conf(conf)
    except OSError as exc:
        raise findings.CheckFailed(
            _('%(user)s cannot read %(conf)s: %(reason)s') %
            {'user': host.user_name(), 'conf': conf,
             'reason': exc.strerror},
            _('Put the ceph.conf of the cluster there, or correct '
              '[glance] rbd_ceph_conf. It has to be readable by '
              'everybody; the keyring must not.')) from exc
    except ValueError as exc:
        raise findings.CheckFailed(
            '%s: %s' % (conf, host.describe(exc)),
            _('It has to name the fsid in [global], and it and the '
              'directories on the way to it have to belong to root, with '
              'nobody else allowed to write there.')) from exc
    known.fsids[conf] = fsid
    return findings.ok(_('%(conf)s, fsid %(fsid)s') % {
        'conf': conf, 'fsid': fsid})


def check_cluster(known: findings.Known, conf: str) -> findings.Finding:
    fsid, name = known.fsids.get(conf), rbd.client_name()
    if fsid is None or not known.privileged:
        return findings.skipped(
            _('cannot be asked without the privileged helper') if fsid
            else _('cannot be asked without its ceph.conf'))
    seconds = CONF.glance.rbd_connect_timeout
    try:
        status, cause, said = nova.privsep.rbd.fsid(
            conf=conf, user=rbd.ceph_user(), connect_timeout=seconds)
    except Exception as exc:
        raise findings.CheckFailed(
            _('The privileged call failed: %s') % host.describe(exc),
            _('Run --check with --debug, and look for the errors of '
              'oslo.privsep.')) from exc
    if status or cause:
        raise _no_answer(conf, status, cause)
    if said != fsid:
        raise findings.CheckFailed(
            _('%(conf)s leads to the cluster %(fsid)s, which is not the '
              'one that it names') % {'fsid': said, 'conf': conf},
            _('Correct fsid or mon host in %s.') % conf)
    known.answering.add(fsid)
    return findings.ok(_('%(fsid)s answers %(name)s') % {
        'fsid': fsid, 'name': name})


def _no_answer(conf: str, status: int, cause: str) -> findings.CheckFailed:
    """Return the failure, with a remedy that fits the cause."""
    known, name = rbd_errors.Cause, rbd.client_name()
    match cause:
        case known.NOT_RUN:
            return findings.CheckFailed(
                _('ceph is not installed on this host, or cannot be run'),
                _('Install ceph-common.'))
        case known.NO_ANSWER | known.TOO_LONG:
            return findings.CheckFailed(
                rbd.explain(known.NO_ANSWER),
                _('Check mon host in %s, the network to it, and whether Ceph '
                  'is up. A slow network needs a larger [glance] '
                  'rbd_connect_timeout.') % conf)
        case known.NO_MONITOR | known.BAD_CONF:
            remedy = _('Correct %(conf)s. Run "rbd --conf %(conf)s ls" as '
                       'root to see what is wrong with it.') % {'conf': conf}
        case known.NEW_KEY:
            remedy = _('Upgrade ceph-common, or rotate the key and copy it to '
                       'the keyring of this host.')
        case _:
            remedy = _(
                'Check, as root, that the keyring that %(conf)s names (by '
                'default /etc/ceph/ceph.%(name)s.keyring) exists and has the '
                'key that "ceph auth get %(name)s" shows.') % {
                    'conf': conf, 'name': name}
    return findings.CheckFailed(
        _('%(name)s cannot connect: %(reason)s') % {
            'name': name,
            'reason': rbd.describe('ceph fsid', status, cause, '')},
        remedy)
