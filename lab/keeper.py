# SPDX-License-Identifier: Apache-2.0
"""A lab that stays up in the background.

``up`` starts the keeper, a process of its own that owns the lab, and follows
what it says: JSON lines with one of the keys progress, ready and failed.
The keeper goes on without ``up`` only when that told it so; if ``up`` dies
before, the lab ends.

One lock file tells whether a lab is up. It holds the keeper's pid, and the
kernel releases it with the keeper, however that ends.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import fcntl
import logging as py_logging
import os
import pathlib
import shlex
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import typing as ty

from oslo_serialization import jsonutils
import psutil

from lab import config
from lab import errors
from lab import process

if ty.TYPE_CHECKING:
    from lab import cloud as lab_cloud
    from lab import compute as lab_compute

_STAY = b'stay\n'

# Seconds that a keeper may take to end all daemons and remove its files.
_DOWN_TIMEOUT = 90.0


def home() -> pathlib.Path:
    """Return the folder of the lab: $NOVA_LAB_DIR, or one in /tmp."""
    if chosen := os.environ.get('NOVA_LAB_DIR'):
        return pathlib.Path(chosen).absolute()
    return pathlib.Path(tempfile.gettempdir()) / f'nova-lab-{os.geteuid()}'


@dataclasses.dataclass(frozen=True)
class Home:
    """The files of a lab that is up; the lab itself is in a directory below.

    :ivar path: the directory
    """

    path: pathlib.Path

    @property
    def lock(self) -> pathlib.Path:
        return self.path / 'lock'

    @property
    def state(self) -> pathlib.Path:
        return self.path / 'state.json'

    @property
    def log(self) -> pathlib.Path:
        return self.path / 'log'

    def make(self) -> None:
        """:raises LabError: another user can write there"""
        try:
            self.path.mkdir(mode=0o711, parents=True, exist_ok=True)
        except OSError as exc:
            raise errors.LabError(
                f'{self.path} can not be made: {exc.strerror}. Name another '
                f'directory in NOVA_LAB_DIR.') from exc
        status = self.path.lstat()
        if (not stat.S_ISDIR(status.st_mode) or
                status.st_uid != os.geteuid() or status.st_mode & 0o022):
            raise errors.LabError(
                f'{self.path} must be a directory that only its owner, you, '
                f'can write to. Remove it, or name another in NOVA_LAB_DIR.')

    def remove(self) -> None:
        """Remove the lab's files, and the directory if nothing else is in."""
        for path in (self.state, self.log, self.lock):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock.

        :raises LabError: when another process holds it
        """
        with self._locked() as stream:
            stream.truncate(0)
            stream.write(str(os.getpid()))
            stream.flush()
            yield

    def _locked(self) -> ty.IO[str]:
        while True:
            self.make()
            stream = open(self.lock, 'a+')
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The last owner may have removed the file in between.
                if os.path.samestat(os.fstat(stream.fileno()),
                                    self.lock.stat()):
                    return stream
            except BlockingIOError as exc:
                stream.close()
                raise self.taken() from exc
            except FileNotFoundError:
                pass
            stream.close()

    def taken(self) -> errors.LabError:
        """Return the error for a lab that exists already."""
        return errors.LabError(
            f'A lab is up already in {self.path}. See "status"; end it '
            f'with "down".')

    def owner(self) -> int | None:
        """The pid of the keeper that holds the lock, if one does."""
        try:
            with open(self.lock) as stream:
                try:
                    fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return int(stream.read() or 0) or None
        except FileNotFoundError:
            pass
        return None


def _say(**message: ty.Any) -> None:
    # The reader may have closed the pipe.
    with contextlib.suppress(BrokenPipeError):
        os.write(1, jsonutils.dumps(message).encode() + b'\n')


class _Progress(py_logging.Handler):
    """Passes on what the lab logs."""

    def emit(self, record: py_logging.LogRecord) -> None:
        _say(progress=record.getMessage())


def _write_helpers(cloud: 'lab_cloud.Cloud',
                   host: 'lab_compute.ComputeHost') -> None:
    for user in ('demo', 'admin'):
        config.write(cloud.directory / f'openrc-{user}', ''.join(
            f'export {name}={shlex.quote(value)}\n'
            for name, value in cloud.environment(user).items()), 0o600)
    # The password stays out of every argv.
    exports = ''.join(
        f'export {name}={shlex.quote(value)}\n'
        for name, value in host.environment().items())
    argv = shlex.join(map(str, host.enter_argv()))
    config.write(
        host.directory / 'enter',
        f'#!/bin/sh\n. {cloud.directory}/openrc-demo\n{exports}'
        f'exec {argv} "$@"\n', 0o700)


def _describe(cloud: 'lab_cloud.Cloud', host: 'lab_compute.ComputeHost',
              seconds: float) -> str:
    here = cloud.directory
    ceph = f'--conf {cloud.ceph.conf}'
    fetch = (f'{host.directory}/enter python -m lab.fetch '
             f'--config-file {host.conf}')
    return f'''\
The lab is up in {here}, after {seconds:.0f} s.

Ceph        ceph {ceph} -s
            rbd {ceph} ls --long --pool images
Keystone    {cloud.keystone.auth_url}
Glance      {cloud.glance.url}
            its settings: {cloud.glance.conf}
            its requests: {cloud.glance.access_log}
Nova        {host.conf}
            images are cached in {host.instances}/_base

Log in      . {here}/openrc-demo      (or openrc-admin)
Upload      {sys.prefix}/bin/glance image-create --name NAME \\
                --disk-format qcow2 --container-format bare --file FILE
Fetch       {fetch} IMAGE_ID
            as nova-compute does, by its user, into the image cache
Any command {host.directory}/enter COMMAND...
            by that user, who may not read the Ceph keyring
Stop        {sys.executable} -P -m lab down
'''


def _state(cloud: 'lab_cloud.Cloud', usage: str) -> str:
    return jsonutils.dumps({
        'directory': str(cloud.directory),
        'usage': usage,
        'daemons': {
            one.name: [one.pid, psutil.Process(one.pid).create_time()]
            for one in cloud.daemons()},
    })


class _Keeper:
    """The keeper's work, done in a thread.

    The main thread only waits for signals. So none of them arrives in the
    middle of something: an exception raised there could leave locks behind.
    """

    def __init__(self, place: Home) -> None:
        self._place = place
        self._ready = threading.Event()
        self._permitted = threading.Event()
        self._stop = threading.Event()
        self._wake_reader, self._wake_writer = os.pipe()
        self._status = 0

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: self._wake())
        threading.Thread(target=self._await_permission, daemon=True).start()

    def run(self, make_cloud: 'type[lab_cloud.Cloud]',
            make_host: 'type[lab_compute.ComputeHost]') -> int:
        """:returns: an exit status"""
        work = threading.Thread(
            target=self._work, args=(make_cloud, make_host))
        work.start()
        os.read(self._wake_reader, 1)
        self._stop.set()
        # A lab that is up ends in good order; one that is being made is
        # given up at once.
        with (contextlib.nullcontext() if self._ready.is_set()
              else process.giving_up()):
            work.join()
        return self._status

    def _wake(self) -> None:
        os.write(self._wake_writer, b'.')

    def _await_permission(self) -> None:
        """End the lab if ``up`` is gone and did not say that it may stay."""
        if os.read(0, len(_STAY)) == _STAY:
            self._permitted.set()
        else:
            self._wake()

    def _work(self, make_cloud: 'type[lab_cloud.Cloud]',
              make_host: 'type[lab_compute.ComputeHost]') -> None:
        try:
            with self._place.held():
                try:
                    self._keep(make_cloud, make_host)
                finally:
                    self._place.remove()
        except errors.LabError as exc:
            self._status = 1
            _say(failed=str(exc))
        except Exception as exc:
            self._status = 1
            _say(failed=f'{type(exc).__name__}: {exc}')
            traceback.print_exc()
        finally:
            self._wake()

    def _keep(self, make_cloud: 'type[lab_cloud.Cloud]',
              make_host: 'type[lab_compute.ComputeHost]') -> None:
        """Make the lab, say so, and keep it until it is to stop."""
        begin = time.monotonic()
        with (make_cloud(parent=self._place.path) as cloud,
              make_host(cloud) as host):
            _write_helpers(cloud, host)
            usage = _describe(cloud, host, time.monotonic() - begin)
            config.write(self._place.state, _state(cloud, usage), 0o600)
            self._ready.set()
            _say(ready=usage)
            while not self._stop.wait(0.5):
                if self._permitted.is_set():
                    _forget_standard_streams()
                    self._stop.wait()


def _forget_standard_streams() -> None:
    """Hold no pipe of a process that has gone on without this one."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1):
        os.dup2(nowhere, standard)
    os.close(nowhere)


