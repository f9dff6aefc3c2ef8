# SPDX-License-Identifier: Apache-2.0

"""The build as people use it: by pip, with the real release."""

import base64
import hashlib
from importlib import util
import json
import os
import pathlib
import sys
from typing import Any

from novabuild.package_tests import base
from novabuild import tree

# The index that pip is not to ask; the discard port has no server.
NOWHERE = 'http://127.0.0.1:9/simple'
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


class PipTestCase(base.TestCase):

    def test_same_bytes_elsewhere_later_and_offline(self):
        links = self.links()
        release = next(links.glob('nova-*.whl'))
        nowhere = {'PIP_CONFIG_FILE': os.devnull, 'PIP_INDEX_URL': NOWHERE}
        first, _ = self.wheel(
            self.copy('one'), 'first', '--no-index', '--find-links', links,
            '-C', f'release-wheel={release}', environment=nowhere)
        other = self.copy('other/place')
        for path in other.rglob('*'):
            os.utime(path, (1, 1))
        second, _ = self.wheel(other, 'second', umask=0o077, environment={
            **nowhere, 'PIP_NO_INDEX': '1', 'PIP_FIND_LINKS': str(links),
            'TZ': 'Asia/Kathmandu', 'PYTHONHASHSEED': '1'})
        digests = [
            (path.name, hashlib.sha256(path.read_bytes()).hexdigest())
            for folder in (first, second) for path in folder.iterdir()]
        self.assertEqual(2, len(digests))
        self.assertEqual(1, len(set(digests)), str(digests))

    def test_wrong_hash(self):
        source = self.copy('source')
        path = source / 'setup.cfg'
        pinned = self.project.release.sha256
        path.write_text(path.read_text().replace(pinned, '0' * 64))
        folder, said = self.wheel(source, 'wheels', ok=False)
        self.assertIn(f'its SHA-256 is {pinned}', ' '.join(said.split()))
        self.assertEqual([], list(folder.glob('*')))

    def test_editable(self):
        said = base.run(
            sys.executable, '-m', 'pip', 'install', '--no-deps', '--dry-run',
            '--editable', self.copy('source'), cwd=self.top, ok=False)
        self.assertIn('This tree has no editable install', said)

    def test_install_downgrade_upgrade_and_uninstall(self):
        base.run(sys.executable, '-m', 'venv', self.top / 'venv')
        python = self.top / 'venv/bin/python'
        pip = (python, '-m', 'pip')
        before = base.files(self.top / 'venv')
        wheels, _ = self.wheel(self.copy('source'), 'wheels')
        # Python compiles what the services import, which is little.
        base.run(*pip, 'install', '--no-compile', next(wheels.iterdir()))
        self.assertIn('No broken requirements', base.run(*pip, 'check'))
        for service in ('compute', 'manage', 'status'):
            said = base.run(
                self.top / f'venv/bin/nova-{service}', '--version',
                environment={'PYTHONDONTWRITEBYTECODE': ''})
            self.assertIn(
                str(self.project.release.version), said.splitlines())
        self.assertEqual(
            f'{self.project.version}\n',
            base.run(self.top / 'venv/bin/nova-image-fetch', '--version',
                     environment={'PYTHONDONTWRITEBYTECODE': ''}))
        self._check_ours(self._inside(python))
        quick = (*pip, 'install', '--no-deps', '--no-compile',
                 '--find-links', wheels)
        base.run(*quick, f'nova==={self.project.release.version}')
        self._check_released(self._inside(python))
        base.run(*quick, f'nova==={self.project.version}')
        self._check_ours(self._inside(python))
        base.run(*pip, 'uninstall', '-y', 'nova')
        left = {
            path for path in base.files(self.top / 'venv') - before
            if path.startswith(('bin/nova', 'etc/nova')) or
            'site-packages/nova' in path}
        self.assertEqual(set(), left)
        self.assertFalse(
            list((self.top / 'venv').glob('lib/*/site-packages/nova*')))

    def _inside(self, python: pathlib.Path) -> dict[str, Any]:
        """Look at the installed Nova; each file must be as recorded."""
        inside: dict[str, Any] = json.loads(
            base.run(python, '-I', '-c', LOOK_INSIDE, cwd=self.top))
        wrong = {
            path for path, (recorded, found) in inside['record'].items()
            if recorded and recorded != self._recorded(found)}
        self.assertEqual(set(), wrong)
        self.assertEqual([], inside['plug_points'])
        return inside

    def _check_ours(self, inside: dict[str, Any]) -> None:
        self.assertEqual(str(self.project.version), inside['version'])
        self.assertEqual(
            [], [path for path in inside['record'] if path.startswith('lab')])
        for path, entry in tree.overlay(self.project).items():
            self.assertEqual(
                hashlib.sha256(entry.data).hexdigest(),
                inside['record'][path][1])

    def _check_released(self, inside: dict[str, Any]) -> None:
        self.assertEqual(
            str(self.project.release.version), inside['version'])
        site = next((self.top / 'venv').glob('lib/*/site-packages'))
        known = {path for path in inside['record'] if path.startswith('nova')}
        self.assertEqual(
            known, {path for path in base.files(site)
                    if path.startswith('nova') and (site / path).is_file()})

        stray = [path for path in (site / 'nova').rglob('*.pyc')
                 if not pathlib.Path(util.source_from_cache(path)).exists()]
        self.assertEqual([], stray)

    def _recorded(self, hexdigest: str) -> str:
        """A digest as RECORD has it."""
        digest = base64.urlsafe_b64encode(bytes.fromhex(hexdigest))
        return digest.decode().rstrip('=')
