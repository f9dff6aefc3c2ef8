# SPDX-License-Identifier: Apache-2.0

"""The user that rbd runs as, and the files that it can read.

Both follow from the host: the users that can change ceph.conf or read the
keyring, and the user of Nova.
"""

from collections.abc import Iterator
import contextlib
import itertools
import os
import pathlib
import shutil
import threading
from typing import Any
from typing import ClassVar

from oslo_utils import uuidutils

from lab import compute
from lab import config
from lab import process
from lab import service as lab_service
from lab.tests.functional import service_base

UNUSED = 65533
OTHER = 12345

#: Denies a system call to a command, as seccomp profiles of containers do.
_SECCOMP = """
import ctypes, os, struct, sys
number = int(sys.argv[1])
program = b''.join(struct.pack('HBBI', *each) for each in (
    (0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050001),
    (0x06, 0, 0, 0x7fff0000)))
data = ctypes.create_string_buffer(program)
filter = struct.pack('HxxxxxxP', 4, ctypes.addressof(data))
if ctypes.CDLL(None, use_errno=True).prctl(22, 2, filter, 0, 0):
    raise OSError(ctypes.get_errno(), 'prctl')
os.execvp(sys.argv[2], sys.argv[2:])
"""
_SETRESUID = {'x86_64': '117', 'aarch64': '147'}


class RightsTestCase(service_base.ServiceTestCase):
    """Has the Ceph client's files in a directory of its own."""

    def setUp(self):
        super().setUp()
        self.nova = self.shared_host.account
        self.etc = self.shared_host.directory / 'etc'
        self.etc.mkdir(mode=0o755)
        self.addCleanup(shutil.rmtree, self.etc)
        self.conf = self.etc / 'ceph.conf'
        self.keyring = self.etc / 'keyring'
        config.write(self.conf, config.render(
            self.cloud.ceph.client_options(self.keyring)))
        self.write_keyring_of(0, 0, 0o600)
        self.configure(rbd_ceph_conf=self.conf)

    def write_keyring_of(self, owner: int, group: int, mode: int) -> None:
        config.write(self.keyring, self.shared_host.keyring.read_text(),
                     mode, owner=owner, group=group)

    def ask(
        self, service: lab_service.Service | None = None,
    ) -> dict[str, Any]:
        """Have rbd look for an image that does not exist."""
        answer = (service or self.service).ask(
            'call', commands=['rbd info'], cluster=0, pool='images',
            image=uuidutils.generate_uuid(), snapshot='snap').answer()
        self.assertIn('uid', answer, str(answer)[:900])
        [ended] = answer['runs']
        return ended | {'uid': answer['uid'], 'step': answer['step']}

    def assert_runs_as(self, uid: int, step: object,
                       service: lab_service.Service | None = None) -> None:
        found = self.ask(service)
        self.assertEqual((uid, str(step)), (found['uid'], found['step']))


