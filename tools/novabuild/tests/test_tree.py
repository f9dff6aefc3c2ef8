# SPDX-License-Identifier: Apache-2.0

import shutil
import subprocess

from novabuild import errors
from novabuild import project
from novabuild.tests import base
from novabuild import tree


class OverlayTestCase(base.TestCase):

    def _error(self) -> errors.BuildError:
        return self.assertRaises(
            errors.BuildError, tree.overlay, project.load(self.root))

    def test_leftovers_stay_out(self):
        self.write('nova/tests/lab/constraints.txt', 'tox==4\n')
        for name in ('nova/__pycache__/a.cpython-311.pyc', 'nova/b.pyc',
                     'nova/c.py~', 'nova/.d.py.swp', 'nova/e.py.orig',
                     'nova/.mypy_cache/f.py', 'nova/g.py.rej'):
            self.write(name, '')
        self.assertEqual(
            ['nova/image/glance.py', 'nova/tests/lab/constraints.txt'],
            list(tree.overlay(project.load(self.root))))

    def test_modes(self):
        script = self.write('nova/image/fetch.sh', '#!/bin/sh\n')
        script.chmod(0o700)
        found = tree.overlay(project.load(self.root))
        self.assertEqual(0o755, found['nova/image/fetch.sh'].mode)
        self.assertEqual(0o644, found['nova/image/glance.py'].mode)

    def test_symbolic_link(self):
        (self.root / 'nova/image/link.py').symlink_to('glance.py')
        exc = self._error()
        self.assertIn('link.py is not a plain file', str(exc))

    def test_no_files(self):
        shutil.rmtree(self.root / 'nova')
        exc = self._error()
        self.assertIn('nothing to lay over the released Nova', str(exc))


class SourceTestCase(base.TestCase):

    def _git(self, *arguments: str) -> None:
        subprocess.run(
            ['git', '-C', str(self.root), *arguments], check=True,
            capture_output=True)

    def test_no_checkout(self):
        self.write('.stestr.conf', '')
        for name in ('nova/a.pyc', '.tox/py3/a.py', '.stestr/unit/0'):
            self.write(name, '')
        self.assertEqual(
            {'.stestr.conf', 'LICENSE', 'nova/image/glance.py', 'setup.cfg'},
            set(tree.source(self.root)))

    def test_checkout(self):
        self.write('.gitignore', '*.log\n')
        gone = self.write('gone.py', '')
        self._git('init')
        self._git('add', '.')
        gone.unlink()
        self.write('new.py', '')
        self.write('a.log', '')
        self.assertEqual(
            {'.gitignore', 'LICENSE', 'new.py', 'nova/image/glance.py',
             'setup.cfg'}, set(tree.source(self.root)))

    def test_broken_checkout(self):
        self.write('.git', 'gitdir: /nonexistent\n')
        exc = self.assertRaises(errors.BuildError, tree.source, self.root)
        self.assertIn('git cannot list the files', str(exc))
        self.assertIn('nonexistent', str(exc))
