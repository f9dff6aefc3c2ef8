# SPDX-License-Identifier: Apache-2.0
"""Processes and directories that never outlive the one who made them.

The ordinary way out is a fixture's clean-up. Where that can't run (kill -9,
SIGTERM, an interpreter that crashed) the kernel kills the daemons, and a
janitor waiting for the owner's end removes the directory.
"""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from concurrent import futures
import contextlib
import functools
import os
import pathlib
import queue
import random
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import time
import typing as ty

import fixtures
from oslo_log import log as logging
import psutil

from lab import errors

LOG = logging.getLogger(__name__)

Argument = str | pathlib.Path

# Below the kernel's range for outgoing connections, which would otherwise
# take a port between its choice here and its use by the daemon.
_PORTS = range(20000, 32000)
_claims: list[socket.socket] = []

# Children of spawn() that have not been waited for.
_children: set['subprocess.Popen[ty.Any]'] = set()
_requests: queue.SimpleQueue[
    tuple[Callable[[], 'subprocess.Popen[ty.Any]'],
          queue.SimpleQueue[ty.Any]]] = queue.SimpleQueue()
_giving_up = threading.Event()

# Folder that receives the logs of a lab; see keeping_logs().
_kept_logs: pathlib.Path | None = None

# Directories in which databases keep what ends in .log and is no text.
_NOT_LOGS = {'data', 'store.db'}

_JANITOR = """
cat > /dev/null
for attempt in 1 2 3 4 5 6 7 8 9 10; do
    rm -rf -- "$1" 2> /dev/null && exit 0
    sleep 0.5
done
"""


# The programs that the lab runs, and the Debian packages that hold them.
PACKAGES = {
    'ceph': 'ceph-common',
    'ceph-authtool': 'ceph-common',
    'ceph-mgr': 'ceph-mgr',
    'ceph-mon': 'ceph-mon',
    'ceph-osd': 'ceph-osd',
    'monmaptool': 'ceph-common',
    'mount': 'mount',
    'nsenter': 'util-linux',
    'qemu-img': 'qemu-utils',
    'rados': 'ceph-common',
    'rbd': 'ceph-common',
    'setpriv': 'util-linux',
    'sudo': 'sudo',
    'unshare': 'util-linux',
}


def require_programs(packages: Mapping[str, str] = PACKAGES) -> None:
    """Check that programs are installed.

    :param packages: program name -> Debian package
    :raises LabError: naming what is missing
    """
    missing = {package for program, package in packages.items()
               if not shutil.which(program, path=_search_path())}
    if missing:
        names = ' '.join(sorted(missing))
        raise errors.LabError(
            f'Missing Debian packages: {names}. Install them with '
            f'"apt-get install {names}"; the full list is in bindep.txt.')


def require_root() -> None:
    """:raises LabError: when the caller is not root."""
    if os.geteuid() != 0:
        raise errors.LabError(
            'The lab needs root: it keeps a Ceph keyring from an '
            'unprivileged user and runs sudo in a mount namespace of its '
            'own. Run it as root, for example with sudo.')


def require_reachable(directory: pathlib.Path) -> None:
    """:raises LabError: only its owner can pass on the way to a directory."""
    for step in (directory, *directory.parents):
        mode = stat.S_IMODE(step.stat().st_mode)
        if not mode & stat.S_IXOTH:
            raise errors.LabError(
                f'The users of the lab cannot reach {directory}, because '
                f'{step} has mode {mode:04o}. Choose another directory in '
                f'TMPDIR or NOVA_LAB_DIR, or run chmod o+x {step}.')


def _search_path() -> str:
    """PATH with the system's sbin directories, where sudo tends to be."""
    return ':'.join([os.environ.get('PATH', os.defpath),
                     '/usr/local/sbin', '/usr/sbin', '/sbin'])


def clean_environment(**extra: str) -> dict[str, str]:
    """A small environment: no proxies, no Python or OpenStack settings."""
    return {'PATH': _search_path(), 'LANG': 'C.UTF-8', 'LC_ALL': 'C.UTF-8',
            'HOME': '/', **extra}


