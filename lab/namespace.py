# SPDX-License-Identifier: Apache-2.0
"""A machine within the machine: mounts and processes of its own.

What is mounted in it can't be seen outside, and the kernel kills all of its
processes when its first one ends, however far they have daemonized.
"""

from collections.abc import Iterable
import contextlib
import dataclasses
import os
import pathlib
import pwd
import signal
import stat
import subprocess

import psutil

from lab import errors
from lab import process

# Its arguments: the directory for preparations, then a pair of paths per
# bind mount, then "--", then per hidden directory: the directory, the number
# of paths below it that must be reachable, and those.
_INIT = """
set -eu
stage=$1; shift
while [ "$1" != -- ]; do mount --bind "$1" "$2"; shift 2; done
shift
while [ $# -gt 0 ]; do
    hidden=$1 count=$2; shift 2
    number=0
    for path in "$@"; do
        [ $number -lt $count ] || break
        mkdir "$stage/$number"; mount --rbind "$path" "$stage/$number"
        number=$((number + 1))
    done
    mount -t tmpfs -o mode=0711,size=1m lab "$hidden"
    number=0
    while [ $number -lt $count ]; do
        mkdir -p "$1"; mount --move "$stage/$number" "$1"
        rmdir "$stage/$number"
        number=$((number + 1)); shift
    done
done
echo ready
exec > /dev/null
exec env --ignore-signal=CHLD sleep infinity
"""


@dataclasses.dataclass(frozen=True)
class Account:
    """An account of the system.

    :ivar groups: the ids of its supplementary groups
    """

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    def argv(self, *command: process.Argument) -> list[process.Argument]:
        """Return the command line that runs a command as this account.

        The command gets SIGKILL when the process that started it ends.
        """
        groups = ','.join(map(str, self.groups))
        return ['setpriv', f'--reuid={self.uid}', f'--regid={self.gid}',
                f'--groups={groups}' if groups else '--clear-groups',
                '--pdeathsig', 'KILL', '--', *command]

    def own(self, *paths: pathlib.Path) -> None:
        """Give it files or directories."""
        for path in paths:
            os.chown(path, self.uid, self.gid)


def account(name: str) -> Account:
    """An account of the system, by its name.

    :raises LabError: there is none
    """
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise errors.LabError(
            f'There is no account {name}: install the Debian packages that '
            f'bindep.txt has.') from None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


