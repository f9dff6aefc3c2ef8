# SPDX-License-Identifier: Apache-2.0

"""Run mypy on Python files of this tree: ``typecheck.py [FILE...]``

Without a FILE, which is a path in this tree, on all of them.

The files are checked where they are installed, among the rest of Nova, or
else every import from it would be unknown. mypy takes no source from
site-packages, so it is shown a folder with links in their place.
"""

import importlib.util
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
OTHERS = ('lab', 'tools', 'doc', 'releasenotes')


def main(arguments: list[str]) -> int:
    spec = importlib.util.find_spec('nova')
    if spec is None or spec.origin is None:
        print('Nova is not installed here: run "tox -e pep8".',
              file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix='nova-types-') as folder:
        top = pathlib.Path(folder)
        (top / 'nova').symlink_to(pathlib.Path(spec.origin).parent)
        for name in OTHERS:
            if (ROOT / name).is_dir():
                (top / name).symlink_to(ROOT / name)
        command = [
            sys.executable, '-m', 'mypy', '--config-file',
            str(ROOT / 'mypy.ini'), '--cache-dir', str(ROOT / '.mypy_cache'),
            *(arguments or _files()),
        ]
        return subprocess.run(command, cwd=top).returncode


def _files() -> list[str]:
    return sorted(
        path.relative_to(ROOT).as_posix() for name in ('nova', *OTHERS)
        for path in (ROOT / name).rglob('*.py'))


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
