# SPDX-License-Identifier: Apache-2.0

"""Run tests on one side, by stestr."""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
from dataclasses import dataclass
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading

from released import request
from released import selection
from released import sides
from suites import counting
from suites import loading
from suites import running

Results = dict[str, counting.Result]
_OUTPUT = threading.Lock()


@dataclass(frozen=True)
class Run:
    """Modules of tests that one process loads."""

    name: str
    groups: Mapping[str, str]
    """The names of the groups, by the modules of tests in them."""
    environment: Mapping[str, str]
    tests: tuple[str, ...] = ()
    """The only ones to run; empty: all of the modules."""

    def only(self, tests: Sequence[str]) -> 'Run':
        """Give a run of those tests, where it has them."""
        kept = {
            module: group for module, group in self.groups.items()
            if any(f'{module}.' in test for test in tests)}
        return dataclasses.replace(self, groups=kept, tests=tuple(tests))


def chosen(
    modules: Sequence[str], mode: selection.Mode, fast: bool,
) -> list[Run]:
    """Give the runs that have all chosen modules of tests.

    :param modules: all that the release has
    :raises SelectionError: a part of the selection is not in the release
    :raises SuiteError: a module is not the released one
    """
    result = []
    overlay = loading.installed_overlay()
    for part in selection.PARTS:
        quick = {group.name for group in part.groups if group.fast}
        taken = {
            module: group
            for module, group in selection.grouped(
                part.groups, modules).items()
            if not fast or group in quick}
        for module in taken:
            if f'{module.replace(".", "/")}.py' in overlay:
                raise loading.SuiteError(
                    f'This tree replaces {module}, so it is not the released '
                    'one any more. Put tests of this tree into a module of '
                    'another name.')
        if taken:
            result.append(Run(
                part.name, taken, {**mode.environment, **part.environment}))
    return result


def groups(chosen: Sequence[Run]) -> dict[str, str]:
    """Give the names of all groups, by the modules of tests in them."""
    return {module: name for run in chosen
            for module, name in run.groups.items()}


def exempt(
    chosen: Sequence[Run], exemptions: Mapping[str, str], fast: bool,
) -> dict[str, str]:
    """Give the exemptions that these runs can judge, and their reasons.

    :param exemptions: all there are
    :param fast: these are not all runs, so leave out what is in none of them
    """
    return {
        test: reason for test, reason in exemptions.items()
        if not fast or any(
            test.startswith(f'{module}.') for module in groups(chosen))}


def on_both(run: Run, both: sides.Sides) -> tuple[Results, Results]:
    """Run tests on both sides at once, so that both have the same conditions.

    :returns: the results of the release, and ours
    """
    workers = max(1, (os.cpu_count() or 1) // 2)
    with (_begun(run, both.pristine, workers) as pristine,
          _begun(run, both.ours, workers) as ours):
        return pristine.results(), ours.results()


def one_by_one(run: Run, both: sides.Sides) -> tuple[Results, Results]:
    """Run tests with nothing beside them, on one side and on the other."""
    with _begun(run, both.pristine, 1) as pristine:
        of_pristine = pristine.results()
    with _begun(run, both.ours, 1) as ours:
        return of_pristine, ours.results()


@dataclass(frozen=True)
class _Begun:
    """Tests that are running."""

    process: subprocess.Popen[str]
    output: threading.Thread
    repository: pathlib.Path
    loaded: pathlib.Path

    def results(self) -> Results:
        """Wait for the end, and give the results."""
        self.output.join()
        self.process.wait()
        if not counting.runs(self.repository):
            return {}
        results = counting.results_of_latest_run(self.repository)
        return self._not_run(results) | results

    def _not_run(self, results: Results) -> Results:
        """Give what was loaded and is not in the results, as results."""
        if not self.loaded.exists():
            return {}
        # testscenarios runs a test under other ids than it is loaded by.
        begun = {test.partition('(')[0] for test in results} | results.keys()
        return {test: counting.Result(counting.Outcome.NOT_RUN)
                for test in json.loads(self.loaded.read_text())
                if test not in begun}


@contextlib.contextmanager
def _begun(run: Run, side: sides.Side, workers: int) -> Iterator[_Begun]:
    """Have stestr run tests; it ends with the block at the latest."""
    repository = running.repository(f'released-{run.name}-{side.name}')
    # With no times on record, stestr deals out the tests alike on both sides.
    shutil.rmtree(repository / '.stestr', ignore_errors=True)
    options = ['--suppress-attachments', '--concurrency', str(workers)]
    command = running.command('released/suite', repository, options)
    with tempfile.TemporaryDirectory(prefix='nova-released-') as name:
        asked = pathlib.Path(name, 'request.json')
        loaded = pathlib.Path(name, 'loaded.json')
        request.Request(
            str(side.folder), tuple(run.groups), str(loaded), run.tests
        ).write(asked)
        environment = os.environ | run.environment | {
            'PYTHONPATH': str(side.folder),
            'PYTHONUNBUFFERED': '1',
            request.VARIABLE: str(asked),
        }
        with subprocess.Popen(
                command, cwd=side.folder, env=environment, text=True,
                errors='replace', stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            assert process.stdout is not None
            output = threading.Thread(
                target=_show, args=(process.stdout, side.name))
            output.start()
            try:
                yield _Begun(process, output, repository, loaded)
            finally:
                # Without it, its workers end, too: nobody reads their output.
                process.terminate()
                output.join()


def _show(lines: Iterable[str], name: str) -> None:
    """Print each line with the name of its side."""
    for line in lines:
        with _OUTPUT:
            sys.stdout.write(f'{name:8} {line}')
