# Copyright 2010 OpenStack Foundation
# All Rights Reserved.
#
# SPDX-License-Identifier: Apache-2.0

"""Nova's image service: images and their metadata in Glance."""

from collections.abc import Iterable
import contextlib
import functools
import os
import stat
import typing as ty

from cryptography import exceptions as crypto_exceptions
from glanceclient import exc as glance_exc
from oslo_log import log as logging

import nova.conf
from nova import context as nova_context
from nova import exception
from nova.i18n import _
from nova.image import client
from nova.image import compat
from nova.image import destination
from nova.image import download
from nova.image import errors
from nova.image import locations
from nova.image import metadata
from nova.image.rbd import cluster as rbd_cluster
from nova.image.rbd import export as rbd_export
from nova.image import transfer
from nova.image import verify
from nova.objects import fields
from nova.objects import trusted_certs as trusted_certs_obj
from nova import profiler


LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF
_warn_once = functools.cache(LOG.warning)

_API_VERSION = client.API_VERSION

# The most preferred first: qcow2 is the format of Nova's snapshots, VMware
# uses vmdk, Hyper-V used vhd, and every hypervisor reads raw.
_PREFERRED_DISK_FORMATS = (
    fields.DiskFormat.QCOW2,
    fields.DiskFormat.VHD,
    fields.DiskFormat.VMDK,
    fields.DiskFormat.RAW,
)

# Nova's tests replace these names in this module.
_glanceclient_from_endpoint = client.connect
_translate_from_glance = metadata.from_glance
_translate_to_glance = metadata.to_glance
_extract_query_params_v2 = metadata.list_params
_is_image_available = metadata.is_available
_convert_timestamps_to_datetimes = metadata.parse_timestamps
_convert_from_string = metadata.load_structured
_convert_to_string = metadata.dump_structured
_translate_image_exception = errors.for_image
_translate_plain_exception = errors.for_request
get_api_servers = client.get_api_servers

Progress = download.Progress
Context: ty.TypeAlias = nova_context.RequestContext
ImageMeta: ty.TypeAlias = metadata.ImageMeta
GlanceImage: ty.TypeAlias = metadata.GlanceImage
TrustedCerts: ty.TypeAlias = trusted_certs_obj.TrustedCerts

_HANDLERS: dict[str, download.Handler] = {}
_PROXIMITIES: dict[str, locations.Proximity] = {}


def register_handler(scheme: str, handler: download.Handler,
                     proximity: locations.Proximity | None = None) -> None:
    """Register a handler for locations of a scheme.

    Nova uses the handler if ``[glance] allowed_direct_url_schemes`` contains
    the scheme.

    :param proximity: ranks the locations; by default all are equally near
    :raises ValueError: the scheme has a handler already
    """
    if scheme in _HANDLERS:
        raise ValueError('The scheme %r has a handler already' % scheme)
    _HANDLERS[scheme] = handler
    if proximity is not None:
        _PROXIMITIES[scheme] = proximity


register_handler('rbd', rbd_export.open_source, rbd_cluster.proximity)


def active_handlers() -> dict[str, download.Handler]:
    """Return the handlers that the configuration activates, by scheme."""
    schemes = set(CONF.glance.allowed_direct_url_schemes)
    if CONF.glance.enable_rbd_download:
        schemes.add('rbd')
    return {scheme: _HANDLERS[scheme]
            for scheme in schemes.intersection(_HANDLERS)}


def ignored_schemes() -> list[str]:
    """Describe the configured schemes that have no handler, if any."""
    unknown = set(CONF.glance.allowed_direct_url_schemes).difference(_HANDLERS)
    return [
        'Nova ignores unsupported schemes in [glance] '
        'allowed_direct_url_schemes, and downloads their images over HTTP: %s.'
        ' The supported schemes are: %s' % (
            ', '.join(sorted(unknown)), ', '.join(sorted(_HANDLERS)))
    ] if unknown else []


