# SPDX-License-Identifier: Apache-2.0

"""Run tests with stestr, on the release and on our build."""

from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import pathlib
import tempfile
from typing import NamedTuple

from novabuild import project
from novabuild import tree
from novabuild import whole
from released import selection
from suites import loading
from suites import results


class Side(NamedTuple):
    """A Nova, in a folder that comes first in Python's module search path."""

    name: str
    folder: pathlib.Path


class Run(NamedTuple):
    """Modules of tests that one process loads."""

    name: str
    modules: Sequence[str]
    environment: Mapping[str, str]

    def has(self, test: str) -> bool:
        """Return True if a module contains the test."""
        # "setUpClass (nova.tests...)" is the ID of a failure, too.
        return any(f'{module}.' in test for module in self.modules)


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
    :raises SuiteError: the selection does not fit the release, or this tree
        replaces one of the modules
    """
    replaced = {
        name.removesuffix('.py').replace('/', '.')
        for name in tree.overlay(loading.ROOT)}
    result = []
    for part in selection.PARTS:
        found = selection.matching(
            part.fast if fast else part.prefixes, modules)
        if ours := sorted(replaced.intersection(found)):
            raise loading.SuiteError(
                f'This tree replaces {ours[0]}, so it is no longer the '
                'released one. Put our tests into a module of another name.')
        if found:
            result.append(Run(part.name, found, {
                **selection.environment(mode), **part.environment}))
    return result


def run(
    run: Run, both: Sequence[Side], only: Collection[str] = (),
) -> list[results.Results]:
    """Run tests on both sides, one side after the other.

    Tests in ``only`` run alone: one after the other.

    :returns: the results of each side
    """
    options = ['--suppress-attachments']
    found = []
    with tempfile.NamedTemporaryFile('w') as listed:
        if only:
            listed.write(''.join(f'{test}\n' for test in only))
            listed.flush()
            options += ['--concurrency', '1', '--load-list', listed.name]
        for side in both:
            print(f'Tests of "{run.name}", {side.name}:', flush=True)
            _status, of_side = results.run(
                f'released-{run.name}-{side.name}', run.modules, options,
                {**run.environment, 'PYTHONPATH': str(side.folder)},
                # Without recorded times, the processes run the same tests.
                folder=side.folder, forget=True)
            found.append(of_side)
    return found
