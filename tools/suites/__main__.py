# SPDX-License-Identifier: Apache-2.0

"""Run one suite by stestr: ``python tools/suites SUITE [STESTR ARGUMENT ...]``

With a folder in the environment variable NOVA_TEST_COUNTS, a file is left in
it that says how many tests passed, failed and were skipped.
"""

from dataclasses import dataclass
from dataclasses import field
import os
import pathlib
import subprocess
import sys

TOOLS = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOOLS))

from suites import counting  # noqa: E402
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
    repository = running.repository(name)
    suite = SUITES[name]
    before = counting.runs(repository)
    status = subprocess.run(
        running.command(suite.start, repository, (*suite.options, *options)),
        env=os.environ | suite.environment).returncode
    folder = os.environ.get('NOVA_TEST_COUNTS')
    if folder:
        fresh = counting.runs(repository) - before
        counts = counting.of_latest_run(repository) if fresh else None
        counting.save(pathlib.Path(folder), name, counts, status)
    return status


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
