# SPDX-License-Identifier: Apache-2.0

"""How this process becomes what nova-compute is."""

import logging
import os
import pathlib
import pty
import pwd
import tempfile
import typing as ty
from unittest import mock

from oslo_config import cfg

from nova import config
from nova.image.command import errors
from nova.image.command import host
from nova import test


class TestConfigure(test.NoDBTestCase):
    def setUp(self) -> None:
        super().setUp()
        root = logging.getLogger()
        self.addCleanup(root.handlers.__setitem__, slice(None),
                        list(root.handlers))

    def configure(self, conf: cfg.ConfigOpts | mock.Mock, *files: str,
                  debug: bool = False) -> None:
        """Configure, without an effect on the tests' own configuration."""
        def parse(argv: list[str], **_options: object) -> None:
            self.assertEqual('nova-compute', argv[0])
            conf(argv[1:], default_config_files=[])

        with (mock.patch.object(host, 'CONF', conf),
              mock.patch.object(config, 'parse_args', side_effect=parse)):
            host.configure(files, [], debug)

    def conf(self, text: str) -> str:
        file = ty.cast(ty.Any, self.enterContext(
            tempfile.NamedTemporaryFile('w', suffix='.conf')))
        file.write(text)
        file.flush()
        return file.name

    def enterContext(self, manager: ty.Any) -> ty.Any:
        self.addCleanup(manager.__exit__, None, None, None)
        return manager.__enter__()

    def options(self) -> cfg.ConfigOpts:
        conf = cfg.ConfigOpts()
        for group in ('glance', 'libvirt', 'image_cache'):
            conf.register_opt(cfg.IntOpt('number', default=1), group)
        return conf

    def test_good(self) -> None:
        conf, path = self.options(), self.conf('[glance]\nnumber = 2\n')
        self.configure(conf, path)
        with mock.patch.object(host, 'CONF', conf):
            self.assertEqual([path], host.config_files())
        # Nobody but the command itself talks to the operator.
        [handler] = logging.getLogger().handlers
        self.assertIsInstance(handler, logging.NullHandler)

    def test_bad(self) -> None:
        for files, words in (
            (['/no/such.conf'], 'Failed to find some config files: /no/such'),
            ([self.conf('[glance\n')], 'Failed to parse'),
            ([self.conf('[glance]\nnumber = many\n')],
             'Value for option number .* is not valid'),
            ([self.conf('[libvirt]\nnumber = many\n')], 'is not valid'),
            ([], 'There is no nova.conf where nova-compute looks for one'),
        ):
            error = self.assertRaises(
                errors.CommandError, self.configure, self.options(), *files)
            self.assertRegex(str(error), words)
            self.assertNotIn('\n', str(error))
            self.assertEqual(errors.Status.HOST, error.status)


class TestUser(test.NoDBTestCase):
    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.flags(instances_path=folder.name,
                   state_path=str(pathlib.Path(folder.name, 'state')))
        self.directory = folder.name
        self.calls: list[str] = []
        for name in ('initgroups', 'setresgid', 'setresuid', 'chdir'):
            self.replace(os, name, side_effect=self.noted(name))
        self.uid = self.replace(os, 'geteuid', return_value=0)
        self.stat = self.replace(os, 'stat')
        self.enter(mock.patch.dict(os.environ, clear=True))

    def enter(self, patch: ty.Any) -> mock.Mock:
        self.addCleanup(patch.stop)
        return patch.start()

    def replace(self, where: ty.Any, name: str,
                **options: ty.Any) -> mock.Mock:
        return self.enter(mock.patch.object(where, name, **options))

    def noted(self, name: str) -> ty.Callable[..., None]:
        return lambda *args: self.calls.append('%s%s' % (name, args))

    def owned_by(self, uid: int) -> None:
        self.stat.return_value.st_uid = uid

    def test_root_becomes_the_owner(self) -> None:
        entry = pwd.struct_passwd(
            ('nova', 'x', 162, 163, '', '/var/lib/nova', ''))
        self.owned_by(162)
        self.replace(pwd, 'getpwuid', return_value=entry)
        host.become_service()
        # The groups first: later there is no right to change them.
        self.assertEqual(
            ["initgroups('nova', 163)", 'setresgid(163, 163, 163)',
             'setresuid(162, 162, 162)', "chdir('/',)"], self.calls)
        self.assertEqual({'HOME': '/var/lib/nova', 'USER': 'nova',
                          'LOGNAME': 'nova'}, dict(os.environ))

    def test_stays(self) -> None:
        for uid, owner in ((1000, 162), (0, 0)):
            self.uid.return_value = uid
            self.owned_by(owner)
            host.become_service()
        self.assertEqual([], self.calls)

    def test_owner_of_the_state_where_there_are_no_instances(self) -> None:
        self.stat.side_effect = [FileNotFoundError(), mock.Mock(st_uid=1)]
        host.become_service()
        self.assertEqual('setresuid(1, 1, 1)', self.calls[2])

    def test_nothing_is_there(self) -> None:
        self.stat.side_effect = FileNotFoundError()
        host.become_service()
        self.assertEqual([], self.calls)

    def test_owner_is_unknown(self) -> None:
        self.owned_by(4711)
        self.replace(pwd, 'getpwuid', side_effect=KeyError)
        error = self.assertRaises(errors.CommandError, host.become_service)
        self.assertIn('belongs to the user 4711, who is not known',
                      str(error))
        self.assertEqual(errors.Status.HOST, error.status)
        self.assertEqual([], self.calls)
        self.assertEqual('0', host.user_name())


def has_terminal() -> bool:
    try:
        os.close(os.open('/dev/tty', os.O_RDWR))
    except OSError:
        return False
    return True


class TestTerminal(test.NoDBTestCase):
    """In processes of their own, on a terminal of their own."""

    def leave(self, first: bool) -> str:
        """What there was before and after.

        :param first: leave it by the first process of the session
        """
        pid, terminal = pty.fork()
        if pid == 0:
            try:
                child = 0 if first else os.fork()
                if child:
                    os.waitpid(child, 0)
                else:
                    before = has_terminal()
                    host._leave_terminal()
                    os.write(1, b'%d %d.' % (before, has_terminal()))
            finally:
                os._exit(0)
        self.addCleanup(os.close, terminal)
        said = os.read(terminal, 4096).decode()
        os.waitpid(pid, 0)
        return said

    def test_left(self) -> None:
        self.assertEqual('1 0.', self.leave(first=False))

    def test_first_process_of_its_session(self) -> None:
        self.assertEqual('1 1.', self.leave(first=True))
