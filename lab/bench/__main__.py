# SPDX-License-Identifier: Apache-2.0
"""python -m lab.bench: run the benchmark; tools/bench.sh does."""

import argparse
import pathlib
import sys

from lab.bench import plan
from lab.bench import report
from lab.bench import run


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='python -m lab.bench',
        description='Measure image downloads, side by side with the released '
                    'Nova and with rbd export.')
    parser.add_argument('--quick', action='store_true',
                        help='smaller images, fewer cases and rounds')
    parser.add_argument('--group', metavar='NAME',
                        choices=sorted(plan.full().groups),
                        help='only one group: %(choices)s')
    parser.add_argument('--json', type=pathlib.Path, metavar='FILE',
                        help='write the results there')
    parser.add_argument('--chart', type=pathlib.Path, metavar='PREFIX',
                        help='draw PREFIX.png and PREFIX.svg')
    parser.add_argument('--released', type=pathlib.Path, required=True,
                        metavar='PYTHON',
                        help='interpreter of the released Nova')
    args = parser.parse_args(argv)
    if args.chart and args.group not in (None, *plan.CHARTED):
        parser.error(f'--chart shows the groups {" and ".join(plan.CHARTED)}')
    return args


def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    chosen = plan.quick() if args.quick else plan.full()
    if args.group:
        chosen = chosen.only(args.group)
    with run.Bench(chosen, args.released) as bench:
        results = report.Results(chosen, bench.run())
    print(results.text())
    if args.json:
        args.json.write_text(results.json(), encoding='utf-8')
    if args.chart:
        # Loads slowly, and may not be installed.
        from lab.bench import chart
        chart.draw(results, args.chart)
    return 0


if __name__ == '__main__':
    sys.exit(main())
