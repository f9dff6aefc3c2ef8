# SPDX-License-Identifier: Apache-2.0

"""Whether direct downloads work on this host, and what is wrong if not.

Every check says what it saw. One that fails also says how to mend it; those
that need what failed are left out, the others go on.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import enum
import errno
import logging
import os
import shlex
import shutil
import time
import typing as ty

from castellan.common import exception as castellan_exc
from castellan import key_manager
from oslo_concurrency import processutils
from oslo_utils import units
from oslo_utils import uuidutils

import nova.conf
from nova import exception
from nova.i18n import _
from nova.image.command import errors
from nova.image.command import fetch
from nova.image.command import host
from nova.image.command import login
from nova.image import glance
from nova.image import metadata
from nova.image import rbd
from nova.image import transfer
import nova.privsep
import nova.privsep.rbd
import nova.privsep.utils
from nova import utils

CONF = nova.conf.CONF

#: What has to be on the host -> the package that it is in.
_PROGRAMS = {
    'rbd': 'ceph-common', 'ceph': 'ceph-common', 'setpriv': 'util-linux'}

#: How many images are looked at for one in Ceph when none is named.
_IMAGES = 5

#: How long the words of a helper that failed take to arrive, in seconds.
_WORDS_SECONDS = 0.3

_CERTIFICATE = 'img_signature_certificate_uuid'


class Verdict(enum.StrEnum):
    """What came of a check."""
    OK = 'ok'
    #: It works, but not for everything.
    WARNING = 'warning'
    FAILED = 'failed'
    #: It could not be made, or there is nothing to check.
    SKIPPED = 'skipped'


@dataclasses.dataclass(frozen=True)
class Finding:
    """What came of one check, as --json shows it."""
    check: str
    verdict: Verdict
    #: What was seen.
    detail: str
    #: What to do about it; '' if there is nothing to do.
    remedy: str = ''


class _Failed(Exception):
    """A check has failed."""

    def __init__(self, detail: str, remedy: str) -> None:
        super().__init__(detail)
        self.remedy = remedy


class _Words(logging.Handler):
    """Overhears what the privsep helper says, which only the log has."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._lines: list[str] = []
        self._logger = logging.getLogger('oslo.privsep.daemon')

    def __enter__(self) -> ty.Self:
        self._logger.addHandler(self)
        return self

    def __exit__(self, kind: type[BaseException] | None,
                 *exc_info: object) -> None:
        if kind is not None:
            # A thread passes its words on, a moment later.
            time.sleep(_WORDS_SECONDS)
        self._logger.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        _begin, found, line = record.getMessage().partition('privsep log: ')
        if found:
            self._lines.append(line)

    def __str__(self) -> str:
        return ' | '.join(self._lines[-3:])


