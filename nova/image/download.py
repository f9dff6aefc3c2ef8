# SPDX-License-Identifier: Apache-2.0

"""Downloads an image to a file: which sources, and in which order."""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import dataclasses
import functools
from http import HTTPStatus
import time
import typing as ty

from cryptography import exceptions as crypto_exceptions
from glanceclient import exc as glance_exc
from keystoneauth1 import adapter
from keystoneauth1 import exceptions as ksa_exc
from oslo_log import log as logging
from oslo_utils import units

import nova.conf
from nova import context as nova_context
from nova import exception
from nova.i18n import _
from nova.image import client
from nova.image import compat
from nova.image import destination
from nova.image import errors
from nova.image import http_source
from nova.image import locations
from nova.image import metadata
from nova.image import transfer
from nova.image import verify

LOG = logging.getLogger(__name__)
CONF = nova.conf.CONF
Context: ty.TypeAlias = nova_context.RequestContext

#: Seconds between two log lines about the progress of a download.
_PROGRESS_INTERVAL = 10.0

#: Formats that Nova converts if ``force_raw_images`` is set.
_CONVERTED = frozenset(('qcow2', 'vdi', 'vhd', 'vhdx', 'vmdk'))
#: Files of these formats can contain zeros, which are not written.
_SPARSE = frozenset(('raw', 'iso', 'ami', 'aki', 'ari'))

_RATE_LIMIT = transfer.RateLimit(
    lambda: CONF.glance.direct_download_rate_limit * units.Mi,
    compat.native('time'))

#: Responses of Glance to a user who must not download the image.
_REFUSALS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN,
             HTTPStatus.NOT_FOUND)


class Handler(ty.Protocol):
    """Opens an image at a location of one scheme."""

    def __call__(
        self, image: metadata.ImageMeta, url: str, path: str, /, *,
        verified: bool,
    ) -> contextlib.AbstractContextManager[transfer.Source]:
        """Open the image.

        :param image: as GlanceImageServiceV2.show() returns it
        :param url: the location
        :param path: the destination file, for the log only
        :param verified: whether the caller verifies the bytes; if not, the
            source's finish() fails unless the image still exists after its
            last byte
        :raises nova.image.transfer.SourceError: the location cannot be used
        """


class Progress:
    """Receives the progress of a download; this class ignores it.

    An exception from on_source_started() ends the download. The other methods
    must not raise any.
    """

    def on_source_started(self, source: str, size: int | None) -> None:
        """Nova starts to download from a source.

        :param source: the scheme of a location, or 'http'
        :param size: size of the image in bytes, None if it is not known
        """

    def on_progress(self, done: int, size: int | None) -> None:
        """Nova has read so many bytes of the image."""

    def on_source_failed(self, source: str, reason: str) -> None:
        """A source failed, and Nova tries the next one."""

    def on_complete(self, source: str, report: transfer.Report,
                    verified_by: str) -> None:
        """The download is complete.

        :param verified_by: 'signature', the name of a hash, or 'nothing'
        """


class _ProgressLog:
    """Logs the progress of a long download, and reports it."""

    def __init__(self, image_id: str, source: str, progress: Progress,
                 clock: ty.Callable[[], float] = time.monotonic) -> None:
        self._image_id = image_id
        self._source = source
        self._progress = progress
        self._clock = clock
        self._next = clock() + _PROGRESS_INTERVAL

    def __call__(self, done: int, size: int | None) -> None:
        self._progress.on_progress(done, size)
        now = self._clock()
        if now < self._next:
            return
        self._next = now + _PROGRESS_INTERVAL
        LOG.info('Image %(image)s is being fetched by %(source)s: %(done)d '
                 'of %(size)s bytes',
                 {'image': self._image_id, 'source': self._source,
                  'done': done,
                  'size': _('an unknown number of') if size is None
                  else size})


