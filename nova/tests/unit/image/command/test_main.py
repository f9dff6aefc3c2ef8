# SPDX-License-Identifier: Apache-2.0

"""The command line, and the ways in which the command can end."""

from collections.abc import Callable
import logging
import os
import signal
import subprocess
import sys
import typing as ty
from unittest import mock

from oslo_serialization import jsonutils
from oslo_utils.fixture import uuidsentinel as uuids

from nova.image import command
from nova.image.command import checks
from nova.image.command import fetch
from nova.image.command import host
from nova.image import glance
import nova.monkey_patch
import nova.privsep
from nova.tests.unit.image.command import base


class TestMain(base.CommandTestCase):
    def setUp(self) -> None:
        super().setUp()
        # These change the process.
        self.signal = self.replace(signal, 'signal')
        self.add_handler = self.replace(logging.getLogger(), 'addHandler')
        self.configure = self.replace(host, 'configure')
        self.become_service = self.replace(host, 'become_service')
        self.replace(host, 'prepare')
        self.replace(nova.monkey_patch, 'patch')
        self.log_in = self.replace(
            host, 'log_in', return_value=('service_user', mock.Mock()))
        self.replace(nova.privsep.sys_admin_pctxt, 'start')

    def run_command(self, *argv: str) -> tuple[int, str, str]:
        """Exit status, standard output and standard error."""
        with self.captured() as (out, err):
            try:
                status = command.main(list(argv))
            except SystemExit as exc:
                status = int(exc.code or 0)
        return status, out.getvalue(), err.getvalue()

    def test_invalid(self) -> None:
        for reason, argv in (
            ('IMAGE_ID is missing', ()),
            ('IMAGE_ID is missing', ('--json',)),
            ("invalid UUID value: 'debian-12'", ('debian-12',)),
            ("invalid UUID value: '../x'", ('../x',)),
            ('not allowed with', ('--to', 'x', '--cache', uuids.image)),
            ('not allowed with', ('--to', 'x', '--check', uuids.image)),
            ('has no effect', ('--check', '--source', 'rbd')),
            ('invalid choice', ('--source', 'ftp', uuids.image)),
            ('unrecognized arguments', (uuids.image, uuids.other)),
            ('expected one argument', ('--to',)),
        ):
            status, out, err = self.run_command(*argv)
            self.assertEqual((2, ''), (status, out))
            self.assertIn('usage: nova-image-fetch', err)
            self.assertIn(reason, err)
        self.configure.assert_not_called()

    def test_help_has_every_exit_status(self) -> None:
        status, out, _err = self.run_command('--help')
        self.assertEqual(0, status)
        for one in command.Status:
            self.assertRegex(out, rf'(?m)^  {one.value} ')

    def test_options_of_the_configuration(self) -> None:
        self.replace(checks.Checks, 'run', return_value=[])
        self.run_command(
            '--check', '--config-file', 'a', '--config-file', 'b',
            '--config-dir', 'c', '--debug')
        self.configure.assert_called_once_with(['a', 'b'], ['c'], True)
        # Without --debug, only the command writes to standard error.
        self.add_handler.assert_called_once()
        self.assertIsInstance(
            self.add_handler.call_args.args[0], logging.NullHandler)

    def test_a_path_is_of_the_directory_it_was_given_in(self) -> None:
        run = self.replace(fetch, 'run', side_effect=command.CommandError(''))
        directory = os.getcwd()
        self.addCleanup(os.chdir, directory)
        # Becoming the service's user leads elsewhere.
        self.become_service.side_effect = lambda: os.chdir('/')
        self.run_command('--to', 'a-new-file', uuids.image)
        self.assertEqual((uuids.image, os.path.join(directory, 'a-new-file')),
                         run.call_args.args[:2])

    def ends(self, failure: BaseException | Callable[..., ty.Any],
             *argv: str) -> tuple[int, str, str]:
        with mock.patch.object(fetch, 'run', side_effect=failure):
            return self.run_command(uuids.image, *argv)

    def test_errors(self) -> None:
        for failure, status, message in (
            (command.CommandError('There\n is none.', command.Status.IMAGE),
             4, 'There is none.'),
            (KeyboardInterrupt(), 130, 'interrupted'),
            (ZeroDivisionError('one\nmore'), 1,
             'ZeroDivisionError: one more (see --debug)'),
        ):
            self.assertEqual((status, '', f'nova-image-fetch: {message}\n'),
                             self.ends(failure))
        self.become_service.side_effect = command.CommandError(
            'Who?', command.Status.HOST)
        self.assertEqual((3, '', 'nova-image-fetch: Who?\n'),
                         self.run_command('--check'))

    def test_error_in_json(self) -> None:
        status, out, err = self.ends(command.CommandError(
            'There is none.', command.Status.IMAGE), '--json')
        self.assertEqual((4, ''), (status, err))
        self.assertEqual(
            {'result': 'failed', 'error': 'There is none.', 'status': 4},
            jsonutils.loads(out))

    def test_terminated(self) -> None:
        def terminate(*_args: object, **_options: object) -> None:
            handlers = {call.args[0]: call.args[1]
                        for call in self.signal.call_args_list}
            handlers[signal.SIGTERM](signal.SIGTERM, None)

        self.assertEqual((143, '', ''), self.ends(terminate))

    def test_unexpected_error_with_debug(self) -> None:
        self.assertRaises(ZeroDivisionError, self.ends, ZeroDivisionError,
                          '--debug')

    def test_reader_has_gone(self) -> None:
        # In processes of their own: their standard output is replaced.
        for option in ('--help', '--check'):
            reader, writer = os.pipe()
            os.close(reader)
            try:
                done = subprocess.run(
                    [sys.executable, '-c',
                     'import sys\n'
                     'from nova.image import command\n'
                     'command._run = print\n'
                     f'sys.exit(command.main(["{option}"]))'],
                    stdout=writer, stderr=subprocess.PIPE, timeout=60,
                    env=os.environ | {'PYTHONUNBUFFERED': ''})
            finally:
                os.close(writer)
            self.assertEqual((141, b''), (done.returncode, done.stderr))

    def test_check(self) -> None:
        run = self.replace(checks.Checks, 'run')
        for verdict, expected in (
                (checks.OK, 0), (checks.WARNING, 0), (checks.FAILED, 1)):
            run.return_value = [{'check': 'Name', 'verdict': verdict,
                                 'detail': 'detail', 'remedy': 'remedy'}]
            status, out, err = self.run_command('--check', uuids.image)
            self.assertEqual((expected, ''), (status, err))
            self.assertIn('detail', out)
            status, out, err = self.run_command('--check', '--json')
            self.assertEqual((expected, ''), (status, err))
            self.assertEqual(
                {'result': 'failed' if expected else 'ok',
                 'checks': run.return_value}, jsonutils.loads(out))

    def test_download(self) -> None:
        self.replace(fetch, 'to_cache', return_value='/there')
        to_path = self.replace(glance.GlanceImageServiceV2, 'download')
        for argv, path in ((('--to', '/tmp/none'), '/tmp/none'),
                           (('--cache',), '/there'), ((), '/there')):
            status, out, err = self.run_command(uuids.image, '--json', *argv)
            self.assertEqual((0, ''), (status, err))
            self.assertEqual(path, jsonutils.loads(out)['path'])
            status, out, err = self.run_command(uuids.image, *argv)
            self.assertEqual((0, ''), (status, err))
            self.assertIn(f'in the cache: {path}\n', out)
        self.assertEqual(2, to_path.call_count)
