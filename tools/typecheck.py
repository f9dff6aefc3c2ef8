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
FOLDERS = ('nova', 'lab', 'tools', 'doc', 'releasenotes')


def main(files: list[str]) -> int:
    spec = importlib.util.find_spec('nova')
    if spec is None or spec.origin is None:
        sys.exit('Nova is not installed here: run "tox -e pep8".')
    with tempfile.TemporaryDirectory(prefix='nova-types-') as top:
        for name in FOLDERS:
            target = ROOT / name
            if name == 'nova':
                target = pathlib.Path(spec.origin).parent
            pathlib.Path(top, name).symlink_to(target)
        return subprocess.run(
            [sys.executable, '-m', 'mypy', '--config-file', ROOT / 'mypy.ini',
             '--cache-dir', ROOT / '.mypy_cache', *(files or sorted(
                 str(path.relative_to(ROOT)) for name in FOLDERS
                 for path in (ROOT / name).rglob('*.py')))],
            cwd=top).returncode


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
