# SPDX-License-Identifier: Apache-2.0

"""The progress and the outcome that the command reports."""

import io
import os

from nova.image import command
from nova.image.command import progress
from nova.image import transfer
from nova.tests.unit.image.command import base

MIB = 1024 ** 2
REPORT = transfer.Report(10 * MIB, 3 * MIB, 2.00049)


class TestReporter(base.CommandTestCase):
    def report(
        self, source: str = 'auto', silent: bool = False,
        kind: type[io.StringIO] = io.StringIO,
    ) -> tuple[progress.Reporter, str]:
        """Report a download with a failed source; return what is shown."""
        with (self.captured(kind) as (out, err),
              progress.Reporter('ID', source, silent) as reporter):
            # Each call is an update.
            reporter._interval = 0
            reporter.on_source_started('rbd', 10 * MIB)
            reporter.on_progress(5 * MIB, 10 * MIB)
            reporter.on_source_failed('rbd', 'no\n cable')
            reporter.on_source_started('http', None)
            reporter.on_progress(0, 10 * MIB)
            reporter.on_progress(6 * MIB, None)
            reporter.on_complete('http', REPORT, 'sha512')
        self.assertEqual('', out.getvalue())
        return reporter, err.getvalue()

    def test_lines_and_outcome(self) -> None:
        reporter, shown = self.report()
        first, half, failed, second, zero, more = shown.splitlines()
        self.assertEqual(
            ('Downloading via rbd', 'Download via rbd failed: no cable',
             'Downloading via http'), (first, failed, second))
        self.assertRegex(
            half, r'^rbd: 5 of 10 MiB, [\d.]+ MiB/s, \d+ s left$')
        self.assertEqual('http: 0 of 10 MiB, 0.0 MiB/s', zero)
        self.assertRegex(more, r'^http: 6 of \? MiB, [\d.]+ MiB/s$')
        self.assertEqual(
            {'image_id': 'ID', 'path': '', 'source': 'http',
             'failed': [{'source': 'rbd', 'reason': 'no cable'}],
             'verified_by': 'sha512', 'bytes': 10 * MIB, 'written': 3 * MIB,
             'seconds': 2.0, 'rate': 5.0, 'inspected': None},
            reporter.outcome)

    def test_interval(self) -> None:
        with (self.captured() as (_out, err),
              progress.Reporter('ID', 'auto', False) as reporter):
            reporter.on_source_started('rbd', 10 * MIB)
            reporter.on_progress(5 * MIB, 10 * MIB)
        self.assertEqual('Downloading via rbd\n', err.getvalue())

    def test_terminal(self) -> None:
        """Only what stays is on lines of its own."""
        self.replace(os, 'environ', new=os.environ | {
            'TERM': 'xterm', 'COLUMNS': '20'})
        _reporter, shown = self.report(kind=base.Terminal)
        *lines, last = shown.split('\n')
        self.assertEqual(
            ['Download via rbd failed: no cable'],
            [line.rpartition('\x1b[K')[2] for line in lines])
        # The volatile line is removed, and was never wider than the terminal.
        self.assertTrue(last.endswith('\r\x1b[K'), repr(last))
        for part in (lines[0] + last).split('\r\x1b[K'):
            if 'failed' not in part:
                self.assertLess(len(part), 20)

    def test_terminal_without_control_sequences(self) -> None:
        self.replace(os, 'environ', new=os.environ | {'TERM': 'dumb'})
        self.assertNotIn('\x1b', self.report(kind=base.Terminal)[1])

    def test_silent(self) -> None:
        for kind in (io.StringIO, base.Terminal):
            self.assertEqual('', self.report(silent=True, kind=kind)[1])

    def test_only_rbd(self) -> None:
        for tried, message in (
            (True, 'Image ID could not be downloaded via rbd: no cable'),
            (False, 'Glance returns no rbd location of image ID: see '
             'nova-image-fetch --check ID'),
        ):
            with self.captured() as (_out, err):
                reporter = progress.Reporter('ID', 'rbd', False)
                if tried:
                    reporter.on_source_started('rbd', 1)
                    reporter.on_source_failed('rbd', 'no cable')
                self.assert_error(
                    command.Status.FAILED, f'^{message}$',
                    reporter.on_source_started, 'http', 1)
            # Only the error gives the reason.
            self.assertNotIn('no cable', err.getvalue())
