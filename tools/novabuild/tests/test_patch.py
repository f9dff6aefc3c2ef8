# SPDX-License-Identifier: Apache-2.0

import os
import pathlib
import subprocess
import sys
import tomllib

import fixtures

from novabuild import archive
from novabuild import errors
from novabuild import patch
from novabuild.tests import base
from novabuild import tree
from novabuild import whole

TOOLS = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = '    nova-fetch = nova.cmd.fetch:main\n'


class PatchTestCase(base.TestCase):

    def _text(self) -> bytes:
        before = patch.unpacked(self.sdist)
        return patch.difference(before, patch.changed(self.project(), before))

    def _patched(self) -> archive.Entries:
        """Apply the patch to the source archive; return the files."""
        folder = self.output / 'nova'
        whole.write(patch.unpacked(self.sdist), folder)
        subprocess.run(
            ['patch', '-p1', '--fuzz=0', '--batch'], cwd=folder, check=True,
            input=self._text(), stdout=subprocess.DEVNULL)
        return tree.read(folder, sorted(
            path.relative_to(folder).as_posix()
            for path in folder.rglob('*') if path.is_file()))

    def _error(self) -> str:
        return str(self.assertRaises(errors.BuildError, self._text))


class DifferenceTestCase(PatchTestCase):

    def test_changed_files(self):
        self.write('nova/image/fetch.sh', '#!/bin/sh').chmod(0o755)
        self.write('nova/lab/__init__.py', '')
        self.write('nova/lab/ceph.py', 'new = "\u20ac"\n')
        self.write('releasenotes/notes/new-1.yaml', 'features: []\n')
        self.write('doc/source/index.rst', 'Ours\n')
        self.write('lab/ceph.py', '')
        before = patch.unpacked(self.sdist)
        after = self._patched()
        self.assertEqual(set(), before.keys() - after.keys())
        self.assertEqual({
            'nova/image/glance.py': archive.Entry(b'released = False\n'),
            'nova/image/fetch.sh': archive.Entry(b'#!/bin/sh', True),
            'nova/lab/__init__.py': archive.Entry(b''),
            'nova/lab/ceph.py': archive.Entry('new = "\u20ac"\n'.encode()),
            'releasenotes/notes/new-1.yaml': archive.Entry(b'features: []\n'),
            'pyproject.toml': after['pyproject.toml'],
        }, {k: v for k, v in after.items() if before.get(k) != v})

    def test_names(self):
        entry = archive.Entry(b'a\n')
        lines = patch.difference(
            {'gone/a': entry, 'same': entry, 'mode': entry},
            {'new/a': entry, 'same': entry,
             'mode': archive.Entry(b'a\n', True)}).decode().splitlines()
        self.assertEqual(
            [f'diff --git a/{name} b/{name}'
             for name in ('gone/a', 'mode', 'new/a')],
            [line for line in lines if line.startswith('diff')])
        self.assertEqual(
            ['--- a/gone/a', '+++ /dev/null', '--- /dev/null', '+++ b/new/a'],
            [line for line in lines if line.startswith(('---', '+++'))])
        self.assertIn('new mode 100755', lines)

    def test_configuration_of_git_changes_nothing(self):
        expected = self._text()
        self.write('.gitconfig', (
            '[core]\nautocrlf = true\n'
            '[diff]\nnoprefix = true\ncontext = 9\nexternal = false\n'))
        self.setenv('HOME', str(self.root))
        self.setenv('GIT_DIFF_OPTS', '-u9')
        self.assertEqual(expected, self._text())

    def test_binary_file(self):
        (self.root / 'nova/image/disk.img').write_bytes(b'QFI\xfb\0')
        self.assertIn('nova/image/disk.img is binary', self._error())

    def test_git_fails(self):
        self.write('git', '#!/bin/sh\necho disk full >&2\nexit 1\n').chmod(
            0o755)
        for path, message in (
                (f'{self.root}:{os.environ["PATH"]}', 'disk full'),
                ('/nonexistent', 'Install git')):
            with fixtures.EnvironmentVariable('PATH', path):
                self.assertIn(message, self._error())


