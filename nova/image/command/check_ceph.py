# SPDX-License-Identifier: Apache-2.0

"""Checks of the Ceph clusters that this host is a client of."""

import nova.conf
from nova.i18n import _
from nova.image.command import findings
from nova.image.command import host
from nova.image.rbd import cluster as rbd_cluster
from nova.image.rbd import program as rbd_program
from nova.image import transfer

CONF = nova.conf.CONF
Cause = rbd_program.Cause


def check_programs(known: findings.Known) -> findings.Finding:
    """Start rbd in the way in which an export does."""
    if not known.privileged:
        return findings.skipped(
            _('cannot be run without the privileged helper'))
    try:
        version = rbd_program.run(0, 'rbd --version').decode('utf-8', 'replace')
    except rbd_program.RunError as exc:
        raise findings.CheckFailed(
            host.describe(exc), _program_remedy(exc.cause)) from exc
    except transfer.SourceError as exc:
        return findings.skipped(host.describe(exc))
    known.programs = True
    return findings.ok(version.strip())


def check_conf(known: findings.Known, number: int) -> findings.Finding:
    conf = nova.conf.glance.ceph_confs(CONF)[number]
    if not known.privileged:
        return findings.skipped(
            _('cannot be read without the privileged helper'))
    try:
        with rbd_program.Run(number, 'rbd --version') as program:
            rights = program.rights
        fsid = rbd_cluster.read_conf(number)
    except rbd_program.RunError as exc:
        raise findings.CheckFailed(
            '%s: %s' % (conf, host.describe(exc)),
            _('Run "rbd --conf %s ls" as root to see what is wrong with '
              'it.') % conf if exc.cause is Cause.BAD_CONF
            else _program_remedy(exc.cause)) from exc
    except transfer.SourceError as exc:
        raise findings.CheckFailed(
            host.describe(exc),
            _('Put the ceph.conf of the cluster there, or correct [glance] '
              'rbd_ceph_conf. If that is not the reason, run --check with '
              '--debug, and look for the errors of oslo.privsep.')) from exc
    known.fsids[number] = fsid
    known.rights[number] = rights
    return findings.ok(_('%(conf)s, %(fsid)s; rbd runs %(rights)s') % {
        'conf': conf, 'rights': rights,
        'fsid': _('fsid %s') % fsid if fsid else
        _('without an fsid, so Nova asks the cluster')})


def check_cluster(known: findings.Known, number: int) -> findings.Finding:
    conf = nova.conf.glance.ceph_confs(CONF)[number]
    fsid, name = known.fsids.get(number), rbd_program.client_name()
    if fsid is None:
        return findings.skipped(
            _('cannot be asked without its ceph.conf'))
    try:
        found = rbd_cluster.ask_cluster(number)
    except rbd_program.RunError as exc:
        raise _no_answer(known, number, exc) from exc
    except transfer.SourceError as exc:
        raise findings.CheckFailed(host.describe(exc), _(
            'Check that "ceph fsid" prints the fsid of the cluster.')) from exc
    if fsid not in ('', found):
        raise findings.CheckFailed(
            _('%(conf)s names the fsid %(own)s, but its monitors are of the '
              'cluster %(fsid)s') % {
                  'fsid': found, 'conf': conf, 'own': fsid},
            _('Correct fsid or mon host in %s.') % conf)
    known.answering.add(found)
    return findings.ok(_('%(fsid)s answers %(name)s') % {
        'fsid': found, 'name': name})


def _no_answer(
    known: findings.Known, number: int, error: rbd_program.RunError,
) -> findings.CheckFailed:
    """Return the failure, with a remedy that fits the cause."""
    conf = nova.conf.glance.ceph_confs(CONF)[number]
    name = rbd_program.client_name()
    match error.cause:
        case Cause.NO_ANSWER:
            return findings.CheckFailed(
                rbd_program.explain(Cause.NO_ANSWER),
                _('Check mon host in %s, the network to it, and whether Ceph '
                  'is up. A slow network needs a larger [glance] '
                  'rbd_connect_timeout.') % conf)
        case Cause.NO_MONITOR | Cause.BAD_CONF:
            remedy = _('Correct %(conf)s. Run "rbd --conf %(conf)s ls" as '
                       'root to see what is wrong with it.') % {'conf': conf}
        case Cause.NEW_KEY:
            remedy = _('Upgrade ceph-common, or rotate the key and copy it to '
                       'the keyring of this host.')
        case _:
            remedy = _(
                'Check that the keyring that %(conf)s names (by default '
                '%(keyring)s) exists and has the key that "ceph auth get '
                '%(name)s" shows. rbd reads it %(rights)s.') % {
                    'conf': conf, 'name': name,
                    'keyring': rbd_program.default_keyring(conf),
                    'rights': known.rights[number]}
    return findings.CheckFailed(
        _('%(name)s cannot connect: %(reason)s') % {
            'name': name, 'reason': host.describe(error)}, remedy)


def _program_remedy(cause: Cause) -> str:
    """Return what to do about a program that cannot be run."""
    match cause:
        case Cause.NOT_INSTALLED:
            return _('Install ceph-common (rbd, ceph and ceph-conf), '
                     'util-linux (setpriv) and coreutils (timeout).')
        case Cause.NO_SETPRIV | Cause.OLD_SETPRIV:
            return _('Install util-linux 2.33 or newer.')
        case Cause.NOT_PERMITTED:
            return _('Let setpriv change its user and keep '
                     'CAP_DAC_READ_SEARCH, and let it run rbd: see the '
                     'AppArmor or SELinux policy of the host, its log, and '
                     'the capabilities of the container.')
        case _:
            return _('Install ceph-common again.')
