# SPDX-License-Identifier: Apache-2.0

"""What the tests of the build share: the tree, pip, and the real release."""

from collections.abc import Mapping
import os
import pathlib
import subprocess
import sys

import fixtures
import testtools

from novabuild import project
from novabuild import tree

ROOT = pathlib.Path(__file__).resolve().parents[3]
CONSTRAINTS = ROOT / 'constraints.txt'
TIMEOUT = 600
"""Seconds for one command; the slowest installs about 120 packages."""


def run(
    *command: str | pathlib.Path, cwd: pathlib.Path | None = None,
    umask: int = 0o022, ok: bool = True,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a command to its end and give its output.

    What pip builds, it builds with what constraints.txt says; the variable
    for that is another one since pip 25.3.

    :param ok: whether it is to succeed; the other way is an error
    :param environment: variables on top of those that there are
    """
    constraints = {name: str(CONSTRAINTS) for name in (
        'PIP_BUILD_CONSTRAINT', 'PIP_CONSTRAINT')}
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, umask=umask,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT,
        env=os.environ | constraints | dict(environment or {}))
    if (done.returncode == 0) != ok:
        raise AssertionError(
            f'{command} ended with {done.returncode}:\n{done.stdout}')
    return done.stdout


def files(folder: pathlib.Path) -> set[str]:
    """Give all that is below a folder, less what Python itself writes."""
    return {
        path.relative_to(folder).as_posix() for path in folder.rglob('*')
        if path.name != '__pycache__' and path.suffix != '.pyc'}


class TestCase(testtools.TestCase):
    """Has the project, and a folder of its own in ``self.top``."""

    def setUp(self) -> None:
        super().setUp()
        self.project = project.load(ROOT)
        self.top = pathlib.Path(self.useFixture(fixtures.TempDir()).path)

    def copy(self, name: str) -> pathlib.Path:
        """Copy the source tree to another place."""
        copy = self.top / name
        for path, entry in tree.source(ROOT).items():
            target = copy / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(entry.data)
            target.chmod(entry.mode)
        return copy

    def wheel(
        self, source: pathlib.Path, name: str, *options: str | pathlib.Path,
        umask: int = 0o022, ok: bool = True,
        environment: Mapping[str, str] | None = None,
    ) -> tuple[pathlib.Path, str]:
        """Build a wheel; give where it is to be, and what pip said."""
        folder = self.top / name
        said = run(
            sys.executable, '-m', 'pip', 'wheel', '--no-deps', '-w', folder,
            *options, source, cwd=self.top, umask=umask, ok=ok,
            environment=environment)
        return folder, said

    def links(self) -> pathlib.Path:
        """Make a folder with the wheels that a build needs."""
        folder = self.top / 'links'
        run(sys.executable, '-m', 'pip', 'download', '-q', '--no-deps',
            '-d', folder, f'nova=={self.project.release.version}',
            'packaging', 'pip')
        return folder
