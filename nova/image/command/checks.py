# SPDX-License-Identifier: Apache-2.0

"""Checks whether this host can download images directly from Ceph.

The findings are not translated: with --json, programs read them.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import enum
import errno
import itertools
import logging
import os
import threading

from castellan.common import exception as castellan_exc
from castellan import key_manager
from keystoneauth1 import exceptions as ks_exc
from oslo_config import cfg
from oslo_privsep import daemon
from oslo_utils import units
from oslo_utils import uuidutils

import nova.conf
from nova import exception
from nova.image import command
from nova.image.command import fetch
from nova.image.command import host
from nova.image import download
from nova.image import glance
from nova.image import locations
from nova.image.rbd import cluster as rbd_cluster
from nova.image.rbd import export
from nova.image.rbd import location as rbd_location
from nova.image.rbd import program
from nova.image import transfer
import nova.privsep
import nova.privsep.utils
from nova import utils

CONF = nova.conf.CONF
Cause = program.Cause
describe = command.describe

#: How many recent images to search for one in Ceph.
_MAX_IMAGES = 5

#: Maximum time to wait for the output of the privsep helper, in seconds.
_HELPER_TIMEOUT = 5

#: Errors with a message for operators; others are defects.
_EXPECTED = (castellan_exc.CastellanException, cfg.Error, OSError,
             command.CommandError, exception.NovaException,
             ks_exc.ClientException)


class Verdict(enum.StrEnum):
    OK = 'ok'
    WARNING = 'warning'
    FAILED = 'failed'
    SKIPPED = 'skipped'


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of a check; the fields of an object in JSON."""
    check: str
    verdict: Verdict
    detail: str
    remedy: str


@dataclasses.dataclass(eq=False)
class CheckFailed(Exception):
    """A check found a problem.

    :ivar remedy: how to solve the problem; None: as the table of checks says
    """
    detail: str
    remedy: str | None = None
    verdict: Verdict = Verdict.FAILED


def _skipped(reason: str) -> CheckFailed:
    return CheckFailed(reason, '', Verdict.SKIPPED)


def _warning(detail: str, remedy: str) -> CheckFailed:
    return CheckFailed(detail, remedy, Verdict.WARNING)


#: Why a check is skipped without an attribute of Checks that it needs.
_MISSING = {
    'privileged': 'the privileged helper does not run',
    'fsid': 'there is no usable ceph.conf',
    'context': 'no credentials work',
    'image': 'there is no image to try; name one',
    'urls': 'no location is known',
    'location': 'there is no location to read',
}

# Remedies are templates for the attributes of Checks. First, those for known
# causes of errors of rbd and ceph; the others are in the table of checks.
_REMEDIES = {
    **dict.fromkeys(
        (Cause.BAD_CONF, Cause.NO_MONITOR),
        'Correct %(conf)s. To see the error, run "rbd --conf %(conf)s ls" as '
        'root.'),
    Cause.NEW_KEY:
        'Upgrade ceph-common, or rotate the key and copy it to this host.',
    Cause.NO_ANSWER:
        'Check mon host in %(conf)s, the network, and whether Ceph runs. A '
        'slow network needs a larger [glance] rbd_connect_timeout.',
}