class Running(process.Command):
    """A command that runs in a namespace, entered by the child."""

    @property
    def pid(self) -> int:
        """The command's pid as seen from outside.

        :raises LabError: when it does not run
        """
        def found() -> bool:
            return bool(self._inside()) or not self.alive

        process.wait_for(found, 10, 0.01)
        inside = self._inside()
        if not inside:
            raise errors.LabError('The command has ended already')
        return inside[0].pid

    def _inside(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.child.pid).children()
        except psutil.NoSuchProcess:
            return []

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the command only."""
        os.kill(self.pid, number)

    def _kill(self) -> None:
        # The kernel then kills the command itself. What that has started
        # stays, as on any host, until the namespace ends.
        process.end(self.child, grace=0, group=False)


class Namespace(process.LabFixture):
    """Private mounts and processes.

    Directories on the way to what must be reachable which the account can't
    pass (such as /root) are replaced, inside only, by ones that hold just
    what must be reachable.
    """

    def __init__(self, stage: pathlib.Path, *,
                 mounts: Iterable[tuple[pathlib.Path, pathlib.Path]],
                 reachable: Iterable[pathlib.Path],
                 account: Account,
                 network: pathlib.Path | None = None) -> None:
        """Describe it; setUp() makes it.

        :param stage: an empty directory of its own
        :param mounts: pairs of what is mounted and where
        :param reachable: what the account must be able to read
        :param network: the network namespace it is in; by default this one
        """
        super().__init__()
        self._stage = stage
        self._network = network
        self._mounts = list(mounts)
        self._reachable = {path.resolve() for path in reachable}
        self._account = account
        self._init: subprocess.Popen[str] | None = None

    def _setUp(self) -> None:
        argv: list[process.Argument] = [
            'unshare', '--mount', '--pid', '--fork', '--kill-child=KILL',
            '--mount-proc', 'sh', '-c', _INIT, 'init', self._stage]
        for pair in self._mounts:
            argv += pair
        argv.append('--')
        for hidden, paths in self._hidden().items():
            argv += [hidden, str(len(paths)), *paths]
        init = process.spawn([*self._in_network(), *argv], cwd='/', text=True,
                             stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE)
        self.addCleanup(process.end, init, grace=0)
        assert init.stdout and init.stderr
        if init.stdout.readline() != 'ready\n':
            raise errors.LabError(
                'Cannot make a private mount and process namespace, which '
                'needs the capability SYS_ADMIN (in a container: '
                f'--privileged): {init.stderr.read().strip()}')
        self._init = init

    def _in_network(self) -> list[process.Argument]:
        return ['nsenter', f'--net={self._network}', '--'] if (
            self._network) else []

    def _hidden(self) -> dict[pathlib.Path, list[pathlib.Path]]:
        """Directories the account can't pass -> what it needs from below."""
        found: dict[pathlib.Path, list[pathlib.Path]] = {}
        for path in sorted(self._reachable):
            for parent in reversed(path.parents):
                if not self._passable(parent):
                    inside = found.setdefault(parent, [])
                    if not any(path.is_relative_to(one) for one in inside):
                        inside.append(path)
                    break
        return found

    def _passable(self, directory: pathlib.Path) -> bool:
        status = directory.stat()
        if status.st_uid == self._account.uid:
            needed = stat.S_IXUSR
        elif status.st_gid == self._account.gid:
            needed = stat.S_IXGRP
        else:
            needed = stat.S_IXOTH
        return bool(status.st_mode & needed)

    def argv(self, *command: process.Argument) -> list[process.Argument]:
        """Return the command line that runs a command here as the account."""
        return self.enter_argv(*self._account.argv(*command))

    def root_argv(self, *command: process.Argument
                  ) -> list[process.Argument]:
        """Return the command line that runs a command with these mounts."""
        return self.enter_argv(
            'setpriv', '--pdeathsig', 'KILL', '--', *command)

    def enter_argv(self, *command: process.Argument
                   ) -> list[process.Argument]:
        """Return the command line of a command that ends by itself."""
        if self._init is None:
            raise errors.LabError('The namespace is not set up')
        init = f'/proc/{self._init.pid}/ns'
        return [
            'nsenter', f'--mount={init}/mnt',
            f'--pid={init}/pid_for_children', f'--net={init}/net', '--',
            *command]

    def start(self, *command: process.Argument,
              env: dict[str, str]) -> Running:
        """Start a command as the account."""
        return Running(self.argv(*command), env=env, shown=command)

    def processes(self) -> list[psutil.Process]:
        """Everything that runs in here, but for the first process."""
        if self._init is None:
            return []
        inside = os.readlink(f'/proc/{self._init.pid}/ns/pid_for_children')
        first = {child.pid for child in
                 psutil.Process(self._init.pid).children()}
        return [one for one in psutil.process_iter()
                if one.pid not in first and _pid_namespace(one.pid) == inside
                and _runs(one)]

    def pids(self, *words: str) -> list[int]:
        """The pids, seen from outside, of commands with all these words.

        The first word is the program: the ones that start it do not count.
        """
        found = []
        for one in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                line = one.cmdline()
                # A script comes after its interpreter.
                if words[0] in line[:2] and set(words) <= set(line):
                    found.append(one.pid)
        return found

    def command_lines(self) -> list[str]:
        """The command lines of processes()."""
        lines = []
        for one in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                lines.append(' '.join(one.cmdline()))
        return lines


def _runs(one: psutil.Process) -> bool:
    try:
        return one.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _pid_namespace(pid: int) -> str | None:
    try:
        return os.readlink(f'/proc/{pid}/ns/pid')
    except OSError:
        return None
