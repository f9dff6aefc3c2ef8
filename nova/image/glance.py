# Copyright 2010 OpenStack Foundation
# All Rights Reserved.
#
# SPDX-License-Identifier: Apache-2.0

"""Nova's image service: images and their metadata, kept by Glance."""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import functools
from http import HTTPStatus
import inspect
import itertools
import os
import random
import re
import stat
import time
import typing as ty

from cryptography import exceptions as crypto_exceptions
from cryptography import x509
from cursive import certificate_utils
from cursive import exception as cursive_exception
from cursive import signature_utils
import glanceclient
from glanceclient import exc as glance_exc
from keystoneauth1 import adapter
from keystoneauth1 import exceptions as ksa_exc
from oslo_log import log as logging
from oslo_utils import units

import nova.conf
from nova import context as nova_context
from nova import exception
from nova.i18n import _
from nova.image import compat
from nova.image import download
from nova.image import errors
from nova.image import http
from nova.image import locations
from nova.image import metadata
from nova.image import rbd
from nova.image import transfer
from nova.image import verify
from nova.objects import fields
from nova.objects import trusted_certs as trusted_certs_obj
from nova import profiler
from nova import utils


LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF

_API_VERSION = 2

# In the classes here, 'download' is a method.
_Progress = download.Progress

# What becomes of an attempt to reach a server; see _is_worth_another().
_CONNECTION_ERRORS = (
    glance_exc.CommunicationError,
    glance_exc.HTTPException,
    glance_exc.InvalidEndpoint,
    OSError,
)
_RETRY_INTERVAL = 1  # seconds

# Status codes with which Glance refuses to send an image's data to a user.
_REFUSALS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN,
             HTTPStatus.NOT_FOUND)

# Most wanted first: qcow2 is what Nova always made, then what VMware takes
# (vhd was Hyper-V's), and raw, which everything reads.
_PREFERRED_DISK_FORMATS = (
    fields.DiskFormat.QCOW2,
    fields.DiskFormat.VHD,
    fields.DiskFormat.VMDK,
    fields.DiskFormat.RAW,
)

# The service looks these up here, under the names that Nova's tests replace.
_translate_from_glance = metadata.from_glance
_translate_to_glance = metadata.to_glance
_extract_query_params_v2 = metadata.list_params
_is_image_available = metadata.is_available
_convert_timestamps_to_datetimes = metadata.parse_timestamps
_convert_from_string = metadata.load_structured
_convert_to_string = metadata.dump_structured
_translate_image_exception = errors.for_image
_translate_plain_exception = errors.for_request


_SIGNATURE = (
    'img_signature',
    'img_signature_hash_method',
    'img_signature_certificate_uuid',
    'img_signature_key_type',
)

# What comes of a certificate, or of an id of one, that makes no sense: neither
# cursive nor what it is built on has a name for it.
_UNREADABLE = (
    AttributeError,
    TypeError,
    ValueError,
    crypto_exceptions.UnsupportedAlgorithm,
    x509.InvalidVersion,
)

#: Seconds between two lines in the log that tell how far a download is.
_PROGRESS_INTERVAL = 10.0


class Handler(ty.Protocol):
    """Opens an image at a location of one scheme."""

    def __call__(
        self, image: metadata.ImageMeta, url: str, path: str, /, *,
        verified: bool,
    ) -> contextlib.AbstractContextManager[transfer.Source]:
        """Open the image.

        :param image: as :meth:`GlanceImageServiceV2.show` returns it
        :param url: the location
        :param path: the file that the image goes to, for the log only
        :param verified: whether the caller verifies the bytes; if not, the
            source's finish() fails unless the image still exists after its
            last byte
        :raises nova.image.transfer.SourceError: the location cannot be used
        """


_HANDLERS: dict[str, Handler] = {}
_RANKS: dict[str, locations.Rank] = {}


def register_handler(
    scheme: str, handler: Handler, rank: locations.Rank | None = None,
) -> None:
    """Make a handler known, for images with a location of this scheme.

    It is used where ``[glance] allowed_direct_url_schemes`` names the scheme.

    :param rank: tells how far off a location is; by default all are near
    :raises ValueError: the scheme has a handler already
    """
    if scheme in _HANDLERS:
        raise ValueError('There is a handler of %r already' % scheme)
    _HANDLERS[scheme] = handler
    if rank is not None:
        _RANKS[scheme] = rank


register_handler('rbd', rbd.open_source, rbd.rank)