class TestTable(RightsTestCase):
    """Each row, with each kind of keyring, for each user."""

    #: Nova runs as root there.
    root_host: ClassVar[compute.ComputeHost]
    root_service: ClassVar[lab_service.Service]

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.root_host = compute.ComputeHost(
            cls.cloud, name='root', account='root')
        cls.root_service = lab_service.Service(cls.root_host)
        cls.root_host.setUp()
        cls.addClassCleanup(cls.root_host.cleanUp)

    def test_table(self):
        with self.root() as root:
            for row, uid, root_uid in (
                (self.only_root, UNUSED, UNUSED),
                (self.conf_of_nova, self.nova.uid, self.nova.uid),
                (self.conf_of_another_user, self.nova.uid, OTHER),
                (self.directory_of_nova, self.nova.uid, self.nova.uid),
                (self.directory_for_everybody, self.nova.uid, UNUSED),
                (self.conf_for_a_group, self.nova.uid, UNUSED),
                (self.conf_of_several_users, self.nova.uid, UNUSED),
                (self.link_of_nova, self.nova.uid, self.nova.uid),
            ):
                with contextlib.ExitStack() as stack:
                    step = row(stack)
                    self.check(row.__name__, self.service, self.nova.uid,
                               uid, step)
                    self.check(row.__name__, root, 0, root_uid, step)

    def check(self, row: str, service: lab_service.Service, nova: int,
              uid: int, step: object) -> None:
        for owner, group, mode in (
            (0, 0, 0o600), (self.nova.uid, self.nova.gid, 0o600),
            (0, self.nova.gid, 0o640), (OTHER, OTHER, 0o600),
            (0, 0, 0o644), (0, 0, 0),
        ):
            if mode:
                self.write_keyring_of(owner, group, mode)
            else:
                self.keyring.unlink()
            readable = bool(mode) and (
                not step or owner == uid or mode & 0o004 or
                # In place of root, it has no groups.
                bool(mode & 0o040) and nova == uid == self.nova.uid)
            found = self.ask(service)
            self.assertEqual(
                (uid, str(step), 'UNKNOWN' if readable else 'NO_KEYRING'),
                (found['uid'], found['step'], found['cause']),
                str((row, nova, owner, group, oct(mode), found)))
        self.write_keyring_of(0, 0, 0o600)

    @contextlib.contextmanager
    def root(self) -> Iterator[lab_service.Service]:
        """A service that runs as root."""
        self.root_host.configure({'glance': {'rbd_ceph_conf': self.conf}})
        with self.root_service as service:
            yield service
        self.assertEqual([], self.root_host.leftovers())

    def only_root(self, _stack: contextlib.ExitStack) -> object:
        return ''

    def conf_of_nova(self, stack: contextlib.ExitStack) -> object:
        self.change(stack, self.conf, self.nova.uid, 0o600)
        return self.conf

    def conf_of_another_user(self, stack: contextlib.ExitStack) -> object:
        self.change(stack, self.conf, OTHER, 0o644)
        return self.conf

    def directory_of_nova(self, stack: contextlib.ExitStack) -> object:
        self.change(stack, self.etc, self.nova.uid, 0o755)
        return self.etc

    def directory_for_everybody(self, stack: contextlib.ExitStack) -> object:
        self.change(stack, self.etc, 0, 0o777)
        return self.etc

    def conf_for_a_group(self, stack: contextlib.ExitStack) -> object:
        self.change(stack, self.conf, 0, 0o664)
        return self.conf

    def conf_of_several_users(self, stack: contextlib.ExitStack) -> object:
        self.change(stack, self.etc, OTHER, 0o755)
        self.change(stack, self.conf, self.nova.uid, 0o644)
        return self.etc

    def link_of_nova(self, stack: contextlib.ExitStack) -> object:
        real = self.etc / 'real.conf'
        self.conf.rename(real)
        self.conf.symlink_to('real.conf')
        os.chown(self.conf, self.nova.uid, -1, follow_symlinks=False)
        stack.callback(real.rename, self.conf)
        return self.conf

    @staticmethod
    def change(stack: contextlib.ExitStack, path: pathlib.Path, owner: int,
               mode: int) -> None:
        status = os.stat(path)
        stack.callback(path.chmod, status.st_mode & 0o7777)
        stack.callback(os.chown, path, status.st_uid, -1)
        os.chown(path, owner, -1)
        path.chmod(mode)


