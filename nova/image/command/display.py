# SPDX-License-Identifier: Apache-2.0

"""What the operator sees: progress, a summary, the list of checks.

Results go to standard output, progress and complaints to standard error.
"""

from collections.abc import Iterable
import contextlib
import dataclasses
import shutil
import sys
import textwrap
import time
import typing as ty

from oslo_serialization import jsonutils

from nova.i18n import _
from nova.image.command import checks
from nova.image.command import fetch
from nova.image.command import findings
from nova.image import observe
from nova.image import transfer

if ty.TYPE_CHECKING:
    from rich import progress as rich_progress

#: Seconds between two lines of progress where there is no terminal.
_INTERVAL = 10.0

_NAME_WIDTH = 18

_WORDS = {
    findings.Verdict.OK: 'ok',
    findings.Verdict.WARNING: 'WARN',
    findings.Verdict.FAILED: 'FAIL',
    findings.Verdict.SKIPPED: '-',
}


class Progress(observe.Observer, contextlib.AbstractContextManager[ty.Any]):
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


class Bar(Progress):
    """A bar on a terminal."""

    def __init__(self) -> None:
        # Only here, as it takes its time to load.
        from rich import console
        from rich import progress
        self._bar = progress.Progress(
            progress.TextColumn('{task.description}'),
            progress.BarColumn(), progress.TaskProgressColumn(),
            progress.DownloadColumn(binary_units=True),
            progress.TransferSpeedColumn(), progress.TimeRemainingColumn(),
            console=console.Console(stderr=True), transient=True)
        self._task: 'rich_progress.TaskID | None' = None

    def __enter__(self) -> ty.Self:
        self._bar.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bar.stop()

    def begins(self, source: str, size: int | None) -> None:
        self._end()
        self._task = self._bar.add_task(source, total=size)

    def moves(self, done: int, size: int | None) -> None:
        if self._task is not None:
            self._bar.update(self._task, completed=done, total=size)

    def fails(self, source: str, reason: str) -> None:
        self._end()
        self._bar.console.print(
            _('Not by %(source)s: %(reason)s') % {
                'source': source, 'reason': reason},
            markup=False, highlight=False, soft_wrap=True)

    def ends(
        self, source: str, report: transfer.Report, verified: str,
    ) -> None:
        self._end()

    def _end(self) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None


def progress(as_json: bool) -> Progress:
    """Return what fits where standard error goes."""
    if as_json:
        return Progress()
    return Bar() if sys.stderr.isatty() else Lines()


def complain(message: str) -> None:
    """Print a sentence to standard error."""
    print(message, file=sys.stderr, flush=True)


def show_json(document: dict[str, ty.Any]) -> None:
    """Print one JSON object."""
    print(jsonutils.dumps(document, indent=2), flush=True)


def show_error(message: str, status: int, as_json: bool) -> None:
    """Say why there is nothing to show."""
    if as_json:
        show_json({'result': 'failed', 'error': message,
                   'status': int(status)})
    else:
        complain(f'nova-image-fetch: {message}')


def show_outcome(outcome: fetch.Outcome, as_json: bool) -> None:
    """Print what came of a fetch."""
    if as_json:
        show_json({'result': 'ok', **dataclasses.asdict(outcome)})
        return
    if outcome.source == 'cache':
        print(_('Image %(image)s is in the cache already: %(path)s') % {
            'image': outcome.image_id, 'path': outcome.path}, flush=True)
        return
    print(_('Image %(image)s is at %(path)s\n'
            '  source       %(source)s\n'
            '  verified by  %(verified_by)s\n'
            '  bytes        %(bytes)d\n'
            '  written      %(written)d\n'
            '  seconds      %(seconds).2f\n'
            '  MiB/s        %(rate).1f') % {
        'image': outcome.image_id, **dataclasses.asdict(outcome)}, flush=True)


def show_findings(
    found: Iterable[findings.Finding], as_json: bool,
) -> bool:
    """Print findings while they are made.

    :returns: whether none of them has failed
    """
    seen = []
    for finding in found:
        seen.append(finding)
        if not as_json:
            print(_line(finding), flush=True)
    failed = [one for one in seen if one.verdict is findings.Verdict.FAILED]
    if as_json:
        show_json({
            'result': 'failed' if failed else 'ok',
            'checks': [dataclasses.asdict(one) for one in seen]})
    elif failed:
        print(_('\nDirect downloads do not work on this host: see FAIL '
                'above.'), flush=True)
    elif any(one.check == checks.READ and
             one.verdict is findings.Verdict.OK for one in seen):
        print(_('\nDirect downloads work on this host.'), flush=True)
    else:
        print(_('\nNothing is wrong, but no image was tried: name one that '
                'is in Ceph.'), flush=True)
    return not failed


def _line(finding: findings.Finding) -> str:
    begin = '%-4s  %-*s  ' % (
        _WORDS[finding.verdict], _NAME_WIDTH, finding.check)
    lines = [_wrapped(begin, finding.detail)]
    if finding.remedy:
        arrow = ' ' * (len(begin) - 3) + '-> '
        lines.append(_wrapped(arrow, finding.remedy))
    return '\n'.join(lines)


def _wrapped(begin: str, text: str) -> str:
    """Put text behind its begin, as wide as the terminal if it is one."""
    if not sys.stdout.isatty():
        return begin + text
    return textwrap.fill(
        text, shutil.get_terminal_size().columns, initial_indent=begin,
        subsequent_indent=' ' * len(begin), break_long_words=False,
        break_on_hyphens=False)
