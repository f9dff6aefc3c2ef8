# SPDX-License-Identifier: Apache-2.0

"""How far a download is."""

import contextlib
import io
import os
import pty
from unittest import mock

from nova.image.command import bar
from nova.image.command import watching
from nova.image import transfer
from nova.tests.unit.image.command import test_display


def everything(descriptor: int) -> bytes:
    """Read a terminal whose other end is closed; it may come in pieces."""
    found = b''
    # That is how the end shows itself: EIO.
    with contextlib.suppress(OSError):
        while data := os.read(descriptor, 65536):
            found += data
    return found


class TestProgress(test_display.DisplayTestCase):
    def test_which(self) -> None:
        for kind, as_json, expected in (
                (io.StringIO, False, watching.Lines),
                (test_display.Terminal, False, bar.Bar),
                (io.StringIO, True, watching.Progress),
                (test_display.Terminal, True, watching.Progress)):
            with self.captured(kind):
                self.assertIs(expected, type(watching.progress(as_json)))

    def test_lines(self) -> None:
        clock = mock.Mock(side_effect=[100, 105, 110, 111, 120])
        with (self.captured() as (out, err),
              mock.patch.object(watching.time, 'monotonic', clock),
              watching.Lines() as lines):
            lines.begins('rbd', 400)
            for done in (100, 200, 300):
                lines.moves(done, 400)
            lines.moves(350, None)
            lines.fails('rbd', 'no cable')
        self.assertEqual('', out.getvalue())
        self.assertEqual(
            ['Fetching by rbd', 'rbd: 200 of 400 bytes',
             'rbd: 350 of ? bytes', 'Not by rbd: no cable'],
            err.getvalue().splitlines())

    def test_bar(self) -> None:
        """On a terminal that is one."""
        ours, theirs = pty.openpty()
        self.addCleanup(os.close, ours)
        with (open(theirs, 'w') as terminal,
              contextlib.redirect_stderr(terminal),
              mock.patch.dict(os.environ, TERM='xterm', COLUMNS='100')):
            with bar.Bar() as one:
                one.begins('rbd', 4096)
                one.moves(1024, 4096)
                one.fails('rbd', 'no [red] cable')
                one.begins('http', None)
                one.moves(2048, None)
                one.ends('http', transfer.Report(4096, 0, 1), 'md5')
                one.moves(4096, None)
        shown = everything(ours).decode()
        # What rbd says is no markup.
        self.assertIn('Not by rbd: no [red] cable', shown)
        # The bar is taken away in the end, and the cursor is back.
        self.assertLess(shown.rfind('\x1b[?25l'), shown.rfind('\x1b[?25h'))

    def test_rate(self) -> None:
        for finished, speed, shown in (
                (None, None, ''), (None, 3 * 2 ** 20, '3.0 MiB/s'),
                (2 ** 19, 2 ** 20, '0.5 MiB/s')):
            task = mock.Mock(finished_speed=finished, speed=speed)
            self.assertEqual(shown, bar._Rate().render(task).plain)
