# SPDX-License-Identifier: Apache-2.0

import pathlib
import re
from unittest import mock

import ddt
import testtools

from lab.job import mariadb
from lab.job import nova as lab_nova

# Shortly after 2026-10-14T18:00:00.
NOW = 1792000800.4


def record(**fields):
    return {'host': 'here', 'state': 'up', 'updated_at': None, **fields}


@ddt.ddt
class TestNovaCompute(testtools.TestCase):

    def setUp(self):
        super().setUp()
        self.admin = mock.Mock()
        self.admin.get.return_value.status_code = 200
        self.host = mock.Mock(python=pathlib.Path('/v/bin/python'))
        with mock.patch('socket.gethostname', return_value='here'):
            self.compute = lab_nova.NovaCompute(
                self.host, self.admin, options={'DEFAULT': {'a': 1, 'b': 1}})
        with mock.patch('time.time', return_value=NOW):
            self.compute.setUp()
        self.addCleanup(self.compute.cleanUp)

    def is_up(self, *records):
        self.admin.get.return_value.json.return_value = {
            'services': list(records)}
        ready = self.host.daemon.call_args.kwargs['ready']
        return ready()

    def test_it_is_up_when_it_says_so_after_its_start(self):
        self.assertTrue(self.is_up(record(updated_at='2026-10-14T18:00:01')))

    @ddt.data(
        record(),
        # The one that was stopped can still have said that.
        record(updated_at='2026-10-14T18:00:00'),
        record(updated_at='2026-10-14T18:00:01', host='elsewhere'),
        record(updated_at='2026-10-14T18:00:01', state='down'))
    def test_it_is_not_up(self, found):
        self.assertFalse(self.is_up(found))

    def test_it_is_not_up_when_nova_knows_nothing(self):
        self.assertFalse(self.is_up())
        self.admin.get.return_value.status_code = 503
        self.assertFalse(
            self.is_up(record(updated_at='2026-10-14T18:00:01')))

    def test_a_restart_replaces_the_options_of_the_one_before(self):
        self.compute.restart({'DEFAULT': {'a': 2}})
        self.compute.restart({'DEFAULT': {'b': 3}}, eventlet=True)
        written = [call.args[0] for call in self.host.configure.mock_calls]
        self.assertEqual([
            {'DEFAULT': {'a': 1, 'b': 1}}, {'DEFAULT': {'a': 2, 'b': 1}},
            {'DEFAULT': {'a': 1, 'b': 3}}], written)

    def test_the_backend_stays_until_it_is_changed(self):
        self.compute.restart()
        self.compute.restart(eventlet=True)
        self.compute.restart()
        native = [
            call.kwargs['env']['OS_NOVA_DISABLE_EVENTLET_PATCHING']
            for call in self.host.daemon.call_args_list]
        self.assertEqual(['true', 'true', 'false', 'false'], native)


class TestMariaDB(testtools.TestCase):

    def test_a_user_has_rights_on_its_own_databases_only(self):
        server = mariadb.MariaDB(
            pathlib.Path('/x'),
            {'nova': ('nova_api', 'nova'), 'other': ('o',)})
        grants = re.findall(r"GRANT ALL ON (\w+)\.\* TO '(\w+)'@",
                            server._statements())
        self.assertEqual(
            [('nova_api', 'nova'), ('nova', 'nova'), ('o', 'other')], grants)

    def test_connection(self):
        server = mariadb.MariaDB(pathlib.Path('/x'), {'u': ('d',)})
        self.assertRegex(
            server.connection('u', 'd'),
            rf'^mysql\+pymysql://u:\w+@127\.0\.0\.1:{server.port}/d\?')
