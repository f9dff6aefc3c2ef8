# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable
import shutil
import subprocess

from novabuild import errors
from novabuild.tests import base
from novabuild import tree

FILES = {'README.rst', 'nova/image/glance.py', 'setup.cfg'}


class TreeTestCase(base.TestCase):

    def _error(self, function: Callable[..., object]) -> str:
        return str(self.assertRaises(errors.BuildError, function, self.root))

    def test_overlay(self):
        self.write('nova/tests/data.txt', '')
        for name in ('nova/__pycache__/a.cpython-311.pyc', 'nova/b.pyc',
                     'nova/c.py~', 'nova/.d.py.swp', 'nova/e.py.orig',
                     'nova/.mypy_cache/f.py', 'nova/g.py.rej'):
            self.write(name, '')
        self.write('nova/image/fetch.sh', '#!/bin/sh\n').chmod(0o700)
        self.assertEqual(
            {'nova/image/fetch.sh': 0o755, 'nova/image/glance.py': 0o644,
             'nova/tests/data.txt': 0o644},
            {k: v.mode for k, v in tree.overlay(self.root).items()})

    def test_symbolic_link(self):
        (self.root / 'nova/image/link.py').symlink_to('glance.py')
        self.assertIn('link.py is not a plain file',
                      self._error(tree.overlay))

    def test_no_files(self):
        shutil.rmtree(self.root / 'nova')
        self.assertIn('Is this a whole checkout?', self._error(tree.overlay))

    def test_notes(self):
        self.write('releasenotes/notes/a-1.yaml', '')
        self.write('releasenotes/source/conf.py', '')
        self.assertEqual(
            ['releasenotes/notes/a-1.yaml'], list(tree.notes(self.root)))

    def test_source_without_checkout(self):
        self.write('.stestr.conf', '')
        for name in ('nova/a.pyc', '.tox/py3/a.py', '.stestr/unit/0'):
            self.write(name, '')
        self.assertEqual(
            FILES | {'.stestr.conf'}, set(tree.source(self.root)))

    def _git(self, *arguments: str) -> None:
        subprocess.run(
            ['git', '-C', str(self.root), *arguments], check=True,
            capture_output=True)

    def test_source_of_checkout(self):
        self.write('.gitignore', '*.log\n')
        gone = self.write('gone.py', '')
        self._git('init')
        self._git('add', '.')
        gone.unlink()
        self.write('new.py', '')
        self.write('a.log', '')
        self.assertEqual(
            FILES | {'.gitignore', 'new.py'}, set(tree.source(self.root)))

    def test_broken_checkout(self):
        self.write('.git', 'gitdir: /nonexistent\n')
        message = self._error(tree.source)
        self.assertIn('git cannot list the files', message)
        self.assertIn('nonexistent', message)
        self.setenv('PATH', '/nonexistent')
        self.assertIn("'git'", self._error(tree.source))
