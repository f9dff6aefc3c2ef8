# SPDX-License-Identifier: Apache-2.0

"""Checks whether this host can download images directly from Ceph.

The findings are not translated: with --json, programs read them.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import errno
import os
import shutil
import sys
import textwrap
import typing as ty

from castellan.common import exception as castellan_exc
from castellan import key_manager
from oslo_log import log as logging
from oslo_utils import units
from oslo_utils import uuidutils

import nova.conf
from nova import exception
from nova.i18n import _
from nova.image import command
from nova.image.command import fetch
from nova.image.command import host
from nova.image import download
from nova.image import errors
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
from nova.virt.libvirt import imagecache

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)
Cause = program.Cause
describe = errors.describe

#: The check that needs all parts of a direct download.
_READ = 'Read from Ceph'

#: The verdicts, and how they look in text.
OK, WARNING, FAILED, SKIPPED = 'ok', 'warning', 'failed', 'skipped'
_LABELS = {OK: 'ok', WARNING: 'WARN', FAILED: 'FAIL', SKIPPED: '-'}

#: The result of a check: check, verdict, detail and remedy.
Finding: ty.TypeAlias = dict[str, str]


@dataclasses.dataclass(eq=False)
class NotOk(Exception):
    """The result of a check that is not OK.

    :ivar remedy: how to solve the problem; None: as the table of checks says
    """
    detail: str
    remedy: str | None = None
    verdict: str = FAILED


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
_REMEDIES: dict[Cause | None, str] = {
    **dict.fromkeys(
        (Cause.BAD_CONF, Cause.NO_MONITOR),
        'Correct %(conf)s: "rbd --conf %(conf)s ls" as root shows the error.'),
    Cause.NEW_KEY:
        'Upgrade ceph-common, or rotate the key and copy it to this host.',
    Cause.NO_ANSWER:
        'Check mon host in %(conf)s, the network, and whether Ceph runs, or '
        'increase [glance] rbd_connect_timeout.',
}
_NO_RIGHT = ('See the rights of %(user)s, or name another image; nova-compute '
             'uses the token of the user who boots an instance.')


def run(image_id: str | None, quiet: bool) -> dict[str, ty.Any]:
    """Make all checks, and print each finding as soon as it is there.

    :param image_id: image to try; None: a recent one, in Ceph if possible
    :param quiet: print nothing
    :returns: the JSON object, see the man page
    """
    found = []
    for finding in Checks(image_id).run():
        found.append(finding)
        if not quiet:
            _show(finding)
    failed = any(each['verdict'] == FAILED for each in found)
    if failed:
        conclusion = _('Direct downloads do not work on this host: see FAIL '
                       'above.')
    elif _READ in (each['check'] for each in found if each['verdict'] == OK):
        conclusion = _('Direct downloads work on this host.')
    else:
        conclusion = _('The checks found no error, but could not try an '
                       'image: name one that is in Ceph.')
    if not quiet:
        print(f'\n{conclusion}')
    return {'result': FAILED if failed else OK, 'checks': found}


def _show(finding: Finding) -> None:
    start = f'{_LABELS[finding["verdict"]]:4}  {finding["check"]:18}  '
    # Without a terminal, each text is one line.
    width = shutil.get_terminal_size((sys.maxsize, 0)).columns
    for text in filter(None, (finding['detail'], finding['remedy'])):
        print(textwrap.fill(
            text, width, initial_indent=start,
            subsequent_indent=' ' * len(start), break_long_words=False,
            break_on_hyphens=False), flush=True)
        start = ' ' * (len(start) - 3) + '-> '


class Checks:
    """The checks, and what they have found so far.

    Each check sets attributes for later ones, and returns a detail or raises
    an error.

    :param image_id: see run()
    """

    def __init__(self, image_id: str | None) -> None:
        self._image_id = image_id
        self.client = program.client_name()
        #: The fsids of the clusters that answer.
        self.answering: set[str] = set()

    def run(self) -> Iterator[Finding]:
        """Make all checks, in the order of their dependencies."""
        yield from (self.check(*row) for row in _HOST_TABLE)
        for self.number, self.conf in enumerate(
                nova.conf.glance.ceph_confs(CONF)):
            self.keyring = program.default_keyring(self.conf)
            vars(self).pop('fsid', None)
            yield from (self.check(*row) for row in _CLUSTER_TABLE)
        yield from (self.check(*row) for row in _IMAGE_TABLE)

    def check(
        self, name: str, needs: str, method: Callable[['Checks'], str],
        remedy: str,
    ) -> Finding:
        """Make a check; the arguments are those in the tables of checks."""
        verdict = FAILED
        try:
            if needs and not hasattr(self, needs):
                raise NotOk(_MISSING[needs], '', SKIPPED)
            detail, verdict, remedy = method(self), OK, ''
        except NotOk as exc:
            detail, verdict = exc.detail, exc.verdict
            remedy = remedy if exc.remedy is None else exc.remedy
        except Exception as exc:
            LOG.debug('The check %s failed', name, exc_info=True)
            detail = describe(exc)
            remedy = _REMEDIES.get(getattr(exc, 'cause', None), remedy)
        return {'check': name, 'verdict': verdict,
                'detail': command.one_line(detail),
                'remedy': remedy % vars(self)}

    def configuration(self) -> str:
        return f'{", ".join(host.config_files())}, read as {host.user_name()}'

    def options(self) -> str:
        ignored = glance.ignored_schemes()
        if 'rbd' not in glance.active_handlers():
            raise NotOk('; '.join(['direct downloads are disabled', *ignored]))
        images_type = CONF.libvirt.images_type
        if images_type == 'rbd':
            raise NotOk('Nova clones disks in Ceph and downloads no images')
        ignored += nova.conf.glance.timeouts_out_of_range(CONF)
        if ignored:
            raise NotOk('; '.join(ignored), 'Correct it in nova.conf.',
                        WARNING)
        return f'direct downloads are enabled, images_type = {images_type}'

    def helper(self) -> str:
        self.command = (CONF.nova_sys_admin.helper_command or
                        f'{utils.get_root_helper()} privsep-helper')
        nova.privsep.sys_admin_pctxt.start()
        self.privileged = True
        return f'started with: {self.command}'

    def programs(self) -> str:
        try:
            return program.run(0, 'rbd --version').decode().strip()
        except program.CallError as exc:
            raise NotOk(describe(exc), '', SKIPPED)

    def ceph_conf(self) -> str:
        with program.Run(self.number, 'rbd --version') as run:
            self.rights = run.rights
        self.fsid = rbd_cluster.read_conf(self.number)
        fsid = self.fsid or 'not set, so Nova asks the cluster'
        return f'{self.conf}, fsid {fsid}; rbd runs {self.rights}'

    def cluster(self) -> str:
        fsid = rbd_cluster.ask_cluster(self.number)
        if self.fsid not in ('', fsid):
            raise NotOk(f'{self.conf} contains the fsid {self.fsid}, but its '
                        f'monitors belong to the cluster {fsid}',
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
            raise NotOk(detail, 'This command, but not nova-compute, needs '
                        'the role admin to see images of other projects.',
                        WARNING)
        return detail

    def glance(self) -> str:
        url, api = glance.generate_glance_url(self.context), glance.API()
        ids = [self._image_id] if self._image_id else [
            image['id'] for image in api.get_all(
                self.context, filters={'status': 'active'}, page_size=5,
                limit=5)]
        images = [api.get(self.context, each, include_locations=True,
                          show_deleted=False) for each in ids]
        if not images:
            return f'{url} answers, but shows no image to try'
        self.image = next((image for image in images if _in_ceph(
            locations.shown(image))), images[0])
        return '%s answers; image %s, %s, %.1f MiB' % (
            url, self.image['id'], self.image['disk_format'],
            self.image['size'] / units.Mi)

    def location_shown(self) -> str:
        client = glance.GlanceClientWrapper()
        try:
            permitted = download.is_permitted(client, self.context, self.image)
        except exception.ImageNotAuthorized as exc:
            raise NotOk(describe(exc), _NO_RIGHT, WARNING)
        if not permitted:
            raise NotOk(
                f'Glance did not say whether {self.user} may download the '
                f'image, whose status is {self.image["status"]}',
                'Name an active image, or check that no proxy changes the '
                'status 416 that --debug shows.')
        urls = locations.shown(self.image)
        source = 'shown to users as locations of the image'
        if self.image.get('direct_url') in urls:
            source = 'shown to users as direct_url of the image'
        elif not urls:
            urls = locations.read(client, self.context, self.image['id'])
            source = ('returned to Nova by GET /v2/images/ID/locations, '
                      'hidden from users')
        if not _in_ceph(urls):
            schemes = ', '.join(map(locations.scheme, urls)) or '-'
            raise NotOk(f'this image is not in Ceph, but in: {schemes}')
        self.urls = _in_ceph(urls)
        return f'{" ".join(self.urls)}, {source}'

    def allowed(self) -> str:
        refused = []
        # As Nova does.
        for self.url in locations.nearest_first(
                self.urls, {'rbd': rbd_cluster.proximity}) or self.urls:
            try:
                location = rbd_location.parse(self.url)
                rbd_location.check_allowed(location, self.image['id'])
                self.conf = rbd_cluster.find_cluster(location.fsid).conf
                self.location, self.pool = location, location.pool
                return f'pool {self.pool} of the cluster in {self.conf}'
            except transfer.SourceError as exc:
                refused.append(describe(exc))
        raise NotOk('; '.join(refused))

    def read(self) -> str:
        if self.location.fsid not in self.answering:
            raise NotOk('the cluster does not answer', '', SKIPPED)
        try:
            with export.open_source(
                    self.image, self.url, '', verified=True) as source:
                for _offset, length in source.extents():
                    source.readinto(memoryview(bytearray(4096))[:length])
                    break
        except program.RunError as exc:
            # With another cause, the status is not about the pool or image.
            if (exc.cause is not Cause.UNKNOWN or
                    exc.status not in (errno.EPERM, errno.EACCES)):
                raise
            with contextlib.suppress(transfer.SourceError):
                self.pool = export.data_pool(self.url) or self.pool
            # A complete command could remove other rights of the client.
            raise NotOk(
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
            raise NotOk('signatures are not verified', '', SKIPPED)
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
            raise NotOk(describe(exc), _NO_RIGHT, WARNING)
        if image and not certificate:
            raise NotOk(f'answers, but image {image["id"]} is not signed',
                        'Sign it, or name another one: Nova refuses it, also '
                        'over HTTP.', WARNING)
        return 'answers'

    def image_cache(self) -> str:
        fetch.check_cache_owner()
        path = _existing_cache_directory()
        if not nova.privsep.utils.supports_direct_io(path):
            raise NotOk(
                f'{path}, whose file system does not support O_DIRECT',
                'Use ext4 or XFS for instances_path, or downloads take '
                'memory from the guests, for the page cache.', WARNING)
        return f'{path}, written with O_DIRECT'

    def free_space(self) -> str:
        path = _existing_cache_directory()
        free = shutil.disk_usage(path).free
        needed = self.image['size'] if hasattr(self, 'image') else 0
        if free <= needed:
            raise NotOk(f'only {free / units.Gi:.1f} GiB on {path}, but the '
                        f'image needs {needed / units.Gi:.1f} GiB')
        return f'{free / units.Gi:.1f} GiB on {path}'


# Name, attribute that the check needs, method, and remedy.
_HOST_TABLE = (
    ('Configuration', '', Checks.configuration, ''),
    ('Options', '', Checks.options,
     'Correct nova.conf: [glance] allowed_direct_url_schemes must be rbd, and '
     '[libvirt] images_type qcow2 or raw.'),
    ('Privileged helper', '', Checks.helper,
     'Run this command as root or as the user of nova-compute, and have sudo '
     'let that user run "%(command)s", whose output --debug shows.'),
    ('Programs', 'privileged', Checks.programs,
     'Install ceph-common (rbd, ceph and ceph-conf), util-linux 2.33 or newer '
     '(setpriv) and coreutils (timeout), and let Nova run them.'),
)
_CLUSTER_TABLE = (
    ('ceph.conf', 'privileged', Checks.ceph_conf,
     'Put the ceph.conf of the cluster at %(conf)s, or correct [glance] '
     'rbd_ceph_conf: --debug shows the errors of oslo.privsep.'),
    ('Cluster', 'fsid', Checks.cluster,
     'Check that the keyring that %(conf)s names (by default %(keyring)s) '
     'exists and contains the key that "ceph auth get %(client)s" shows. rbd '
     'reads it %(rights)s.'),
)
_IMAGE_TABLE = (
    ('Credentials', '', Checks.credentials,
     'Correct [service_user] in nova.conf, which nova-compute needs, too.'),
    ('Glance', 'context', Checks.glance,
     'Check [glance] endpoint_override, valid_interfaces and region_name, and '
     'that the image exists and the user may see it, as admin may.'),
    ('Location', 'image', Checks.location_shown,
     'Name an active image in Ceph. If Glance hides locations, give the user '
     'in [service_user] the roles service and admin, or show all users the '
     'locations with show_image_direct_url = true (OSSN-0090).'),
    ('Allowed', 'urls', Checks.allowed,
     'Correct [glance] rbd_ceph_conf or rbd_pool, or store the image again: '
     'Nova downloads it over HTTP.'),
    (_READ, 'location', Checks.read,
     'Name another image if Ceph does not contain this one; otherwise, see '
     '"ceph health detail" on a monitor host.'),
    ('Key manager', 'context', Checks.key_manager,
     'See [key_manager] and [barbican] in nova.conf, and that the certificate '
     'exists: Nova refuses an image whose signature it cannot verify.'),
    ('Image cache', '', Checks.image_cache,
     'See [DEFAULT] instances_path: the user of nova-compute must own it, and '
     'its file system needs free space.'),
    ('Free space', '', Checks.free_space,
     'Free space there: see [image_cache] remove_unused_base_images.'),
)


def _in_ceph(urls: list[str]) -> list[str]:
    return [url for url in urls if locations.scheme(url) == 'rbd']


def _existing_cache_directory() -> str:
    """Return the cache directory, or its closest parent that exists."""
    return next(filter(os.path.exists, (
        imagecache.ImageCacheManager().cache_dir, CONF.instances_path, '/')))
