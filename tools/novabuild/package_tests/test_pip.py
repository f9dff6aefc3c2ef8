# SPDX-License-Identifier: Apache-2.0

"""The build as people use it: by pip, with the real release."""

import base64
import configparser
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import fixtures
import testtools

from novabuild import tree

ROOT = pathlib.Path(__file__).resolve().parents[3]
TIMEOUT = 600
"""Seconds for one command; the slowest installs about 120 packages."""
# What the wheel promises can only be seen from within the environment.
LOOK_INSIDE = """\
import hashlib, importlib.metadata, json
found = importlib.metadata.distribution('nova')
print(json.dumps({
    'version': found.version,
    'record': {
        str(path): [path.hash and path.hash.value, hashlib.sha256(
            path.locate().read_bytes()).hexdigest()]
        for path in found.files if not str(path).endswith('.pyc')},
    'plug_points': [
        point.group for point in found.entry_points
        if point.group.startswith('nova.image')],
}))
"""


def run(
    *command: str | pathlib.Path, cwd: pathlib.Path | None = None,
    umask: int = 0o022, ok: bool = True,
) -> str:
    """Run a command to its end and give its output.

    :param ok: whether it is to succeed; the other way is an error
    """
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, umask=umask,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT)
    if (done.returncode == 0) != ok:
        raise AssertionError(
            f'{command} ended with {done.returncode}:\n{done.stdout}')
    return done.stdout


def files(folder: pathlib.Path) -> set[str]:
    """Give all that is below a folder, less what Python itself writes."""
    return {
        path.relative_to(folder).as_posix() for path in folder.rglob('*')
        if path.name != '__pycache__' and path.suffix != '.pyc'}


class PipTestCase(testtools.TestCase):

    def setUp(self) -> None:
        super().setUp()
        self.top = pathlib.Path(self.useFixture(fixtures.TempDir()).path)

    def _copy(self, name: str) -> pathlib.Path:
        """Copy the source tree to another place."""
        copy = self.top / name
        for path, entry in tree.source(ROOT).items():
            target = copy / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(entry.data)
            target.chmod(entry.mode)
        return copy

    def _wheel(
        self, source: pathlib.Path, name: str, umask: int = 0o022,
        ok: bool = True,
    ) -> tuple[pathlib.Path, str]:
        """Build a wheel; give where it is to be, and what pip said."""
        folder = self.top / name
        said = run(
            sys.executable, '-m', 'pip', 'wheel', '--no-deps', '-w', folder,
            source, cwd=self.top, umask=umask, ok=ok)
        return folder, said

    def test_same_bytes_elsewhere_and_later(self):
        first, _ = self._wheel(self._copy('one'), 'first')
        other = self._copy('other/place')
        for path in other.rglob('*'):
            os.utime(path, (1, 1))
        second, _ = self._wheel(other, 'second', umask=0o077)
        digests = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for folder in (first, second) for path in folder.iterdir()}
        self.assertEqual(1, len(digests), str(digests))

    def test_wrong_hash(self):
        source = self._copy('source')
        path = source / 'setup.cfg'
        parser = configparser.RawConfigParser()
        parser.read(path)
        pinned = parser['nova_release']['sha256']
        path.write_text(path.read_text().replace(pinned, '0' * 64))
        folder, said = self._wheel(source, 'wheels', ok=False)
        self.assertIn(f'its SHA-256 is {pinned}', ' '.join(said.split()))
        self.assertEqual([], list(folder.glob('*')))

    def test_editable(self):
        said = run(
            sys.executable, '-m', 'pip', 'install', '--no-deps', '--dry-run',
            '--editable', self._copy('source'), cwd=self.top, ok=False)
        self.assertIn('This tree has no editable install', said)

    def test_install_and_uninstall(self):
        run(sys.executable, '-m', 'venv', self.top / 'venv')
        python = self.top / 'venv/bin/python'
        pip = (python, '-m', 'pip')
        before = files(self.top / 'venv')
        source = self._copy('source')
        run(*pip, 'install', '-c', ROOT / 'constraints.txt', source,
            cwd=self.top)
        shutil.rmtree(source)
        self.assertIn('No broken requirements', run(*pip, 'check'))
        for service in ('compute', 'manage', 'status'):
            said = run(self.top / f'venv/bin/nova-{service}', '--version')
            self.assertRegex(said, r'(?m)^34\.0\.0$')
        self.assertRegex(
            run(self.top / 'venv/bin/nova-image-fetch', '--version'),
            r'^34\.0\.0\+rbd\.\d+$')
        self._check_inside(json.loads(run(
            python, '-I', '-c', LOOK_INSIDE, cwd=self.top)))
        run(*pip, 'uninstall', '-y', 'nova')
        left = {
            path for path in files(self.top / 'venv') - before
            if path.startswith(('bin/nova', 'etc/nova')) or
            'site-packages/nova' in path}
        self.assertEqual(set(), left)
        self.assertFalse(
            list((self.top / 'venv').glob('lib/*/site-packages/nova*')))

    def _check_inside(self, inside: dict[str, Any]) -> None:
        self.assertRegex(inside['version'], r'34\.0\.0\+rbd\.\d+')
        self.assertEqual([], inside['plug_points'])
        record = inside['record']
        wrong = {
            path for path, (recorded, found) in record.items()
            if recorded and recorded != self._recorded(found)}
        self.assertEqual(set(), wrong)
        for path, entry in tree.overlay(ROOT).items():
            self.assertEqual(
                hashlib.sha256(entry.data).hexdigest(), record[path][1])

    def _recorded(self, hexdigest: str) -> str:
        """A digest as RECORD has it."""
        digest = base64.urlsafe_b64encode(bytes.fromhex(hexdigest))
        return digest.decode().rstrip('=')
