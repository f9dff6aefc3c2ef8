# SPDX-License-Identifier: Apache-2.0

"""The privileged half of a direct image download.

The Ceph keyring of a compute host need not be readable by nova-compute. What
must be is one image, and this module exports it: it runs ``rbd`` as root with
its standard output in a FIFO that the unprivileged caller made and reads. An
operator who looks for what is wrong also needs to know whether the cluster
answers: it can be asked for its fsid.

Nothing else crosses the boundary. No file is created, truncated or opened for
writing on this side, so a compromised caller gains no way to write as root;
what it can name is held to plain names, given to ``rbd`` by named options.
"""

from collections.abc import Collection
import contextlib
import errno
import json
import os
import re
import reprlib
import select
import signal
import stat
import subprocess
import time
import uuid

import nova.privsep
import nova.privsep.rbd_errors

rbd_errors = nova.privsep.rbd_errors

#: ``rbd`` sub-commands that may be run: all bytes of a snapshot, or those of
#: its allocated extents (Ceph's doc/dev/rbd-diff.rst).
COMMANDS = ('export', 'export-diff')

#: Seconds after which any export is ended, however it does.
LONGEST_EXPORT = 24 * 60 * 60

#: What ``rbd`` may do as root: read its keyring, whoever owns that.
_CAPABILITIES = '-all,+dac_read_search'

#: What any program is started by.
_CONFINED = (
    'setpriv', '--no-new-privs', '--pdeathsig', 'KILL', '--inh-caps=-all',
    '--bounding-set=' + _CAPABILITIES, '--')

#: All that a program finds in its environment.
ENVIRONMENT = {
    'PATH': '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
    'LC_ALL': 'C.UTF-8',
}
_OPEN_SECONDS = 5.0
_OPEN_PAUSE = 0.02
_KILLED_SECONDS = 10.0
_MAX_ATTEMPTS = 3
_STDERR_TAIL = 16384
_LONGEST_ANSWER = 1 << 20
_LONGEST_NAME = 255
_LONGEST_PATH = 4096
_FORBIDDEN = re.compile('[/@]')
# Ceph takes what follows for one more file, or for a variable. A client's
# name becomes part of the path of its keyring.
_FORBIDDEN_IN_PATH = re.compile(r'[\s,;$]')

#: How many times the stall timeout ``rbd`` gives an OSD. Dozens of reads are
#: under way at once, and each waits for those before it: of a stream that
#: moves, however slowly, none must time out. Whoever reads the bytes decides
#: what a stall is; this ends a wait that nobody watches.
_OSD_PATIENCE = 64


def check_name(what: str, value: str) -> str:
    """Return value if it is a plain name, safe to give to ``rbd``.

    ``rbd`` parses ``--image`` once more as ``pool/namespace/image@snap``, and
    the parts found there override the other options. A name with ``/`` or
    ``@`` in it is therefore refused, as is one that looks like an option.

    :param what: what the name is of, for the error
    :param value: the name of a pool, image, snapshot or Ceph client
    :raises ValueError: value is no such name
    """
    if not isinstance(value, str) or not value:
        raise ValueError('%s: a name is needed, not %s'
                         % (what, reprlib.repr(value)))
    if len(value) > _LONGEST_NAME:
        raise ValueError('%s: the name is longer than %d characters'
                         % (what, _LONGEST_NAME))
    if (value.startswith('-') or _FORBIDDEN.search(value) or
            not value.isprintable()):
        raise ValueError('%s: %r is not a plain name' % (what, value))
    return value


def _check_path(what: str, value: str) -> str:
    if (not isinstance(value, str) or len(value) > _LONGEST_PATH or
            not value.isprintable() or not os.path.isabs(value) or
            os.path.normpath(value) != value):
        raise ValueError('%s: %s is not an absolute, plain path'
                         % (what, reprlib.repr(value)))
    return value


def _check_conf(value: str) -> str:
    return _check_for_ceph('ceph.conf', _check_path('ceph.conf', value))


def _check_for_ceph(what: str, value: str) -> str:
    if _FORBIDDEN_IN_PATH.search(value):
        raise ValueError('%s: there must be no space, comma, semicolon or '
                         'dollar sign in %r' % (what, value))
    return value


