# SPDX-License-Identifier: Apache-2.0

"""Run tests with stestr, on the release and on our build."""

from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import os
import pathlib
import shutil
import subprocess
import tempfile
from typing import NamedTuple

from novabuild import project
from novabuild import tree
from novabuild import whole
from released import selection
from released import suite
from suites import counting
from suites import loading
from suites import running

Results = dict[str, counting.Result]
OUTPUT = 'output.txt'
"""Output of stestr on the release, among its results."""


class Side(NamedTuple):
    """A Nova, in a folder that comes first in Python's module search path."""

    name: str
    folder: pathlib.Path


class Run(NamedTuple):
    """Modules of tests that one process loads."""

    name: str
    groups: Mapping[str, str]
    """Names of the groups, by module."""
    environment: Mapping[str, str]


@contextlib.contextmanager
def sides(ours: project.Project) -> Iterator[list[Side]]:
    """Provide the release and our build.

    :raises BuildError: the release is not available, or the tree does not fit
    """
    released = whole.released(ours)
    with (whole.importable(released) as pristine,
          whole.importable(whole.entries(ours, released)) as built):
        yield [Side('pristine', pristine), Side('ours', built)]


def chosen(
    modules: Sequence[str], mode: str, fast: bool,
) -> list[Run]:
    """Return the runs that cover the selected modules.

    :param modules: all that the release has
    :raises SelectionError: a group of the selection is not in the release
    :raises SuiteError: this tree replaces one of the modules
    """
    replaced = {
        name.removesuffix('.py').replace('/', '.')
        for name in tree.overlay(loading.ROOT)}
    result = []
    for part in selection.PARTS:
        fast_groups = {group.name for group in part.groups if group.fast}
        groups = {
            module: group for module, group in selection.grouped(
                part.groups, modules).items()
            if not fast or group in fast_groups}
        if ours := sorted(replaced & groups.keys()):
            raise loading.SuiteError(
                f'This tree replaces {ours[0]}, so it is no longer the '
                'released one. Put our tests into a module of another name.')
        if groups:
            result.append(Run(part.name, groups, {
                **selection.environment(mode), **part.environment}))
    return result


def run(
    run: Run, both: Sequence[Side], only: Collection[str] = (),
) -> list[Results]:
    """Run tests on both sides.

    Both run at the same time, under the same conditions. Tests in ``only`` run
    alone: one after the other, on one side after the other.

    :returns: the results of each side
    """
    workers = 1 if only else max(1, (os.cpu_count() or 1) // 2)
    with contextlib.ExitStack() as stack:
        begun = []
        for side in both:
            repository = running.repository(f'released-{run.name}-{side.name}')
            process = stack.enter_context(
                _process(run, side, repository, workers, only))
            begun.append((process, repository))
            if only:
                process.wait()
        results = []
        for process, repository in begun:
            process.wait()
            results.append(counting.latest(repository)
                           if counting.runs(repository) else {})
        return results


@contextlib.contextmanager
def _process(
    run: Run, side: Side, repository: pathlib.Path, workers: int,
    only: Collection[str],
) -> Iterator[subprocess.Popen[bytes]]:
    # Without recorded times, stestr distributes the tests alike on both sides.
    shutil.rmtree(repository / '.stestr', ignore_errors=True)
    options = ['--suppress-attachments', '--concurrency', str(workers)]
    environment = os.environ | run.environment | {
        'PYTHONPATH': str(side.folder),
        suite.MODULES_VARIABLE: ' '.join(run.groups),
    }
    with (tempfile.NamedTemporaryFile('w+') as listed,
          (repository / OUTPUT).open('wb') as log):
        if only:
            listed.write(''.join(f'{test}\n' for test in only))
            listed.flush()
            options += ['--load-list', listed.name]
        # Our side shows the progress of both.
        process = subprocess.Popen(
            running.command('released/suite', repository, options),
            cwd=side.folder, env=environment, stdin=subprocess.DEVNULL,
            stdout=None if side.name == 'ours' else log,
            stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.terminate()
            process.wait()
