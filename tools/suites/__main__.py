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
    'released': Suite('suites/released'),
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
    repository = _repository(name)
    before = counting.runs(repository)
    status = subprocess.run(
        _command(SUITES[name], repository, options),
        env=os.environ | SUITES[name].environment).returncode
    folder = os.environ.get('NOVA_TEST_COUNTS')
    if folder:
        fresh = counting.runs(repository) - before
        counts = counting.of_latest_run(repository) if fresh else None
        counting.save(pathlib.Path(folder), name, counts, status)
    return status


def _command(
    suite: Suite, repository: pathlib.Path, options: list[str],
) -> list[str]:
    return [
        sys.executable, '-m', 'stestr', '--top-dir', str(TOOLS),
        '--test-path', str(TOOLS / suite.start),
        '--repo-url', str(repository), 'run', *suite.options, *options,
    ]


def _repository(name: str) -> pathlib.Path:
    """Where stestr keeps its results: one place for each suite."""
    top = os.environ.get('TOX_ENV_DIR') or TOOLS.parent
    folder = pathlib.Path(top, '.stestr', name)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
