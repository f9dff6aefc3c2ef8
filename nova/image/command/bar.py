# SPDX-License-Identifier: Apache-2.0

"""A bar on a terminal that shows how far a download is."""

from typing import Self

from oslo_utils import units
from rich import console
from rich import progress
from rich import text

from nova.i18n import _
from nova.image.command import watching
from nova.image import transfer


class _Rate(progress.ProgressColumn):
    """The rate, in the unit of the summary; rich has powers of ten."""

    def render(self, task: progress.Task) -> text.Text:
        speed = task.finished_speed or task.speed
        return text.Text(
            '' if speed is None else '%.1f MiB/s' % (speed / units.Mi))


class Bar(watching.Progress):
    """On standard error; gone in the end."""

    def __init__(self) -> None:
        self._bar = progress.Progress(
            progress.TextColumn('{task.description}'),
            progress.BarColumn(), progress.TaskProgressColumn(),
            progress.DownloadColumn(binary_units=True), _Rate(),
            progress.TimeRemainingColumn(),
            console=console.Console(stderr=True), transient=True)
        self._task: progress.TaskID | None = None

    def __enter__(self) -> Self:
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
