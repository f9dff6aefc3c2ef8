# SPDX-License-Identifier: Apache-2.0

from packaging import version

from novabuild import errors
from novabuild import project
from novabuild.tests import base

OTHER = f'[nova_release:1.1.0]\nsha256 = {"a" * 64}\n' \
        f'sdist_sha256 = {"b" * 64}\n'


class LoadTestCase(base.TestCase):

    def _error(self) -> str:
        return str(self.assertRaises(errors.BuildError, self.project))

    def test_all_keys(self):
        self.configure(rest='[flake8]\nignore = H405\n')
        loaded = self.project()
        self.assertEqual(
            ('nova', version.Version('1.2.0+rbd.1'), 'A whole Nova',
             'Ours \u20ac\n======\n', '>=3.11',
             {'nova-Fetch': 'nova.cmd.fetch:main'}),
            (loaded.name, loaded.version, loaded.summary, loaded.readme,
             loaded.requires_python, loaded.scripts))

    def test_releases(self):
        self.configure(rest=OTHER)
        default = project.load(self.root)
        self.assertEqual(('1.2.0', '1.1.0'), default.pinned)
        other = project.load(self.root, '1.1.0')
        self.assertEqual(version.Version('1.1.0+rbd.1'), other.version)
        self.assertEqual(
            project.Release(version.Version('1.1.0'), 'a' * 64, 'b' * 64),
            other.release)
        for wanted, expected in (
                ('', default), ('1.2.0', default), ('1.1.0', other)):
            self.setenv('NOVA_RELEASE', wanted)
            self.assertEqual(expected, project.load(self.root))
        self.setenv('NOVA_RELEASE', '1.1')
        self.assertIn('NOVA_RELEASE is 1.1, which is not a pinned release. '
                      'Set it to one of 1.2.0, 1.1.0.', self._error())

    def test_errors(self):
        for change, message in (
            ({'metadata': 'classifier = a\n'}, 'unknown keys: classifier'),
            ({'python': '3.11'}, "'3.11'"),
            ({'python': '>=3.11\ninstall_requires = oslo.log'},
             'unknown keys: install_requires'),
            ({'script': 'a = m:a\nother =\n    b = m:b'},
             'unknown keys: other'),
            ({'script': 'fetch'}, "'fetch"),
            ({'sha256': 'abc'}, '[nova_release] sha256 is not 64 hex'),
            ({'rest': 'name'}, 'parsing errors'),
            ({'version': 'latest'}, "Invalid version: 'latest'"),
        ) + tuple(
            ({'version': wrong}, 'the release and a local label: 1.2.0+LABEL')
            for wrong in ('1.2.0', '1.3.0+rbd.1', '1.2.0.post1+rbd.1')
        ):
            self.configure(**change)
            error = self._error()
            self.assertIn(f'{self.root}/setup.cfg', error)
            self.assertIn(message, error)

    def test_missing(self):
        good = (self.root / 'setup.cfg').read_text()
        for key in ('version', 'description', 'python_requires',
                    'console_scripts', 'sha256', 'sdist_sha256'):
            self.write('setup.cfg', good.replace(f'\n{key} =', '\nignored ='))
            self.assertIn('setup.cfg', self._error())
        self.write('setup.cfg', good.replace('file: README.rst', 'A text'))
        self.assertIn('must be "file: NAME"', self._error())
        self.write('setup.cfg', good)
        for name in ('README.rst', 'setup.cfg'):
            (self.root / name).unlink()
            self.assertIn(f"No such file or directory: '{self.root}/{name}",
                          self._error())
