# SPDX-License-Identifier: Apache-2.0

"""Write constraints.txt: exact versions of all that is installed here.

Run it by ``tox -e constraints``, which installs the newest of everything.
"""

import pathlib
import subprocess
import sys

HEADER = """\
# SPDX-License-Identifier: Apache-2.0
# The exact versions that the tests of this tree run with.
# "tox -e constraints" writes this file.
"""
# All of it, or setuptools, which pbr requires, would be missing.
COMMAND = [sys.executable, '-m', 'pip', 'freeze', '--all', '--exclude', 'nova',
           '--exclude', 'pip']

if __name__ == '__main__':
    frozen = subprocess.run(
        COMMAND, check=True, stdout=subprocess.PIPE, text=True).stdout
    pathlib.Path(__file__).resolve().parents[1].joinpath(
        'constraints.txt').write_text(HEADER + frozen, encoding='utf-8')
