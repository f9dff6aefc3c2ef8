# SPDX-License-Identifier: Apache-2.0

import pathlib
import re

import ddt
import fixtures
import testtools

from lab.job import region
from lab import services


@ddt.ddt
class TestServices(testtools.TestCase):

    @ddt.data(services.BASIC, region.CONTENT)
    def test_every_package_is_pinned_exactly_and_once(self, content):
        lines = [line for path in content.constraints
                 for line in path.read_text().splitlines()
                 if not line.startswith('#')]
        for line in lines:
            self.assertIsNotNone(
                re.fullmatch(r'[A-Za-z0-9._-]+==[A-Za-z0-9.]+', line), line)
        names = {re.sub(r'[-_.]+', '-', line.split('==')[0]).lower()
                 for line in lines}
        self.assertLessEqual({'glance', 'keystone', 'gunicorn'}, names)
        self.assertEqual(len(lines), len(names))

    def test_environments_of_other_contents_are_others(self):
        path = pathlib.Path(self.useFixture(fixtures.TempDir()).path) / 'c'
        path.write_text('a==1\n')
        content = services.Content((path,), ('a',))
        first = content.fingerprint('3.11')
        self.assertEqual(first, content.fingerprint('3.11'))
        self.assertNotEqual(first, content.fingerprint('3.12'))
        path.write_text('a==2\n')
        self.assertNotEqual(first, content.fingerprint('3.11'))

    def test_the_callers_pip_settings_for_its_own_venv_do_not_pass(self):
        for name in ('PIP_CONSTRAINT', 'PIP_TARGET', 'PYTHONPATH'):
            self.useFixture(fixtures.EnvironmentVariable(name, 'x'))
        self.useFixture(fixtures.EnvironmentVariable('PIP_INDEX_URL', 'y'))
        env = services._pip_environment()
        self.assertEqual('y', env['PIP_INDEX_URL'])
        for name in ('PIP_CONSTRAINT', 'PIP_TARGET', 'PYTHONPATH'):
            self.assertNotIn(name, env)

    def test_cache_directory(self):
        for name in ('NOVA_LAB_CACHE', 'XDG_CACHE_HOME'):
            self.useFixture(fixtures.EnvironmentVariable(name))
        self.useFixture(fixtures.EnvironmentVariable('HOME', '/h'))
        self.assertEqual(
            pathlib.Path('/h/.cache/nova-lab'), services.cache_directory())
        self.useFixture(fixtures.EnvironmentVariable('XDG_CACHE_HOME', '/x'))
        self.assertEqual(
            pathlib.Path('/x/nova-lab'), services.cache_directory())
        self.useFixture(fixtures.EnvironmentVariable('NOVA_LAB_CACHE', '/c'))
        self.assertEqual(pathlib.Path('/c'), services.cache_directory())

    def test_an_unfinished_venv_is_not_used(self):
        path = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        venv = services.ServiceVenv(path)
        self.assertFalse(venv.usable())

    def test_a_broken_venv_is_not_used(self):
        path = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        (path / 'complete').touch()
        self.assertFalse(services.ServiceVenv(path).usable())
