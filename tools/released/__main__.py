# SPDX-License-Identifier: Apache-2.0

"""Compare our build with the release, by the release's own tests.

Exit code 1: a test that passes on the release does not on our build and is not
exempt, an exemption is needless, or the comparison is worth nothing.
"""

import argparse
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
import os
import pathlib
import sys
import time

TOOLS = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOOLS))

from novabuild import errors  # noqa: E402
from novabuild import project  # noqa: E402
from released import comparison  # noqa: E402
from released import exemptions  # noqa: E402
from released import runs  # noqa: E402
from released import selection  # noqa: E402
from released import sides  # noqa: E402
from released import table  # noqa: E402
from suites import counting  # noqa: E402
from suites import loading  # noqa: E402

How = Callable[[runs.Run, sides.Sides], tuple[runs.Results, runs.Results]]


def main(arguments: list[str]) -> int:
    options = _options(arguments)
    try:
        tree = project.load(loading.ROOT)
        mode = options.mode or selection.usual_mode(tree.release.version)
        status, counts = _compare(tree, mode, options)
    except (errors.BuildError, loading.SuiteError,
            selection.SelectionError) as exc:
        print(exc, file=sys.stderr)
        status, counts = 1, None
    folder = os.environ.get('NOVA_TEST_COUNTS')
    if folder:
        label = f'released-{options.extent}'
        counting.save(pathlib.Path(folder), label, counts, status)
    return status


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='python tools/released', description=__doc__)
    parser.add_argument(
        'extent', choices=['fast', 'whole'],
        help='what reaches the changed modules most, or all that does')
    parser.add_argument(
        '--mode', type=selection.Mode, choices=list(selection.Mode),
        help="concurrency; without it, that of the release's nova-compute")
    parser.add_argument(
        '-v', '--verbose', action='store_true',
        help='whole tracebacks, and each test that fails on both sides')
    return parser.parse_args(arguments)


def _compare(
    tree: project.Project, mode: selection.Mode, options: argparse.Namespace,
) -> tuple[int, counting.Counts]:
    began = time.monotonic()
    fast = options.extent == 'fast'
    with sides.prepared(tree) as both:
        modules = selection.released_modules(both.pristine.folder)
        chosen = runs.chosen(modules, mode, fast)
        exempt = runs.exempt(
            chosen, exemptions.of(str(tree.release.version)), fast)
        compared = _run(chosen, both, exempt, runs.on_both)
        suspects = compared.regressions()
        if suspects:
            print(f'\nDifferent, so once more with nothing beside them: '
                  f'{len(suspects)} tests\n')
            alone = [run.only(suspects) for run in chosen]
            compared = compared.after(_run(
                [run for run in alone if run.groups], both, exempt,
                runs.one_by_one))
    minutes = (time.monotonic() - began) / 60
    print(f'\nTests of Nova {tree.release.version}, on that release and on '
          f'{tree.version}; {mode}; {minutes:.1f} minutes\n')
    print(table.table(compared, runs.groups(chosen)), end='\n\n')
    for name in selection.absent(modules):
        print(f'Not in this release: {name}.')
    for line in table.findings(compared, options.verbose):
        print(line)
    return int(compared.is_bad()), compared.counts()


def _run(
    chosen: Iterable[runs.Run], both: sides.Sides,
    exempt: Mapping[str, str], how: How,
) -> comparison.Comparison:
    pristine: dict[str, counting.Result] = {}
    ours: dict[str, counting.Result] = {}
    idle = []
    for run in chosen:
        of_pristine, of_ours = how(run, both)
        pristine |= of_pristine
        ours |= of_ours
        if comparison.is_idle(of_pristine):
            idle.append(run.name)
    return comparison.Comparison(pristine, ours, exempt, idle=tuple(idle))


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
