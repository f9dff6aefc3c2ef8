# SPDX-License-Identifier: Apache-2.0

"""The byte source that every image has: the Glance HTTP API."""

from collections.abc import Iterable
from collections.abc import Iterator

from nova.i18n import _
from nova.image import transfer


class ChunkSource:
    """The body of an HTTP response, in chunks of any size."""

    size = None

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b'')

    def extents(self) -> Iterator[tuple[int, int | None]]:
        """Yield the only extent."""
        yield 0, None

    def readinto(self, buffer: memoryview) -> int:
        """Read at most one chunk.

        :raises transfer.SourceError: the connection failed
        """
        while not self._rest:
            chunk = self._next_chunk()
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def _next_chunk(self) -> bytes | None:
        try:
            return next(self._chunks, None)
        except Exception as error:
            raise transfer.SourceError(
                reason=_('The connection failed: %s') % error) from error

    def finish(self) -> None:
        """HTTP reports nothing after the end of the body."""

    def interrupt(self) -> None:
        """Do nothing: a read ends with the next data or the connection."""

    def close(self) -> None:
        """Release the connection, read to its end or not."""
        close = getattr(self._chunks, 'close', None)
        if close is not None:
            close()