@dataclasses.dataclass(frozen=True)
class Download:
    """The download of one image to a file.

    :ivar image: as GlanceImageServiceV2.show() returns it, with a size of
        None if Glance has not recorded one
    :ivar handlers: the active handlers by scheme
    :ivar path: the destination file
    :ivar replace: whether a file at path is replaced
    """
    client: client.GlanceClient
    context: Context
    image: metadata.ImageMeta
    path: str
    handlers: Mapping[str, Handler]
    proximities: Mapping[str, locations.Proximity]
    replace: bool = True
    progress: Progress = dataclasses.field(default_factory=Progress)

    def run(self, expected: verify.Expectation) -> None:
        """Download from the first source with the right bytes.

        :param expected: what the bytes must match
        :raises OSError: the file cannot be written
        :raises Exception: see GlanceImageServiceV2.download()
        """
        try:
            wrong_hashes: set[str] = set()
            if not self._direct(expected, wrong_hashes):
                self._over_http(expected, wrong_hashes)
        except destination.DestinationError as error:
            self._log_failure(error)
            raise error.error from None

    def _direct(self, expected: verify.Expectation,
                wrong_hashes: set[str]) -> bool:
        """Return whether a location delivered the image."""
        expected = expected.for_direct_download()
        for scheme, url in self._locations():
            self.progress.on_source_started(scheme, self.image['size'])
            try:
                with self.handlers[scheme](
                        self.image, url, self.path,
                        verified=expected is not verify.NOTHING) as source:
                    self._transfer(scheme, source, expected)
                return True
            except destination.DestinationError:
                raise
            except Exception as error:
                reason = errors.describe(error)
                if isinstance(error, verify.WrongHash):
                    wrong_hashes.add(error.found)
            # oslo.log adds an exception that is being handled to each line,
            # so this is outside the except block.
            LOG.warning(
                'Image %(image)s could not be fetched by %(scheme)s, the '
                'next source is tried: %(reason)s',
                {'image': self.image['id'], 'scheme': scheme,
                 'reason': reason})
            self.progress.on_source_failed(scheme, reason)
        return False

    def _over_http(self, expected: verify.Expectation,
                   wrong_hashes: set[str]) -> None:
        image_id = self.image['id']
        self.progress.on_source_started('http', self.image['size'])
        try:
            chunks = request_data(
                self.client, self.context, image_id,
                kwargs={'do_checksum': False})
            with contextlib.closing(http_source.ChunkSource(chunks)) as source:
                self._transfer('http', source, expected)
        except transfer.SourceError as error:
            self._log_failure(error)
            if (isinstance(error, verify.WrongHash) and
                    error.found in wrong_hashes):
                raise exception.ImageUnacceptable(
                    image_id=image_id, reason=str(error)) from error
            raise exception.CouldNotFetchImage(
                _('Could not fetch image %(image)s over HTTP: %(reason)s') %
                {'image': image_id, 'reason': error}) from error
        except crypto_exceptions.InvalidSignature:
            LOG.error('Image signature verification failed for image %s',
                      image_id)
            raise

    def _log_failure(self, error: Exception) -> None:
        # The released Nova logs these words.
        LOG.error('Error writing to %s: %s', self.path, error)

    def _locations(self) -> Iterator[tuple[str, str]]:
        """Yield scheme and URL of each location, in the order to try them."""
        # A server that a request names must not decide what this host reads
        # from Ceph, and must not get Nova's credentials.
        if not self.handlers or self.client.has_explicit_endpoint:
            return
        shown = locations.shown(self.image)
        if shown and not self._with_handler(shown):
            return
        if not self._is_permitted():
            return
        usable = self._with_handler(
            shown or
            locations.ask(self.client, self.context, self.image['id']))
        # If the host can use none of them, opening each logs the reason.
        chosen = locations.nearest_first(usable, self.proximities) or usable
        for number, url in enumerate(chosen):
            # The previous attempt may have taken minutes.
            if number and not self._is_permitted():
                return
            yield locations.scheme(url), url

    def _with_handler(self, urls: Iterable[str]) -> list[str]:
        return [url for url in urls if locations.scheme(url) in self.handlers]

    def _is_permitted(self) -> bool:
        return is_permitted(self.client, self.context, self.image)

    def _transfer(self, name: str, source: transfer.Source,
                  expected: verify.Expectation) -> None:
        image_id = self.image['id']
        disk_format = self.image['disk_format']
        report = transfer.transfer(
            source, self.path, expected.start(), size=self.image['size'],
            progress=_ProgressLog(image_id, name, self.progress),
            replace=self.replace, temporary=(
                disk_format in _CONVERTED and CONF.force_raw_images and
                self.path.endswith(destination.MOVED)),
            dense=disk_format not in _SPARSE,
            limit=None if name == 'http' else _RATE_LIMIT)
        if expected.name == verify.SIGNATURE:
            # The released Nova logs this line as well.
            LOG.info('Image signature verification succeeded for image %s',
                     image_id)
        LOG.info(
            'Image %(image)s fetched by %(source)s: %(size)d bytes, '
            '%(written)d bytes written, in %(seconds).2f s, %(rate).1f MiB/s, '
            'verified by %(verified)s',
            {'image': image_id, 'source': name, 'size': report.size,
             'written': report.written, 'seconds': report.seconds,
             'rate': report.size / units.Mi / report.seconds,
             'verified': expected.name})
        self.progress.on_complete(name, report, expected.name)


def request_data(glance: client.GlanceClient, context: Context, image_id: str,
                 **kwargs: ty.Any) -> ty.Any:
    """Request an image's data over HTTP.

    :returns: an iterator over the chunks
    :raises nova.exception.ImageUnacceptable: the image has no data
    """
    try:
        chunks = glance.call(
            context, client.API_VERSION, 'data', args=(image_id,), **kwargs)
    except Exception:
        errors.reraise_as(functools.partial(errors.for_image, image_id))
    if chunks.wrapped is None:
        raise exception.ImageUnacceptable(
            image_id=image_id, reason=_('it has no data'))
    return chunks


def is_permitted(glance: client.GlanceClient, context: Context,
                 image: metadata.ImageMeta) -> bool:
    """Return whether Glance would send this user the data of an image.

    A direct download bypasses Glance, and so bypasses its checks of the
    image's status and of the policy ``download_image``. This function asks
    Glance to make these checks first.

    :param context: the user's request
    :param image: as GlanceImageServiceV2.show() returns it; a size of None
        means that Glance has not recorded one
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
    answer = _request_past_the_end(glance, context, image)
    if answer == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return True
    LOG.warning(
        'Image %(image)s is downloaded over HTTP only: Glance did not say '
        'whether this user may download it (%(answer)s)',
        {'image': image['id'], 'answer': answer})
    return False


def _request_past_the_end(glance: client.GlanceClient, context: Context,
                          image: metadata.ImageMeta) -> int | str:
    """Request the range of an image that begins right after its end.

    Glance answers such a request with 416, after it has checked the status
    and the policy, and before it opens a store (Glance 33,
    glance/api/v2/image_data.py).

    :returns: the HTTP status, or the reason why Glance did not answer
    """
    session, auth = compat.session_and_auth(context)
    # glanceclient percent-encodes the value of the header, so this sends the
    # request itself, to the server that glanceclient uses.
    server = adapter.Adapter(
        session, auth=auth,
        endpoint_override=(glance.api_server or
                           next(client.get_api_servers(context))),
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
        return errors.describe(error)
    if status in _REFUSALS:
        raise errors.for_image(
            image['id'], glance_exc.from_response(response))
    return status
