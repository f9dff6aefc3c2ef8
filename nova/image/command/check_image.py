# SPDX-License-Identifier: Apache-2.0

"""Checks of Glance, and of the way from an image there to its data."""

import contextlib
import errno
import typing as ty

from castellan.common import exception as castellan_exc
from castellan import key_manager
from oslo_utils import units
from oslo_utils import uuidutils

import nova.conf
from nova import exception
from nova.i18n import _
from nova.image.command import errors
from nova.image.command import fetch
from nova.image.command import findings
from nova.image.command import host
from nova.image.command import login
from nova.image import glance
from nova.image import locations
from nova.image import metadata
from nova.image.rbd import cluster as rbd_cluster
from nova.image.rbd import export as rbd_export
from nova.image.rbd import location as rbd_location
from nova.image.rbd import program as rbd_program
from nova.image import transfer

CONF = nova.conf.CONF

#: How many images are looked at for one in Ceph when none is named.
_IMAGES = 5

_CERTIFICATE = 'img_signature_certificate_uuid'


def check_login(known: findings.Known) -> findings.Finding:
    try:
        known.logged_in = login.log_in()
    except errors.CommandError as exc:
        raise findings.CheckFailed(
            str(exc), _('nova-compute needs [service_user], too: correct '
                        'it in nova.conf.')) from exc
    detail = _('%(user)s in project %(project)s, of [%(section)s], with '
               'roles: %(roles)s') % {
        'user': known.logged_in.user, 'project': known.logged_in.project,
        'section': known.logged_in.section,
        'roles': ', '.join(known.logged_in.roles)}
    if login.ALL_SEEING_ROLE in known.logged_in.roles:
        return findings.ok(detail)
    return findings.warning(detail, _(
        'Private images of other projects cannot be seen by this command '
        'without the role admin. nova-compute can: it has the token of the '
        'user.'))


def check_glance(known: findings.Known) -> findings.Finding:
    if known.logged_in is None:
        return findings.skipped(_('there is no login'))
    context = known.logged_in.context
    try:
        url = glance.generate_glance_url(context)
        found = (_show(known, known.image_id) if known.image_id
                 else _find_image(known))
    except exception.ImageNotFound as exc:
        raise findings.CheckFailed(
            str(fetch.no_such_image(known.image_id or '')),
            _('Name another image, or give the user that role.')) from exc
    except Exception as exc:
        raise findings.CheckFailed(
            host.describe(exc),
            _('See that Glance runs, and which endpoint Nova uses: '
              '[glance] valid_interfaces, region_name and '
              'endpoint_override in nova.conf.')) from exc
    known.image = found
    if found is None:
        return findings.ok(_(
            '%s answers; it shows no image to try') % url)
    return findings.ok(_(
        '%(url)s answers; image %(image)s, %(format)s, %(size).1f MiB') %
        {'url': url, 'image': found['id'],
         'format': found['disk_format'],
         'size': found['size'] / units.Mi})


def _show(
    known: findings.Known, image_id: str,
) -> metadata.ImageMeta:
    assert known.logged_in is not None
    return glance.API().get(
        known.logged_in.context, image_id, include_locations=True,
        show_deleted=False)


def _find_image(known: findings.Known) -> metadata.ImageMeta | None:
    """Return a recent image, one that is seen to be in Ceph if any."""
    assert known.logged_in is not None
    candidates = glance.API().get_all(
        known.logged_in.context, filters={'status': 'active'},
        page_size=_IMAGES, limit=_IMAGES)
    shown = [_show(known, image['id']) for image in candidates]
    in_ceph = [image for image in shown
               if 'rbd' in map(locations.scheme, locations.shown(image))]
    return next(iter(in_ceph or shown), None)


def check_visible(known: findings.Known) -> findings.Finding:
    image = known.image
    if image is None or known.logged_in is None:
        return findings.skipped(_('there is no image to try; name one'))
    if image['status'] != 'active':
        raise findings.CheckFailed(
            _('The image is %s, so it has no data') % image['status'],
            _('Name an image that is active.'))
    try:
        permitted = glance.get_default_image_service().permits_direct_download(
            known.logged_in.context, image)
    except (exception.ImageNotAuthorized, exception.ImageNotFound):
        return findings.warning(
            _('Glance does not let %(user)s download image %(image)s') %
            {'user': known.logged_in.user, 'image': image['id']},
            _('Nova does not download an image directly if Glance refuses to '
              "send it: see Glance's policy download_image. nova-compute asks "
              'with the token of the user. Name an image that this user may '
              'download.'))
    if not permitted:
        raise findings.CheckFailed(
            _('Glance did not say whether %s may download the image') %
            known.logged_in.user,
            _('Nova sends GET /v2/images/ID/file with a range that begins at '
              'the end of the image, and Glance answers with status 416. '
              'Check that no proxy changes this; --debug shows the answer.'))
    urls = locations.shown(image)
    if urls:
        api = _('shown to users as %s of the image') % (
            'direct_url' if image.get('direct_url') in urls else 'locations')
    else:
        urls = _ask(known.logged_in, image['id'])
        api = _('told to Nova by GET /v2/images/ID/locations, hidden from '
                'users')
    known.urls = [url for url in urls if locations.scheme(url) == 'rbd']
    if not known.urls:
        raise findings.CheckFailed(
            _('Glance does not keep this image in Ceph, but in: %s') %
            (', '.join(sorted(set(map(locations.scheme, urls)))) or '-'),
            _('Name an image that is in Ceph, or have Glance store images '
              'there.'))
    return findings.ok(_('%(urls)s, %(api)s') % {
        'urls': ' '.join(known.urls), 'api': api})