def free_port() -> int:
    """A loopback TCP port without a listener.

    No other lab on this machine gets the port while this process runs.

    :raises LabError: when a thousand tries found none
    """
    for port in random.sample(_PORTS, 1000):
        claim = socket.socket(socket.AF_UNIX)
        with socket.socket() as candidate:
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                # The kernel releases this name when the process ends.
                claim.bind(f'\0nova-lab-port-{port}')
                candidate.bind(('127.0.0.1', port))
            except OSError:
                claim.close()
                continue
            _claims.append(claim)
            return port
    raise errors.LabError(
        f'No free TCP port on 127.0.0.1 in {_PORTS.start}-{_PORTS.stop - 1}')


def listens(port: int) -> bool:
    """Return whether a loopback port accepts connections."""
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex(('127.0.0.1', port)) == 0


def spawn(argv: Sequence[Argument],
          **options: ty.Any) -> 'subprocess.Popen[ty.Any]':
    """Popen for a child that gets SIGKILL when this process ends.

    The child's pid is that of the command itself, in a session of its own.

    :raises LabError: while the lab is being given up
    """
    go_on()
    bound = ['setpriv', '--pdeathsig', 'KILL', '--', *map(str, argv)]
    options.setdefault('env', clean_environment())
    start = functools.partial(
        subprocess.Popen, bound, start_new_session=True, **options)
    _spawner()
    reply: queue.SimpleQueue[ty.Any] = queue.SimpleQueue()
    _requests.put((start, reply))
    child = reply.get()
    if isinstance(child, Exception):
        raise child
    try:
        go_on()
    except errors.LabError:
        end(child, grace=0)
        raise
    return child


@functools.cache
def _spawner() -> threading.Thread:
    """The thread that starts all children.

    PR_SET_PDEATHSIG acts when the *thread* that forked ends. This one lives
    as long as the process, and is not waited for when that ends.
    """
    thread = threading.Thread(
        target=_serve_requests, name='lab-spawner', daemon=True)
    thread.start()
    return thread


def _serve_requests() -> None:
    while True:
        start, reply = _requests.get()
        try:
            child = start()
        except Exception as exc:
            reply.put(exc)
        else:
            # Here, so that it is known even when the one who asked for it
            # was interrupted and does not wait any more.
            _children.add(child)
            reply.put(child)


def go_on() -> None:
    """:raises LabError: while the lab is being given up"""
    if _giving_up.is_set():
        raise errors.LabError('The lab is being given up')


@contextlib.contextmanager
def giving_up() -> Iterator[None]:
    """Make everything that other threads still set up here fail at once.

    For the moment between an interrupt and the clean-up.
    """
    _giving_up.set()
    try:
        for child in list(_children):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        yield
    finally:
        _giving_up.clear()


@contextlib.contextmanager
def keeping_logs(directory: pathlib.Path) -> Iterator[None]:
    """Save the logs in what discard() removes meanwhile.

    :param directory: where they go; made if need be
    """
    global _kept_logs
    _kept_logs = directory
    try:
        yield
    finally:
        _kept_logs = None


def discard(directory: pathlib.Path) -> None:
    """Remove a directory of the lab, as far as possible."""
    if _kept_logs:
        for log in directory.rglob('*.log'):
            if _NOT_LOGS.intersection(log.parts):
                continue
            target = _kept_logs / log.relative_to(directory.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):
                shutil.copyfile(log, target)
    shutil.rmtree(directory, ignore_errors=True)


def together(*steps: Callable[[], ty.Any]) -> None:
    """Do things that don't need one another at the same time.

    :raises Exception: what the first of them raised, when all have ended
    """
    pool = futures.ThreadPoolExecutor(len(steps))
    outcomes = [pool.submit(step) for step in steps]
    try:
        futures.wait(outcomes)
    except BaseException:
        # Cleaning up must not meet a part that is still being made.
        with giving_up():
            pool.shutdown()
        raise
    pool.shutdown()
    for outcome in outcomes:
        outcome.result()


