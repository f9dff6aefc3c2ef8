# SPDX-License-Identifier: Apache-2.0

"""Run one suite with stestr: ``tools/suites SUITE [STESTR ARGUMENT ...]``

If the environment variable NOVA_TEST_COUNTS names a folder, the numbers of
tests that passed, failed and were skipped are written to a file there.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import os
import pathlib
import subprocess
import sys
from typing import NamedTuple

TOOLS = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOOLS))

from novabuild import project  # noqa: E402
from novabuild import whole  # noqa: E402
from suites import counting  # noqa: E402
from suites import loading  # noqa: E402
from suites import running  # noqa: E402

THREADS = {'OS_NOVA_DISABLE_EVENTLET_PATCHING': 'true'}
EVENTLET = {'OS_NOVA_DISABLE_EVENTLET_PATCHING': 'false'}
# Tests of what differs between releases; NOVA_RELEASE=... tools/test.sh runs
# all tests on another release.
DIFFERENCES = (
    r'nova\.tests\.unit\.image\.('
    r'test_(compat|errors|glance_service|locations)|'
    r'command\.test_(host|main))\.')


class Suite(NamedTuple):
    start: str
    """Folder below tools/ in which discovery starts."""
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = {}


SUITES = {
    # The default mode of nova-compute.
    'unit': Suite('suites/unit', environment=THREADS),
    'unit-eventlet': Suite('suites/unit', environment=EVENTLET),
    # The default mode of older releases.
    'others': Suite('suites/unit', (DIFFERENCES,), EVENTLET),
    'lab': Suite('suites/lab', environment=THREADS),
    'tools': Suite('suites/tools'),
    # These tests measure times: two labs at once are too slow on two cores.
    'functional': Suite('suites/functional', ('--serial',), THREADS),
    'package': Suite('novabuild/package_tests'),
}


class Done(NamedTuple):
    """Outcome of a suite."""

    status: int
    counts: counting.Counts | None
    """None if the suite stored no results."""


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in SUITES:
        print(f'{__doc__}\nSUITE is one of {", ".join(SUITES)}.',
              file=sys.stderr)
        return 2
    name, *options = arguments
    done = (_run_on_others if name == 'others' else _run)(name, options)
    counting.save(name, done.counts, done.status)
    return done.status


def _run(
    name: str, options: Sequence[str], environment: Mapping[str, str] = {},
) -> Done:
    suite = SUITES[name]
    repository = running.repository(name)
    before = counting.runs(repository)
    status = subprocess.run(
        running.command(suite.start, repository, (*suite.options, *options)),
        # The checkout contains lab/, but the installed package is tested.
        env={**os.environ, 'PYTHONSAFEPATH': '1', **suite.environment,
             **environment}).returncode
    if counting.runs(repository) == before:
        return Done(status, None)
    return Done(status, counting.count(counting.latest(repository).values()))


def _run_on_others(name: str, options: Sequence[str]) -> Done:
    """Run a suite on each pinned release but the installed one.

    Only Nova is another one; the packages are those of this environment.
    """
    here = project.load(loading.ROOT)
    status, counts = 0, []
    for release in here.pinned:
        if release == str(here.release.version):
            continue
        print(f'On Nova {release}:', flush=True)
        ours = project.load(loading.ROOT, release)
        content = whole.entries(ours, whole.released(ours))
        with whole.importable(content) as folder:
            done = _run(name, options, {
                project.RELEASE_VARIABLE: release,
                'PYTHONPATH': os.pathsep.join(filter(None, (
                    str(folder), os.environ.get('PYTHONPATH')))),
            })
        status = status or done.status
        # A run without results has failed, even if the others passed.
        counts.append(done.counts or counting.Counts(0, 1, 0))
    return Done(status, counting.Counts(*map(sum, zip(*counts))))


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