def _check_roots_own(conf: str) -> None:
    """Refuse a ceph.conf that anybody but root could have written.

    A ceph.conf is code: it can name libraries that ``rbd`` loads, as root.

    :raises ValueError: the file, or a directory on the way to it, belongs to
        somebody else or can be written by others
    :raises OSError: there is no such file
    """
    for path in {conf, os.path.realpath(conf)}:
        while True:
            status = os.lstat(path)
            if status.st_uid != 0 or _others_can_write(status.st_mode):
                raise ValueError(
                    'ceph.conf: %s must belong to root, and nobody else may '
                    'write to it, since rbd is run as root with %s'
                    % (path, conf))
            if path == '/':
                break
            path = os.path.dirname(path)


def _others_can_write(mode: int) -> bool:
    if stat.S_ISLNK(mode):
        return False
    # What root has in a sticky directory, others cannot replace.
    if stat.S_ISDIR(mode) and mode & stat.S_ISVTX:
        return False
    return bool(mode & (stat.S_IWGRP | stat.S_IWOTH))


def _check_seconds(what: str, value: int) -> int:
    if type(value) is not int or not 0 < value <= LONGEST_EXPORT:
        raise ValueError('%s: %s is not a number of seconds from 1 to %d'
                         % (what, reprlib.repr(value), LONGEST_EXPORT))
    return value


def _identity(user: str) -> list[str]:
    if user == '':
        return []
    return ['--id', _check_for_ceph('user', check_name('user', user))]


def _command_line(
    command: str, conf: str, user: str, pool: str, image: str, snapshot: str,
    connect_timeout: int, stall_timeout: int,
) -> list[str]:
    if command not in COMMANDS:
        raise ValueError('%s is not one of %s'
                         % (reprlib.repr(command), COMMANDS))
    options = _options(
        conf, user, pool, image, connect_timeout, stall_timeout)
    return [
        *_CONFINED, 'rbd', command, *options,
        '--snap', check_name('snapshot', snapshot),
        '--path', '-', '--no-progress',
    ]


def _options(
    conf: str, user: str, pool: str, image: str, connect_timeout: int,
    stall_timeout: int,
) -> list[str]:
    """Return the options of every ``rbd``: which image, and time limits."""
    connect = str(_check_seconds('connect_timeout', connect_timeout))
    stall = _check_seconds('stall_timeout', stall_timeout)
    patience = str(min(stall * _OSD_PATIENCE, LONGEST_EXPORT))
    # librados waits for ever unless it is told otherwise, and would write the
    # log and the admin socket that ceph.conf names.
    return [
        '--conf', _check_conf(conf),
        '--pool', check_name('pool', pool),
        '--image', check_name('image', image),
        *_identity(user),
        '--client-mount-timeout', connect,
        '--rados-mon-op-timeout', connect,
        '--rados-osd-op-timeout', patience,
        '--admin-socket=', '--log-file=', '--log-to-file=false',
    ]


def _open_fifo(path: str) -> int:
    """Open the caller's FIFO for writing and nothing else.

    Without O_CREAT, and without following a link. A FIFO that nobody reads
    answers ENXIO, which is tried again for a few seconds.

    :raises ValueError: path is not a FIFO
    :raises OSError: it cannot be opened, or no reader came in time
    """
    deadline = time.monotonic() + _OPEN_SECONDS
    if not stat.S_ISFIFO(os.lstat(path).st_mode):
        raise ValueError('%s is not a FIFO' % path)
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        try:
            fd = os.open(path, flags)
            break
        except OSError as exc:
            if exc.errno != errno.ENXIO or time.monotonic() >= deadline:
                raise
            time.sleep(_OPEN_PAUSE)
    # The path may name something else by now.
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        os.close(fd)
        raise ValueError('%s is not a FIFO' % path)
    os.set_blocking(fd, True)
    return fd


def check_conf(conf: str) -> None:
    """Refuse a ceph.conf that rbd is not to be run with, as root.

    :raises ValueError: its path is not plain, or somebody else than root
        could have written it
    :raises OSError: there is no such file
    """
    _check_conf(conf)
    _check_roots_own(conf)


