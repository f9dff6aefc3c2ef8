# SPDX-License-Identifier: Apache-2.0

"""What the bytes of an image must match.

A signature, when one is asked for; otherwise the hash that Glance recorded
when the image was stored. A verified signature covers every byte, so no hash
is computed beside it.
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import hashlib
from typing import Any

from oslo_log import log as logging

import nova.conf
from nova import exception
from nova.i18n import _
from nova.image import transfer

CONF = nova.conf.CONF
LOG = logging.getLogger(__name__)


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
    """What every source of an image is held to."""
    #: For people: 'signature', the name of a hash, or 'nothing'.
    name: str
    #: Makes a verifier that has seen no byte yet.
    start: Callable[[], transfer.Verifier | None]
    #: Whether it is the recorded hash.
    by_hash: bool = False


#: Takes the bytes as they come.
NOTHING = Expectation('nothing', lambda: None)


def signature(
    first: transfer.Verifier, again: Callable[[], transfer.Verifier],
) -> Expectation:
    """Expect the bytes that an image's signature was made of.

    :param first: a fresh verifier, as made before the download began
    :param again: makes another one, for another source: a used verifier
        cannot be used again
    """
    fresh = [first]

    def start() -> transfer.Verifier:
        return fresh.pop() if fresh else again()

    return Expectation('signature', start)


def for_direct_download(expected: Expectation) -> Expectation:
    """Return what a direct source is held to: the same, unless switched off.

    ``[glance] verify_direct_download`` leaves a hash out, never a signature.
    """
    if expected.by_hash and not CONF.glance.verify_direct_download:
        return NOTHING
    return expected


def recorded_hash(image: Mapping[str, Any]) -> Expectation:
    """Expect the bytes that Glance recorded the hash of.

    The choice is glanceclient's: ``os_hash_value`` by ``os_hash_algo``, which
    Glance calls the multihash, otherwise the MD5 in ``checksum``; an image
    that has neither, as from a very old Glance, is taken as it comes. Beyond
    that, ``checksum`` also serves an algorithm that this host does not have.

    :param image: the image as nova.image.glance shows it
    :raises ImageUnacceptable: there is a hash, but no way to compute it
    """
    algorithm, value = image.get('os_hash_algo'), image.get('os_hash_value')
    if algorithm and value:
        if _is_known(algorithm):
            return _expect_hash(algorithm, value)
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
        return _expect_hash('md5', image['checksum'])
    return NOTHING


def _is_known(algorithm: str) -> bool:
    try:
        # An extendable-output function has no digest of its own size.
        return hashlib.new(algorithm, usedforsecurity=False).digest_size > 0
    except ValueError:
        return False


def _expect_hash(algorithm: str, value: str) -> Expectation:
    return Expectation(
        algorithm, lambda: _HashVerifier(algorithm, value), by_hash=True)


class _HashVerifier:
    """Compares a hash of the bytes with the recorded one."""

    def __init__(self, algorithm: str, recorded: str) -> None:
        self._hash = hashlib.new(algorithm, usedforsecurity=False)
        self._recorded = recorded

    def update(self, data: memoryview, /) -> None:
        self._hash.update(data)

    def verify(self) -> None:
        found = self._hash.hexdigest()
        if found != self._recorded.lower():
            raise WrongHash(self._hash.name, found, self._recorded)
