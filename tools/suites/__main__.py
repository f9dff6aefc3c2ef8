# SPDX-License-Identifier: Apache-2.0

"""Run one suite with stestr: ``tools/suites SUITE [STESTR ARGUMENT ...]``

If the environment variable NOVA_TEST_COUNTS names a folder, the numbers of
tests that passed, failed and were skipped are written to a file there.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import os
import pathlib
import sys
from typing import NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from novabuild import project  # noqa: E402
from novabuild import whole  # noqa: E402
from suites import loading  # noqa: E402
from suites import results  # noqa: E402

THREADS = {'OS_NOVA_DISABLE_EVENTLET_PATCHING': 'true'}
EVENTLET = {'OS_NOVA_DISABLE_EVENTLET_PATCHING': 'false'}
# Tests of what differs between releases; NOVA_RELEASE=... tools/test.sh runs
# all tests on another release.
DIFFERENCES = (
    r'nova\.tests\.unit\.image\.('
    r'test_(compat|errors|glance_service|locations)|'
    r'command\.test_(host|main))\.')


class Suite(NamedTuple):
    folders: tuple[str, ...]
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = {}


SUITES = {
    # The default mode of nova-compute.
    'unit': Suite(('nova/tests/unit',), environment=THREADS),
    'unit-eventlet': Suite(('nova/tests/unit',), environment=EVENTLET),
    # The default mode of older releases.
    'others': Suite(('nova/tests/unit',), (DIFFERENCES,), EVENTLET),
    'lab': Suite(('lab/tests/unit',), environment=THREADS),
    'tools': Suite(('tools/checkout', 'tools/novabuild/tests',
                    'tools/released/tests', 'tools/suites/tests')),
    # These tests measure times: two labs at once are too slow on two cores.
    'functional': Suite(('lab/tests/functional',), ('--serial',), THREADS),
    'package': Suite(('tools/novabuild/package_tests',)),
}


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] not in SUITES:
        print(f'{__doc__}\nSUITE is one of {", ".join(SUITES)}.',
              file=sys.stderr)
        return 2
    name, *options = arguments
    run = _run_on_others if name == 'others' else _run
    status, counts = run(name, options)
    results.save(name, counts)
    return status


def _run(
    name: str, options: Sequence[str], environment: Mapping[str, str] = {},
) -> tuple[int, results.Counts]:
    """Return the exit status and the counts of a suite."""
    folders, own_options, own_environment = SUITES[name]
    status, found = results.run(
        name, folders, (*own_options, *options), {
            # The checkout contains lab/, but the installed package is tested.
            'PYTHONSAFEPATH': '1', **own_environment, **environment})
    return status, results.judge(results.count(found.values()), status)


def _run_on_others(
    name: str, options: Sequence[str],
) -> tuple[int, results.Counts]:
    """Run a suite on each pinned release but the installed one.

    Only Nova is another one; the packages are those of this environment.
    """
    here = project.load(loading.ROOT)
    statuses, counts = [], []
    for release in here.pinned:
        if release == str(here.release.version):
            continue
        print(f'On Nova {release}:', flush=True)
        ours = project.load(loading.ROOT, release)
        content = whole.entries(ours, whole.released(ours))
        with whole.importable(content) as folder:
            status, counted = _run(name, options, {
                project.RELEASE_VARIABLE: release,
                'PYTHONPATH': os.pathsep.join(filter(None, (
                    str(folder), os.environ.get('PYTHONPATH')))),
            })
        statuses.append(status)
        counts.append(counted)
    return max(statuses), results.Counts(*map(sum, zip(*counts)))


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
