# SPDX-License-Identifier: Apache-2.0
"""python -m lab.job: boot real instances from images in Ceph.

tools/ceph-qcow2-job.sh installs what that needs and runs it.
"""

import argparse
from collections.abc import Iterable
import dataclasses
import pathlib
import shutil
import signal
import sys
import tempfile
import traceback
import types
import typing as ty

import prettytable

from lab import errors
from lab.job import region as lab_region
from lab.job import scenario
from lab import process
from lab import steps as lab_steps

_WIDTH = 72


@dataclasses.dataclass(frozen=True)
class _Row:
    name: str
    seen: str
    seconds: float


class _Run:
    """One run, told as it goes."""

    def __init__(self) -> None:
        self._steps = lab_steps.Steps()
        self._rows: list[_Row] = []

    def all(self, files: pathlib.Path, passes: Iterable[str]) -> None:
        """Start the cloud, go through the scenario, and end it all.

        :param files: a directory for images
        :param passes: of the scenario
        :raises LabError: something was not as it should be
        """
        region = lab_region.Region()
        self._step('Start the cloud', lambda: self._start(region))
        try:
            for one in scenario.Scenario(region, files).steps(passes):
                self._step(one.name, one.run)
        except BaseException:
            region.cleanUp()
            raise
        self._step('End the cloud', lambda: self._end(region))

    def _step(self, name: str, action: ty.Callable[[], str]) -> None:
        seen = 'FAILED'
        try:
            with self._steps.step(name):
                seen = action()
            print(f'{"":10}{seen}', flush=True)
        finally:
            self._rows.append(_Row(name, seen, self._steps.seconds))

    @staticmethod
    def _start(region: lab_region.Region) -> str:
        region.setUp()
        running = [one.name for one in region.daemons() if one.alive]
        return ', '.join(running)

    @staticmethod
    def _end(region: lab_region.Region) -> str:
        region.cleanUp()
        left = [one.name for one in region.daemons() if one.alive]
        if left or region.directory.exists():
            raise errors.LabError(
                f'This is left: {left}, {region.directory}')
        return 'no process, no directory'

    def table(self) -> prettytable.PrettyTable:
        """Return the steps, their results and their durations."""
        table = prettytable.PrettyTable(
            ['step', 'what was seen', 'seconds'], align='l',
            hrules=prettytable.HRuleStyle.ALL)
        table.align['seconds'] = 'r'
        table.max_width['step'] = 32
        table.max_width['what was seen'] = _WIDTH
        table.add_rows([[row.name, row.seen, f'{row.seconds:.1f}']
                        for row in self._rows])
        return table


def _terminated(number: int, frame: types.FrameType | None) -> ty.NoReturn:
    raise SystemExit(128 + number)


def _go_through(work: pathlib.Path, logs: pathlib.Path,
                passes: Iterable[str]) -> int:
    run, kept = _Run(), work / 'logs'
    try:
        with process.keeping_logs(kept):
            run.all(work, passes)
    except Exception as error:
        known = isinstance(error, errors.LabError)
        print(f'\n{error}' if known else traceback.format_exc(),
              file=sys.stderr)
        if kept.exists():
            print(f'The logs are in {_move(kept, logs)}', file=sys.stderr)
        return 1
    finally:
        print(f'\n{run.table()}', flush=True)
    return 0


def _move(kept: pathlib.Path, logs: pathlib.Path) -> pathlib.Path:
    """Put the logs into a new directory; return its path."""
    logs.mkdir(parents=True, exist_ok=True)
    target = pathlib.Path(tempfile.mkdtemp(prefix='run-', dir=logs))
    shutil.copytree(kept, target, dirs_exist_ok=True)
    return target.absolute()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog='python -m lab.job',
        description='Start a whole cloud on this machine, have it boot '
                    'instances from images in Ceph, and end it. Needs root '
                    'and the Debian packages of bindep.txt, profiles test '
                    'and job.')
    parser.add_argument(
        '--logs', type=pathlib.Path, metavar='DIR',
        default=pathlib.Path('ceph-qcow2-logs'),
        help='where the logs of all services go if something fails, in a '
             'new directory (default: %(default)s)')
    parser.add_argument(
        '--pass', choices=scenario.PASSES, action='append', dest='passes',
        help='only this part of the scenario, and others so named: local '
             'qcow2 disks, raw disks, or nova-compute on eventlet')
    args = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        with process.RunDirectory() as work:
            return _go_through(
                work.path, args.logs, args.passes or scenario.PASSES)
    except KeyboardInterrupt:
        print('Stopped; nothing is left.', file=sys.stderr)
        return 130


if __name__ == '__main__':
    sys.exit(main())