class Checks:
    """The checks, and what they have found so far.

    Each check sets attributes for later ones and returns a detail, or raises
    CheckFailed or an expected error.

    :param image_id: image to try; None: a recent one, in Ceph if possible
    """

    def __init__(self, image_id: str | None) -> None:
        self._image_id = image_id
        self.client = program.client_name()
        #: The fsids of the clusters that answer.
        self.answering: set[str] = set()

    def run(self) -> Iterator[Finding]:
        """Run all checks, in the order of their dependencies."""
        for row in _HOST_TABLE:
            yield self.check(*row)
        for number, conf in enumerate(nova.conf.glance.ceph_confs(CONF)):
            self.number, self.conf = number, conf
            self.keyring = program.default_keyring(conf)
            vars(self).pop('fsid', None)
            for row in _CLUSTER_TABLE:
                yield self.check(*row)
        for row in _IMAGE_TABLE:
            yield self.check(*row)

    def check(
        self, name: str, needs: str, method: Callable[['Checks'], str],
        remedy: str,
    ) -> Finding:
        """Make a check; the arguments are those in the tables of checks."""
        verdict = Verdict.FAILED
        try:
            if needs and not hasattr(self, needs):
                raise _skipped(_MISSING[needs])
            detail, verdict, remedy = method(self), Verdict.OK, ''
        except CheckFailed as exc:
            detail, verdict = exc.detail, exc.verdict
            remedy = remedy if exc.remedy is None else exc.remedy
        except _EXPECTED as exc:
            detail = describe(exc)
            if isinstance(exc, program.RunError):
                remedy = _REMEDIES.get(exc.cause, remedy)
        except Exception as exc:
            detail = f'{type(exc).__name__}: {describe(exc)}'
            remedy = 'This error is unexpected: run --check with --debug.'
        return Finding(name, verdict, detail, remedy % vars(self))

    def configuration(self) -> str:
        return f'{", ".join(host.config_files())}, read as {host.user_name()}'

    def options(self) -> str:
        ignored = glance.ignored_schemes()
        if 'rbd' not in glance.active_handlers():
            raise CheckFailed(
                '; '.join(['Direct downloads are disabled', *ignored]),
                'Set [glance] allowed_direct_url_schemes = rbd in nova.conf, '
                'and restart nova-compute.')
        if CONF.libvirt.images_type == 'rbd':
            raise CheckFailed(
                '[libvirt] images_type is rbd: disks are clones in Ceph, and '
                'Nova downloads no images',
                'Direct downloads are of no use on this host, unless you set '
                'images_type to qcow2 or raw to have local disks.')
        ignored += nova.conf.glance.timeouts_out_of_range(CONF)
        if ignored:
            raise _warning('; '.join(ignored), 'Correct it in nova.conf.')
        return ('direct downloads are enabled, [libvirt] images_type = ' +
                CONF.libvirt.images_type)

    def helper(self) -> str:
        self.command = (CONF.nova_sys_admin.helper_command or
                        f'{utils.get_root_helper()} privsep-helper')
        output: list[str] = []

        def collect(record: logging.LogRecord) -> bool:
            prefix, _separator, line = record.getMessage().partition(': ')
            if prefix == 'privsep log':
                output.append(line)
            return True

        log = daemon.LOG.logger
        log.addFilter(collect)
        try:
            nova.privsep.sys_admin_pctxt.start()
        except Exception as exc:
            # A thread logs the standard error of the helper, and ends with it.
            for thread in threading.enumerate():
                if thread.name == 'fd_logger':
                    thread.join(_HELPER_TIMEOUT)
            raise CheckFailed('The privsep daemon does not start: ' +
                              ': '.join([describe(exc), *output[-3:]]))
        finally:
            log.removeFilter(collect)
        self.privileged = True
        return f'started with: {self.command}'

    def programs(self) -> str:
        try:
            return program.run(0, 'rbd --version').decode().strip()
        except program.RunError:
            raise
        except transfer.SourceError as exc:
            raise _skipped(describe(exc))

    def ceph_conf(self) -> str:
        with program.Run(self.number, 'rbd --version') as run:
            self.rights = run.rights
        self.fsid = rbd_cluster.read_conf(self.number)
        fsid = (f'fsid {self.fsid}' if self.fsid else
                'without an fsid, so Nova asks the cluster')
        return f'{self.conf}, {fsid}; rbd runs {self.rights}'

    def cluster(self) -> str:
        fsid = rbd_cluster.ask_cluster(self.number)
        if self.fsid not in ('', fsid):
            raise CheckFailed(
                f'{self.conf} contains the fsid {self.fsid}, but its monitors '
                f'belong to the cluster {fsid}',
                'Correct fsid or mon host in %(conf)s.')
        self.answering.add(fsid)
        return f'{fsid} answers {self.client}'

    def credentials(self) -> str:
        section, self.context = host.log_in()
        self.user, roles = self.context.user_name, self.context.roles
        detail = (f'{self.user} in project {self.context.project_name}, from '
                  f'[{section}], with roles: {", ".join(roles)}')
        # Glance's default policy (get_image) shows this role all images.
        if 'admin' not in roles:
            raise _warning(
                detail, 'This command needs the role admin to see private '
                'images of other projects. nova-compute uses the token of the '
                'user.')
        return detail

    def glance(self) -> str:
        url, api = glance.generate_glance_url(self.context), glance.API()
        ids = [self._image_id] if self._image_id else [
            image['id'] for image in api.get_all(
                self.context, filters={'status': 'active'},
                page_size=_MAX_IMAGES, limit=_MAX_IMAGES)]
        try:
            images = [api.get(self.context, each, include_locations=True,
                              show_deleted=False) for each in ids]
        except exception.ImageNotFound:
            raise CheckFailed(
                fetch.no_access(ids[0]),
                'Name another image, or give the user that role.')
        if not images:
            return f'{url} answers, but shows no image to try'
        self.image = next((image for image in images if _in_ceph(
            locations.shown(image))), images[0])
        return '%s answers; image %s, %s, %.1f MiB' % (
            url, self.image['id'], self.image['disk_format'],
            self.image['size'] / units.Mi)

    def location_shown(self) -> str:
        if self.image['status'] != 'active':
            raise CheckFailed('The image has no data: its status is ' +
                              self.image['status'])
        try:
            permitted = download.is_permitted(
                glance.GlanceClientWrapper(), self.context, self.image)
        except (exception.ImageNotAuthorized, exception.ImageNotFound):
            raise _warning(
                f'Glance does not let {self.user} download image '
                f'{self.image["id"]}',
                "See Glance's policy download_image, or name an image that "
                'this user may download. nova-compute uses the token of the '
                'user.')
        if not permitted:
            raise CheckFailed(
                f'Glance did not say whether {self.user} may download the '
                'image',
                'Check that no proxy changes the status 416, with which '
                'Glance answers a range that begins at the end of an image; '
                '--debug shows the answer.')
        urls = locations.shown(self.image)
        if self.image.get('direct_url') in urls:
            source = 'shown to users as direct_url of the image'
        elif urls:
            source = 'shown to users as locations of the image'
        else:
            urls = self._hidden_urls()
            source = ('returned to Nova by GET /v2/images/ID/locations, '
                      'hidden from users')
        in_ceph = _in_ceph(urls)
        if not in_ceph:
            schemes = ', '.join(sorted(set(map(locations.scheme, urls))))
            raise CheckFailed('Glance does not store this image in Ceph, but '
                              f'in: {schemes or "-"}')
        self.urls = in_ceph
        return f'{" ".join(in_ceph)}, {source}'

    def _hidden_urls(self) -> list[str]:
        try:
            return locations.read(glance.GlanceClientWrapper(), self.context,
                                  self.image['id'])
        except locations.LocationsUnavailable as exc:
            raise CheckFailed(
                describe(exc),
                'Give the user in [service_user] of nova.conf the roles '
                'service and admin, or set show_image_direct_url = true in '
                'glance-api.conf, which shows all users the locations '
                '(OSSN-0090).')

    def allowed(self) -> str:
        refused = []
        # Those in no cluster of this host come last, for the reason.
        near = locations.nearest_first(
            self.urls, {'rbd': rbd_cluster.proximity})
        for self.url in dict.fromkeys([*near, *self.urls]):
            try:
                location = rbd_location.parse(self.url)
                rbd_location.check_allowed(location, self.image['id'])
                self.conf = rbd_cluster.find_cluster(location.fsid).conf
            except transfer.SourceError as exc:
                refused.append(describe(exc))
                continue
            self.location, self.pool = location, location.pool
            return f'pool {self.pool} of the cluster in {self.conf}'
        raise CheckFailed('; '.join(refused))

    def read(self) -> str:
        if self.location.fsid not in self.answering:
            raise _skipped('the cluster does not answer')
        buffer = memoryview(bytearray(4096))
        try:
            with export.open_source(
                    self.image, self.url, '', verified=True) as source:
                for _offset, length in itertools.islice(source.extents(), 1):
                    source.readinto(buffer[:length])
        except program.RunError as exc:
            # With another cause, the status is not about the pool or image.
            status = exc.status if exc.cause is Cause.UNKNOWN else 0
            if status == errno.ENOENT:
                raise CheckFailed(
                    describe(exc),
                    'Name another image: Ceph no longer contains this one.')
            if status not in (errno.EPERM, errno.EACCES):
                raise
            with contextlib.suppress(transfer.SourceError):
                self.pool = export.data_pool(self.url) or self.pool
            # A complete command could remove other rights of the client.
            raise CheckFailed(
                describe(exc),
                'Let it read the pool %(pool)s: "ceph auth get %(client)s" '
                "shows its rights. Add 'profile rbd' for mon and 'profile "
                "rbd-read-only pool=%(pool)s' for osd with \"ceph auth "
                'caps", which replaces all rights.')
        return f'{self.client} reads the image in pool {self.pool}'

    def key_manager(self) -> str:
        if not (CONF.glance.verify_glance_signatures or
                CONF.glance.enable_certificate_validation and
                CONF.glance.default_trusted_certificate_ids):
            raise _skipped('signatures are not verified')
        image = getattr(self, 'image', None)
        certificate = image and image['properties'].get(
            'img_signature_certificate_uuid')
        try:
            key_manager.API().get(
                self.context, certificate or uuidutils.generate_uuid())
        except castellan_exc.ManagedObjectNotFoundError:
            if certificate:
                raise
        except Exception as exc:
            # Castellan raises the same error for all refusals of Barbican.
            if 'Forbidden' not in f'{type(exc).__name__} {exc}':
                raise
            raise _warning(
                describe(exc), 'It answers, but %(user)s may not read that '
                'certificate. nova-compute uses the token of the user.')
        if image and not certificate:
            raise _warning(
                f'answers, but image {image["id"]} is not signed',
                'Nova refuses this image, also over HTTP. Sign it, or name '
                'another one.')
        return 'answers'

    def image_cache(self) -> str:
        fetch.check_cache_owner()
        path = _existing_cache_directory()
        if not nova.privsep.utils.supports_direct_io(path):
            raise _warning(
                f'{path}, whose file system does not support O_DIRECT',
                'Use ext4 or XFS for instances_path. On this file system, '
                'downloads take memory from the guests, for the page cache.')
        return f'{path}, written with O_DIRECT'

    def free_space(self) -> str:
        path = _existing_cache_directory()
        status = os.statvfs(path)
        free = status.f_bavail * status.f_frsize
        needed = self.image['size'] if hasattr(self, 'image') else 0
        detail = f'{free / units.Gi:.1f} GiB on {path}'
        if free <= needed:
            raise CheckFailed(
                f'{detail}, but the image needs {needed / units.Gi:.1f} GiB')
        return detail


