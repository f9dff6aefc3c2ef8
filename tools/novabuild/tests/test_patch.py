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
from novabuild import project
from novabuild.tests import base
from novabuild import tree

TOOLS = pathlib.Path(__file__).resolve().parents[2]


class PatchTestCase(base.TestCase):

    def _text(self) -> str:
        return patch.text(
            project.load(self.root), patch.unpacked(self.sdist)).decode()

    def _patched(self) -> patch.Entries:
        """Apply the patch to the source archive; give the files then."""
        folder = self.output / 'nova'
        for name, entry in patch.unpacked(self.sdist).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(entry.data)
            path.chmod(entry.mode)
        subprocess.run(
            ['patch', '-p1', '--fuzz=0', '--batch'], cwd=folder, check=True,
            input=self._text().encode(), stdout=subprocess.DEVNULL)
        return tree.read(folder, sorted(
            path.relative_to(folder).as_posix()
            for path in folder.rglob('*') if path.is_file()))

    def _error(self) -> str:
        return str(self.assertRaises(errors.BuildError, self._text))


class TextTestCase(PatchTestCase):

    def test_all_that_can_change(self):
        self.write('nova/image/fetch.sh', '#!/bin/sh').chmod(0o755)
        self.write('nova/lab/__init__.py', '')
        self.write('nova/lab/ceph.py', 'new = "\u20ac"\n')
        self.write('releasenotes/notes/new-1.yaml', 'features: []\n')
        self.write('doc/source/index.rst', 'Ours\n')
        self.write('lab/ceph.py', '')
        self.configure(release='remove =\n    nova/image/old.py\n')
        before = patch.unpacked(self.sdist)
        after = self._patched()
        self.assertEqual({
            'nova/image/glance.py': archive.Entry(b'released = False\n'),
            'nova/image/fetch.sh': archive.Entry(b'#!/bin/sh', True),
            'nova/lab/__init__.py': archive.Entry(b''),
            'nova/lab/ceph.py': archive.Entry('new = "\u20ac"\n'.encode()),
            'releasenotes/notes/new-1.yaml': archive.Entry(b'features: []\n'),
            'pyproject.toml': after['pyproject.toml'],
        }, {k: v for k, v in after.items() if before.get(k) != v})
        self.assertEqual({'nova/image/old.py'}, before.keys() - after.keys())

    def test_description_comes_first(self):
        lines = self._text().splitlines()
        self.assertEqual('Description: A whole Nova', lines[0])
        self.assertIn('Origin: other, nova 1.2.0+rbd.1', lines)
        self.assertIn('nova-1.2.0.tar.gz', lines[1])

    def test_configuration_of_git_changes_nothing(self):
        expected = self._text()
        self.write('.gitconfig', (
            '[core]\nautocrlf = true\n'
            '[diff]\nnoprefix = true\ncontext = 9\nexternal = false\n'))
        self.useFixture(fixtures.EnvironmentVariable('HOME', str(self.root)))
        self.useFixture(fixtures.EnvironmentVariable('GIT_DIFF_OPTS', '-u9'))
        self.assertEqual(expected, self._text())

    def test_file_that_is_no_text(self):
        (self.root / 'nova/image/disk.img').write_bytes(b'QFI\xfb\0')
        self.assertIn('nova/image/disk.img is not text', self._error())

    def test_removal_of_nothing(self):
        self.configure(release='remove =\n    nova/image/older.py\n')
        self.assertIn('does not have: nova/image/older.py', self._error())

    def test_no_git(self):
        self.useFixture(fixtures.EnvironmentVariable('PATH', '/nonexistent'))
        self.assertIn('Install git', self._error())

    def test_git_fails(self):
        self.write('git', '#!/bin/sh\necho disk full >&2\nexit 1\n').chmod(
            0o755)
        self.useFixture(fixtures.EnvironmentVariable(
            'PATH', f'{self.root}:{os.environ["PATH"]}'))
        self.assertIn('disk full', self._error())


class ManifestTestCase(PatchTestCase):

    def _configure(self, points: str = '', requires: str = '') -> None:
        self.configure(rest=(
            f'[options]\ninstall_requires =\n{requires}\n'
            f'[options.entry_points]\n{points}\n'))

    def test_entry_points(self):
        self._configure(points=(
            'console_scripts =\n    nova-fetch = nova.cmd.fetch:main\n'
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
        self._configure(points=(
            'console_scripts =\n    nova-fetch = nova.cmd.fetch:main\n'))
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
            '\tnova-Manage = nova.cmd.manage:main\nlast = \n\tA = b\n\n')
        self.write('nova/lab/__init__.py', '')
        self.write('nova/lab/a.txt', '')
        self.configure(rest=(
            '[options]\npython_requires = >=3.11\n'
            '[options.entry_points]\nconsole_scripts =\n'
            '    nova-Fetch = nova.cmd.fetch:main\n'))
        patched = self._patched()
        self.assertEqual(b'[build-system]\n', patched['pyproject.toml'].data)
        self.assertEqual(
            '[metadata]\nname = nova\npython_requires = >=3.11\n\n'
            '[entry_points]\n# the usual ones\nconsole_scripts =\n'
            '\tnova-Manage = nova.cmd.manage:main\n'
            '\tnova-Fetch = nova.cmd.fetch:main\nlast = \n\tA = b\n\n'
            '[options.package_data]\nnova.lab =\n\ta.txt\n',
            patched['setup.cfg'].data.decode())

    def test_setup_cfg_in_an_unknown_form(self):
        self._configure(
            points='console_scripts =\n    nova-fetch = nova.cmd.fetch:main')
        for text in ('[files]\n', 'name = nova\n'):
            self._setup_cfg(text)
            self.assertIn('unknown way: setup.cfg', self._error())

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
        self._configure(
            points='console_scripts =\n    nova-fetch = nova.cmd.fetch:main',
            requires='    rich>=13')
        for name, content, message in (
            ('requirements.txt', None, 'it has no requirements.txt'),
            ('pyproject.toml', '[build-system]\n', 'has no project name'),
            ('pyproject.toml', '[', 'pyproject.toml: '),
            ('pyproject.toml', None, 'it has no pyproject.toml'),
        ):
            files = dict(base.SDIST)
            del files[name]
            if content is not None:
                files[name] = content
            self.release_source(files)
            self.assertIn(message, self._error())
            self.assertIn('unknown way', self._error())


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
            self.assertIn('+released = False\n', path.read_text())
        self.assertEqual([path], list(folder.iterdir()))

    def test_bad_input(self):
        for arguments, status, message in (
            ((), 2, 'usage: '),
            (('--help',), 2, 'usage: '),
            ((str(self.root / 'setup.cfg'),), 1, 'Cannot write '),
        ):
            done = self._run(*arguments)
            self.assertEqual((status, ''), (done.returncode, done.stdout))
            self.assertIn(message, done.stderr)
            self.assertNotIn('Traceback', done.stderr)

    def test_another_source_archive(self):
        with self.sdist.open('ab') as sdist:
            sdist.write(b'!')
        done = self._run(str(self.output))
        self.assertEqual(1, done.returncode)
        self.assertIn('is not the nova 1.2.0 that setup.cfg pins', done.stderr)
        self.assertEqual([], list(self.output.iterdir()))