def main() -> int:
    """The keeper itself; up() starts it."""
    logger = py_logging.getLogger('lab')
    logger.setLevel(py_logging.INFO)
    logger.addHandler(_Progress())
    keeper = _Keeper(Home(home()))
    # Not at the top: status() and down() need neither, and they load much of
    # Nova. Not in a thread: one that is the first to import eventlet can
    # never be joined.
    from lab import cloud as lab_cloud
    from lab import compute as lab_compute
    return keeper.run(lab_cloud.Cloud, lab_compute.ComputeHost)


def up() -> str:
    """Start a lab in the background and tell how to use it.

    Progress goes to standard error.

    :raises LabError: when there is one already, or it could not be started;
        then nothing is left of it
    """
    process.require_root()
    process.require_programs()
    place = Home(home())
    if place.owner():
        raise place.taken()
    place.make()
    with open(place.log, 'ab') as log:
        keeper = subprocess.Popen(
            [sys.executable, '-m', 'lab.keeper'], cwd='/',
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            text=True, start_new_session=True)
    try:
        return _follow(keeper, place)
    except BaseException:
        _end(keeper)
        if not place.owner():
            place.remove()
        raise


def _follow(keeper: 'subprocess.Popen[str]', place: Home) -> str:
    assert keeper.stdin and keeper.stdout
    for line in keeper.stdout:
        message = jsonutils.loads(line)
        if 'failed' in message:
            raise errors.LabError(message['failed'])
        if 'ready' in message:
            os.write(keeper.stdin.fileno(), _STAY)
            return message['ready']
        print(message['progress'], file=sys.stderr, flush=True)
    raise errors.LabError(
        f'The lab ended before it was up:\n{process.tail(place.log)}')


