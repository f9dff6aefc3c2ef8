# SPDX-License-Identifier: Apache-2.0

"""Run one suite by stestr: ``python tools/suites SUITE [STESTR ARGUMENT ...]``

With a folder in the environment variable NOVA_TEST_COUNTS, a file is left in
it that says how many tests passed, failed and were skipped.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from dataclasses import dataclass
from dataclasses import field
import os
import pathlib
import subprocess
import sys

TOOLS = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOOLS))

from suites import counting  # noqa: E402
from suites import others  # noqa: E402
from suites import running  # noqa: E402


@dataclass(frozen=True)
class Suite:
    """Where discovery starts, below tools/, and what else is special."""

    start: str
    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)


SUITES = {
    # nova-compute runs in native threads unless it is told otherwise.
    'unit': Suite('suites/unit', environment={
        'OS_NOVA_DISABLE_EVENTLET_PATCHING': 'true'}),
    'unit-eventlet': Suite('suites/unit', environment={
        'OS_NOVA_DISABLE_EVENTLET_PATCHING': 'false'}),
    # What older releases run in.
    'others': Suite('suites/unit', (others.TESTS,), {
        'OS_NOVA_DISABLE_EVENTLET_PATCHING': 'false'}),
    'lab': Suite('suites/lab', environment={
        'OS_NOVA_DISABLE_EVENTLET_PATCHING': 'true'}),
    'tools': Suite('suites/tools'),
    # A lab uses the whole machine, and its tests use one lab.
    'functional': Suite('suites/functional', ('--serial',), {
        'OS_NOVA_DISABLE_EVENTLET_PATCHING': 'true'}),
    'package': Suite('novabuild/package_tests'),
}


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in SUITES:
        print(f'{__doc__}\nSUITE is one of {", ".join(SUITES)}.',
              file=sys.stderr)
        return 2
    name, *options = arguments
    done = (_run_on_others if name == 'others' else _run)(name, options)
    folder = os.environ.get('NOVA_TEST_COUNTS')
    if folder:
        counting.save(pathlib.Path(folder), name, done.counts, done.status)
    return done.status


@dataclass(frozen=True)
class Done:
    """What has become of a suite."""

    status: int
    counts: counting.Counts | None
    """None: it has left no record."""


def _run(
    name: str, options: Sequence[str],
    environment: Mapping[str, str] | None = None,
) -> Done:
    suite = SUITES[name]
    repository = running.repository(name)
    before = counting.runs(repository)
    status = subprocess.run(
        running.command(suite.start, repository, (*suite.options, *options)),
        # The checkout has a folder named lab; import the installed package.
        env=os.environ | {'PYTHONSAFEPATH': '1'} | suite.environment |
        dict(environment or {}),
    ).returncode
    fresh = counting.runs(repository) - before
    return Done(status, counting.of_latest_run(repository) if fresh else None)


def _run_on_others(name: str, options: Sequence[str]) -> Done:
    """Run it on each release but the one here."""
    status, counts = 0, []
    for release in others.releases():
        print(f'On Nova {release}:', flush=True)
        with others.built(release) as environment:
            done = _run(name, options, environment)
        status = status or done.status
        # A run that has left no record has failed, whatever the others did.
        counts.append(done.counts or counting.Counts(0, 1, 0))
    return Done(status, counting.Counts(
        *(sum(each) for each in zip(*map(dataclasses.astuple, counts)))))


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
