# SPDX-License-Identifier: Apache-2.0

"""Decoder of the stream that ``rbd export-diff`` writes.

The format is version 1 of Ceph's doc/dev/rbd-diff.rst: a banner, then records
of one tag byte and little-endian numbers. A diff that begins at nothing holds
the allocated extents of a snapshot; all else in the image is zeros.
"""

from collections.abc import Callable
from collections.abc import Iterator
import struct

from nova.i18n import _
from nova.image import transfer

_BANNER = b'rbd diff v1\n'
_LENGTH = struct.Struct('<I')
_SIZE = struct.Struct('<Q')
_EXTENT = struct.Struct('<QQ')
_LONGEST_NAME = 4096
#: No file can be larger (off_t).
_LARGEST_SIZE = (1 << 63) - 1


class Decoder:
    """Turns a diff stream into the extents of an image.

    Nothing of the stream is believed: extents must be in order, must not
    overlap and must lie inside the size that the stream itself declares. Its
    memory is a few dozen bytes; data goes from the stream to the reader's
    buffer.
    """

    def __init__(
        self, readinto: Callable[[memoryview], int], snapshot: str,
    ) -> None:
        """Decode a stream.

        :param readinto: reads the next bytes of the stream, 0 at its end
        :param snapshot: name of the snapshot that the diff must be of
        """
        self._stream = readinto
        self._snapshot = snapshot
        self._end = 0
        self._named = False
        self._left = 0
        #: Bytes of the image, once the stream has told.
        self.size: int | None = None

    def extents(self) -> Iterator[tuple[int, int]]:
        """Yield offset and length in bytes of each extent of data.

        :raises transfer.SourceError: the stream is cut short or malformed
        """
        if self._read(len(_BANNER)) != _BANNER:
            raise _malformed(_('it does not begin like one'))
        while (tag := self._read(1)) != b'e':
            match tag:
                case b't':
                    self._read_snapshot()
                case b's':
                    self._read_size()
                case b'w':
                    yield self._read_extent()
                    if self._left:
                        raise _malformed(_('an extent was not read'))
                case b'z':
                    self._read_extent()
                    self._left = 0
                case _:
                    raise _malformed(_('unknown record %r') % tag)
        if self.size is None or not self._named:
            raise _malformed(_('it has no size, or no name'))
        if self._stream(memoryview(bytearray(1))):
            raise _malformed(_('it goes on after its end'))

    def readinto(self, buffer: memoryview) -> int:
        """Read the next bytes of the extent that extents() yielded last."""
        count = self._stream(buffer[:self._left])
        self._left -= count
        return count

    def _read_snapshot(self) -> None:
        (length,) = _LENGTH.unpack(self._read(_LENGTH.size))
        if length > _LONGEST_NAME:
            raise _malformed(_('a name of %d bytes') % length)
        name = self._read(length)
        if name != self._snapshot.encode():
            raise _malformed(_('it is of snapshot %r') % name)
        self._named = True

    def _read_size(self) -> None:
        (size,) = _SIZE.unpack(self._read(_SIZE.size))
        if self.size is not None:
            raise _malformed(_('it has two sizes'))
        if size > _LARGEST_SIZE:
            raise _malformed(_('a size of %d bytes') % size)
        self.size = size

    def _read_extent(self) -> tuple[int, int]:
        offset, length = _EXTENT.unpack(self._read(_EXTENT.size))
        if self.size is None or offset + length > self.size:
            raise _malformed(_('an extent is outside the image'))
        if offset < self._end:
            raise _malformed(_('its extents are not in order'))
        self._end = offset + length
        self._left = length
        return offset, length

    def _read(self, count: int) -> bytes:
        data = bytearray(count)
        view = memoryview(data)
        while view:
            got = self._stream(view)
            if not got:
                raise _malformed(_('it ends early'))
            view = view[got:]
        return bytes(data)


def _malformed(reason: str) -> transfer.SourceError:
    return transfer.SourceError(
        reason=_('The stream is not a complete export-diff: %s') % reason)