#: The check that needs all parts of a direct download.
READ = 'Read from Ceph'

_INSTALL = ('Install ceph-common (rbd, ceph and ceph-conf), util-linux 2.33 '
            'or newer (setpriv) and coreutils (timeout), and let Nova run '
            'them.')

# Name, attribute that the check needs, method, and remedy.
_HOST_TABLE = (
    ('Configuration', '', Checks.configuration, ''),
    ('Options', '', Checks.options, ''),
    ('Privileged helper', '', Checks.helper,
     'Run this command as root or as the user of nova-compute, and have sudo '
     'let that user run: %(command)s'),
    ('Programs', 'privileged', Checks.programs, _INSTALL),
)
_CLUSTER_TABLE = (
    ('ceph.conf', 'privileged', Checks.ceph_conf,
     'Put the ceph.conf of the cluster at %(conf)s, or correct [glance] '
     'rbd_ceph_conf. If that does not help, run --check with --debug, and '
     'see the errors of oslo.privsep.'),
    ('Cluster', 'fsid', Checks.cluster,
     'Check that the keyring that %(conf)s names (by default %(keyring)s) '
     'exists and contains the key that "ceph auth get %(client)s" shows. rbd '
     'reads it %(rights)s.'),
)
_IMAGE_TABLE = (
    ('Credentials', '', Checks.credentials,
     'Correct [service_user] in nova.conf, which nova-compute needs, too.'),
    ('Glance', 'context', Checks.glance,
     'Check that Glance runs, and which endpoint Nova uses: [glance] '
     'valid_interfaces, region_name and endpoint_override in nova.conf.'),
    ('Location', 'image', Checks.location_shown,
     'Name an active image that is in Ceph, or have Glance store images '
     'there.'),
    ('Allowed', 'urls', Checks.allowed,
     'Nova downloads this image over HTTP. To change that, correct [glance] '
     'rbd_ceph_conf or rbd_pool, or store the image again.'),
    (READ, 'location', Checks.read,
     'See "ceph health detail" on a monitor host.'),
    ('Key manager', 'context', Checks.key_manager,
     'See [key_manager] and [barbican] in nova.conf, and that the certificate '
     'exists: Nova refuses an image whose signature it cannot verify.'),
    ('Image cache', '', Checks.image_cache,
     'See [DEFAULT] instances_path: the user of nova-compute must own it, and '
     'run this command. Its file system needs free space.'),
    ('Free space', '', Checks.free_space,
     'Free space there: see [image_cache] remove_unused_base_images.'),
)


def _in_ceph(urls: list[str]) -> list[str]:
    return [url for url in urls if locations.scheme(url) == 'rbd']


def _existing_cache_directory() -> str:
    """Return the cache directory, or its closest parent that exists."""
    path = fetch.cache_directory()
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path
