# SPDX-License-Identifier: Apache-2.0

"""Test each patch of the series on top of those before it.

usage: python tools/suites/series.py

Runs, for each patch, its own unit tests and the released tests of the image
service, without those that are exempt once the service is replaced.
"""

from collections.abc import Collection
import os
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from novabuild import archive  # noqa: E402
from novabuild import project  # noqa: E402
from novabuild import series  # noqa: E402
from novabuild import tree  # noqa: E402
from novabuild import whole  # noqa: E402
from released import exemptions  # noqa: E402
from suites import loading  # noqa: E402

RELEASED = 'nova.tests.unit.image.test_glance'


def main() -> int:
    ours = project.load(loading.ROOT)
    overlay = tree.overlay(loading.ROOT)
    content = whole.released(ours)
    failed = []
    for step, names in zip(series.STEPS, series.divide(overlay)):
        content |= {name: overlay[name] for name in names}
        modules = [RELEASED, *sorted(
            name.removesuffix('.py').replace('/', '.') for name in names
            if pathlib.PurePath(name).match('test_*.py'))]
        exempt = (exemptions.of(str(ours.release.version))
                  if 'nova/image/download.py' in content else ())
        print(f'== {step.title}', flush=True)
        if status := _run(content, modules, exempt):
            failed.append(f'{step.title}: status {status}')
    print('\n'.join(failed) or 'All patches passed.')
    return int(bool(failed))


def _run(content: archive.Entries, modules: list[str],
         exempt: Collection[str]) -> int:
    with whole.importable(content) as folder, \
            tempfile.NamedTemporaryFile('w') as ids:
        run = (sys.executable, '-W', 'ignore', '-P', '-m', 'testtools.run')
        environment = os.environ | {
            'PYTHONPATH': str(folder),
            'OS_NOVA_DISABLE_EVENTLET_PATCHING': 'true'}
        listed = subprocess.run(
            (*run, '--list', *modules), env=environment, check=True,
            capture_output=True, text=True).stdout.split()
        ids.write('\n'.join(sorted({*listed} - {*exempt})))
        ids.flush()
        return subprocess.run(
            (*run, '--load-list', ids.name, *modules),
            env=environment, cwd=folder).returncode


if __name__ == '__main__':
    sys.exit(main())
