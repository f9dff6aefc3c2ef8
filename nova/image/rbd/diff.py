# SPDX-License-Identifier: Apache-2.0

"""Decodes the stream that ``rbd export-diff`` writes.

Ceph's doc/dev/rbd-diff.rst describes the format, version 1: a banner, then
records of a tag byte and little-endian numbers. A diff from nothing contains
the allocated extents of a snapshot; the rest of the image is zeros.
"""

from collections.abc import Callable
from collections.abc import Iterator
import struct

from nova.i18n import _
from nova.image import transfer

_BANNER = b'rbd diff v1\n'
_LONGEST_NAME = 4096
#: The largest file (off_t).
_LARGEST_SIZE = (1 << 63) - 1


class Decoder:
    """Turns a diff stream into the extents of an image, in constant memory.

    The stream is not trusted: extents must be in order, must not overlap and
    must lie inside the size that the stream itself declares.
    """

    def __init__(self, readinto: Callable[[memoryview], int],
                 snapshot: str) -> None:
        """Decode a stream.

        :param readinto: reads the next bytes of the stream, 0 at its end
        :param snapshot: name that the exported snapshot must have
        """
        self._stream = readinto
        self._snapshot = snapshot
        self._named = False
        self._end = self._left = 0
        #: Bytes of the image, None until the stream has declared it.
        self.size: int | None = None

    def extents(self) -> Iterator[tuple[int, int]]:
        """Yield offset and length in bytes of each extent of data.

        :raises transfer.SourceError: the stream is incomplete or malformed
        """
        if self._read(len(_BANNER)) != _BANNER:
            raise _malformed(_('wrong banner'))
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
            raise _malformed(_('no size or no snapshot name'))
        if self._stream(memoryview(bytearray(1))):
            raise _malformed(_('data after the end'))

    def readinto(self, buffer: memoryview) -> int:
        """Read the next bytes of the extent that extents() yielded last."""
        count = self._stream(buffer[:self._left])
        self._left -= count
        return count

    def _read_snapshot(self) -> None:
        (length,) = self._unpack('<I')
        if length > _LONGEST_NAME:
            raise _malformed(_('snapshot name of %d bytes') % length)
        name = self._read(length)
        if name != self._snapshot.encode():
            raise _malformed(_('wrong snapshot %r') % name)
        self._named = True

    def _read_size(self) -> None:
        (size,) = self._unpack('<Q')
        if self.size is not None:
            raise _malformed(_('more than one size'))
        if size > _LARGEST_SIZE:
            raise _malformed(_('size of %d bytes') % size)
        self.size = size

    def _read_extent(self) -> tuple[int, int]:
        offset, self._left = self._unpack('<QQ')
        if self.size is None or offset + self._left > self.size:
            raise _malformed(_('extent outside the image'))
        if offset < self._end:
            raise _malformed(_('extents out of order'))
        self._end = offset + self._left
        return offset, self._left

    def _unpack(self, layout: str) -> tuple[int, ...]:
        return struct.unpack(layout, self._read(struct.calcsize(layout)))

    def _read(self, count: int) -> bytes:
        content = bytearray(count)
        rest = memoryview(content)
        while rest:
            if not (got := self._stream(rest)):
                raise _malformed(_('unexpected end'))
            rest = rest[got:]
        return bytes(content)


def _malformed(reason: str) -> transfer.SourceError:
    return transfer.SourceError(
        _('Invalid or incomplete export-diff stream: %s') % reason)