class Checks:
    """The checks of this host, in the order in which things are needed."""

    def __init__(self, image_id: str | None) -> None:
        """:param image_id: an image to try; None: a recent one in Ceph"""
        self._image_id = image_id
        self._login: login.Login | None = None
        self._image: metadata.ImageMeta | None = None
        self._privileged = False
        #: path of a ceph.conf -> its fsid
        self._fsids: dict[str, str] = {}
        #: the fsids of clusters that answer
        self._answering: set[str] = set()
        self._location: rbd.Location | None = None
        self._url = ''

    def run(self) -> Iterator[Finding]:
        """Make one check after the other."""
        for name, check in (
            (_('Configuration'), self._check_configuration),
            (_('Options'), self._check_options),
            (_('Programs'), self._check_programs),
            (_('Privileged helper'), self._check_helper),
            ('', self._check_clusters),
            (_('Credentials'), self._check_login),
            (_('Glance'), self._check_glance),
            (_('Location'), self._check_visible),
            (_('Allowed'), self._check_allowed),
            (_('Read from Ceph'), self._check_read),
            (_('Key manager'), self._check_key_manager),
            (_('Image cache'), self._check_cache),
            (_('Free space'), self._check_space),
        ):
            yield from _findings(name, check())

    def _check_configuration(self) -> Iterator[Finding]:
        yield Finding('', Verdict.OK, _('%(files)s, read as %(user)s') % {
            'files': ', '.join(host.config_files()),
            'user': host.user_name()})

    def _check_options(self) -> Iterator[Finding]:
        try:
            handlers = glance.active_handlers()
        except exception.InvalidConfiguration as exc:
            raise _Failed(
                host.describe(exc),
                _('Correct [glance] allowed_direct_url_schemes in nova.conf; '
                  'nova-compute does not start with it.')) from exc
        if 'rbd' not in handlers:
            raise _Failed(
                _('Direct downloads are switched off'),
                _('Set [glance] allowed_direct_url_schemes = rbd in nova.conf '
                  'and restart nova-compute.'))
        if CONF.libvirt.images_type == 'rbd':
            raise _Failed(
                _('[libvirt] images_type is rbd: disks are clones in Ceph, '
                  'and no image is downloaded'),
                _('There is nothing to gain from direct downloads on this '
                  'host. Set images_type to qcow2 or raw if disks are to be '
                  'local.'))
        yield Finding('', Verdict.OK, _(
            '[glance] allowed_direct_url_schemes = rbd, [libvirt] images_type '
            '= %s') % CONF.libvirt.images_type)

    def _check_programs(self) -> Iterator[Finding]:
        path = nova.privsep.rbd.ENVIRONMENT['PATH']
        missing = [name for name in _PROGRAMS
                   if not shutil.which(name, path=path)]
        if missing:
            raise _Failed(
                _('Not in %(path)s: %(missing)s') %
                {'path': path, 'missing': ', '.join(missing)},
                _('Install %s.') % ', '.join(
                    sorted({_PROGRAMS[name] for name in missing})))
        try:
            out, _err = processutils.execute(
                'rbd', '--version', cwd='/',
                env_variables=nova.privsep.rbd.ENVIRONMENT, timeout=30)
        except (OSError, processutils.ProcessExecutionError) as exc:
            raise _Failed(
                _('rbd cannot be run: %s') % host.describe(exc),
                _('Install ceph-common again.')) from exc
        yield Finding('', Verdict.OK, _('%(rbd)s, %(version)s') % {
            'rbd': shutil.which('rbd', path=path),
            'version': out.strip()})

    def _check_helper(self) -> Iterator[Finding]:
        command = CONF.nova_sys_admin.helper_command or shlex.join([
            *shlex.split(utils.get_root_helper()), 'privsep-helper'])
        words = _Words()
        try:
            with words:
                nova.privsep.sys_admin_pctxt.start()
        except Exception as exc:
            raise _Failed(
                _('The privsep daemon does not start: %(reason)s: %(said)s') %
                {'reason': host.describe(exc), 'said': words},
                _('Run this as root or as the user of nova-compute, and have '
                  'sudo let that user run: %s') % command) from exc
        self._privileged = True
        yield Finding('', Verdict.OK, _('started by: %s') % command)

    def _check_clusters(self) -> Iterator[Finding]:
        for conf in rbd.ceph_confs():
            yield from _findings(_('ceph.conf'), self._check_conf(conf))
            yield from _findings(_('Cluster'), self._check_cluster(conf))

    def _check_conf(self, conf: str) -> Iterator[Finding]:
        try:
            fsid = rbd.read_fsid(conf)
            nova.privsep.rbd.check_conf(conf)
        except OSError as exc:
            raise _Failed(
                _('%(user)s cannot read %(conf)s: %(reason)s') %
                {'user': host.user_name(), 'conf': conf,
                 'reason': exc.strerror},
                _('Put the ceph.conf of the cluster there, or correct '
                  '[glance] rbd_ceph_conf. It has to be readable by '
                  'everybody; the keyring must not.')) from exc
        except ValueError as exc:
            raise _Failed(
                '%s: %s' % (conf, host.describe(exc)),
                _('It has to name the fsid in [global], and it and the '
                  'directories on the way to it have to belong to root, with '
                  'nobody else allowed to write there.')) from exc
        self._fsids[conf] = fsid
        yield Finding('', Verdict.OK, _('%(conf)s, fsid %(fsid)s') % {
            'conf': conf, 'fsid': fsid})

    def _check_cluster(self, conf: str) -> Iterator[Finding]:
        fsid, user = self._fsids.get(conf), rbd.ceph_user()
        if fsid is None or not self._privileged:
            yield _skipped(
                _('cannot be asked without the privileged helper') if fsid
                else _('cannot be asked without its ceph.conf'))
            return
        name = 'client.' + (user or 'admin')
        seconds = CONF.glance.rbd_connect_timeout
        try:
            status, said = nova.privsep.rbd.fsid(
                conf=conf, user=user, connect_timeout=seconds)
        except Exception as exc:
            raise _Failed(
                _('The privileged call failed: %s') % host.describe(exc),
                _('Run --check with --debug, and look for the errors of '
                  'oslo.privsep.')) from exc
        if status:
            raise _no_answer(conf, name, seconds, said)
        if said != fsid:
            raise _Failed(
                _('%(conf)s leads to the cluster %(fsid)s, which is not the '
                  'one that it names') % {'fsid': said, 'conf': conf},
                _('Correct fsid or mon host in %s.') % conf)
        self._answering.add(fsid)
        yield Finding('', Verdict.OK, _('%(fsid)s answers %(name)s') % {
            'fsid': fsid, 'name': name})

    def _check_login(self) -> Iterator[Finding]:
        try:
            self._login = login.log_in()
        except errors.CommandError as exc:
            raise _Failed(
                str(exc), _('nova-compute needs [service_user], too: correct '
                            'it in nova.conf.')) from exc
        detail = _('%(user)s in project %(project)s, of [%(section)s], with '
                   'roles: %(roles)s') % {
            'user': self._login.user, 'project': self._login.project,
            'section': self._login.section,
            'roles': ', '.join(self._login.roles)}
        if login.ALL_SEEING_ROLE in self._login.roles:
            yield Finding('', Verdict.OK, detail)
        else:
            yield Finding('', Verdict.WARNING, detail, _(
                'Private images of other projects cannot be seen by this '
                'command without the role admin. nova-compute can: it has '
                'the token of the user.'))

    def _check_glance(self) -> Iterator[Finding]:
        if self._login is None:
            yield _skipped(_('there is no login'))
            return
        context = self._login.context
        try:
            url = glance.generate_glance_url(context)
            found = (self._show(self._image_id) if self._image_id
                     else self._find_image())
        except exception.ImageNotFound as exc:
            raise _Failed(
                str(fetch.no_such_image(self._image_id or '')),
                _('Name another image, or give the user that role.')) from exc
        except Exception as exc:
            raise _Failed(
                host.describe(exc),
                _('See that Glance runs, and which endpoint Nova uses: '
                  '[glance] valid_interfaces, region_name and '
                  'endpoint_override in nova.conf.')) from exc
        self._image = found
        if found is None:
            yield Finding('', Verdict.OK, _(
                '%s answers; it shows no image to try') % url)
            return
        yield Finding('', Verdict.OK, _(
            '%(url)s answers; image %(image)s, %(format)s, %(size).1f MiB') %
            {'url': url, 'image': found['id'],
             'format': found['disk_format'],
             'size': found['size'] / units.Mi})

    def _show(self, image_id: str) -> metadata.ImageMeta:
        assert self._login is not None
        return glance.API().get(
            self._login.context, image_id, include_locations=True,
            show_deleted=False)

    def _find_image(self) -> metadata.ImageMeta | None:
        """Return a recent image, one that is seen to be in Ceph if any."""
        assert self._login is not None
        candidates = glance.API().get_all(
            self._login.context, filters={'status': 'active'},
            page_size=_IMAGES, limit=_IMAGES)
        shown = [self._show(image['id']) for image in candidates]
        in_ceph = [image for image in shown if _rbd_urls(image)]
        return next(iter(in_ceph or shown), None)

    def _check_visible(self) -> Iterator[Finding]:
        image = self._image
        if image is None:
            yield _skipped(_('there is no image to try; name one'))
            return
        if image['status'] != 'active':
            raise _Failed(
                _('The image is %s, so it has no data') % image['status'],
                _('Name an image that is active.'))
        urls = _rbd_urls(image)
        if not urls:
            other = {url.partition(':')[0] for url in _urls(image)}
            if other:
                raise _Failed(
                    _('Glance keeps this image elsewhere: %s') %
                    ', '.join(sorted(other)),
                    _('Name an image that is in Ceph, or have Glance store '
                      'images there.'))
            raise _Failed(
                _('Glance does not tell where the image is'),
                _('Set show_image_direct_url = true in [DEFAULT] of '
                  'glance-api.conf and restart Glance.'))
        self._url = urls[0]
        api = ('direct_url' if image.get('direct_url') in urls
               else 'locations')
        yield Finding('', Verdict.OK, _(
            '%(url)s, shown as %(api)s of the image') %
            {'url': self._url, 'api': api})

    def _check_allowed(self) -> Iterator[Finding]:
        if self._image is None or not self._url:
            yield _skipped(_('no location is known'))
            return
        try:
            location = rbd.parse(self._url)
            rbd.check_allowed(location, self._image['id'])
            cluster = rbd.find_cluster(location.fsid)
        except transfer.SourceError as exc:
            raise _Failed(
                host.describe(exc),
                _('Such an image is always fetched over HTTP. If it should '
                  'not be, correct [glance] rbd_ceph_conf or rbd_pool, or '
                  'store the image anew.')) from exc
        self._location = location
        yield Finding('', Verdict.OK, _(
            'pool %(pool)s of the cluster in %(conf)s') %
            {'pool': location.pool, 'conf': cluster.conf})

    def _check_read(self) -> Iterator[Finding]:
        if self._location is None or self._image is None:
            yield _skipped(_('there is nothing to read'))
            return
        if self._location.fsid not in self._answering:
            yield _skipped(_('the cluster does not answer'))
            return
        pool, name = self._location.pool, rbd.ceph_user() or 'admin'
        try:
            with rbd.open_source(self._image, self._url, '') as source:
                _read_some(source)
        except transfer.SourceError as exc:
            raise _Failed(host.describe(exc), _read_remedy(
                host.describe(exc), name, pool)) from exc
        yield Finding('', Verdict.OK, _(
            'client.%(name)s reads the image in pool %(pool)s') %
            {'name': name, 'pool': pool})

    def _check_key_manager(self) -> Iterator[Finding]:
        if not (CONF.glance.verify_glance_signatures or
                CONF.glance.enable_certificate_validation and
                CONF.glance.default_trusted_certificate_ids):
            yield _skipped(_('signatures are not verified'))
            return
        if self._login is None:
            yield _skipped(_('there is no login'))
            return
        properties = self._image['properties'] if self._image else {}
        certificate = properties.get(_CERTIFICATE)
        try:
            _get_certificate(self._login, certificate)
        except castellan_exc.Forbidden as exc:
            yield Finding('', Verdict.WARNING, host.describe(exc), _(
                'It answers, but %s may not read that certificate. '
                'nova-compute asks with the token of the user.') %
                self._login.user)
            return
        except Exception as exc:
            raise _Failed(
                host.describe(exc),
                _('See [key_manager] and [barbican] in nova.conf, and that '
                  'the certificate is there: no image whose signature is to '
                  'be verified can be used.')) from exc
        if self._image and not certificate:
            yield Finding('', Verdict.WARNING, _(
                'answers, but image %s is not signed') % self._image['id'],
                _('Nova refuses this image, by HTTP as well. Sign it, or name '
                  'another one.'))
            return
        yield Finding('', Verdict.OK, _('answers'))

    def _check_cache(self) -> Iterator[Finding]:
        path = _existing(fetch.cache_directory())
        if not os.access(path, os.W_OK | os.X_OK):
            raise _Failed(
                _('%(path)s cannot be written to by %(user)s') %
                {'path': path, 'user': host.user_name()},
                _('Give it to the user of nova-compute, or run this as '
                  'root.'))
        try:
            direct = nova.privsep.utils.supports_direct_io(path)
        except OSError as exc:
            raise _Failed(
                _('%(path)s: %(reason)s') %
                {'path': path, 'reason': exc.strerror},
                _('Mend the filesystem, or make room.')) from exc
        if direct:
            yield Finding('', Verdict.OK, _(
                '%s, written by O_DIRECT') % path)
        else:
            yield Finding('', Verdict.WARNING, _(
                '%s, whose filesystem has no O_DIRECT') % path, _(
                'Images are written through the page cache, which takes '
                'memory from the guests. Use ext4 or XFS for '
                'instances_path.'))

    def _check_space(self) -> Iterator[Finding]:
        path = _existing(fetch.cache_directory())
        status = os.statvfs(path)
        free = status.f_bavail * status.f_frsize
        needed = self._image['size'] if self._image else 0
        detail = _('%(free).1f GiB on %(path)s') % {
            'free': free / units.Gi, 'path': path}
        if free <= needed:
            raise _Failed(
                _('%(detail)s, and the image needs %(needed).1f GiB') %
                {'detail': detail, 'needed': needed / units.Gi},
                _('Make room there: see [image_cache] '
                  'remove_unused_base_images.'))
        yield Finding('', Verdict.OK, detail)