def _reraise_translated_image_exception(image_id: str) -> ty.NoReturn:
    errors.reraise_as(functools.partial(_translate_image_exception, image_id))


def _reraise_translated_exception() -> ty.NoReturn:
    errors.reraise_as(_translate_plain_exception)


def generate_glance_url(context: Context) -> str:
    """Return the endpoint of one of the image servers."""
    return next(get_api_servers(context))


def _endpoint_from_image_ref(image_href: str) -> tuple[str, str]:
    """Split ``ENDPOINT/VERSION/images/ID`` into ID and ENDPOINT.

    :raises ValueError: there are fewer than four parts
    """
    endpoint, _version, _images, image_id = image_href.rsplit('/', 3)
    return image_id, endpoint


class GlanceClientWrapper(client.GlanceClient):
    """The client, with the name and the helper that Nova's tests use."""

    def _connect(self, context: Context, endpoint: str,
                 version: int) -> ty.Any:
        return _glanceclient_from_endpoint(context, endpoint, version)


class GlanceImageServiceV2:
    """Reads and writes images with the Image API v2.

    Arguments and results are Nova's image dicts, see
    :mod:`nova.image.metadata`.

    :param client: calls Glance; by default, the configured servers
    """

    def __init__(self, client: GlanceClientWrapper | None = None) -> None:
        self._client = client or GlanceClientWrapper()

    def show(self, context: Context, image_id: str,
             include_locations: bool = False,
             show_deleted: bool = True) -> ImageMeta:
        """Return one image.

        :param include_locations: add 'locations', a list of dicts with 'url'
            and 'metadata', the direct URL last; it is empty if Glance hides
            them
        :param show_deleted: return the image even if it is deleted
        :raises nova.exception.ImageNotFound: there is no such image that this
            user may see
        :raises nova.exception.ImageNotAuthorized: Glance refuses the request
        """
        return self._translate(
            self._get(context, image_id, show_deleted), include_locations)

    def _get(self, context: Context, image_id: str,
             show_deleted: bool = True) -> GlanceImage:
        """Return one image as glanceclient does; see show()."""
        try:
            image = self._client.call(
                context, _API_VERSION, 'get', args=(image_id,))
        except Exception:
            _reraise_translated_image_exception(image_id)

        hidden = not show_deleted and getattr(image, 'deleted', False)
        if hidden or not _is_image_available(context, image):
            raise exception.ImageNotFound(image_id=image_id)
        return image

    def _translate(self, image: GlanceImage,
                   include_locations: bool) -> ImageMeta:
        image_meta = _translate_from_glance(
            image, include_locations=include_locations)
        if include_locations:
            image_meta['locations'] = self._all_locations(image_meta)
        return image_meta

    @staticmethod
    def _all_locations(image_meta: ImageMeta) -> list[ty.Any]:
        locations = image_meta.get('locations') or []
        if direct_url := image_meta.get('direct_url'):
            return [*locations, {'url': direct_url, 'metadata': {}}]
        return locations

    def detail(self, context: Context, **kwargs: ty.Any) -> list[ImageMeta]:
        """Return all matching images that this user may see.

        :param kwargs: 'filters' (a dict), 'marker', 'limit', 'page_size',
            'sort_key', 'sort_dir'
        :raises nova.exception.Invalid: Glance does not accept a filter
        """
        params = _extract_query_params_v2(kwargs)
        try:
            images = self._client.call(
                context, _API_VERSION, 'list', kwargs=params)
        except Exception:
            _reraise_translated_exception()
        return [_translate_from_glance(image) for image in images
                if _is_image_available(context, image)]

    def download(self, context: Context, image_id: str,
                 data: ty.BinaryIO | None = None, dst_path: str | None = None,
                 trusted_certs: TrustedCerts | None = None,
                 replace: bool = True,
                 progress: Progress | None = None) -> Iterable[bytes] | None:
        """Download an image's data.

        Nova writes the file at dst_path from the first source with the right
        bytes: the locations with an active handler, if Glance lets this user
        download the image, then the Image API. The bytes must match the
        signature, if verification is configured, or the recorded hash.

        :param data: an open file to write to; dst_path is then ignored
        :param dst_path: path of a file to write, or of an existing FIFO or
            device to write to
        :param trusted_certs: IDs of certificates, one of which must have
            issued the certificate of the signature
        :param replace: if False, a file at dst_path is an error and stays
            unchanged, even if it is created during the download
        :param progress: receives the progress of a download to a file
        :returns: None, or with neither data nor dst_path an iterator over the
            image's chunks; it yields the last chunk only after a signature is
            verified, and raises the errors listed here
        :raises cryptography.exceptions.InvalidSignature: wrong signature
        :raises cursive.exception.SignatureVerificationError: the signature
            cannot be verified
        :raises nova.exception.CertificateValidationFailed: the certificate is
            not trusted
        :raises nova.exception.ImageNotAuthorized: Glance refuses the data
        :raises nova.exception.CouldNotFetchImage: no source delivered the
            complete image with the recorded hash
        :raises nova.exception.ImageUnacceptable: it has no data, its hash
            cannot be computed, or two sources delivered the same wrong bytes
        :raises FileExistsError: replace is False, and dst_path exists
        :raises OSError: the file cannot be written
        """
        # This fails before the download if the signature is not verifiable.
        verifier = self._get_verifier(context, image_id, trusted_certs)
        if data is None and dst_path and (
                not replace or
                compat.in_native_thread(
                    destination.is_plain_destination)(dst_path)):
            self._download_to_file(
                context, image_id, dst_path, trusted_certs, verifier, replace,
                progress or Progress())
            return None
        chunks = download.request_data(self._client, context, image_id)
        if verifier is not None:
            chunks = verify.verified_chunks(image_id, chunks, verifier, LOG)
        if data is None and not dst_path:
            return chunks
        self._write_chunks(chunks, data, dst_path)
        return None

    def _download_to_file(self, context: Context, image_id: str, path: str,
                          trusted_certs: TrustedCerts | None,
                          verifier: transfer.Verifier | None, replace: bool,
                          progress: Progress) -> None:
        # Here and not earlier: a service that downloads nothing must start,
        # and SIGHUP changes the options.
        handlers = active_handlers()
        for text in ignored_schemes():
            _warn_once(text)
        found = self._get(context, image_id)
        image = self._translate(found, include_locations=bool(handlers))
        # Nova's image dict has 0 if Glance has not recorded a size.
        image['size'] = found.get('size')
        expected = (
            verify.recorded_hash(image) if verifier is None
            else verify.signature(verifier, lambda: self._make_verifier(
                context, image_id,
                verify.certificates_to_trust(trusted_certs))))
        download.Download(
            self._client, context, image, path, handlers, _PROXIMITIES,
            replace, progress).run(expected)

    def _write_chunks(self, chunks: Iterable[bytes], data: ty.BinaryIO | None,
                      dst_path: str | None) -> None:
        """Write an image to a file object, a FIFO or a device."""
        with contextlib.ExitStack() as stack:
            file = data
            if file is None:
                file = stack.enter_context(open(ty.cast(str, dst_path), 'wb'))
                stack.callback(self._safe_fsync, file)
                stack.callback(file.flush)
            try:
                for chunk in chunks:
                    file.write(chunk)
            except crypto_exceptions.InvalidSignature:
                if data is not None:
                    data.truncate(0)
                raise

    @staticmethod
    def _safe_fsync(fh: ty.BinaryIO) -> None:
        """Sync an open file, but not a FIFO or socket."""
        fd = fh.fileno()
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
            os.fsync(fd)

    def _get_verifier(self, context: Context, image_id: str,
                      trusted_certs: TrustedCerts | None) -> ty.Any:
        """Return an unused verifier of the image's signature.

        None if no signature is required: neither the request nor the options
        name certificates, and ``[glance] verify_glance_signatures`` is off.
        """
        trusted_certs = verify.certificates_to_trust(trusted_certs)
        if not trusted_certs and not CONF.glance.verify_glance_signatures:
            return None
        return self._make_verifier(context, image_id, trusted_certs)

    def _make_verifier(
            self, context: Context, image_id: str,
            trusted_certs: TrustedCerts | None) -> transfer.Verifier:
        return verify.signature_verifier(
            context, image_id, self.show(context, image_id)['properties'],
            trusted_certs, LOG)

    def create(self, context: Context, image_meta: ImageMeta,
               data: ty.BinaryIO | str | None = None) -> ImageMeta:
        """Create an image, optionally with data.

        A size of 0 and no data create an empty image that is active at once.

        :param image_meta: the new image; if it has the property
            'instance_owner', a project ID, that property is removed and the
            image is shared with the project, as for a snapshot that an
            administrator creates
        :param data: an open file, or an iterable
        :returns: the new image
        :raises nova.exception.Invalid: Glance rejects the request
        :raises nova.exception.Forbidden: this user may not create it
        """
        force_activate = data is None and image_meta.get('size') == 0
        sharing_member_id = image_meta.get('properties', {}).pop(
            'instance_owner', None)
        try:
            image = self._create_v2(
                context, _translate_to_glance(image_meta), data,
                force_activate, sharing_member_id=sharing_member_id)
        except glance_exc.HTTPException:
            _reraise_translated_exception()
        return _translate_from_glance(image)

    def _create_v2(self, context: Context, sent_service_image_meta: ImageMeta,
                   data: ty.BinaryIO | str | None = None,
                   force_activate: bool = False,
                   sharing_member_id: str | None = None) -> GlanceImage:
        arguments = dict(sent_service_image_meta)
        if force_activate:
            # v2 activates an image only on upload, and requires its formats.
            data = ''
            arguments = self._as_empty_image(arguments)
        location = arguments.pop('location', None)
        image = self._client.call(
            context, _API_VERSION, 'create', kwargs=arguments)
        if location:
            self._add_location(context, image['id'], location)
        if sharing_member_id:
            LOG.debug('Sharing image %s with project %s',
                      image['id'], sharing_member_id)
            self._add_image_member(context, image['id'], sharing_member_id)
        if data is None:
            return image
        return self._upload_data(context, image['id'], data)

    @staticmethod
    def _as_empty_image(arguments: ImageMeta) -> ImageMeta:
        # Files of all other formats have a header.
        if arguments.get('disk_format', 'raw') != 'raw':
            raise exception.ImageBadRequest(
                _('Unable to force activate with disk_format=%s: an image '
                  'without data can only be raw') % arguments['disk_format'])
        return {'disk_format': 'raw', 'container_format': 'bare'} | arguments

    def _add_location(self, context: Context, image_id: str,
                      location: str) -> ty.Any:
        """Register data that is in a store already.

        Before Image API 2.17, Glance supports only the old call, and only if
        its option ``show_multiple_locations`` is set.
        """
        call = functools.partial(
            self._client.call, context, _API_VERSION,
            args=(image_id, location, {}))
        try:
            try:
                return call('add_image_location')
            except glance_exc.HTTPNotImplemented:
                LOG.debug('Glance has no add_image_location, '
                          'trying add_location for image %s', image_id)
                return call('add_location')
        except glance_exc.HTTPBadRequest:
            _reraise_translated_exception()

    def _add_image_member(self, context: Context, image_id: str,
                          member_id: str) -> ty.Any:
        """Share an image with another project.

        :param context: a request of the owner's project
        :param member_id: ID of the other project
        """
        try:
            return self._client.call(
                context, _API_VERSION, 'create', controller='image_members',
                args=(image_id, member_id))
        except glance_exc.HTTPBadRequest:
            _reraise_translated_exception()

    def _upload_data(self, context: Context, image_id: str,
                     data: ty.BinaryIO | str) -> GlanceImage:
        # Reading a file blocks every green thread.
        compat.in_pool(self._client.call)(
            context, _API_VERSION, 'upload', args=(image_id, data))
        return self._client.call(
            context, _API_VERSION, 'get', args=(image_id,))

    def _get_image_create_disk_format_default(self, context: Context) -> str:
        """Return the disk format to use if none is requested.

        The answer is not cached, because Glance's configuration can change.
        """
        schema = self._client.call(
            context, _API_VERSION, 'get', args=('image',),
            controller='schemas')
        properties = schema.raw()['properties'] if schema else {}
        supported = properties.get('disk_format', {}).get('enum')
        if not supported:
            default = _PREFERRED_DISK_FORMATS[0]
            LOG.warning('The Image API does not report the disk formats that '
                        'it supports. Using %s.', default)
            return default
        for preferred in _PREFERRED_DISK_FORMATS:
            if preferred in supported:
                return preferred
        LOG.debug('The Image API supports none of the disk formats %s. '
                  'Using %s.', _PREFERRED_DISK_FORMATS, supported[0])
        return supported[0]

    def update(self, context: Context, image_id: str, image_meta: ImageMeta,
               data: ty.BinaryIO | str | None = None,
               purge_props: bool = True) -> ImageMeta:
        """Change an image, optionally with data.

        :param image_meta: the changes; an 'id' is ignored
        :param data: as for :meth:`create`
        :param purge_props: remove the custom properties not in image_meta
        :returns: the changed image
        :raises nova.exception.ImageNotFound: there is no such image
        :raises nova.exception.ImageNotAuthorized: this user may not do it
        :raises nova.exception.ImageQuotaExceeded: the data exceeds the quota
        """
        arguments = _translate_to_glance(image_meta)
        arguments.pop('id', None)
        arguments['image_id'] = image_id
        try:
            if purge_props:
                kept = image_meta.get('properties', {})
                arguments['remove_props'] = [
                    name for name in self.show(context, image_id)['properties']
                    if name not in kept]
            image = self._update_v2(context, arguments, data)
        except Exception:
            _reraise_translated_image_exception(image_id)
        return _translate_from_glance(image)

    def _update_v2(self, context: Context, sent_service_image_meta: ImageMeta,
                   data: ty.BinaryIO | str | None = None) -> GlanceImage:
        arguments = dict(sent_service_image_meta)
        image_id = arguments['image_id']
        location = arguments.pop('location', None)
        image = self._client.call(
            context, _API_VERSION, 'update', kwargs=arguments)
        if location:
            self._add_location(context, image_id, location)
        if data is None:
            return image
        return self._upload_data(context, image_id, data)

    def delete(self, context: Context, image_id: str) -> bool:
        """Delete an image.

        :returns: True
        :raises nova.exception.ImageNotFound: there is no such image
        :raises nova.exception.ImageNotAuthorized: this user may not do it
        :raises nova.exception.ImageDeleteConflict: the image is in use
        """
        try:
            self._client.call(
                context, _API_VERSION, 'delete', args=(image_id,))
        except glance_exc.HTTPException:
            errors.reraise_as(functools.partial(errors.for_delete, image_id))
        return True

    def image_import_copy(self, context: Context, image_id: str,
                          stores: list[str]) -> None:
        """Request that Glance copies an image's data to other stores.

        This returns when Glance has accepted the request.

        :param stores: Glance's names of the stores
        :raises nova.exception.ImageNotFound: there is no such image
        :raises nova.exception.ImageNotAuthorized: this user may not do it
        :raises nova.exception.ImageImportImpossible: the image's state does
            not allow it
        :raises nova.exception.ImageBadRequest: the data is in such a store
            already, or another request copies it
        """
        try:
            self._client.call(
                context, _API_VERSION, 'image_import', args=(image_id,),
                kwargs={'method': 'copy-image', 'stores': stores})
        except glance_exc.HTTPException:
            errors.reraise_as(functools.partial(errors.for_import, image_id))


