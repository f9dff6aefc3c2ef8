# SPDX-License-Identifier: Apache-2.0

"""Verifies the bytes of an image.

They must match the image's signature, if the user or the operator asks for
it, and otherwise the hash that Glance recorded. A verified signature covers
every byte, so Nova does not also compute a hash.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import dataclasses
import hashlib
import logging
import typing as ty

from cryptography import exceptions as crypto_exceptions
from cryptography import x509
from cursive import certificate_utils
from cursive import exception as cursive_exception
from cursive import signature_utils
from oslo_log import log as oslo_logging

import nova.conf
from nova import context as nova_context
from nova import exception
from nova.i18n import _
from nova.image import transfer
from nova.objects import trusted_certs as trusted_certs_obj

CONF = nova.conf.CONF
LOG = oslo_logging.getLogger(__name__)
Log: ty.TypeAlias = logging.LoggerAdapter[ty.Any]
Context: ty.TypeAlias = nova_context.RequestContext
TrustedCerts: ty.TypeAlias = trusted_certs_obj.TrustedCerts

_CERTIFICATE = 'img_signature_certificate_uuid'
_SIGNATURE = ('img_signature', 'img_signature_hash_method', _CERTIFICATE,
              'img_signature_key_type')

# Errors of cursive, and of the libraries it uses, for a certificate that
# cannot be parsed or an invalid ID.
_UNREADABLE = (
    AttributeError,
    TypeError,
    ValueError,
    crypto_exceptions.UnsupportedAlgorithm,
    x509.InvalidVersion,
)


SIGNATURE = 'signature'


class WrongHash(transfer.SourceError):
    """The bytes of a source do not have the hash that Glance recorded.

    Another source may have the right bytes.

    :ivar found: the hash of the bytes, in hexadecimal
    """

    def __init__(self, algorithm: str, found: str, recorded: str) -> None:
        self.found = found
        super().__init__(reason=_(
            'corrupt image download: its %(algorithm)s hash is %(found)s, '
            'Glance recorded %(recorded)s') %
            {'algorithm': algorithm, 'found': found, 'recorded': recorded})


@dataclasses.dataclass(frozen=True)
class Expectation:
    """A signature or a hash that the bytes of every source must match."""
    #: For people: SIGNATURE, the name of a hash, or 'nothing'.
    name: str
    #: Returns an unused verifier.
    start: Callable[[], transfer.Verifier | None]
    is_hash: bool = False

    def for_direct_download(self) -> 'Expectation':
        """Return what the bytes of a direct source must match.

        ``[glance] verify_direct_download`` switches off the check of a hash,
        never that of a signature.
        """
        if self.is_hash and not CONF.glance.verify_direct_download:
            return NOTHING
        return self


#: Accepts any bytes.
NOTHING = Expectation('nothing', lambda: None)


def signature(first: transfer.Verifier,
              again: Callable[[], transfer.Verifier]) -> Expectation:
    """Expect the bytes that the image's signature covers.

    :param first: an unused verifier
    :param again: returns one for another source, since a verifier can be used
        only once
    """
    unused = [first]
    return Expectation(
        SIGNATURE, lambda: unused.pop() if unused else again())


def recorded_hash(image: Mapping[str, ty.Any]) -> Expectation:
    """Expect the bytes whose hash Glance recorded.

    As in glanceclient, this is ``os_hash_value`` with ``os_hash_algo``, or
    otherwise the MD5 hash in ``checksum``. An image with neither, as from a
    very old Glance, is accepted unverified. ``checksum`` also replaces an
    algorithm that this host does not support.

    :param image: the image as GlanceImageServiceV2.show() returns it
    :raises nova.exception.ImageUnacceptable: this host cannot compute the
        only hash of the image
    """
    algorithm, value = image.get('os_hash_algo'), image.get('os_hash_value')
    if algorithm and value:
        if _is_supported(algorithm):
            return _hash(algorithm, value)
        if not image.get('checksum'):
            raise exception.ImageUnacceptable(
                image_id=image['id'],
                reason=_('its hash algorithm %s is not available on this '
                         'host') % algorithm)
        LOG.warning('The hash algorithm %(algorithm)s of image %(image)s is '
                    'not available on this host: its MD5 checksum is verified '
                    'instead',
                    {'algorithm': algorithm, 'image': image['id']})
    if image.get('checksum'):
        return _hash('md5', image['checksum'])
    return NOTHING


def _is_supported(algorithm: str) -> bool:
    try:
        # An extendable-output function has a digest size of 0.
        return hashlib.new(algorithm, usedforsecurity=False).digest_size > 0
    except ValueError:
        return False


def _hash(algorithm: str, value: str) -> Expectation:
    return Expectation(
        algorithm, lambda: _HashVerifier(algorithm, value), is_hash=True)


class _HashVerifier:
    def __init__(self, algorithm: str, recorded: str) -> None:
        self._hash = hashlib.new(algorithm, usedforsecurity=False)
        self._recorded = recorded

    def update(self, data: memoryview, /) -> None:
        self._hash.update(data)

    def verify(self) -> None:
        found = self._hash.hexdigest()
        if found != self._recorded.lower():
            raise WrongHash(self._hash.name, found, self._recorded)


def certificates_to_trust(
        trusted_certs: TrustedCerts | None) -> TrustedCerts | None:
    """Return the certificates of a request, or the default ones."""
    default_ids = CONF.glance.default_trusted_certificate_ids
    if (not trusted_certs and default_ids and
            CONF.glance.enable_certificate_validation):
        return TrustedCerts(ids=default_ids)
    return trusted_certs


def signature_verifier(
        context: Context, image_id: str, properties: Mapping[str, ty.Any],
        trusted_certs: TrustedCerts | None, log: Log) -> transfer.Verifier:
    """Return an unused verifier of an image's signature.

    :param properties: the custom properties of the image
    :param trusted_certs: as certificates_to_trust() returns them
    :param log: the log of the caller
    :raises cursive.exception.SignatureVerificationError: a property of the
        signature or the certificate is missing or invalid
    :raises nova.exception.CertificateValidationFailed: the certificate is not
        trusted
    """
    signature: dict[str, ty.Any] = {
        name: properties.get(name) for name in _SIGNATURE}
    try:
        verifier = _get_verifier(context, signature)
    except Exception as error:
        log.error('The signature of image %(image)s cannot be verified: '
                  '%(reason)s', {'image': image_id, 'reason': error})
        raise
    if trusted_certs:
        # Certificates that a user names are validated even if the option
        # enable_certificate_validation is off.
        _validate(context, signature[_CERTIFICATE], trusted_certs, log)
    elif CONF.glance.enable_certificate_validation:
        reason = ('Image signature certificate validation enabled, but '
                  'no trusted certificate IDs were provided. Unable to '
                  'validate the certificate used to verify the image '
                  'signature.')
        log.warning(reason)
        raise exception.CertificateValidationFailed(reason)
    else:
        log.debug('Certificate validation was not performed. A list of '
                  'trusted image certificate IDs must be provided in '
                  'order to validate an image certificate.')
    return verifier


def _get_verifier(context: Context,
                  signature: dict[str, ty.Any]) -> transfer.Verifier:
    try:
        return signature_utils.get_verifier(context=context, **signature)
    except _UNREADABLE as error:
        raise cursive_exception.SignatureVerificationError(
            reason=_('Certificate %(certificate)s cannot be used: %(reason)s')
            % {'certificate': signature[_CERTIFICATE], 'reason': error},
        ) from error


def _validate(context: Context, certificate_uuid: str, trusted_certs: ty.Any,
              log: Log) -> None:
    try:
        certificate_utils.verify_certificate(
            context=context, certificate_uuid=certificate_uuid,
            trusted_certificate_uuids=trusted_certs.ids)
    except (cursive_exception.SignatureVerificationError,
            *_UNREADABLE) as error:
        log.warning('Image signature certificate validation failed for '
                    'certificate: %s', certificate_uuid)
        raise exception.CertificateValidationFailed(
            cert_uuid=certificate_uuid, reason=str(error)) from error
    log.debug('Image signature certificate validation succeeded for '
              'certificate: %s', certificate_uuid)


def verified_chunks(image_id: str, chunks: Iterable[bytes], verifier: ty.Any,
                    log: Log) -> Iterator[bytes]:
    """Yield the chunks of an image, the last one after its verification.

    :param log: the log of the caller
    :raises cryptography.exceptions.InvalidSignature: in place of the last
        chunk
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
        log.error('Image signature verification failed for image %s',
                  image_id)
        raise
    log.info('Image signature verification succeeded for image %s',
             image_id)
    if last is not None:
        yield last
