# SPDX-License-Identifier: Apache-2.0

"""Lets a caller of the image service watch its downloads.

The log says how a download goes. A program that has to know it as well, and
has no way to pass anything down to where images are fetched, puts an observer
in place for the time of the call.
"""

from collections.abc import Iterator
import contextlib
import contextvars

from nova.image import transfer


class Observer:
    """Told of each download to a file; this one does nothing about it.

    Whatever :meth:`begins` raises ends the download. The other methods must
    not raise.
    """

    def begins(self, source: str, size: int | None) -> None:
        """The next source is tried.

        :param source: the scheme of a location, or 'http'
        :param size: bytes of the image, None if Glance does not know
        """

    def moves(self, done: int, size: int | None) -> None:
        """So many bytes of so many are there."""

    def fails(self, source: str, reason: str) -> None:
        """A source could not deliver the image; the next one has its turn."""

    def ends(
        self, source: str, report: transfer.Report, verified: str,
    ) -> None:
        """The image is there.

        :param verified: what its bytes were verified by, for people
        """


_observer = contextvars.ContextVar('image_observer', default=Observer())


def current() -> Observer:
    """Return the observer of this thread's downloads."""
    return _observer.get()


@contextlib.contextmanager
def watched_by(observer: Observer) -> Iterator[None]:
    """Have an observer watch the downloads of this thread."""
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)