def _end(keeper: 'subprocess.Popen[str]') -> None:
    """Stop a keeper that is still starting."""
    if keeper.stdout:
        # It must not block on its output.
        keeper.stdout.close()
    keeper.terminate()
    try:
        keeper.wait(_DOWN_TIMEOUT)
    except subprocess.TimeoutExpired:
        keeper.kill()
        keeper.wait()


def status() -> tuple[int, str]:
    """Tell what runs.

    :returns: an exit status (0: all is up; 1: something is not; 3: no lab is
        up) and a text
    """
    place = Home(home())
    if not place.owner():
        return 3, f'No lab is up in {place.path}.'
    if not place.state.exists():
        return 1, f'A lab is starting or stopping in {place.path}.'
    state = jsonutils.loads(place.state.read_text())
    lines = []
    code = 0
    for name, (pid, created) in state['daemons'].items():
        alive = _runs(pid, created)
        lines.append(f'{name:12}{"runs" if alive else "IS DOWN"}, pid {pid}')
        code = code if alive else 1
    return code, '\n'.join([*lines, '', state['usage']])


def _runs(pid: int, created: float) -> bool:
    try:
        found = psutil.Process(pid)
        return (found.create_time() == created and
                found.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def down() -> str:
    """End the lab; harmless when there is none.

    :raises LabError: when it does not end
    """
    place = Home(home())
    pid = place.owner()
    if pid is None:
        place.remove()
        return f'No lab is up in {place.path}.'
    with contextlib.suppress(psutil.NoSuchProcess):
        _end_owner(psutil.Process(pid))
    if place.owner() is None:
        place.remove()
    return f'The lab in {place.path} is gone.'


def _end_owner(owner: psutil.Process) -> None:
    created = owner.create_time()

    def gone() -> bool:
        return not _runs(owner.pid, created)

    owner.terminate()
    if not process.wait_for(gone, _DOWN_TIMEOUT, 0.1):
        owner.kill()
        if not process.wait_for(gone, 10, 0.1):
            raise errors.LabError(
                f'The lab, process {owner.pid}, does not end.')


if __name__ == '__main__':
    sys.exit(main())
