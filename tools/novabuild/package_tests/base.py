# SPDX-License-Identifier: Apache-2.0

"""Shared by the tests of the build: the tree, pip, and the real release."""

from collections.abc import Mapping
import os
import pathlib
import subprocess
import sys

import fixtures
import testtools

from novabuild import project
from novabuild import tree
from novabuild import whole

ROOT = pathlib.Path(__file__).resolve().parents[3]
CONSTRAINTS = ROOT / 'constraints.txt'
TIMEOUT = 600
"""Seconds for one command; the slowest installs about 120 packages."""


def run(
    *command: str | pathlib.Path, cwd: pathlib.Path | None = None,
    umask: int = 0o022, ok: bool = True,
    environment: Mapping[str, str] = {},
) -> str:
    """Run a command and return its output.

    :param ok: whether the command is expected to succeed
    :param environment: additional variables
    """
    # The variable for the requirements of builds has changed with pip 25.3.
    constraints = {name: str(CONSTRAINTS) for name in (
        'PIP_BUILD_CONSTRAINT', 'PIP_CONSTRAINT')}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, umask=umask,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT,
        env={**os.environ, **constraints, **environment})
    if (done.returncode == 0) != ok:
        raise AssertionError(
            f'{command} ended with {done.returncode}:\n{done.stdout}')
    return done.stdout


class TestCase(testtools.TestCase):
    """Provides the project, and a temporary folder in ``self.top``."""

    def setUp(self) -> None:
        super().setUp()
        self.project = project.load(ROOT)
        self.top = pathlib.Path(self.useFixture(fixtures.TempDir()).path)

    def copy(self, name: str) -> pathlib.Path:
        """Copy the source tree."""
        whole.write(tree.source(ROOT), self.top / name)
        return self.top / name

    def wheel(
        self, source: pathlib.Path, name: str, *options: str | pathlib.Path,
        umask: int = 0o022, ok: bool = True,
        environment: Mapping[str, str] = {},
    ) -> tuple[pathlib.Path, str]:
        """Build a wheel; return its folder, and the output of pip."""
        folder = self.top / name
        output = run(
            sys.executable, '-m', 'pip', 'wheel', '--no-deps', '-w', folder,
            *options, source, cwd=self.top, umask=umask, ok=ok,
            environment=environment)
        return folder, output
