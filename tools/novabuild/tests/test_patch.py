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

    def _packed(self, text: str, name: str = 'pyproject.toml') -> None:
        self.release_source(base.SDIST | {
            'pyproject.toml': '[build-system]\n', name: text})

    def test_pyproject(self):
        expected = base.PYPROJECT.replace('3.10', '3.11').replace(
            '  # the usual one\n',
            '  # the usual one\nnova-Fetch = "nova.cmd.fetch:main"\n')
        self.assertEqual(
            expected, self._patched()['pyproject.toml'].data.decode())

    def test_packages_that_are_listed(self):
        found = '[tool.setuptools.packages.find]\ninclude = ["nova*"]\n'
        self._packed(base.PYPROJECT.replace(
            found, '[tool.setuptools]\npackages = [\n    "nova"\n]\n'))
        patched = self._patched()['pyproject.toml'].data.decode()
        self.assertEqual(
            {'packages': {'find': {'include': ['nova*']}}},
            tomllib.loads(patched)['tool']['setuptools'])

    def test_setup_cfg(self):
        text = (
            '[metadata]\nname = nova\npython_requires = >=3.10\n\n'
            '[entry_points]\n# the usual ones\nconsole_scripts =\n'
            '\tnova-Manage = nova.cmd.manage:main\nlast = \n\tA = b\n')
        self._packed(text, 'setup.cfg')
        patched = self._patched()
        self.assertEqual(b'[build-system]\n', patched['pyproject.toml'].data)
        expected = text.replace('3.10', '3.11').replace(
            'last', f'\t{base.SCRIPT}\nlast')
        self.assertEqual(expected, patched['setup.cfg'].data.decode())
        # A script of the release with the same name is replaced.
        name = base.SCRIPT.partition(' ')[0]
        self._packed(text.replace(
            'last', f'\t{name} = nova.cmd.released:main\nlast'), 'setup.cfg')
        patched = self._patched()
        self.assertEqual(expected, patched['setup.cfg'].data.decode())

    def test_unknown_packing(self):
        for text, name, message in (
            ('[', 'pyproject.toml', 'Unexpected end of file'),
            ('[project]\nname = "nova"\n', 'pyproject.toml', 'scripts'),
            ('', 'README', 'setup.cfg'),
            ('name = nova\n', 'setup.cfg', 'name = nova'),
            ('[metadata]\n', 'setup.cfg', 'entry_points'),
        ):
            self._packed(text, name)
            error = self._error()
            self.assertIn('packed in an unknown way', error)
            self.assertIn(message, error)
        self.release_source({})
        self.assertIn('pyproject.toml', self._error())


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
