# SPDX-License-Identifier: Apache-2.0

"""What shows how far a download is, on standard error."""

import contextlib
import sys
import time
from typing import Any

from nova.i18n import _
from nova.image import observe

#: Seconds between two lines of progress where there is no terminal.
_INTERVAL = 10.0


class Progress(observe.Observer, contextlib.AbstractContextManager[Any]):
    """Shows how far a download is; this one does not."""

    def __exit__(self, *exc_info: object) -> None:
        """End what is shown."""


class Lines(Progress):
    """A line now and then, for a log."""

    def __init__(self) -> None:
        self._source = ''
        self._next = 0.0

    def begins(self, source: str, size: int | None) -> None:
        self._source = source
        self._next = time.monotonic() + _INTERVAL
        complain(_('Fetching by %s') % source)

    def moves(self, done: int, size: int | None) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _INTERVAL
        complain(_('%(source)s: %(done)d of %(size)s bytes') % {
            'source': self._source, 'done': done, 'size': size or '?'})

    def fails(self, source: str, reason: str) -> None:
        complain(_('Not by %(source)s: %(reason)s') % {
            'source': source, 'reason': reason})


def progress(as_json: bool) -> Progress:
    """Return what fits where standard error goes."""
    if as_json:
        return Progress()
    if not sys.stderr.isatty():
        return Lines()
    # Only here, as it takes its time to load.
    from nova.image.command import bar
    return bar.Bar()


def complain(message: str) -> None:
    """Print a sentence to standard error."""
    print(message, file=sys.stderr, flush=True)
