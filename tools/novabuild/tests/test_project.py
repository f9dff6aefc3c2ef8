# SPDX-License-Identifier: Apache-2.0

import fixtures
from packaging import version

from novabuild import errors
from novabuild import project
from novabuild.tests import base


class LoadTestCase(base.TestCase):

    def _error(self) -> str:
        return str(self.assertRaises(
            errors.BuildError, project.load, self.root))

    def test_all_that_can_be_said(self):
        self.configure(
            metadata=(
                'long_description = file: README.rst\n'
                'classifiers =\n    Topic :: System\n'
                'project_urls =\n    Home = https://example.org/?a=b\n'),
            release='remove =\n    nova/image/old.py\n',
            rest=(
                '[options]\ninstall_requires =\n    oslo.log>=4; '
                'python_version >= "3.11"\n'
                '[options.entry_points]\nconsole_scripts =\n'
                '    nova-Image-fetch = nova.cmd.image_fetch:main\n'
                '[flake8]\nignore = H405\n'))
        loaded = project.load(self.root)
        self.assertEqual('nova', loaded.name)
        self.assertEqual(version.Version('1.2.0+rbd.1'), loaded.version)
        self.assertEqual('A whole Nova', loaded.summary)
        self.assertEqual('README.rst', str(loaded.readme))
        self.assertEqual(('Topic :: System',), loaded.classifiers)
        self.assertEqual(
            ('Home, https://example.org/?a=b',), loaded.project_urls)
        self.assertEqual(('LICENSE',), loaded.license_files)
        self.assertEqual(
            ('oslo.log>=4; python_version >= "3.11"',), loaded.requires)
        self.assertEqual(
            {'console_scripts': {
                'nova-Image-fetch': 'nova.cmd.image_fetch:main'}},
            loaded.entry_points)
        self.assertEqual(('nova/image/old.py',), loaded.release.remove)

    def test_little_is_needed(self):
        loaded = project.load(self.root)
        self.assertIsNone(loaded.readme)
        self.assertEqual({}, loaded.entry_points)
        self.assertEqual((), loaded.release.remove)

    def _pin(self, text: str) -> None:
        self.configure(rest=(
            '[nova_release:1.1.0]\n'
            f'sha256 = {"a" * 64}\nsdist_sha256 = {"b" * 64}\n{text}'))

    def _want(self, release: str) -> None:
        self.useFixture(fixtures.EnvironmentVariable('NOVA_RELEASE', release))

    def test_another_release(self):
        self._pin('remove =\n    nova/image/older.py\n')
        self._want('1.1.0')
        loaded = project.load(self.root)
        self.assertEqual(version.Version('1.1.0+rbd.1'), loaded.version)
        self.assertEqual(
            project.Release(version.Version('1.1.0'), 'a' * 64, 'b' * 64,
                            ('nova/image/older.py',)), loaded.release)

    def test_usual_release(self):
        self._pin('')
        for wanted in ('', '1.2.0'):
            self._want(wanted)
            loaded = project.load(self.root)
            self.assertEqual(version.Version('1.2.0+rbd.1'), loaded.version)
            self.assertNotEqual('a' * 64, loaded.release.sha256)

    def test_release_that_is_not_pinned(self):
        self._pin('')
        self._want('1.1')
        self.assertIn('NOVA_RELEASE is 1.1, and no such release is pinned '
                      'here. Set it to one of 1.1.0, 1.2.0.', self._error())

    def test_other_release_that_says_its_version_twice(self):
        self._pin('version = 1.1.0\n')
        self.assertIn('[nova_release:1.1.0] has keys this build does not '
                      'know: version.', self._error())

    def test_other_release_without_a_hash(self):
        self.configure(rest='[nova_release:1.1.0]\n')
        self._want('1.1.0')
        self.assertIn('[nova_release:1.1.0] sha256 is missing', self._error())

    def test_pythons(self):
        self.configure(rest='[options]\npython_requires = >=3.11\n')
        self.assertEqual('>=3.11', project.load(self.root).requires_python)
        self.configure(rest='[options]\npython_requires = 3.11\n')
        self.assertIn('must be like ">=3.11", not "3.11"', self._error())

    def test_missing_file(self):
        (self.root / 'setup.cfg').unlink()
        self.assertIn('No such file', self._error())

    def test_not_a_configuration(self):
        self.write('setup.cfg', 'name = nova\n')
        self.assertIn('setup.cfg', self._error())

    def test_missing_key(self):
        self.write('setup.cfg', '[metadata]\nname = nova\n')
        self.assertIn(
            '[nova_release] version is missing: set it', self._error())

    def test_misspelt_key(self):
        self.configure(metadata='classifier = Topic :: System\n')
        self.assertIn(
            '[metadata] has keys this build does not know: classifier.',
            self._error())

    def test_versions_that_do_not_fit(self):
        for wrong in ('1.2.0', '1.3.0+rbd.1', '1.2.0.post1+rbd.1'):
            self.configure(version=wrong)
            self.assertIn('it must be the release and a local label: '
                          '1.2.0+LABEL', self._error())

    def test_not_a_version(self):
        self.configure(version='latest')
        self.assertIn('not a PEP 440 version: latest', self._error())

    def test_not_a_sha256(self):
        self.configure(sha256='abc')
        self.assertIn('not 64 hexadecimal digits: abc', self._error())

    def test_not_a_sha256_of_the_sdist(self):
        path = self.root / 'setup.cfg'
        path.write_text(path.read_text().replace(
            'sdist_sha256 = ', 'sdist_sha256 = x'))
        self.assertIn('sdist_sha256 is not 64', self._error())

    def test_bad_lines(self):
        for options, message in (
            ({'metadata': 'long_description = A text\n'}, '"file: NAME.rst"'),
            ({'metadata': 'project_urls =\n    https://example.org\n'},
             'not "Label = URL": https://example.org'),
            ({'rest': '[options]\ninstall_requires =\n    oslo.log>>4\n'},
             'not a requirement: oslo.log>>4'),
            ({'rest': '[options.entry_points]\nscripts =\n    fetch\n'},
             'lines "name = module:object"'),
        ):
            self.configure(**options)
            self.assertIn(message, self._error())