class Command:
    """A command whose output is kept.

    In files, not pipes: a daemon that it leaves behind may keep its end of a
    pipe open for long.

    :ivar child: its process
    """

    def __init__(self, argv: Sequence[Argument], *,
                 env: Mapping[str, str], cwd: Argument = '/',
                 text: str = '', shown: Sequence[Argument] = ()) -> None:
        """Start it.

        :param text: what it reads on standard input
        :param shown: what error messages say instead of `argv`
        """
        self._shown = ' '.join(map(str, shown or argv))
        self._in, self._out, self._err = (
            tempfile.TemporaryFile('w+', encoding='utf-8', errors='replace')
            for _ in range(3))
        self._in.write(text)
        self._in.seek(0)
        self.child = spawn(argv, env=env, cwd=cwd, stdin=self._in,
                           stdout=self._out, stderr=self._err)

    @property
    def alive(self) -> bool:
        return not _ended(self.child.pid)

    def wait(self, timeout: float) -> tuple[int, str, str]:
        """Wait for its end.

        :param timeout: seconds; it is killed when they are over
        :returns: exit status, standard output, standard error
        :raises LabError: when time is up
        """
        try:
            ended = wait_for(lambda: not self.alive, timeout, 0.01)
            self._kill()
            out, err = self._read(self._out), self._read(self._err)
        finally:
            self.end()
        if not ended:
            raise errors.LabError(
                f'No end after {timeout:.0f} s: {self._shown}\n'
                f'{out}{err}'.rstrip())
        return self.child.returncode, out, err

    @staticmethod
    def _read(stream: ty.IO[str]) -> str:
        stream.seek(0)
        return stream.read()

    def _kill(self) -> None:
        end(self.child, grace=0)

    def end(self) -> None:
        """Kill it if it still runs; its output is lost."""
        self._kill()
        for stream in (self._in, self._out, self._err):
            stream.close()


def run(argv: Sequence[Argument], *, timeout: float = 120,
        env: Mapping[str, str] | None = None, cwd: Argument = '/',
        text: str = '') -> str:
    """Run a command to its end and return its standard output.

    :param timeout: seconds until it is killed
    :param text: what it reads on standard input
    :raises LabError: with the command and its output when it fails
    """
    command = Command(
        argv, env=env or clean_environment(), cwd=cwd, text=text)
    status, out, err = command.wait(timeout)
    if status:
        raise errors.LabError(
            f'Exit status {status}: {" ".join(map(str, argv))}\n'
            f'{out}{err}'.rstrip())
    return out


def contained(argv: Sequence[Argument]) -> list[Argument]:
    """A command that takes all its descendants along when it is killed.

    For commands that start others, which would not notice. Needs root.
    """
    return ['unshare', '--pid', '--fork', '--kill-child=KILL', '--', *argv]