def active_handlers() -> dict[str, Handler]:
    """Return the handlers that the configuration asks for, by scheme.

    :raises nova.exception.InvalidConfiguration: a scheme has no handler
    """
    schemes = set(CONF.glance.allowed_direct_url_schemes)
    if CONF.glance.enable_rbd_download:
        schemes.add('rbd')
    if unknown := schemes.difference(_HANDLERS):
        raise exception.InvalidConfiguration(
            _('[glance] allowed_direct_url_schemes has no handler for: '
              '%(unknown)s. The schemes that can be fetched directly are: '
              '%(known)s') %
            {'unknown': ', '.join(sorted(unknown)),
             'known': ', '.join(sorted(_HANDLERS))})
    return {scheme: _HANDLERS[scheme] for scheme in schemes}


class _ProgressLog:
    """Says in the log how far a long download is, and to a progress."""

    def __init__(
        self, image_id: str, source: str, progress: _Progress,
    ) -> None:
        self._image_id = image_id
        self._source = source
        self._progress = progress
        self._next = time.monotonic() + _PROGRESS_INTERVAL

    def __call__(self, done: int, size: int | None) -> None:
        self._progress.on_progress(done, size)
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _PROGRESS_INTERVAL
        LOG.info('Image %(image)s is being fetched by %(source)s: %(done)d '
                 'of %(size)s bytes',
                 {'image': self._image_id, 'source': self._source,
                  'done': done,
                  'size': _('an unknown number of') if size is None
                  else size})


def _reraise_translated_image_exception(image_id: str) -> ty.NoReturn:
    errors.reraise_as(functools.partial(_translate_image_exception, image_id))


def _reraise_translated_exception() -> ty.NoReturn:
    errors.reraise_as(_translate_plain_exception)


def describe_failure(error: Exception) -> str:
    """Say why a source could not be used."""
    if isinstance(error, crypto_exceptions.InvalidSignature):
        # It has no message, or not one that says more.
        return _('the signature is not of this data')
    return str(error) or type(error).__name__


def _is_worth_another(error: Exception) -> bool:
    """Whether the trouble may be one server's, or over in a second."""
    return errors.code(error) in (None, HTTPStatus.SERVICE_UNAVAILABLE)


def _glanceclient_from_endpoint(
    context: nova_context.RequestContext, endpoint: str, version: int,
) -> ty.Any:
    session, auth = compat.session_and_auth(context)
    return glanceclient.Client(
        version, session=session, auth=auth, endpoint_override=endpoint,
        global_request_id=context.global_id)


def _endpoint_from_catalog(context: nova_context.RequestContext) -> str:
    session, auth = compat.session_and_auth(context)
    endpoint = compat.endpoint(utils.get_ksa_adapter(
        nova.conf.glance.DEFAULT_SERVICE_TYPE, ksa_auth=auth,
        ksa_session=session, min_version='2.0', max_version='2.latest'))
    # glanceclient adds the version to every path itself (its bug 1707995);
    # its strip_version() takes a 'v2' out of the host name too (bug 1748009).
    return endpoint and re.sub(r'/v\d+(\.\d+)?/?$', '/', endpoint)


def get_api_servers(context: nova_context.RequestContext) -> Iterator[str]:
    """Return an endless iterator over the endpoints of the Image API.

    They come from ``[glance] api_servers``, in an order that differs from
    call to call, or else there is the one of the service catalog.
    """
    if CONF.glance.api_servers:
        servers = list(CONF.glance.api_servers)
        random.shuffle(servers)
    else:
        servers = [_endpoint_from_catalog(context)]
    return itertools.cycle(servers)


def generate_glance_url(context: nova_context.RequestContext) -> str:
    """Return the endpoint of one of the image servers."""
    return next(get_api_servers(context))


def _endpoint_from_image_ref(image_href: str) -> tuple[str, str]:
    """Split ``ENDPOINT/VERSION/images/ID`` into ID and ENDPOINT.

    :raises ValueError: there are less than four parts
    """
    endpoint, _version, _images, image_id = image_href.rsplit('/', 3)
    return image_id, endpoint