def _ask(user: login.Login, image_id: str) -> list[str]:
    """Ask Glance for what it hides, as a download would.

    :raises CheckFailed: it does not tell
    """
    try:
        return locations.read(
            glance.GlanceClientWrapper(), user.context, image_id)
    except locations.NotTold as exc:
        raise findings.CheckFailed(
            host.describe(exc),
            _('Give the user in [service_user] of nova.conf the roles '
              'service and admin. Otherwise set show_image_direct_url = true '
              'in glance-api.conf, which shows it to all users '
              '(OSSN-0090).')) from exc


def check_allowed(known: findings.Known) -> findings.Finding:
    if known.image is None or not known.urls:
        return findings.skipped(_('no location is known'))
    refused = []
    for url in _nearest_first(known.urls):
        try:
            location = rbd_location.parse(url)
            rbd_location.check_allowed(location, known.image['id'])
            cluster = rbd_cluster.find_cluster(location.fsid)
        except transfer.SourceError as exc:
            refused.append(host.describe(exc))
            continue
        known.url, known.location = url, location
        return findings.ok(_('pool %(pool)s of the cluster in %(conf)s') % {
            'pool': location.pool, 'conf': cluster.conf})
    raise findings.CheckFailed('; '.join(refused), _(
        'Such an image is always fetched over HTTP. If it should not be, '
        'correct [glance] rbd_ceph_conf or rbd_pool, or store the image '
        'again.'))


def _nearest_first(urls: list[str]) -> list[str]:
    # Those that no cluster of this host is for have a reason to give, too.
    near = locations.nearest_first(urls, {'rbd': rbd_cluster.proximity})
    return near + [url for url in urls if url not in near]


def check_read(known: findings.Known) -> findings.Finding:
    if known.location is None or known.image is None:
        return findings.skipped(_('there is nothing to read'))
    if known.location.fsid not in known.answering:
        return findings.skipped(_('the cluster does not answer'))
    pool, name = known.location.pool, rbd_program.client_name()
    try:
        with rbd_export.open_source(
                known.image, known.url, '', verified=True) as source:
            _read_some(source)
    except transfer.SourceError as exc:
        raise findings.CheckFailed(
            host.describe(exc), _read_remedy(exc, name, known)) from exc
    return findings.ok(_('%(name)s reads the image in pool %(pool)s') % {
        'name': name, 'pool': pool})


def check_key_manager(known: findings.Known) -> findings.Finding:
    if not (CONF.glance.verify_glance_signatures or
            CONF.glance.enable_certificate_validation and
            CONF.glance.default_trusted_certificate_ids):
        return findings.skipped(_('signatures are not verified'))
    if known.logged_in is None:
        return findings.skipped(_('there is no login'))
    properties = known.image['properties'] if known.image else {}
    certificate = properties.get(_CERTIFICATE)
    try:
        _get_certificate(known.logged_in, certificate)
    except Exception as exc:
        if _is_forbidden(exc):
            return findings.warning(host.describe(exc), _(
                'It answers, but %s may not read that certificate. '
                'nova-compute asks with the token of the user.') %
                known.logged_in.user)
        raise findings.CheckFailed(
            host.describe(exc),
            _('See [key_manager] and [barbican] in nova.conf, and that '
              'the certificate is there: no image whose signature is to '
              'be verified can be used.')) from exc
    if known.image and not certificate:
        return findings.warning(_(
            'answers, but image %s is not signed') % known.image['id'],
            _('Nova refuses this image, by HTTP as well. Sign it, or name '
              'another one.'))
    return findings.ok(_('answers'))


def _read_remedy(
    error: transfer.SourceError, name: str, known: findings.Known,
) -> str:
    # With a known cause, the status is not about the pool or the image.
    status = (error.status if isinstance(error, rbd_program.RunError) and
              error.cause is rbd_program.Cause.UNKNOWN else None)
    if status in (errno.EPERM, errno.EACCES):
        # A whole command could take rights away that others rely on.
        return _("Let it read the pool %(pool)s: \"ceph auth get %(name)s\" "
                 "shows its rights. Add 'profile rbd' for mon and 'profile "
                 "rbd-read-only pool=%(pool)s' for osd with \"ceph auth "
                 "caps\", which replaces all rights.") % {
                     'name': name, 'pool': _unreadable_pool(known)}
    if status == errno.ENOENT:
        return _('The image is in Glance but no longer in Ceph. Name another '
                 'image.')
    return _('See "ceph health detail" on a monitor host.')


def _unreadable_pool(known: findings.Known) -> str:
    """Return the pool of the data if only that one cannot be read."""
    assert known.location is not None
    with contextlib.suppress(transfer.SourceError):
        return rbd_export.data_pool(known.url) or known.location.pool
    return known.location.pool


def _read_some(source: transfer.Source) -> None:
    """Read the first bytes of a source, if it has any data at all."""
    buffer = memoryview(bytearray(4096))
    for _offset, length in source.extents():
        source.readinto(buffer[:length] if length else buffer)
        return


def _is_forbidden(error: Exception) -> bool:
    # Castellan's Barbican manager has one exception for all refusals.
    return (isinstance(error, castellan_exc.Forbidden) or
            'Forbidden' in str(error))


def _get_certificate(user: login.Login, certificate: str | None) -> ty.Any:
    """Read a certificate, or see that there is none with a new id."""
    if certificate:
        return key_manager.API().get(user.context, certificate)
    with contextlib.suppress(castellan_exc.ManagedObjectNotFoundError):
        key_manager.API().get(user.context, uuidutils.generate_uuid())
    return None