class _Child:
    """A running ``rbd`` and what is watched of it until it is gone."""

    def __init__(self, argv: list[str], stdout: int) -> None:
        self._process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=stdout,
            stderr=subprocess.PIPE, cwd='/', env=ENVIRONMENT, umask=0o077,
            close_fds=True, start_new_session=True)
        assert self._process.stderr is not None
        self._stderr = self._process.stderr.fileno()
        self._tail = b''
        self._cut = False
        self._ended = rbd_errors.Cause.UNKNOWN
        self._stuck = False

    def watch(
        self, fifo: int, deadline: float, names: Collection[str],
    ) -> rbd_errors.Outcome:
        """Wait until the child has ended, and end it when it must.

        :param fifo: write end of the FIFO; POLLERR there says that the
            reader is gone, which a child that does not write never notices
        :param deadline: time.monotonic() at which the child is killed
        :param names: the names that the caller gave: error messages with
            them may be passed on
        """
        pidfd = os.pidfd_open(self._process.pid)
        try:
            poller = select.poll()
            poller.register(pidfd, select.POLLIN)
            poller.register(fifo, 0)
            poller.register(self._stderr, select.POLLIN)
            while True:
                left = deadline - time.monotonic()
                if left <= 0:
                    if self._ended:
                        self._stuck = True
                        break
                    self._kill(rbd_errors.Cause.TOO_LONG)
                    deadline = time.monotonic() + _KILLED_SECONDS
                    continue
                ready = dict(poller.poll(left * 1000))
                if self._stderr in ready and not self._read_stderr():
                    poller.unregister(self._stderr)
                if pidfd in ready:
                    break
                if fifo in ready:
                    poller.unregister(fifo)
                    self._kill(rbd_errors.Cause.READER_GONE)
                    deadline = time.monotonic() + _KILLED_SECONDS
        finally:
            os.close(pidfd)
        return self._outcome(names)

    def close(self) -> None:
        """Leave no process, zombie or descriptor behind.

        But for a process that hangs in the kernel, where no signal reaches
        it: waiting for that one could take for ever. The next child that is
        started sees to what it leaves.
        """
        if self._process.poll() is None and not self._stuck:
            self._kill(rbd_errors.Cause.UNKNOWN)
            self._process.wait(_KILLED_SECONDS)
        assert self._process.stderr is not None
        self._process.stderr.close()

    def _kill(self, reason: rbd_errors.Cause) -> None:
        self._ended = reason
        os.killpg(self._process.pid, signal.SIGKILL)

    def _read_stderr(self) -> bool:
        chunk = os.read(self._stderr, _STDERR_TAIL)
        self._cut = self._cut or len(self._tail + chunk) > _STDERR_TAIL
        self._tail = (self._tail + chunk)[-_STDERR_TAIL:]
        return bool(chunk)

    def _outcome(self, names: Collection[str]) -> rbd_errors.Outcome:
        if self._stuck:
            return -signal.SIGKILL, rbd_errors.Cause.STUCK, ''
        status = self._process.wait(_KILLED_SECONDS)
        os.set_blocking(self._stderr, False)
        with contextlib.suppress(BlockingIOError):
            while self._read_stderr():
                pass
        status, cause, said = rbd_errors.outcome(
            status, self._tail, names, cut=self._cut)
        return status, (self._ended or cause) if status else '', said


class _Export:
    """Runs ``rbd`` for one reader and one snapshot."""

    def __init__(
        self, fifo: int, deadline: float, options: list[str],
        names: tuple[str, ...],
    ) -> None:
        self._fifo = fifo
        self._deadline = deadline
        self._options = options
        self._names = names

    def run(self, argv: list[str], stdout: int) -> rbd_errors.Outcome:
        child = _Child(argv, stdout)
        try:
            return child.watch(self._fifo, self._deadline, self._names)
        finally:
            child.close()

    def run_unverified(
        self, argv: list[str], snapshot: str,
    ) -> rbd_errors.Outcome:
        """Run an export, and fail if the snapshot was deleted during it.

        Ceph reads missing objects as zeros, so an export succeeds even if the
        image is deleted during it. Ceph never reuses ids: if the image and
        the snapshot have the same ids before and after the export, they have
        existed all the time.
        """
        failed, before = self._find_ids(snapshot)
        if failed[0]:
            return failed
        exported = self.run(argv, self._fifo)
        if exported[0]:
            return exported
        failed, after = self._find_ids(snapshot)
        if before is None or before != after:
            return failed[0], rbd_errors.Cause.SNAPSHOT_LOST, failed[2]
        return exported

    def _find_ids(
        self, snapshot: str,
    ) -> tuple[rbd_errors.Outcome, tuple[str, int] | None]:
        """Return the ids of the image and of its snapshot.

        :returns: the outcome of the last command; the ids, or None if the
            image or the snapshot does not exist
        """
        found = []
        for command in (['info'], ['snap', 'ls']):
            with open(os.memfd_create('answer'), 'rb') as answer:
                outcome = self.run(
                    [*_CONFINED, 'rbd', *command, *self._options,
                     '--format', 'json'], answer.fileno())
                answer.seek(0)
                found.append(answer.read(_LONGEST_ANSWER))
            if outcome[0]:
                return outcome, None
        try:
            info, snapshots = map(json.loads, found)
            [number] = [each['id'] for each in snapshots
                        if each['name'] == snapshot]
            # This prefix contains the id of the image, in every format.
            return outcome, (info['block_name_prefix'], number)
        except (KeyError, TypeError, ValueError):
            return outcome, None