class GlanceClientWrapper:
    """Calls Glance, and again where a server can't be reached.

    :param context: whose request it is; needed with an endpoint only
    :param endpoint: the server to call; without it each attempt goes to the
        next one of :func:`get_api_servers`
    """

    def __init__(
        self, context: nova_context.RequestContext | None = None,
        endpoint: str | None = None,
    ) -> None:
        self.api_server: str | None = None
        self.api_servers: Iterator[str] | None = None
        self.client = None
        if endpoint is not None:
            self.client = self._create_static_client(
                ty.cast(nova_context.RequestContext, context), endpoint,
                _API_VERSION)

    @property
    def is_for_one_server(self) -> bool:
        """Whether it calls a server that a request may have named."""
        return self.client is not None

    def _create_static_client(
        self, context: nova_context.RequestContext, endpoint: str,
        version: int,
    ) -> ty.Any:
        self.api_server = str(endpoint)
        return _glanceclient_from_endpoint(context, endpoint, version)

    def _create_onetime_client(
        self, context: nova_context.RequestContext, version: int,
    ) -> ty.Any:
        if self.api_servers is None:
            self.api_servers = get_api_servers(context)
        self.api_server = next(self.api_servers)
        return _glanceclient_from_endpoint(context, self.api_server, version)

    def call(
        self, context: nova_context.RequestContext, version: int, method: str,
        controller: str | None = None, args: Iterable[ty.Any] | None = None,
        kwargs: Mapping[str, ty.Any] | None = None,
    ) -> ty.Any:
        """Call a method of glanceclient.

        The arguments for that method are not our own ones, so that an image
        property named, say, 'version' does no harm.

        :param version: major version of the Image API
        :param method: name of the method
        :param controller: which part of the client has it: 'images' if None
        :param args: positional arguments for the method
        :param kwargs: named arguments for the method
        :returns: what the method returns; a generator's items as a list
        :raises nova.exception.GlanceConnectionFailed: no server answered, not
            in ``[glance] num_retries`` further attempts either
        """
        retries_left = CONF.glance.num_retries
        while True:
            client = (self.client or
                      self._create_onetime_client(context, version))
            try:
                part = getattr(client, controller or 'images')
                result = getattr(part, method)(
                    *(args or ()), **(kwargs or {}))
                # A generator asks the server while it is read: read it here,
                # where a failure is met by another attempt.
                return list(result) if inspect.isgenerator(result) else result
            except _CONNECTION_ERRORS as error:
                if not _is_worth_another(error):
                    raise
                LOG.exception(
                    "Can't reach image server '%(server)s' for '%(method)s'; "
                    "retries left: %(retries)d.",
                    {'server': self.api_server, 'method': method,
                     'retries': retries_left})
                if not retries_left:
                    raise exception.GlanceConnectionFailed(
                        server=str(self.api_server), reason=str(error),
                    ) from error
            retries_left -= 1
            time.sleep(_RETRY_INTERVAL)


