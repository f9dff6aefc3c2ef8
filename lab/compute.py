# SPDX-License-Identifier: Apache-2.0
"""A compute host for image downloads, without a hypervisor."""

from collections.abc import Callable
from collections.abc import Iterable
import os
import pathlib
import re
import shlex
import sys
import typing as ty

from oslo_serialization import jsonutils

from lab import ceph as lab_ceph
from lab import cloud as lab_cloud
from lab import config
from lab import errors
from lab import fetch
from lab import glance
from lab import namespace
from lab import process

CEPH_USER = 'nova'
SERVICE_ACCOUNT = 'nobody'

# A Unix socket's path has room for 107 characters, and privsep puts its
# socket into a directory of its own below ours.
_LONGEST_TMPDIR = 107 - len('/tmp12345678/privsep.sock')

_FETCH = pathlib.Path(fetch.__file__)

# Result of ComputeHost.fetch().
Fetched = fetch.Report


def escape(word: str) -> str:
    """A word of a command as sudoers wants it."""
    return re.sub(r'([,:=\\ ])', r'\\\1', word)


def outcome(answer: dict[str, ty.Any]) -> Fetched:
    """Convert an answer of the fetch program.

    :raises FetchFailed: when Nova raised an error
    """
    if 'error' in answer:
        raise errors.FetchFailed(
            answer['error'], answer['message'], answer['log'])
    return Fetched(**answer | {'path': pathlib.Path(answer['path'])})


