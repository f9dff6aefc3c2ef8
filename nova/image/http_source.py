# SPDX-License-Identifier: Apache-2.0

"""The byte source that every image has: the Glance HTTP API."""

from collections.abc import Iterable
from collections.abc import Iterator
import typing as ty

from nova.i18n import _
from nova.image import compat
from nova.image import transfer
from nova import utils


class ChunkSource:
    """The body of an HTTP response, in chunks of any size."""

    size = None

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b'')
        eventlet = compat.eventlet()
        self._relay = _Relay(eventlet, self._chunks) if eventlet else None

    def extents(self) -> Iterator[tuple[int, int | None]]:
        """Yield the only extent."""
        yield 0, None

    def readinto(self, buffer: memoryview) -> int:
        """Read at most one chunk.

        :raises transfer.SourceError: the connection failed
        """
        if self._relay:
            return self._relay.readinto(buffer)
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
            raise _failure(error) from error

    def finish(self) -> None:
        """HTTP reports nothing after the end of the body."""

    def interrupt(self) -> None:
        """End a read of the relay; no other thread waits for a native read."""
        if self._relay:
            self._relay.interrupt()

    def close(self) -> None:
        """Release the connection, read to its end or not."""
        if self._relay:
            self._relay.close()
        close = getattr(self._chunks, 'close', None)
        if close is not None:
            close()


class _Relay:
    """Passes the chunks that a green thread reads to a native thread.

    The sockets and locks of glanceclient are green, so they belong to the hub.
    """

    def __init__(self, eventlet: ty.Any, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._error: Exception | None = InterruptedError(_('interrupted'))
        self._output, end = compat.native('socket').socketpair()
        self._input = eventlet.greenio.GreenSocket(end)
        self._thread = eventlet.spawn(self._run)  # noqa: N340

    def _run(self) -> None:
        try:
            for chunk in self._chunks:
                self._input.sendall(chunk)
                # A fast connection must not keep other threads from running.
                utils.cooperative_yield()
            self._error = None
        except Exception as error:
            self._error = error
        self._input.close()

    def readinto(self, buffer: memoryview) -> int:
        count = self._output.recv_into(buffer)
        if not count and self._error is not None:
            raise _failure(self._error) from self._error
        return count

    def interrupt(self) -> None:
        self._thread.kill()
        self._input.close()

    def close(self) -> None:
        self.interrupt()
        self._output.close()


def _failure(error: Exception) -> transfer.SourceError:
    return transfer.SourceError(reason=_('The connection failed: %s') % error)
