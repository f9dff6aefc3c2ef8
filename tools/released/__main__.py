# SPDX-License-Identifier: Apache-2.0

"""Compare our build with the release, using the tests of the release.

The exit status is 1 if a test passes on the release but not on our build and
is not exempt, if an exemption is needless, or if the comparison is worthless.
"""

import argparse
from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from novabuild import errors  # noqa: E402
from novabuild import project  # noqa: E402
from released import comparison  # noqa: E402
from released import exemptions  # noqa: E402
from released import runs  # noqa: E402
from released import selection  # noqa: E402
from suites import loading  # noqa: E402
from suites import results  # noqa: E402


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog='python tools/released', description=__doc__)
    parser.add_argument(
        'extent', choices=['fast', 'whole'],
        help='the tests closest to the change, or all')
    parser.add_argument(
        '--mode', choices=selection.MODES,
        help='concurrency mode; default: that of nova-compute in the release')
    options = parser.parse_args(arguments)
    try:
        status, counts = _compare(options.extent == 'fast', options.mode)
    except (errors.BuildError, loading.SuiteError) as exc:
        print(exc, file=sys.stderr)
        status, counts = 1, results.Counts(0, 1, 0)
    results.save(f'released-{options.extent}', counts)
    return status


def _compare(fast: bool, mode: str | None) -> tuple[int, results.Counts]:
    ours = project.load(loading.ROOT)
    release = ours.release.version
    mode = mode or selection.default_mode(release)
    with runs.sides(ours) as both:
        chosen = runs.chosen(
            selection.released_modules(both[0].folder), mode, fast)
        # A fast comparison cannot judge the exemptions of other modules.
        exempt = {
            test: reason
            for test, reason in exemptions.of(str(release)).items()
            if not fast or any(run.has(test) for run in chosen)}
        compared = _run(chosen, both, exempt)
        suspects = compared.regressions()
        if suspects:
            print(f'\n{len(suspects)} tests differ; they run again, alone.\n')
            again = [run for run in chosen if any(map(run.has, suspects))]
            compared = compared.after(_run(again, both, exempt, suspects))
    print(f'\nTests of Nova {release}, on that release and on {ours.version}; '
          f'{mode}:')
    print(*compared.findings(), sep='\n')
    return int(compared.is_bad()), compared.counts()


def _run(
    chosen: Sequence[runs.Run], both: Sequence[runs.Side],
    exempt: Mapping[str, str], only: Collection[str] = (),
) -> comparison.Comparison:
    pristine: results.Results = {}
    ours: results.Results = {}
    for run in chosen:
        of_pristine, of_ours = runs.run(run, both, only)
        pristine |= of_pristine
        ours |= of_ours
    return comparison.Comparison(pristine, ours, exempt, selected=chosen)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