def get_default_image_service() -> GlanceImageServiceV2:
    """Return the image service of the configured servers."""
    return GlanceImageServiceV2()


def get_remote_image_service(
        context: Context, image_href: str) -> tuple[GlanceImageServiceV2, str]:
    """Return the image service of an image, and the image's ID.

    :param image_href: an ID, for the default service, or a URL such as
        ``http://example.com:9292/v2/images/ID``
    :raises nova.exception.InvalidImageRef: it is neither
    """
    if '/' not in str(image_href):
        return get_default_image_service(), image_href
    try:
        image_id, endpoint = _endpoint_from_image_ref(image_href)
        client = GlanceClientWrapper(context=context, endpoint=endpoint)
    except ValueError as error:
        raise exception.InvalidImageRef(image_href=image_href) from error
    return GlanceImageServiceV2(client=client), image_id


@profiler.trace_cls("nova_image")
class API:
    """The image API for the rest of Nova.

    ``id_or_uri`` is an ``image_href`` of :func:`get_remote_image_service`.
    Parameters and errors are those of :class:`GlanceImageServiceV2`.
    """

    def _get_session_and_image_id(
        self, context: Context, id_or_uri: str,
    ) -> tuple[GlanceImageServiceV2, str]:
        return get_remote_image_service(context, id_or_uri)

    def _get_session(self, _context: Context) -> GlanceImageServiceV2:
        return get_default_image_service()

    @staticmethod
    def generate_image_url(image_ref: str, context: Context) -> str:
        """Return a URL of the image with this ID."""
        return f'{next(get_api_servers(context))}/images/{image_ref}'

    def get_all(self, context: Context, **kwargs: ty.Any) -> list[ImageMeta]:
        """Return the images that this user may see."""
        return self._get_session(context).detail(context, **kwargs)

    def get(self, context: Context, id_or_uri: str,
            include_locations: bool = False,
            show_deleted: bool = True) -> ImageMeta:
        """Return one image."""
        service, image_id = self._get_session_and_image_id(context, id_or_uri)
        return service.show(
            context, image_id, include_locations=include_locations,
            show_deleted=show_deleted)

    def create(self, context: Context, image_info: ImageMeta,
               data: ty.BinaryIO | str | None = None) -> ImageMeta:
        """Create an image, optionally with data."""
        return self._get_session(context).create(
            context, image_info, data=data)

    def update(self, context: Context, id_or_uri: str, image_info: ImageMeta,
               data: ty.BinaryIO | str | None = None,
               purge_props: bool = False) -> ImageMeta:
        """Change an image, and by default keep its other properties.

        Glance accepts data only for an image without data.
        """
        service, image_id = self._get_session_and_image_id(context, id_or_uri)
        return service.update(
            context, image_id, image_info, data=data, purge_props=purge_props)

    def delete(self, context: Context, id_or_uri: str) -> bool:
        """Delete an image and its data."""
        service, image_id = self._get_session_and_image_id(context, id_or_uri)
        return service.delete(context, image_id)

    def download(self, context: Context, id_or_uri: str,
                 data: ty.BinaryIO | None = None, dest_path: str | None = None,
                 trusted_certs: TrustedCerts | None = None,
                 progress: Progress | None = None) -> Iterable[bytes] | None:
        """Download an image's data; see GlanceImageServiceV2.download()."""
        service, image_id = self._get_session_and_image_id(context, id_or_uri)
        return service.download(
            context, image_id, data=data, dst_path=dest_path,
            trusted_certs=trusted_certs, progress=progress)

    def copy_image_to_store(self, context: Context, image_id: str,
                            store: str) -> None:
        """Request that Glance copies an image's data to another store."""
        service, image_id = self._get_session_and_image_id(context, image_id)
        service.image_import_copy(context, image_id, [store])
