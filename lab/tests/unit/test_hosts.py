# SPDX-License-Identifier: Apache-2.0

import pathlib

import fixtures
from keystoneauth1.identity import v3
import testtools

from lab import compute
from lab import fetch
from lab import glance
from lab import namespace

NOBODY = namespace.Account('nobody', 65534, 65534)


class TestNamespace(testtools.TestCase):

    def setUp(self):
        super().setUp()
        self.top = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.top.chmod(0o755)

    def hidden(self, *paths):
        made = namespace.Namespace(
            self.top / 'stage', mounts=[], account=NOBODY,
            reachable=[self.top / path for path in paths])
        return {str(hidden.relative_to(self.top)):
                [str(path.relative_to(self.top)) for path in inside]
                for hidden, inside in made._hidden().items()}

    def make(self, path, mode):
        directory = self.top / path
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(mode)

    def test_nothing_is_hidden(self):
        self.make('a', 0o711)
        self.make('a/b', 0o700)
        self.assertEqual({}, self.hidden('a/b'))

    def test_the_topmost_closed_directory_counts(self):
        self.make('a', 0o700)
        self.make('a/b', 0o700)
        self.make('a/b/c', 0o755)
        self.assertEqual({'a': ['a/b/c']}, self.hidden('a/b/c'))

    def test_paths_in_one_another_are_needed_once(self):
        self.make('a', 0o700)
        for path in ('b', 'b/c', 'd'):
            self.make(f'a/{path}', 0o755)
        self.assertEqual(
            {'a': ['a/b', 'a/d']}, self.hidden('a/b/c', 'a/d', 'a/b'))


class TestSudoers(testtools.TestCase):

    def test_what_sudoers_treats_specially_is_escaped(self):
        self.assertEqual(
            r'/a\:b/x\=1/c\,d\\e', compute.escape('/a:b/x=1/c,d\\e'))


class TestDownloads(testtools.TestCase):

    def test_only_the_images_own_data_counts(self):
        log = pathlib.Path(self.useFixture(fixtures.TempDir()).path) / 'log'
        log.write_text(
            '127.0.0.1 - - [x] "GET /v2/images/ab/file HTTP/1.1" 200 5\n'
            '127.0.0.1 - - [x] "GET /v2/images/ab HTTP/1.1" 200 5\n'
            '127.0.0.1 - - [x] "PUT /v2/images/ab/file HTTP/1.1" 204 0\n'
            '127.0.0.1 - - [x] "GET /v2/images/cd/file HTTP/1.1" 200 5\n'
            '127.0.0.1 - - [x] "GET /v2/images/ab/file HTTP/1.1" 403 5\n'
            '127.0.0.1 - - [x] "GET /v2/images/ab/file HTTP/1.1" 416 5\n')
        self.assertEqual(2, glance.count_downloads(log, 'ab'))
        self.assertEqual(1, glance.count_downloads(log, 'cd'))
        self.assertEqual(0, glance.count_downloads(log, 'a'))


class TestFetch(testtools.TestCase):

    ENV = {'OS_AUTH_URL': 'http://x', 'OS_PROJECT_NAME': 'p'}

    def test_login_with_a_token(self):
        auth = fetch.authentication(self.ENV | {'OS_TOKEN': 't'})
        self.assertIsInstance(auth, v3.Token)

    def test_login_with_a_password(self):
        auth = fetch.authentication(
            self.ENV | {'OS_USERNAME': 'u', 'OS_PASSWORD': 'w'})
        self.assertIsInstance(auth, v3.Password)

    def test_no_login(self):
        error = self.assertRaises(KeyError, fetch.authentication, self.ENV)
        self.assertEqual('OS_USERNAME', error.args[0])

    def test_catalog_in_the_form_that_nova_keeps(self):
        endpoints = [
            {'region': 'R', 'interface': 'public', 'url': 'http://p'},
            {'region': 'R', 'interface': 'internal', 'url': 'http://i'},
            {'region': 'S', 'interface': 'public', 'url': 'http://s'}]
        self.assertEqual(
            [{'region': 'R', 'publicURL': 'http://p',
              'internalURL': 'http://i'},
             {'region': 'S', 'publicURL': 'http://s'}],
            fetch._v2_endpoints(endpoints))
