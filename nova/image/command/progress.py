# SPDX-License-Identifier: Apache-2.0

"""Shows the progress of a download on standard error."""

import os
import shutil
import sys
import time
import typing as ty

from oslo_utils import units

from nova.i18n import _
from nova.image import command
from nova.image import download
from nova.image import transfer


class Reporter(download.Progress):
    """Shows the progress of a download, and records its outcome.

    On a terminal, one line shows the progress; its own ``with`` block removes
    that line. Otherwise, lines appear from time to time.

    :param source: 'rbd' ends the download instead of trying HTTP
    :param silent: show nothing
    :ivar outcome: fields of the JSON object, see the man page
    """

    def __init__(self, image_id: str, source: str, silent: bool) -> None:
        self.outcome: dict[str, ty.Any] = {
            'image_id': image_id, 'path': '', 'source': 'cache', 'failed': [],
            'verified_by': None, 'bytes': None, 'written': None,
            'seconds': None, 'rate': None, 'inspected': None}
        self._only_rbd = source == 'rbd'
        self._silent = silent
        self._terminal = (
            sys.stderr.isatty() and os.environ.get('TERM') != 'dumb')
        #: Seconds between two updates.
        self._interval = 0.1 if self._terminal else 10.0

    def __enter__(self) -> ty.Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._print('', end='')

    def on_source_started(self, source: str, size: int | None) -> None:
        if self._only_rbd and source == 'http':
            image_id, failed = self.outcome['image_id'], self.outcome['failed']
            raise command.CommandError(
                _('Image %(image)s could not be downloaded via rbd: '
                  '%(reason)s') %
                {'image': image_id, 'reason': failed[-1]['reason']}
                if failed else
                _('Glance returns no rbd location of image %(image)s: see '
                  'nova-image-fetch --check %(image)s') % {'image': image_id})
        self._source = source
        self._start = time.monotonic()
        self._next = self._start + self._interval
        self._print(_('Downloading via %s') % source, volatile=True)

    def on_progress(self, done: int, size: int | None) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._interval
        rate = done / (now - self._start)
        left = ''
        if size and rate:
            left = _(', %d s left') % ((size - done) / rate)
        self._print(_('%(source)s: %(done)d of %(size)s MiB, %(rate).1f '
                      'MiB/s') % {
            'source': self._source, 'done': done / units.Mi,
            'size': '?' if size is None else size // units.Mi,
            'rate': rate / units.Mi} + left, volatile=True)

    def on_source_failed(self, source: str, reason: str) -> None:
        reason = command.one_line(reason)
        self.outcome['failed'].append({'source': source, 'reason': reason})
        # With only one source, the error gives the reason.
        if not self._only_rbd:
            self._print(_('Download via %(source)s failed: %(reason)s') % {
                'source': source, 'reason': reason})

    def on_complete(
        self, source: str, report: transfer.Report, verified_by: str,
    ) -> None:
        self.outcome.update(
            source=source, verified_by=verified_by, bytes=report.size,
            written=report.written, seconds=round(report.seconds, 3),
            rate=round(report.size / units.Mi / report.seconds, 1))

    def _print(self, line: str, volatile: bool = False, end: str = '\n',
               ) -> None:
        """Print a line, in place of a volatile one on a terminal."""
        if self._silent:
            return
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            line = '\r\x1b[K' + (line[:width] if volatile else line)
            end = '' if volatile else end
        print(line, end=end, file=sys.stderr, flush=True)
