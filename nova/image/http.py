# SPDX-License-Identifier: Apache-2.0

"""The byte source that is always there: the Glance HTTP API."""

from collections.abc import Iterable
from collections.abc import Iterator

from nova.i18n import _
from nova.image import transfer


class ChunkSource:
    """The body of an HTTP response, as chunks of any size."""

    size = None

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b'')

    def extents(self) -> Iterator[tuple[int, int | None]]:
        """Yield the one extent there is."""
        yield 0, None

    def readinto(self, buffer: memoryview) -> int:
        """Fill as much of buffer as one chunk does.

        :raises transfer.SourceError: the connection broke
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
            # Many of these are OSErrors, as those of a destination are.
            raise transfer.SourceError(
                reason=_('The connection broke: %s') % error) from error

    def finish(self) -> None:
        """The end of the body is all that HTTP has to say."""

    def interrupt(self) -> None:
        """A read ends when the connection brings bytes, or ends."""

    def close(self) -> None:
        """Give the connection back, whatever was read of it."""
        close = getattr(self._chunks, 'close', None)
        if close is not None:
            close()