class TestWalk(RightsTestCase):
    """No way to have rbd run with a file of one's own and root's rights."""

    def setUp(self):
        super().setUp()
        # Nova can change this directory; only root can change the other one.
        self.own = self.out().parent

    def use(self, path: pathlib.Path | str) -> None:
        self.configure(rbd_ceph_conf=path)

    def test_sticky_directory(self):
        """Others cannot replace there what root owns."""
        self.etc.chmod(0o1777)
        self.assert_runs_as(UNUSED, '')
        os.chown(self.conf, OTHER, -1)
        self.assert_runs_as(self.nova.uid, self.conf)

    def test_hard_link_in_a_sticky_directory(self):
        """A second name for a file of root, e.g. one with foreign lines."""
        self.etc.chmod(0o1777)
        os.link(self.conf, self.etc / 'other.conf')
        self.use(self.etc / 'other.conf')
        self.assert_runs_as(self.nova.uid, self.etc / 'other.conf')

    def test_chain_of_links(self):
        (self.own / 'link').symlink_to(self.conf)
        os.chown(self.own / 'link', self.nova.uid, -1, follow_symlinks=False)
        (self.etc / 'first.conf').symlink_to(self.own / 'link')
        self.use(self.etc / 'first.conf')
        found = self.ask()
        self.assertEqual(self.nova.uid, found['uid'])
        self.assertTrue(str(self.own).startswith(found['step']), found)

    def test_links_of_root(self):
        (self.etc / 'below').mkdir()
        (self.etc / 'below' / 'a.conf').symlink_to('../b.conf')
        (self.etc / 'b.conf').symlink_to(self.conf)
        for path in (self.etc / 'below' / 'a.conf',
                     str(self.etc) + '/below/.././/ceph.conf'):
            self.use(path)
            self.assert_runs_as(UNUSED, '')

    def test_dots_in_a_link_of_another_user(self):
        link = self.own / 'link.conf'
        link.symlink_to(os.path.relpath(self.conf, self.own))
        self.use(link)
        self.assertEqual(self.nova.uid, self.ask()['uid'])

    def test_process_as_a_file(self):
        """Files of root in /proc can have content of another user."""
        for path in ('/proc/1/cmdline', '/proc/self/root' + str(self.conf)):
            self.use(path)
            found = self.ask()
            self.assertEqual(self.nova.uid, found['uid'], path)
            self.assertTrue(found['step'].startswith('/proc'), found)

    def test_mount_points(self):
        run = self.shared_host.run_as_root
        below = self.etc / 'below'
        below.mkdir()
        own = config.write(self.own / 'ceph.conf', self.conf.read_text(),
                           owner=self.nova.uid)
        commands: tuple[tuple[pathlib.Path, list[process.Argument]], ...] = (
            (below, ['mount', '--bind', self.own]),
            # A filesystem that calls any file root's.
            (below, ['bindfs', '--force-user=root', '--force-group=root',
                     '--perms=u=rwX:go=rX', self.own]),
            (self.conf, ['mount', '--bind', own]),
        )
        for target, command in commands:
            self.use(below / 'ceph.conf' if target == below else self.conf)
            run(*command, target)
            try:
                found = self.ask()
            finally:
                run('umount', target)
            self.assertEqual(self.nova.uid, found['uid'], str(command))
        self.assert_runs_as(UNUSED, '')

    def test_exchanged_while_it_is_looked_at(self):
        """Nova's link to root's ceph.conf, then Nova's own ceph.conf."""
        own = config.write(self.own / 'own.conf', self.conf.read_text())
        link, over = self.own / 'link.conf', threading.Event()

        def exchange() -> None:
            for target in itertools.cycle((self.conf, own)):
                if over.is_set():
                    return
                spare = self.own / 'spare'
                spare.symlink_to(target)
                os.replace(spare, link)

        self.use(link)
        thread = threading.Thread(target=exchange)
        thread.start()
        try:
            found = [self.ask() for _number in range(50)]
        finally:
            over.set()
            thread.join()
        self.assertEqual({self.nova.uid}, {one['uid'] for one in found})

    def test_not_a_file(self):
        os.mkfifo(self.etc / 'fifo')
        (self.etc / 'loop').symlink_to('loop')
        for path, error in (
            (self.etc, 'ValueError'), (self.etc / 'fifo', 'ValueError'),
            ('/dev/null', 'ValueError'), (self.etc / 'loop', 'ValueError'),
            (self.etc / 'none', 'FileNotFoundError'),
            (self.conf / 'below', 'NotADirectoryError'),
        ):
            self.use(path)
            answer = self.service.ask(
                'call', commands=['rbd --version'], cluster=0).answer()
            self.assertEqual(error, answer.get('error'), str((path, answer)))

    def test_what_is_checked_is_what_is_read(self):
        """rbd reads the file that was checked, even if it is replaced."""
        script = 'for word; do case $word in --conf=*) exec cat ' \
                 '"${word#--conf=}";; esac; done'
        text = self.conf.read_text()
        with self.program('sleep 1\n' + script):
            request = self.service.ask(
                'call', commands=['rbd info'], cluster=0, pool='images',
                image=uuidutils.generate_uuid(), snapshot='snap')
            self.assertTrue(process.wait_for(
                lambda: bool(self.shared_host.pids('sleep', '1')), 30, 0.01))
            self.conf.rename(self.etc / 'old.conf')
            config.write(self.conf, '[global]\n')
            [ended] = request.answer()['runs']
        self.assertEqual(text, ended['text'])


class TestRefusedByTheHost(RightsTestCase):
    """Restrictions as AppArmor, seccomp or a container impose them.

    The service is root's here: as another user, it would have to start sudo,
    which needs all of it, too.
    """

    def setUp(self):
        super().setUp()
        self.root_host = compute.ComputeHost(
            self.cloud, name='confined', account='root')
        helper = ' '.join(self.root_host._privsep_helper())
        self.root_host._options = {
            'nova_sys_admin': {'helper_command': helper},
            'glance': {'rbd_ceph_conf': self.conf}}
        self.useFixture(self.root_host)

    def ask_with(self, *prefix: str) -> dict[str, Any]:
        with lab_service.Service(self.root_host, prefix=prefix) as service:
            return self.ask(service)

    def test_capabilities(self):
        for missing, cause in (
            ('setuid', 'NOT_PERMITTED'), ('setgid', 'NOT_PERMITTED'),
            # Nova's daemon does not even start without the right to read any
            # file; and these are not needed.
            ('setpcap', 'UNKNOWN'), ('kill', 'UNKNOWN'),
        ):
            found = self.ask_with(
                'setpriv', '--bounding-set=-' + missing, '--')
            self.assertEqual((cause, UNUSED), (found['cause'], found['uid']),
                             missing)

    def test_system_call(self):
        number = _SETRESUID[os.uname().machine]
        found = self.ask_with(
            str(self.root_host.python), '-c', _SECCOMP, number)
        self.assertEqual('NOT_PERMITTED', found['cause'])

    def test_daemon_without_nova_conf(self):
        self.root_host.configure({'nova_sys_admin': {
            'helper_command': self.root_host._privsep_helper()[0]}})
        with lab_service.Service(self.root_host) as service:
            answer = service.ask(
                'call', commands=['rbd --version'], cluster=0).answer()
        self.assertEqual('PermissionError', answer['error'])
        self.assertIn('no nova.conf: add --config-file', answer['message'])
