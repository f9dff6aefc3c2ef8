# SPDX-License-Identifier: Apache-2.0

"""Test each patch of the series on top of those before it.

usage: python tools/suites/series.py

Runs, for each patch, its own unit tests and the released tests of the image
service, without those that are exempt once the service is replaced.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from novabuild import project  # noqa: E402
from novabuild import series  # noqa: E402
from novabuild import tree  # noqa: E402
from novabuild import whole  # noqa: E402
from released import exemptions  # noqa: E402
from released import runs  # noqa: E402
from released import selection  # noqa: E402
from suites import loading  # noqa: E402
from suites import results  # noqa: E402

RELEASED = 'nova.tests.unit.image.test_glance'


def main() -> int:
    ours = project.load(loading.ROOT)
    overlay = tree.overlay(loading.ROOT)
    content = whole.released(ours)
    exempt = exemptions.of(str(ours.release.version))
    failed = []
    for step, names in zip(series.STEPS, series.divide(overlay)):
        content |= {name: overlay[name] for name in names}
        modules = [RELEASED, *sorted(
            name.removesuffix('.py').replace('/', '.') for name in names
            if pathlib.PurePath(name).match('test_*.py'))]
        run = runs.Run('series', modules, selection.environment('threads'))
        with whole.importable(content) as folder:
            [found] = runs.run(run, [runs.Side('patched', folder)])
        bad = {test for test, result in found.items()
               if result.outcome == results.FAILED}
        if 'nova/image/download.py' in content:
            bad -= exempt.keys()
        print(f'{step.title}: {len(found)} tests, {len(bad)} failed.')
        failed += sorted(bad) if found else ['all']
    print(*failed, sep='\n')
    return int(bool(failed))


if __name__ == '__main__':
    sys.exit(main())