class ComputeHost(process.LabFixture):
    """A host with the compute service's files, user, sudo and privsep.

    The service's user is unprivileged. Of the Ceph keyring it can read
    nothing; sudo lets it start Nova's privsep helper and nothing else. Both
    hold in a mount namespace of the host's own, so the machine is unchanged.

    :ivar directory: everything of the host is below it
    :ivar instances: instances_path, owned by the service's user
    :ivar conf: nova.conf
    :ivar ceph_conf: ceph.conf
    :ivar keyring: the Ceph client's keyring, for root only
    :ivar account: the service's user
    """

    def __init__(self, cloud: lab_cloud.Cloud, *,
                 options: config.Options | None = None,
                 name: str = 'compute',
                 account: str = SERVICE_ACCOUNT,
                 mounts: Iterable[tuple[pathlib.Path, pathlib.Path]] = (),
                 network: pathlib.Path | None = None,
                 env: dict[str, str] | None = None,
                 python: process.Argument = sys.executable) -> None:
        """Describe the host; setUp() makes it.

        :param options: nova.conf options over the usual ones; None as a
            value takes an option out
        :param name: of its directory, below the cloud's
        :param account: what the service runs as
        :param mounts: pairs of what is mounted on the host and over what
        :param network: the network namespace it is in; by default this one
        :param env: more variables that every command on the host has
        :param python: interpreter of the Nova under test
        """
        super().__init__()
        self.cloud = cloud
        self.directory = cloud.directory / name
        self.instances = self.directory / 'instances'
        self.conf = self.directory / 'nova.conf'
        self.ceph_conf = self.directory / 'ceph.conf'
        self.keyring = (
            self.directory / f'ceph.client.{CEPH_USER}.keyring')
        self.account = namespace.account(account)
        self._options = options or {}
        self._mounts = list(mounts)
        self._network = network
        self._env = env or {}
        # Not resolved: a venv's interpreter is a symbolic link.
        self._python = pathlib.Path(os.path.abspath(python))

    def _setUp(self) -> None:
        process.require_root()
        process.require_programs()
        self.addCleanup(process.discard, self.directory)
        self._make_directories()
        self._write_ceph_client()
        self.configure(self._options)
        sudoers = config.write(
            self.directory / 'sudoers', self._sudoers(), 0o440)
        self._namespace = self.useFixture(namespace.Namespace(
            self.directory / 'stage',
            mounts=[*self._mounts, (sudoers, pathlib.Path('/etc/sudoers'))],
            reachable=[self.directory, _FETCH, *self._python_paths()],
            account=self.account, network=self._network))
        self.run(self._python, '-c', 'import nova')

    def _make_directories(self) -> None:
        self.directory.mkdir(mode=0o755)
        (self.directory / 'stage').mkdir(mode=0o700)
        for name in ('instances', 'state', 'locks', 'tmp'):
            path = self.directory / name
            path.mkdir(mode=0o755)
            self.account.own(path)
        temporary = str(self.directory / 'tmp')
        if len(temporary) > _LONGEST_TMPDIR:
            raise errors.LabError(
                f'The path {temporary} is too long for sockets below it: '
                f'choose a shorter TMPDIR or NOVA_LAB_DIR.')

    def _write_ceph_client(self) -> None:
        """A keyring of least rights, and a ceph.conf that points to it."""
        self._write_client_of(
            self.cloud.ceph, self.ceph_conf, self.keyring)

    def add_cluster(self, ceph: lab_ceph.Ceph, name: str) -> pathlib.Path:
        """Make the host a client of another cluster.

        :param name: for its files
        :returns: the path of its ceph.conf
        """
        conf = self.directory / f'{name}.conf'
        self._write_client_of(
            ceph, conf,
            self.directory / f'{name}.client.{CEPH_USER}.keyring')
        return conf

    def _write_client_of(self, ceph: lab_ceph.Ceph, conf: pathlib.Path,
                         keyring: pathlib.Path) -> None:
        source = ceph.create_user(CEPH_USER, {
            'mon': 'profile rbd',
            'osd': f'profile rbd-read-only pool={glance.POOL}'})
        config.write(keyring, source.read_text(), 0o600)
        config.write(conf, config.render(ceph.client_options(keyring)))

    def configure(self, options: config.Options | None = None) -> None:
        """Write nova.conf with these options over the usual ones."""
        text = config.render(config.merge(
            self._usual_options(), self.cloud.nova_options(), options or {}))
        # It may hold passwords of the service.
        config.write(self.conf, text, 0o640, group=self.account.gid)

    def _usual_options(self) -> config.Options:
        return {
            'DEFAULT': {
                'instances_path': self.instances,
                'state_path': self.directory / 'state',
                'force_raw_images': False,
                'debug': True,
                'use_stderr': True,
            },
            'libvirt': {
                'images_type': 'qcow2',
                'images_rbd_ceph_conf': self.ceph_conf,
                'rbd_user': CEPH_USER,
            },
            'glance': {'allowed_direct_url_schemes': 'rbd'},
            'oslo_concurrency': {'lock_path': self.directory / 'locks'},
            'nova_sys_admin': {'helper_command': shlex.join(
                ['sudo', *self._privsep_helper()])},
        }

    def _privsep_helper(self) -> list[str]:
        return [str(self._python.parent / 'privsep-helper'),
                '--config-file', str(self.conf)]

    def _sudoers(self) -> str:
        program, *arguments = self._privsep_helper()
        # A line that ends in "*" would let the caller add options.
        allowed = ' '.join(map(re.escape, (
            *arguments, '--privsep_context', 'nova.privsep.sys_admin_pctxt',
            '--privsep_sock_path'))).replace(':', r'\:')
        return (f'Defaults env_reset, !syslog\n'
                f'{self.account.name} ALL = (root) NOPASSWD: '
                f'{escape(program)} ^{allowed} [^ ]+$\n')

    def _python_paths(self) -> list[pathlib.Path]:
        found = process.run([
            self._python, '-P', '-c',
            'import os, sys, nova\n'
            'print(sys.prefix, sys.base_prefix, sep="\\n")\n'
            'print(os.path.dirname(os.path.realpath(nova.__file__)))'])
        return [pathlib.Path(line) for line in found.splitlines()]

    def environment(self) -> dict[str, str]:
        """The variables a command on the host has, logins aside."""
        env = process.clean_environment(
            HOME=str(self.directory / 'state'),
            TMPDIR=str(self.directory / 'tmp'), no_proxy='127.0.0.1')
        env['PATH'] = f'{self._python.parent}:{env["PATH"]}'
        return env | self._env

    def start(self, *command: process.Argument,
              env: dict[str, str] | None = None) -> namespace.Running:
        """Start a command as the service's user, in the background.

        It is killed at the latest when the host is cleaned up.

        :param env: variables over the usual ones
        """
        running = self._namespace.start(
            *command, env=self.environment() | (env or {}))
        self.addCleanup(running.end)
        return running

    def run(self, *command: process.Argument, timeout: float = 300,
            env: dict[str, str] | None = None) -> str:
        """Run a command as the service's user; return its output.

        :param timeout: in seconds
        :raises LabError: with its output when it fails
        """
        status, out, err = self.start(*command, env=env).wait(timeout)
        if status:
            raise errors.LabError(
                f'Exit status {status} on the compute host: '
                f'{" ".join(map(str, command))}\n{out}{err}'.rstrip())
        return out

    def daemon(self, name: str, *command: process.Argument,
               ready: Callable[[], bool], as_root: bool = False,
               env: dict[str, str] | None = None,
               timeout: float = 90, grace: float = 15) -> process.Daemon:
        """A server on the host, as the service's user; not yet started.

        Its log is in `directory`.

        :param ready: returns True once it serves
        :param as_root: run it as root
        :param env: variables over the usual ones
        :param timeout: seconds for it to become ready
        :param grace: seconds for it to stop by itself
        """
        enter = (self._namespace.root_argv if as_root
                 else self._namespace.argv)
        return process.Daemon(
            name, enter(*command), self.directory / f'{name}.log', ready,
            env=self.environment() | (env or {}), timeout=timeout,
            grace=grace, wrapped=True)

    def fetch_argv(self, image_id: str, *,
                   path: process.Argument | None = None,
                   trusted_certs: list[str] | None = None,
                   start_privsep: bool = False) -> list[process.Argument]:
        """The command that fetches an image; see fetch()."""
        argv = [*self.program_argv(), '--json']
        if path:
            argv += ['--path', path]
        if start_privsep:
            argv.append('--start-privsep')
        for certificate in trusted_certs or []:
            argv += ['--trusted-cert', certificate]
        return [*argv, image_id]

    def program_argv(self) -> list[process.Argument]:
        """The beginning of every command of the fetch program."""
        # -P: modules beside fetch.py must not hide others.
        return [self._python, '-P', _FETCH, *self.config_argv()]

    def config_argv(self) -> list[process.Argument]:
        """Return the options that name a command's configuration files."""
        return ['--config-file', self.conf]

    def fetch(self, image_id: str, *, user: str = 'demo',
              path: process.Argument | None = None,
              trusted_certs: list[str] | None = None,
              start_privsep: bool = False,
              env: dict[str, str] | None = None,
              timeout: float = 600) -> Fetched:
        """Fetch an image as nova-compute does on a cache miss.

        :param user: whose image it is
        :param path: download to this file, outside of the image cache
        :param trusted_certs: ids of certificates to verify with
        :param start_privsep: have the privsep daemon up before the clock runs
        :param env: variables over the usual ones
        :param timeout: in seconds
        :raises FetchFailed: when Nova raised an error
        :raises LabError: when it got no answer
        """
        argv = self.fetch_argv(
            image_id, path=path, trusted_certs=trusted_certs,
            start_privsep=start_privsep)
        login = self.cloud.token_environment(user)
        status, out, err = self.start(
            *argv, env=login | (env or {})).wait(timeout)
        try:
            answer = jsonutils.loads(out)
        except ValueError as exc:
            raise errors.LabError(
                f'Exit status {status} and no report from '
                f'{" ".join(map(str, argv))}\n{out}{err}') from exc
        return outcome(answer)

    def processes(self) -> list[str]:
        """The command lines of all that runs on the host now."""
        return self._namespace.command_lines()

    @property
    def python(self) -> pathlib.Path:
        """The interpreter of the Nova under test."""
        return self._python

    def pids(self, *words: str) -> list[int]:
        """The pids, seen from outside, of commands with all these words."""
        return self._namespace.pids(*words)

    def run_as_root(self, *command: process.Argument) -> str:
        """Run a command as root among the host's mounts.

        :raises LabError: with its output when it fails
        """
        # Without setpriv, which tests replace.
        return process.run(self._namespace.enter_argv(*command))

    def start_as_root(self, *command: process.Argument) -> process.Command:
        """Start a command as root among the host's mounts.

        It is killed at the latest when the host is cleaned up.
        """
        running = process.Command(
            self._namespace.root_argv(*command), env=self.environment())
        self.addCleanup(running.end)
        return running

    def leftovers(self, grace: float = 10) -> list[str]:
        """The command lines of what still runs on the host after a while.

        :param grace: seconds to wait for all to end
        """
        process.wait_for(lambda: not self._namespace.processes(), grace)
        return self.processes()

    def enter_argv(self, *command: process.Argument) -> list[process.Argument]:
        """Return the command line with which root runs a command here."""
        return self._namespace.argv(*command)