# A caller would wait for ever where oslo.privsep misses the end of the daemon,
# as it does (3.12) when that is killed with a call on its way to it.
@nova.privsep.sys_admin_pctxt.entrypoint_with_timeout(LONGEST_EXPORT + 60)
def export(
    fifo: str, *, command: str, conf: str, user: str, pool: str, image: str,
    snapshot: str, connect_timeout: int, stall_timeout: int, verified: bool,
    time_limit: int = LONGEST_EXPORT,
) -> rbd_errors.Outcome:
    """Run ``rbd`` and have it write a snapshot of an image into a FIFO.

    Returns when ``rbd`` has ended, which it is made to when the reader closes
    the FIFO or the time limit is reached. Occupies a thread of the privsep
    daemon until then.

    :param fifo: path of a FIFO that has a reader
    :param command: ``export`` or ``export-diff``
    :param conf: path of the cluster's ceph.conf, which only root can write
    :param user: Ceph client, without ``client.``; empty: Ceph's default
    :param pool: pool of the image
    :param image: name of the image
    :param snapshot: name of the snapshot
    :param connect_timeout: seconds that ``rbd`` gives the monitors to answer
    :param stall_timeout: seconds without a byte after which the caller will
        close the FIFO; what ``rbd`` gives an OSD to answer is a multiple
    :param verified: whether the caller verifies the bytes; if not, the ids of
        the image and the snapshot must not change during the export
    :param time_limit: seconds for all runs of ``rbd`` together
    :returns: the outcome of the export, or of the lookup of the snapshot that
        failed before or after it
    :raises ValueError: an argument is not what it has to be; nothing was run
    :raises OSError: the FIFO cannot be opened, or has no reader
    """
    argv = _command_line(command, conf, user, pool, image, snapshot,
                         connect_timeout, stall_timeout)
    options = _options(
        conf, user, pool, image, connect_timeout, stall_timeout)
    if type(verified) is not bool:
        raise ValueError('verified: %s is not a bool'
                         % reprlib.repr(verified))
    limit = _check_seconds('time_limit', time_limit)
    check_conf(conf)
    fd = _open_fifo(_check_path('FIFO', fifo))
    try:
        job = _Export(fd, time.monotonic() + limit, options,
                      (pool, image, snapshot, user))
        if verified:
            return job.run(argv, fd)
        return job.run_unverified(argv, snapshot)
    finally:
        os.close(fd)


@nova.privsep.sys_admin_pctxt.entrypoint_with_timeout(LONGEST_EXPORT + 60)
def fsid(
    *, conf: str, user: str, connect_timeout: int,
) -> rbd_errors.Outcome:
    """Ask a cluster for its fsid, which needs nothing but a good key.

    :param conf: path of the cluster's ceph.conf, which only root can write
    :param user: Ceph client, without ``client.``; empty: Ceph's default
    :param connect_timeout: seconds that the monitors get to answer
    :returns: the outcome of ``ceph``, with the fsid in place of the error
        messages on success
    :raises ValueError: an argument is not what it has to be; nothing was run
    :raises OSError: there is no such ceph.conf
    """
    seconds = _check_seconds('connect_timeout', connect_timeout)
    check_conf(conf)
    argv = [
        *_CONFINED, 'ceph', '--conf', conf, *_identity(user),
        '--connect-timeout', str(seconds), '--admin-socket=', '--log-file=',
        '--log-to-file=false', 'fsid',
    ]
    for _attempt in range(_MAX_ATTEMPTS):
        try:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, cwd='/',
                env=ENVIRONMENT, umask=0o077, start_new_session=True,
                timeout=seconds + _KILLED_SECONDS)
        except subprocess.TimeoutExpired:
            return -signal.SIGKILL, rbd_errors.Cause.TOO_LONG, ''
        outcome = rbd_errors.outcome(
            rbd_errors.errno_of_ceph(done.returncode, done.stderr),
            done.stderr, (user,))
        # ceph can exit before it has written its log, which has the cause.
        if not outcome[0] or outcome[1]:
            break
    if outcome[0]:
        return outcome
    try:
        answer = uuid.UUID(done.stdout.decode('ascii').strip())
    except ValueError:
        return 0, rbd_errors.Cause.NO_FSID, ''
    return 0, rbd_errors.Cause.UNKNOWN, str(answer)