class ManifestTestCase(PatchTestCase):

    def _configure(self, points: str = '', requires: str = '') -> None:
        self.configure(rest=(
            f'[options]\ninstall_requires =\n{requires}\n'
            f'[options.entry_points]\n{points}\n'))

    def test_entry_points(self):
        self._configure(points=(
            f'console_scripts =\n{SCRIPT}'
            'nova.image =\n    rbd = nova.image.rbd:Rbd\n'))
        expected = base.PYPROJECT.replace(
            '  # the usual one\n',
            '  # the usual one\nnova-fetch = "nova.cmd.fetch:main"\n'
        ).replace(
            '[tool.setup', '[project.entry-points."nova.image"]\n'
            'rbd = "nova.image.rbd:Rbd"\n\n[tool.setup')
        self.assertEqual(
            expected, self._patched()['pyproject.toml'].data.decode())

    def test_requirements(self):
        self._configure(requires='    pbr>=5.8.0\n    rich>=13')
        self.assertEqual(
            b'pbr>=5.8.0 # Apache-2.0\nrich>=13\n',
            self._patched()['requirements.txt'].data)

    def test_new_data(self):
        self.write('nova/lab/__init__.py', '')
        for name in ('lab/b.txt', 'lab/a.txt', 'image/keys.json'):
            self.write(f'nova/{name}', '')
        self.assertTrue(self._patched()['pyproject.toml'].data.endswith(
            b'[tool.setuptools.package-data]\n'
            b'"nova.image" = ["keys.json"]\n'
            b'"nova.lab" = ["a.txt", "b.txt"]\n\n'))

    def test_packages_that_are_listed(self):
        found = '[tool.setuptools.packages.find]\ninclude = ["nova*"]\n'
        self.release_source(base.SDIST | {
            'pyproject.toml': base.PYPROJECT.replace(
                found, '[tool.setuptools]\npackages = [\n    "nova"\n]\n')})
        self._configure(points=f'console_scripts =\n{SCRIPT}')
        patched = self._patched()['pyproject.toml'].data.decode()
        self.assertEqual(
            {'packages': {'find': {'include': ['nova*']}}},
            tomllib.loads(patched)['tool']['setuptools'])

    def _setup_cfg(self, text: str) -> None:
        self.release_source(base.SDIST | {
            'pyproject.toml': '[build-system]\n', 'setup.cfg': text})

    def test_setup_cfg(self):
        self._setup_cfg(
            '[metadata]\nname = nova\npython_requires = >=3.10\n\n'
            '[entry_points]\n# the usual ones\nconsole_scripts =\n'
            '\tnova-Manage = nova.cmd.manage:main\n'
            '\tnova-status = nova.cmd.status:main\n'
            '\tnova-wsgi = nova.wsgi:main\nlast = \n\tA = b\n\n')
        self.write('nova/lab/__init__.py', '')
        self.write('nova/lab/a.txt', '')
        self.configure(rest=(
            '[options]\npython_requires = >=3.11\n'
            '[options.entry_points]\nconsole_scripts =\n'
            '    nova-Fetch = nova.cmd.fetch:main\n'
            '    nova-status = nova.image.check:main\n'))
        patched = self._patched()
        self.assertEqual(b'[build-system]\n', patched['pyproject.toml'].data)
        self.assertEqual(
            '[metadata]\nname = nova\npython_requires = >=3.11\n\n'
            '[entry_points]\n# the usual ones\nconsole_scripts =\n'
            '\tnova-Manage = nova.cmd.manage:main\n'
            '\tnova-status = nova.image.check:main\n'
            '\tnova-wsgi = nova.wsgi:main\n'
            '\tnova-Fetch = nova.cmd.fetch:main\nlast = \n\tA = b\n\n'
            '[options.package_data]\nnova.lab =\n\ta.txt\n',
            patched['setup.cfg'].data.decode())

    def test_pythons(self):
        self.configure(rest='[options]\npython_requires = >=3.11\n')
        self.assertEqual(
            base.PYPROJECT.replace(
                '"dependencies"]\n',
                '"dependencies"]\nrequires-python = ">=3.11"\n'),
            self._patched()['pyproject.toml'].data.decode())

    def test_nothing_to_say(self):
        self.assertEqual(
            base.PYPROJECT.encode(), self._patched()['pyproject.toml'].data)

    def test_unknown_packing(self):
        self._configure(points=f'console_scripts =\n{SCRIPT}')
        no_name = {'pyproject.toml': '[build-system]\n'}
        for change, message in (
            ({'requirements.txt': None}, 'requirements.txt'),
            ({'pyproject.toml': None}, 'pyproject.toml'),
            ({'pyproject.toml': '['}, 'Unexpected end of file'),
            (no_name, 'setup.cfg'),
            (no_name | {'setup.cfg': 'name = nova\n'}, 'name = nova'),
        ):
            files = base.SDIST | change
            self.release_source({
                name: text for name, text in files.items()
                if text is not None})
            error = self._error()
            self.assertIn('packed in an unknown way', error)
            self.assertIn(message, error)


class CommandTestCase(base.TestCase):

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, '-m', 'novabuild.patch', *arguments],
            cwd=self.root, capture_output=True, text=True,
            env=os.environ | {'PYTHONPATH': str(TOOLS),
                              'NOVA_RELEASE_SDIST': str(self.sdist)})

    def test_patch_is_written(self):
        folder = self.output / 'new'
        for _ in range(2):
            done = self._run(str(folder))
            self.assertEqual('', done.stderr)
            path = folder / 'nova-1.2.0-rbd.1.patch'
            self.assertEqual(f'{path}\n', done.stdout)
        self.assertEqual([path], list(folder.iterdir()))
        lines = path.read_text().splitlines()
        self.assertEqual('Description: A whole Nova', lines[0])
        self.assertIn('nova-1.2.0.tar.gz', lines[1])
        self.assertIn('Origin: other, nova 1.2.0+rbd.1', lines)
        self.assertIn('+released = False', lines)

    def test_errors(self):
        with self.sdist.open('ab') as sdist:
            sdist.write(b'!')
        pins = 'is not the nova 1.2.0 that setup.cfg pins'
        for arguments, status, message in (
            ((), 2, 'usage: '), (('--help',), 2, 'usage: '),
            ((str(self.output),), 1, pins),
        ):
            self._fails(arguments, status, message)
        self.configure()
        self._fails((str(self.root / 'setup.cfg'),), 1, 'File exists')
        self.assertEqual([], list(self.output.iterdir()))

    def _fails(
        self, arguments: tuple[str, ...], status: int, message: str,
    ) -> None:
        done = self._run(*arguments)
        self.assertEqual((status, ''), (done.returncode, done.stdout))
        self.assertIn(message, done.stderr)
        self.assertNotIn('Traceback', done.stderr)
