# SPDX-License-Identifier: Apache-2.0

"""The build as people use it: with pip and the real release."""

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

# An index that pip must not use; the discard port has no server.
NOWHERE = 'http://127.0.0.1:9/simple'
# Prints what can be seen only within an environment.
LOOK_INSIDE = """\
import importlib.metadata, json
found = importlib.metadata.distribution('nova')
print(json.dumps({
    'version': found.version,
    'record': {str(path): [path.hash and path.hash.value, str(path.locate())]
               for path in found.files if not str(path).endswith('.pyc')},
    'plug_points': [
        point.group for point in found.entry_points
        if point.group.startswith('nova.image')],
    'status': [point.value for point in found.entry_points
               if point.name == 'nova-status'],
}))
"""


def digest(data: bytes) -> str:
    """Return a digest in the form of RECORD."""
    found = base64.urlsafe_b64encode(hashlib.sha256(data).digest())
    return found.decode().rstrip('=')


class PipTestCase(base.TestCase):

    def test_same_bytes_elsewhere_later_and_offline(self):
        links = self.top / 'links'
        base.run(sys.executable, '-m', 'pip', 'download', '-q', '--no-deps',
                 '-d', links, f'nova=={self.project.release.version}',
                 'packaging', 'pip')
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
        [one], [two] = first.iterdir(), second.iterdir()
        self.assertEqual(one.name, two.name)
        self.assertEqual(digest(one.read_bytes()), digest(two.read_bytes()))

    def test_wrong_hash(self):
        source = self.copy('source')
        path = source / 'setup.cfg'
        pinned = self.project.release.sha256
        path.write_text(path.read_text().replace(pinned, '0' * 64))
        folder, output = self.wheel(source, 'wheels', ok=False)
        self.assertIn(f'Got {pinned}', ' '.join(output.split()))
        self.assertEqual([], list(folder.glob('*')))

    def test_install_downgrade_upgrade_and_uninstall(self):
        venv = self.top / 'venv'
        base.run(sys.executable, '-m', 'venv', venv)
        pip = (venv / 'bin/python', '-m', 'pip')
        before = self._paths(venv)
        wheels, _ = self.wheel(self.copy('source'), 'wheels')
        # Without compilation: the services import only a small part.
        base.run(*pip, 'install', '--no-compile', next(wheels.iterdir()))
        self.assertIn('No broken requirements', base.run(*pip, 'check'))
        release = str(self.project.release.version)
        for program, version in (
                ('nova-compute', release), ('nova-manage', release),
                ('nova-status', release),
                ('nova-image-fetch', str(self.project.version))):
            output = base.run(
                venv / 'bin' / program, '--version',
                environment={'PYTHONDONTWRITEBYTECODE': ''})
            self.assertIn(version, output.splitlines())
        self._check_ours(venv)
        quick = (*pip, 'install', '--no-deps', '--no-compile',
                 '--find-links', wheels)
        base.run(*quick, f'nova==={release}')
        self._check_released(venv)
        base.run(*quick, f'nova==={self.project.version}')
        self._check_ours(venv)
        base.run(*pip, 'uninstall', '-y', 'nova')
        self.assertEqual(set(), {
            path for path in self._paths(venv) - before
            if path.startswith(('bin/nova', 'etc/nova')) or
            'site-packages/nova' in path})
        self.assertFalse(list(venv.glob('lib/*/site-packages/nova*')))

    def _paths(self, folder: pathlib.Path) -> set[str]:
        """Return what is below a folder, without what Python caches."""
        return {
            path.relative_to(folder).as_posix() for path in folder.rglob('*')
            if path.name != '__pycache__' and path.suffix != '.pyc'}

    def _inside(self, venv: pathlib.Path) -> dict[str, Any]:
        """Look at the installed Nova; its files must match RECORD."""
        inside: dict[str, Any] = json.loads(base.run(
            venv / 'bin/python', '-I', '-c', LOOK_INSIDE, cwd=self.top))
        wrong = {
            path for path, (recorded, found) in inside['record'].items()
            if recorded and recorded != digest(
                pathlib.Path(found).read_bytes())}
        self.assertEqual(set(), wrong)
        self.assertEqual([], inside['plug_points'])
        return inside

    def _check_ours(self, venv: pathlib.Path) -> None:
        inside = self._inside(venv)
        self.assertEqual(str(self.project.version), inside['version'])
        self.assertEqual(
            ['nova.image.upgrade_check:main'], inside['status'])
        self.assertEqual(
            [], [path for path in inside['record'] if path.startswith('lab')])
        for path, entry in tree.overlay(base.ROOT).items():
            self.assertEqual(digest(entry.data), inside['record'][path][0])

    def _check_released(self, venv: pathlib.Path) -> None:
        inside = self._inside(venv)
        self.assertEqual(
            str(self.project.release.version), inside['version'])
        self.assertEqual(['nova.cmd.status:main'], inside['status'])
        [site] = venv.glob('lib/*/site-packages')
        self.assertEqual(
            {path for path in inside['record'] if path.startswith('nova')},
            {path for path in self._paths(site)
             if path.startswith('nova') and (site / path).is_file()})
        self.assertEqual([], [
            path for path in (site / 'nova').rglob('*.pyc')
            if not pathlib.Path(util.source_from_cache(path)).exists()])
