# SPDX-License-Identifier: Apache-2.0

"""The command line of stestr, and the folder of its results."""

from collections.abc import Sequence
import os
import pathlib
import sys

TOOLS = pathlib.Path(__file__).resolve().parents[1]


def command(
    start: str, repository: pathlib.Path, options: Sequence[str],
) -> list[str]:
    """Return the command that runs a suite.

    :param start: where discovery starts, below tools/
    """
    return [
        sys.executable, '-m', 'stestr', '--top-dir', str(TOOLS),
        '--test-path', str(TOOLS / start), '--repo-url', str(repository),
        'run', *options,
    ]


def repository(name: str) -> pathlib.Path:
    """Create and return the folder for the results of a suite."""
    top = os.environ.get('TOX_ENV_DIR') or TOOLS.parent
    folder = pathlib.Path(top, '.stestr', name)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