class GlanceImageServiceV2:
    """Reads and writes images by the Image API v2.

    Images go in and out as Nova's image dicts, see
    :mod:`nova.image.metadata`.

    :param client: what calls Glance; by default, the configured servers
    """

    def __init__(self, client: GlanceClientWrapper | None = None) -> None:
        self._client = client or GlanceClientWrapper()
        self._handlers = active_handlers()

    def show(
        self, context: nova_context.RequestContext, image_id: str,
        include_locations: bool = False, show_deleted: bool = True,
    ) -> metadata.ImageMeta:
        """Return one image.

        :param include_locations: add 'locations', a list of dicts with 'url'
            and 'metadata', the direct URL last; it is empty where Glance does
            not tell them
        :param show_deleted: return the image also when it is deleted
        :raises nova.exception.ImageNotFound: there is none, or none this user
            may see
        :raises nova.exception.ImageNotAuthorized: Glance refuses the request
        """
        return self._translate(
            self._get(context, image_id, show_deleted), include_locations)

    def _get(
        self, context: nova_context.RequestContext, image_id: str,
        show_deleted: bool = True,
    ) -> metadata.GlanceImage:
        """Return one image as Glance describes it; see show()."""
        try:
            image = self._client.call(
                context, _API_VERSION, 'get', args=(image_id,))
        except Exception:
            _reraise_translated_image_exception(image_id)

        hidden = not show_deleted and getattr(image, 'deleted', False)
        if hidden or not _is_image_available(context, image):
            raise exception.ImageNotFound(image_id=image_id)
        return image

    def _translate(
        self, image: metadata.GlanceImage, include_locations: bool,
    ) -> metadata.ImageMeta:
        image_meta = _translate_from_glance(
            image, include_locations=include_locations)
        if include_locations:
            image_meta['locations'] = self._all_locations(image_meta)
        return image_meta

    @staticmethod
    def _all_locations(image_meta: metadata.ImageMeta) -> list[ty.Any]:
        locations = image_meta.get('locations') or []
        if direct_url := image_meta.get('direct_url'):
            return [*locations, {'url': direct_url, 'metadata': {}}]
        return locations

    def detail(
        self, context: nova_context.RequestContext, **kwargs: ty.Any,
    ) -> list[metadata.ImageMeta]:
        """Return all images that match and that this user may see.

        :param kwargs: 'filters' (a dict), 'marker', 'limit', 'page_size',
            'sort_key', 'sort_dir'
        :raises nova.exception.Invalid: Glance does not take a filter
        """
        params = _extract_query_params_v2(kwargs)
        try:
            images = self._client.call(
                context, _API_VERSION, 'list', kwargs=params)
        except Exception:
            _reraise_translated_exception()
        return [_translate_from_glance(image) for image in images
                if _is_image_available(context, image)]

    def download(
        self, context: nova_context.RequestContext, image_id: str,
        data: ty.BinaryIO | None = None, dst_path: str | None = None,
        trusted_certs: trusted_certs_obj.TrustedCerts | None = None,
        replace: bool = True, progress: _Progress | None = None,
    ) -> Iterable[bytes] | None:
        """Fetch an image's data.

        A file at dst_path is made from the first source that delivers the
        right bytes: the locations that a handler is active for, in Glance's
        order, then the Image API. The bytes of every source must match the
        signature, if verification is configured, otherwise the hash that
        Glance recorded. A location is used only if Glance lets this user
        download the image.

        :param data: an open file to write to; dst_path is then ignored
        :param dst_path: path of a file to make, or of an existing FIFO or
            device to write to
        :param trusted_certs: ids of certificates, one of which must be behind
            the one that signed the image; by default those of ``[glance]
            default_trusted_certificate_ids`` if they are to be validated
        :param replace: if False, dst_path must not exist, and a file that
            another process creates there during the download stays unchanged
        :returns: None, or with neither data nor dst_path an iterator over the
            image's chunks; if a signature has to be verified, the iterator
            yields the last chunk only after the verification, and raises the
            errors listed here
        :raises cryptography.exceptions.InvalidSignature: the signature is not
            of these bytes
        :raises cursive.exception.SignatureVerificationError: the signature
            cannot be verified
        :raises nova.exception.CertificateValidationFailed: the certificate is
            not one to be trusted
        :raises nova.exception.ImageNotAuthorized: Glance does not let this
            user download it
        :raises nova.exception.CouldNotFetchImage: no source delivered the
            complete image with the recorded hash
        :raises nova.exception.ImageUnacceptable: it has no data, its hash
            cannot be computed, or two sources delivered the same bytes, which
            do not have the recorded hash
        :raises FileExistsError: replace is False, and dst_path exists
        :raises OSError: the file cannot be written
        """
        # Find out whether it can be verified before it is fetched.
        verifier = self._get_verifier(context, image_id, trusted_certs)
        if data is None and dst_path and (
                not replace or transfer.is_plain_destination(dst_path)):
            found = self._get(context, image_id)
            image = self._translate(
                found, include_locations=bool(self._handlers))
            # Nova's image dict has 0 where Glance has not recorded a size.
            image['size'] = found.get('size')
            if verifier is None:
                expected = verify.recorded_hash(image)
            else:
                expected = verify.signature(
                    verifier, lambda: self._make_verifier(
                        context, image_id, _to_trust(trusted_certs)))
            self._download_to_file(
                context, image, dst_path, expected, replace,
                progress or _Progress())
            return None
        chunks = self._request_data(context, image_id)
        return self._stream(image_id, chunks, verifier, data, dst_path)

    def _download_to_file(
        self, context: nova_context.RequestContext,
        image: metadata.ImageMeta, path: str, expected: verify.Expectation,
        replace: bool, progress: _Progress,
    ) -> None:
        size = image['size']
        wrong_hashes = set()
        expected_directly = verify.for_direct_download(expected)
        verified = expected_directly is not verify.NOTHING
        for scheme, url in self._direct_urls(context, image):
            handler = self._handlers[scheme]
            progress.on_source_started(scheme, size)
            try:
                with handler(image, url, path, verified=verified) as source:
                    self._transfer(
                        image, scheme, source, path, expected_directly,
                        replace, progress)
                return
            except OSError:
                # It is the destination's: no other source would help.
                raise
            except Exception as error:
                reason = describe_failure(error)
                if isinstance(error, verify.WrongHash):
                    wrong_hashes.add(error.found)
            # While an error is handled, oslo.log adds it to each line.
            LOG.warning(
                'Image %(image)s could not be fetched by %(scheme)s, the '
                'next source is tried: %(reason)s',
                {'image': image['id'], 'scheme': scheme, 'reason': reason})
            progress.on_source_failed(scheme, reason)
        progress.on_source_started('http', size)
        try:
            chunks = self._request_data(
                context, image['id'], kwargs={'do_checksum': False})
            with contextlib.closing(http.ChunkSource(chunks)) as source:
                self._transfer(
                    image, 'http', source, path, expected, replace, progress)
        except transfer.SourceError as error:
            if (isinstance(error, verify.WrongHash) and
                    error.found in wrong_hashes):
                raise exception.ImageUnacceptable(
                    image_id=image['id'], reason=str(error)) from error
            raise exception.CouldNotFetchImage(
                _('Could not fetch image %(image)s over HTTP: %(reason)s') %
                {'image': image['id'], 'reason': error}) from error
        except crypto_exceptions.InvalidSignature:
            LOG.error('Image signature verification failed for image %s',
                      image['id'])
            raise

    def _direct_urls(
        self, context: nova_context.RequestContext,
        image: metadata.ImageMeta,
    ) -> Iterator[tuple[str, str]]:
        """Yield scheme and URL of each location to try, in that order."""
        # A server that a request names must not decide what this host reads
        # from Ceph, and must not get Nova's credentials.
        if not self._handlers or self._client.is_for_one_server:
            return
        shown = locations.shown(image)
        if shown and not self._handled(shown):
            return
        if not self.permits_direct_download(context, image):
            return
        handled = self._handled(
            shown or locations.ask(self._client, context, image['id']))
        # If none can be used here, each says why when it is opened.
        chosen = locations.nearest_first(handled, _RANKS) or handled
        for number, url in enumerate(chosen):
            # The attempt before can have taken minutes.
            if number and not self.permits_direct_download(context, image):
                return
            yield locations.scheme(url), url

    def _handled(self, urls: Iterable[str]) -> list[str]:
        return [url for url in urls
                if locations.scheme(url) in self._handlers]

    def permits_direct_download(
        self, context: nova_context.RequestContext,
        image: metadata.ImageMeta,
    ) -> bool:
        """Return whether Glance would send this user the data of an image.

        A direct download bypasses Glance, and so bypasses its checks of the
        image's status and of the policy ``download_image``. This method asks
        Glance to make these checks first.

        :param context: the user's request
        :param image: as :meth:`show` returns it; a size of None means that
            Glance has not recorded one
        :returns: False if the image must be downloaded over HTTP
        :raises nova.exception.ImageNotAuthorized: Glance refuses the data
        :raises nova.exception.ImageNotFound: the image was deleted
        """
        if image['status'] != 'active' or image['size'] is None:
            LOG.debug('Image %(image)s is downloaded over HTTP only: its '
                      'status is %(status)s, its size %(size)s',
                      {'image': image['id'], 'status': image['status'],
                       'size': image['size']})
            return False
        answer = self._request_past_the_end(context, image)
        if answer == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return True
        LOG.warning(
            'Image %(image)s is downloaded over HTTP only: Glance did not say '
            'whether this user may download it (%(answer)s)',
            {'image': image['id'], 'answer': answer})
        return False

    def _request_past_the_end(
        self, context: nova_context.RequestContext,
        image: metadata.ImageMeta,
    ) -> int | str:
        """Request the range of an image that begins right after its end.

        Glance answers such a request with 416, after it has checked the
        status and the policy, and before it opens a store (Glance 33,
        glance/api/v2/image_data.py).

        :returns: the HTTP status, or the reason why Glance did not answer
        """
        session, auth = compat.session_and_auth(context)
        # glanceclient percent-encodes the value of the header, so this sends
        # the request itself, to the server that glanceclient uses.
        server = adapter.Adapter(
            session, auth=auth,
            endpoint_override=(self._client.api_server or
                               generate_glance_url(context)),
            global_request_id=context.global_id,
            connect_retries=CONF.glance.num_retries)
        try:
            # The body may be the whole image, so it is not read.
            with server.get(
                    '/v2/images/%s/file' % image['id'], stream=True,
                    headers={'Range': 'bytes=%d-' % image['size']},
                    raise_exc=False) as response:
                status = response.status_code
        except ksa_exc.ClientException as error:
            return describe_failure(error)
        if status in _REFUSALS:
            raise _translate_image_exception(
                image['id'], glance_exc.from_response(response))
        return status

    @staticmethod
    def _transfer(
        image: metadata.ImageMeta, name: str, source: transfer.Source,
        path: str, expected: verify.Expectation, replace: bool,
        progress: _Progress,
    ) -> None:
        report = transfer.transfer(
            source, path, expected.start(), size=image['size'],
            progress=_ProgressLog(image['id'], name, progress),
            replace=replace)
        LOG.info(
            'Image %(image)s fetched by %(source)s: %(size)d bytes, '
            '%(written)d bytes written, in %(seconds).2f s, %(rate).1f MiB/s, '
            'verified by %(verified)s',
            {'image': image['id'], 'source': name, 'size': report.size,
             'written': report.written, 'seconds': report.seconds,
             'rate': report.size / units.Mi / report.seconds,
             'verified': expected.name})
        progress.on_complete(name, report, expected.name)

    def _request_data(
        self, context: nova_context.RequestContext, image_id: str,
        **kwargs: ty.Any,
    ) -> ty.Any:
        try:
            chunks = self._client.call(
                context, _API_VERSION, 'data', args=(image_id,), **kwargs)
        except Exception:
            _reraise_translated_image_exception(image_id)
        if chunks.wrapped is None:
            raise exception.ImageUnacceptable(
                image_id=image_id, reason=_('it has no data'))
        return chunks

    def _stream(
        self, image_id: str, chunks: Iterable[bytes],
        verifier: ty.Any, data: ty.BinaryIO | None, dst_path: str | None,
    ) -> Iterable[bytes] | None:
        """Pass an image on to a file object, a FIFO or the caller."""
        if verifier is not None:
            chunks = self._verified(image_id, chunks, verifier)
        if data is None and not dst_path:
            return chunks
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
        return None

    @staticmethod
    def _verified(
        image_id: str, chunks: Iterable[bytes], verifier: ty.Any,
    ) -> Iterator[bytes]:
        """Yield all chunks, the last one after verification.

        If the signature is wrong, the iterator raises an error in place of
        the last chunk.
        """
        last = None
        for chunk in filter(None, chunks):
            verifier.update(chunk)
            if last is not None:
                yield last
            last = chunk
        try:
            verifier.verify()
        except crypto_exceptions.InvalidSignature:
            LOG.error('Image signature verification failed for image %s',
                      image_id)
            raise
        LOG.info('Image signature verification succeeded for image %s',
                 image_id)
        if last is not None:
            yield last

    @staticmethod
    def _safe_fsync(fh: ty.BinaryIO) -> None:
        """Sync an open file, but not a FIFO or socket: they have no disk."""
        fd = fh.fileno()
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
            os.fsync(fd)

    def _get_verifier(
        self, context: nova_context.RequestContext, image_id: str,
        trusted_certs: trusted_certs_obj.TrustedCerts | None,
    ) -> ty.Any:
        """Return a fresh verifier of the image's signature.

        None if no signature is asked for: no certificates are given, by the
        request or by default, and ``[glance] verify_glance_signatures`` is
        not set.
        """
        trusted_certs = _to_trust(trusted_certs)
        if not trusted_certs and not CONF.glance.verify_glance_signatures:
            return None
        return self._make_verifier(context, image_id, trusted_certs)

    def _make_verifier(
        self, context: nova_context.RequestContext, image_id: str,
        trusted_certs: trusted_certs_obj.TrustedCerts | None,
    ) -> transfer.Verifier:
        properties = self.show(context, image_id)['properties']
        signature = {name: properties.get(name) for name in _SIGNATURE}
        try:
            verifier = _signature_verifier(context, signature)
        except Exception as error:
            LOG.error('The signature of image %(image)s cannot be verified: '
                      '%(reason)s', {'image': image_id, 'reason': error})
            raise
        if trusted_certs:
            # Certificates that a user names are checked, also where the
            # validation is not enabled.
            _verify_certs(context, signature['img_signature_certificate_uuid'],
                          trusted_certs)
        elif CONF.glance.enable_certificate_validation:
            reason = ('Image signature certificate validation enabled, but '
                      'no trusted certificate IDs were provided. Unable to '
                      'validate the certificate used to verify the image '
                      'signature.')
            LOG.warning(reason)
            raise exception.CertificateValidationFailed(reason)
        else:
            LOG.debug('Certificate validation was not performed. A list of '
                      'trusted image certificate IDs must be provided in '
                      'order to validate an image certificate.')
        return verifier

    def create(
        self, context: nova_context.RequestContext,
        image_meta: metadata.ImageMeta,
        data: ty.BinaryIO | str | None = None,
    ) -> metadata.ImageMeta:
        """Create an image, with its data if there is any.

        A size of 0 and no data make an empty image that is active at once.

        :param image_meta: the new image; the property 'instance_owner', a
            project id, is taken out of it, and that project may then use the
            image: an administrator makes a snapshot of someone's instance
        :param data: the contents: an open file, or an iterable
        :returns: the image as Glance has it now
        :raises nova.exception.Invalid: Glance finds fault with the request
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

    def _create_v2(
        self, context: nova_context.RequestContext,
        sent_service_image_meta: metadata.ImageMeta,
        data: ty.BinaryIO | str | None = None, force_activate: bool = False,
        sharing_member_id: str | None = None,
    ) -> metadata.GlanceImage:
        arguments = dict(sent_service_image_meta)
        if force_activate:
            # v2 activates an image on upload only, and wants its formats.
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
    def _as_empty_image(arguments: metadata.ImageMeta) -> metadata.ImageMeta:
        # No other format's file can be empty: the caller made a mistake.
        if arguments.get('disk_format', 'raw') != 'raw':
            raise exception.ImageBadRequest(
                _('Unable to force activate with disk_format=%s: an image '
                  'without data can only be raw') % arguments['disk_format'])
        return {'disk_format': 'raw', 'container_format': 'bare'} | arguments

    def _add_location(
        self, context: nova_context.RequestContext, image_id: str,
        location: str,
    ) -> ty.Any:
        """Tell Glance of data that is in a store already.

        Before Glance API 2.17 only the old call is there, and only with
        ``show_multiple_locations`` set in Glance.
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

    def _add_image_member(
        self, context: nova_context.RequestContext, image_id: str,
        member_id: str,
    ) -> ty.Any:
        """Let another project than the owner use an image.

        :param context: of a request of the owner's project
        :param member_id: id of the other project
        """
        try:
            return self._client.call(
                context, _API_VERSION, 'create', controller='image_members',
                args=(image_id, member_id))
        except glance_exc.HTTPBadRequest:
            _reraise_translated_exception()

    def _upload_data(
        self, context: nova_context.RequestContext, image_id: str,
        data: ty.BinaryIO | str,
    ) -> metadata.GlanceImage:
        # Reading a file holds up every greenthread: use a native thread.
        compat.in_native_thread(self._client.call)(
            context, _API_VERSION, 'upload', args=(image_id, data))
        return self._client.call(
            context, _API_VERSION, 'get', args=(image_id,))

    def _get_image_create_disk_format_default(
        self, context: nova_context.RequestContext,
    ) -> str:
        """Return the disk format to use where nothing asks for one.

        Glance's answer is not kept: its configuration may change any time.
        """
        schema = self._client.call(
            context, _API_VERSION, 'get', args=('image',),
            controller='schemas')
        properties = schema.raw()['properties'] if schema else {}
        supported = properties.get('disk_format', {}).get('enum')
        if not supported:
            default = _PREFERRED_DISK_FORMATS[0]
            LOG.warning('The Image API does not tell which disk formats it '
                        'supports. Using %s.', default)
            return default
        for preferred in _PREFERRED_DISK_FORMATS:
            if preferred in supported:
                return preferred
        LOG.debug('The Image API supports none of the disk formats %s. '
                  'Using %s.', _PREFERRED_DISK_FORMATS, supported[0])
        return supported[0]

    def update(
        self, context: nova_context.RequestContext, image_id: str,
        image_meta: metadata.ImageMeta,
        data: ty.BinaryIO | str | None = None, purge_props: bool = True,
    ) -> metadata.ImageMeta:
        """Change an image, and upload its data if there is any.

        :param image_meta: what to change; an 'id' in it is ignored
        :param data: as for :meth:`create`
        :param purge_props: remove the custom properties not in image_meta
        :returns: the image as Glance has it now
        :raises nova.exception.ImageNotFound: there is no such image
        :raises nova.exception.ImageNotAuthorized: this user may not do it
        :raises nova.exception.ImageQuotaExceeded: there is no room for data
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

    def _update_v2(
        self, context: nova_context.RequestContext,
        sent_service_image_meta: metadata.ImageMeta,
        data: ty.BinaryIO | str | None = None,
    ) -> metadata.GlanceImage:
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

    def delete(
        self, context: nova_context.RequestContext, image_id: str,
    ) -> bool:
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

    def image_import_copy(
        self, context: nova_context.RequestContext, image_id: str,
        stores: list[str],
    ) -> None:
        """Have Glance copy an image's data to other stores of its own.

        Returns when Glance has taken the request, long before it is done.

        :param stores: names of the stores, as Glance knows them
        :raises nova.exception.ImageNotFound: there is no such image
        :raises nova.exception.ImageNotAuthorized: this user may not do it
        :raises nova.exception.ImageImportImpossible: the image's state does
            not allow it: it may not be active
        :raises nova.exception.ImageBadRequest: the data is in such a store
            already, maybe because somebody else asked for it just before
        """
        try:
            self._client.call(
                context, _API_VERSION, 'image_import', args=(image_id,),
                kwargs={'method': 'copy-image', 'stores': stores})
        except glance_exc.HTTPException:
            errors.reraise_as(functools.partial(errors.for_import, image_id))


def _to_trust(
    trusted_certs: trusted_certs_obj.TrustedCerts | None,
) -> trusted_certs_obj.TrustedCerts | None:
    """Return the certificates that a request gives, or the default ones."""
    default_ids = CONF.glance.default_trusted_certificate_ids
    if (not trusted_certs and default_ids and
            CONF.glance.enable_certificate_validation):
        return trusted_certs_obj.TrustedCerts(ids=default_ids)
    return trusted_certs


def _signature_verifier(
    context: nova_context.RequestContext, signature: dict[str, ty.Any],
) -> transfer.Verifier:
    """Return a fresh verifier.

    :raises cursive.exception.SignatureVerificationError: a property is
        missing or no good, or the certificate is
    """
    try:
        return signature_utils.get_verifier(context=context, **signature)
    except _UNREADABLE as error:
        raise cursive_exception.SignatureVerificationError(
            reason=_('Certificate %(certificate)s cannot be used: %(reason)s')
            % {'certificate': signature['img_signature_certificate_uuid'],
               'reason': error}) from error


def _verify_certs(
    context: nova_context.RequestContext, certificate_uuid: str,
    trusted_certs: ty.Any,
) -> None:
    try:
        certificate_utils.verify_certificate(
            context=context, certificate_uuid=certificate_uuid,
            trusted_certificate_uuids=trusted_certs.ids)
    except (cursive_exception.SignatureVerificationError,
            *_UNREADABLE) as error:
        LOG.warning('Image signature certificate validation failed for '
                    'certificate: %s', certificate_uuid)
        raise exception.CertificateValidationFailed(
            cert_uuid=certificate_uuid, reason=str(error)) from error
    LOG.debug('Image signature certificate validation succeeded for '
              'certificate: %s', certificate_uuid)


def get_default_image_service() -> GlanceImageServiceV2:
    """Return the image service of the configured servers."""
    return GlanceImageServiceV2()


def get_remote_image_service(
    context: nova_context.RequestContext, image_href: str,
) -> tuple[GlanceImageServiceV2, str]:
    """Return the image service that has an image, and the image's id there.

    :param image_href: an id, for the default service, or a URL such as
        ``http://example.com:9292/v2/images/ID``
    :raises nova.exception.InvalidImageRef: it is neither of them
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
    """What the rest of Nova uses of images.

    ``id_or_uri`` is what :func:`get_remote_image_service` takes. Parameters
    and errors are those of :class:`GlanceImageServiceV2`, unless stated.

    :raises nova.exception.InvalidConfiguration: there is a scheme in
        ``[glance] allowed_direct_url_schemes`` that has no handler. Services
        make their API when they start, and so do not start then
    """

    def __init__(self) -> None:
        active_handlers()

    def _get_session_and_image_id(
        self, context: nova_context.RequestContext, id_or_uri: str,
    ) -> tuple[GlanceImageServiceV2, str]:
        return get_remote_image_service(context, id_or_uri)

    def _get_session(
        self, _context: nova_context.RequestContext,
    ) -> GlanceImageServiceV2:
        return get_default_image_service()

    @staticmethod
    def generate_image_url(
        image_ref: str, context: nova_context.RequestContext,
    ) -> str:
        """Return a URL for the image with this id."""
        return f'{next(get_api_servers(context))}/images/{image_ref}'

    def get_all(
        self, context: nova_context.RequestContext, **kwargs: ty.Any,
    ) -> list[metadata.ImageMeta]:
        """Return the images this user may see: public ones, own ones, ..."""
        return self._get_session(context).detail(context, **kwargs)

    def get(
        self, context: nova_context.RequestContext, id_or_uri: str,
        include_locations: bool = False, show_deleted: bool = True,
    ) -> metadata.ImageMeta:
        """Return one image."""
        service, image_id = self._get_session_and_image_id(context, id_or_uri)
        return service.show(
            context, image_id, include_locations=include_locations,
            show_deleted=show_deleted)

    def create(
        self, context: nova_context.RequestContext,
        image_info: metadata.ImageMeta,
        data: ty.BinaryIO | str | None = None,
    ) -> metadata.ImageMeta:
        """Create an image, with its data if there is any."""
        return self._get_session(context).create(
            context, image_info, data=data)

    def update(
        self, context: nova_context.RequestContext, id_or_uri: str,
        image_info: metadata.ImageMeta,
        data: ty.BinaryIO | str | None = None, purge_props: bool = False,
    ) -> metadata.ImageMeta:
        """Change an image; its other custom properties stay by default.

        Data can be uploaded only to an image that has none yet.
        """
        service, image_id = self._get_session_and_image_id(context, id_or_uri)
        return service.update(
            context, image_id, image_info, data=data, purge_props=purge_props)

    def delete(
        self, context: nova_context.RequestContext, id_or_uri: str,
    ) -> bool:
        """Delete an image and its data."""
        service, image_id = self._get_session_and_image_id(context, id_or_uri)
        return service.delete(context, image_id)

    def download(
        self, context: nova_context.RequestContext, id_or_uri: str,
        data: ty.BinaryIO | None = None, dest_path: str | None = None,
        trusted_certs: trusted_certs_obj.TrustedCerts | None = None,
        progress: _Progress | None = None,
    ) -> Iterable[bytes] | None:
        """Fetch an image's data.

        :param data: an open file to write it to
        :param dest_path: the path of a file to write it to; only with it may
            the data come from another source than Glance's HTTP API
        :param trusted_certs: ids of the certificates one of which must have
            signed the image
        :returns: None, or with neither ``data`` nor ``dest_path`` an iterator
            over the data
        """
        service, image_id = self._get_session_and_image_id(context, id_or_uri)
        return service.download(
            context, image_id, data=data, dst_path=dest_path,
            trusted_certs=trusted_certs, progress=progress)

    def copy_image_to_store(
        self, context: nova_context.RequestContext, image_id: str,
        store: str,
    ) -> None:
        """Have Glance copy an image's data to another store of its own."""
        service, image_id = self._get_session_and_image_id(context, image_id)
        service.image_import_copy(context, image_id, [store])