def end(child: 'subprocess.Popen[ty.Any]', grace: float,
        group: bool = True, inner: int | None = None) -> None:
    """Stop a child of spawn() if it still runs.

    :param grace: seconds between SIGTERM and SIGKILL; 0: SIGKILL at once
    :param group: kill what is left in its process group, too
    :param inner: pid of the process that gets the SIGTERM, and whose end is
        the child's; default: the child itself
    """
    if child.returncode is None:
        # Until it is waited for, its pid and process group can't be reused.
        if grace and not _ended(child.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(inner or child.pid, signal.SIGTERM)
            wait_for(lambda: _ended(child.pid), grace)
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(child.pid, signal.SIGKILL)
        child.wait()
    _children.discard(child)
    for stream in (child.stdin, child.stdout, child.stderr):
        if stream:
            stream.close()


def _ended(pid: int) -> bool:
    """Return whether a child has ended, without waiting for it."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG |
                         os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def wait_for(condition: Callable[[], bool], timeout: float,
             interval: float = 0.05) -> bool:
    """Wait until a condition holds; False when it did not in time (s)."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)
    return True


def tail(log: pathlib.Path, lines: int = 30, width: int = 300) -> str:
    """The end of a log file, long lines cut, for error messages."""
    try:
        content = log.read_text(encoding='utf-8', errors='replace')
    except FileNotFoundError:
        return f'({log} does not exist)'
    return '\n'.join(
        line[:width] for line in content.splitlines()[-lines:])


class LabFixture(fixtures.Fixture):
    """A fixture whose setUp() raises what went wrong, not a bundle of it."""

    def setUp(self) -> None:
        try:
            super().setUp()
        except fixtures.MultipleExceptions as exc:
            (_, error, _), *more = exc.args
            for kind, other, _ in more:
                if kind is not fixtures.SetupError:
                    error.add_note(f'Then in cleaning up: {other!r}')
            raise error from None

    def getDetails(self) -> dict[str, ty.Any]:
        try:
            return super().getDetails()
        except TypeError:
            # Whoever uses a fixture asks for its details when its setUp() has
            # raised, and then there is nothing left to tell them from.
            return {}


class RunDirectory(LabFixture):
    """A temporary directory that goes even when its owner is killed.

    Others may pass through it (mode 0711) but not look around.

    :ivar path: the directory
    """

    def __init__(self, parent: Argument | None = None) -> None:
        """:param parent: where to make it; default: the system's own."""
        super().__init__()
        self._parent = parent
        self.path = pathlib.Path()

    def _setUp(self) -> None:
        self.path = pathlib.Path(
            tempfile.mkdtemp(prefix='nova-lab-', dir=self._parent))
        self.addCleanup(shutil.rmtree, self.path, ignore_errors=True)
        # Its own session: Ctrl-C must not reach it. Its standard input ends
        # when this process does.
        janitor = subprocess.Popen(
            ['sh', '-c', _JANITOR, 'nova-lab-janitor', self.path],
            stdin=subprocess.PIPE, start_new_session=True, cwd='/',
            env=clean_environment())
        self.addCleanup(janitor.communicate)
        # Before that: the janitor does not look for logs.
        self.addCleanup(discard, self.path)
        self.path.chmod(0o711)


class Daemon(LabFixture):
    """A server process with a log file and a readiness probe.

    :ivar log: path of the file with its standard output and error
    """

    def __init__(self, name: str, argv: Sequence[Argument],
                 log: pathlib.Path, ready: Callable[[], bool], *,
                 env: Mapping[str, str] | None = None,
                 cwd: Argument = '/',
                 timeout: float = 90, grace: float = 15,
                 wrapped: bool = False) -> None:
        """Describe the daemon; setUp() starts it.

        :param ready: returns True once the daemon serves
        :param timeout: seconds for it to become ready
        :param grace: seconds for it to stop by itself; 0: kill it at once
        :param wrapped: the command is one that has the daemon as its only
            child, such as nsenter
        """
        super().__init__()
        self.name = name
        self.log = log
        self._argv = argv
        self._ready = ready
        self._env = env
        self._cwd = cwd
        self._timeout = timeout
        self._grace = grace
        self._wrapped = wrapped
        self._child: subprocess.Popen[bytes] | None = None

    def _setUp(self) -> None:
        self.addCleanup(self.stop)
        self.start()

    @property
    def pid(self) -> int:
        """:raises LabError: when the daemon is not running."""
        found = self._find()
        if found is None:
            raise errors.LabError(f'{self.name} is not running')
        return found

    def _find(self) -> int | None:
        if self._child is None:
            return None
        if not self._wrapped:
            return self._child.pid
        with contextlib.suppress(psutil.NoSuchProcess):
            for inner in psutil.Process(self._child.pid).children():
                return inner.pid
        return None

    @property
    def alive(self) -> bool:
        return self._child is not None and not _ended(self._child.pid)

    def start(self) -> None:
        """Start it and wait until it serves.

        :raises LabError: with the end of its log when it does not
        """
        if self.alive:
            return
        LOG.info('Starting %s', self.name)
        with open(self.log, 'ab') as log:
            child = self._child = spawn(
                self._argv, env=self._env or clean_environment(),
                cwd=self._cwd, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT)
        settled = wait_for(
            lambda: _ended(child.pid) or self._ready(), self._timeout, 0.1)
        by_itself = _ended(child.pid)
        if settled and not by_itself:
            LOG.info('%s serves', self.name)
            return
        self.stop()
        reason = (f'ended with status {child.returncode}' if by_itself
                  else f'is not ready after {self._timeout:.0f} s')
        raise errors.LabError(
            f'{self.name} {reason}. End of {self.log}:\n{tail(self.log)}')

    def stop(self) -> None:
        """Stop it; harmless when it is not running."""
        if self._child is not None:
            end(self._child, self._grace, inner=self._find())
            self._child = None

    def kill(self) -> None:
        """Stop it with SIGKILL, as a crash would."""
        if self._child is not None:
            end(self._child, grace=0)
            self._child = None