def _findings(name: str, found: Iterator[Finding]) -> Iterator[Finding]:
    """Give the findings of one check its name, a failure among them."""
    try:
        for finding in found:
            yield (finding if finding.check else
                   dataclasses.replace(finding, check=name))
    except _Failed as exc:
        yield Finding(name, Verdict.FAILED, str(exc), exc.remedy)
    except Exception as exc:
        # A check that cannot be made is not one that went well.
        yield Finding(name, Verdict.FAILED, host.describe(exc), _(
            'This was not foreseen: run --check with --debug.'))


def _skipped(reason: str) -> Finding:
    return Finding('', Verdict.SKIPPED, reason)


def _urls(image: metadata.ImageMeta) -> list[str]:
    return [entry['url'] for entry in image.get('locations', ())]


def _rbd_urls(image: metadata.ImageMeta) -> list[str]:
    return [url for url in _urls(image) if url.startswith('rbd:')]


def _no_answer(conf: str, name: str, seconds: int, said: str) -> _Failed:
    """Tell apart what ceph says when it cannot connect."""
    lines = [line for line in said.splitlines() if line.strip()]
    detail = _('%(name)s cannot connect: %(said)s') % {
        'name': name, 'said': ' | '.join(lines[-2:])}
    if 'imed' in said and 'out' in said or 'ETIMEDOUT' in said:
        return _Failed(
            _('No monitor answered within %d seconds') % seconds,
            _('See mon host in %s, the network to it, and whether Ceph is up. '
              'A slow network needs a larger [glance] rbd_connect_timeout.') %
            conf)
    return _Failed(detail, _(
        'As root, see that the keyring named in %(conf)s, or '
        '/etc/ceph/ceph.%(name)s.keyring, has the key of %(name)s as '
        '"ceph auth get %(name)s" shows it.') % {'conf': conf, 'name': name})


