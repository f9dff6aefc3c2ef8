# SPDX-License-Identifier: Apache-2.0

"""The Ceph clusters that this host is a client of.

They are numbered as in ``[glance] rbd_ceph_conf``, from 0.
"""

import dataclasses
import math
import time
import uuid

from oslo_concurrency import lockutils
from oslo_config import cfg
from oslo_log import log as logging

import nova.conf
from nova.i18n import _
from nova.image.rbd import location
from nova.image.rbd import program
from nova.image import transfer

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)

#: ceph-conf prints this fsid for a file that contains none.
_NO_FSID = str(uuid.UUID(int=0))
#: How often Nova asks a cluster for its fsid if the cause of a failure is
#: unknown: ceph can exit before it has written its log.
_ATTEMPTS = 3
#: Seconds after a failure in which Nova does not use a cluster again.
_BACK_OFF = 60

#: path of a ceph.conf -> fsid or error, and time.monotonic() of its expiry
_known_fsids: dict[str, tuple[str | transfer.SourceError, float]] = {}
#: path of a ceph.conf -> time.monotonic() of the end of its back-off
_left_out: dict[str, float] = {}


@dataclasses.dataclass(frozen=True)
class Cluster:
    fsid: str
    conf: str
    number: int


def find_cluster(fsid: str) -> Cluster:
    """Return the first cluster with this fsid.

    :raises transfer.SourceError: no configured cluster is known to have it,
        or it was left out a moment ago
    """
    known = []
    for number, conf in enumerate(nova.conf.glance.ceph_confs(CONF)):
        try:
            found = read_fsid(number)
        except transfer.SourceError as exc:
            known.append('%s: %s' % (conf, exc))
            continue
        if found == fsid.lower():
            left = _left_out.get(conf, -math.inf) - time.monotonic()
            if left > 0:
                raise transfer.SourceError(
                    _('The Ceph cluster of %(conf)s did not answer; Nova '
                      'tries it again in %(seconds)d seconds') %
                    {'conf': conf, 'seconds': math.ceil(left)})
            return Cluster(found, conf, number)
        known.append('%s: %s' % (conf, found))
    raise transfer.SourceError(
        _('Image is in Ceph cluster %(fsid)s, which is not configured in '
          '[glance] rbd_ceph_conf (%(known)s)') %
        {'fsid': fsid, 'known': '; '.join(known)})


def leave_out(cluster: Cluster) -> None:
    """Do not use a cluster for a while, since it does not answer.

    Otherwise, each image would wait for its time limit.
    """
    now = time.monotonic()
    if _left_out.get(cluster.conf, -math.inf) <= now:
        LOG.warning('The Ceph cluster of %(conf)s does not answer: Nova uses '
                    'other sources of images for %(seconds)d seconds',
                    {'conf': cluster.conf, 'seconds': _BACK_OFF})
    _left_out[cluster.conf] = now + _BACK_OFF


def proximity(url: str) -> int | None:
    """Return the number of the cluster that a location refers to.

    :returns: 0 for a malformed URL; None if the cluster is not configured, or
        an option has no valid value
    """
    try:
        fsid = location.parse(url).fsid
    except transfer.SourceError:
        # open_source() reports what is wrong with it.
        return 0
    try:
        return find_cluster(fsid).number
    except (transfer.SourceError, cfg.Error) as exc:
        LOG.debug('Skipping location: %s', exc)
        return None


def read_fsid(number: int) -> str:
    """Return the fsid of a cluster, from its ceph.conf or from the cluster.

    Nova remembers an fsid for good, and a failure for a minute.

    :raises transfer.SourceError: the fsid cannot be determined
    """
    conf = nova.conf.glance.ceph_confs(CONF)[number]
    # Other downloads wait for the answer instead of asking as well.
    with lockutils.lock('image-rbd-fsid-' + conf):
        known, expiry = _known_fsids.get(conf, ('', -math.inf))
        if time.monotonic() >= expiry:
            try:
                known = read_conf(number) or ask_cluster(number)
                expiry = math.inf
            except program.CallError:
                raise
            except transfer.SourceError as exc:
                known, expiry = exc, time.monotonic() + _BACK_OFF
            _known_fsids[conf] = known, expiry
    if isinstance(known, transfer.SourceError):
        raise transfer.SourceError(str(known))
    return known


def read_conf(number: int) -> str:
    """Return the fsid in a ceph.conf, as Ceph reads it; '' if there is none.

    :raises program.RunError: Ceph cannot read the file
    :raises transfer.SourceError: Ceph prints no fsid
    """
    fsid = _run_for_fsid(number, 'ceph-conf --show-config-value=fsid')
    return fsid if fsid != _NO_FSID else ''


def ask_cluster(number: int) -> str:
    """Return the fsid that a cluster reports.

    :raises program.RunError: the cluster does not answer
    :raises transfer.SourceError: Ceph prints no fsid
    """
    attempts = _ATTEMPTS
    while True:
        attempts -= 1
        try:
            return _run_for_fsid(number, 'ceph fsid')
        except program.RunError as exc:
            if not attempts or exc.cause is not program.Cause.UNKNOWN:
                raise


def _run_for_fsid(number: int, command: str) -> str:
    answer = program.run(number, command).decode('ascii', 'replace').strip()
    try:
        return str(uuid.UUID(answer))
    except ValueError:
        # The answer can be secret: ceph.conf can turn out to be a keyring.
        raise transfer.SourceError(_('%s did not print an fsid') %
                                   command.partition(' ')[0]) from None