def _read_remedy(reason: str, name: str, pool: str) -> str:
    if 'ermission denied' in reason or 'not permitted' in reason:
        return _("Let it read that pool: ceph auth caps client.%(name)s mon "
                 "'profile rbd' osd 'profile rbd-read-only pool=%(pool)s'") % {
            'name': name, 'pool': pool}
    if 'No such file' in reason:
        return _('The image is in Glance but not in Ceph any more. Name '
                 'another one.')
    return _('See "ceph health detail" on a monitor host.')


def _read_some(source: transfer.Source) -> None:
    """Read the first bytes of a source, if it has any data at all."""
    buffer = memoryview(bytearray(4096))
    for _offset, length in source.extents():
        source.readinto(buffer[:length] if length else buffer)
        return


def _get_certificate(user: login.Login, certificate: str | None) -> ty.Any:
    """Read a certificate, or see that there is none with a new id."""
    if certificate:
        return key_manager.API().get(user.context, certificate)
    with contextlib.suppress(castellan_exc.ManagedObjectNotFoundError):
        key_manager.API().get(user.context, uuidutils.generate_uuid())
    return None


def _existing(path: str) -> str:
    """Return path, or the nearest directory on the way to it that exists."""
    while True:
        try:
            os.stat(path)
        except OSError as exc:
            if exc.errno not in (errno.ENOENT, errno.ENOTDIR):
                return path
            path = os.path.dirname(path)
        else:
            return path
