# SPDX-License-Identifier: Apache-2.0

"""The privileged side of a direct download: it runs Ceph's programs.

The caller passes only names. Paths, the Ceph client and time limits come from
the nova.conf that the privsep daemon was started with.
"""

from collections.abc import Sequence
import contextlib
import functools
import os
import re
import select
import signal
import socket
import stat
import struct
import subprocess
import threading

from oslo_serialization import jsonutils

import nova.conf
import nova.privsep
import nova.privsep.rbd_errors

rbd_errors = nova.privsep.rbd_errors
CONF = nova.conf.CONF

#: Each permitted command, with its options if it takes an image.
_COMMANDS = {
    'rbd export': ['--path=-', '--no-progress'],
    'rbd export-diff': ['--path=-', '--no-progress'],
    **dict.fromkeys(('rbd du', 'rbd info', 'rbd snap ls'), ['--format=json']),
    'rbd --version': [],
    'ceph fsid': [],
    'ceph-conf --show-config-value=fsid': [],
}
_OF_SNAPSHOT = ('export', 'export-diff', 'du')
#: Disables logs, hooks and plugins that ceph.conf or the monitors configure.
_OPTIONS = ('--admin-socket= --log-file= --log-to-file=false --plugin-dir=/ '
            '--log-to-syslog=false --rbd-plugins= --crush-location-hook=')
_ENVIRONMENT = {'PATH': '/usr/local/bin:/usr/bin:/bin', 'LC_ALL': 'C.UTF-8'}
_LONGEST_RUN = 24 * 60 * 60  # Time limit of a program, in seconds.
#: Time limit of a read from an OSD, in stall timeouts. Dozens of reads wait
#: for each other, and none must time out in a slow stream. The caller detects
#: stalls.
_OSD_PATIENCE = 64
_UNUSED_ID = 65533  # Neither systemd nor Debian assigns it to a user.
#: Filesystems on which the owner of a file is the one that the kernel stored.
_FILESYSTEMS = set(b'bcachefs btrfs erofs ext2 ext3 ext4 f2fs overlay ramfs '
                   b'rootfs squashfs tmpfs xfs zfs'.split())
#: Steps on the path of a file that not only root can change -> who else can.
_Steps = dict[str, int]
#: rbd takes '/' in a name as the end of a pool, and '@' as that of an image.
_NAME = re.compile(r'[^-/@\0-\x1f\x7f][^/@\0-\x1f\x7f]{0,254}')
_UUID = re.compile('[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}', re.IGNORECASE)


# oslo.privsep (3.12) can miss the end of the daemon, hence the time limit.
@nova.privsep.sys_admin_pctxt.entrypoint_with_timeout(15)
def start(address: str, commands: Sequence[str], cluster: int, pool: str = '',
          image: str = '', snapshot: str = '') -> tuple[int, str]:
    """Run programs, one after another, until one fails.

    A thread sends two messages for each program: a socket to read its output
    from, then its Outcome as JSON. It kills the program when the caller closes
    the connection. A program also ends with the daemon, and after a day.

    :param address: a UNIX socket (SOCK_SEQPACKET) that the caller listens on
    :param commands: keys of _COMMANDS; only the first five are run
    :param cluster: index of the cluster in the configuration
    :param image: a UUID, the name that glance_store gives to an RBD image
    :returns: the uid that the programs run as, and the first step on the path
        of ceph.conf that not only root can change, or ''
    :raises LookupError, ValueError, OSError: the call is refused
    """
    user = _served_user()
    conf = nova.conf.glance.ceph_confs(CONF)[cluster]
    stack = contextlib.ExitStack()
    try:
        fd, others = _walk(conf, stack)
        step = next(iter(others), '')
        uid, rights = _rights(user, set(others.values()))
        options = ['--conf=' + (conf if step else '/proc/self/fd/%d' % fd),
                   '--cluster=' + nova.conf.glance.ceph_cluster(conf)]
        argvs = [[*rights, *command.split(), *_COMMANDS[command], *options,
                  *_options(command, pool, image, snapshot)]
                 for command in commands[:5]]
        connection = stack.enter_context(socket.socket(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK))
        connection.connect(address)
        if _peer(connection)[0] != user[0]:
            raise PermissionError('The listener belongs to another user')
        # The kernel kills a program when the thread that started it ends.
        threading.Thread(target=_serve, daemon=True, args=(
            stack, connection, argvs, [fd][:not step])).start()
    except BaseException:
        stack.close()
        raise
    return uid, step


def _options(command: str, *names: str) -> list[str]:
    pool, image, snapshot = names
    connect = nova.conf.glance.connect_timeout(CONF)
    patience = nova.conf.glance.stall_timeout(CONF) * _OSD_PATIENCE
    options = [*_OPTIONS.split(), '--client-mount-timeout=%d' % connect,
               '--rados-mon-op-timeout=%d' % connect,
               '--rados-osd-op-timeout=%d' % min(patience, _LONGEST_RUN)]
    if user := nova.conf.glance.ceph_user(CONF):
        options.append('--id=' + user)
    if not _COMMANDS[command]:
        return options
    if not (_NAME.fullmatch(pool) and _NAME.fullmatch(snapshot) and
            _UUID.fullmatch(image) and
            pool in (CONF.glance.rbd_pool or [pool])):
        raise ValueError('Not allowed: %.300r' % (names,))
    options += ['--snap=' + snapshot] * command.endswith(_OF_SNAPSHOT)
    return [*options, '--pool=' + pool, '--image=' + image]


@functools.cache
def _served_user() -> tuple[int, ...]:
    """Return uid, gid and groups of the process that the daemon serves."""
    address = getattr(CONF, 'privsep_sock_path', None)
    if address is None:  # The daemon is a fork of that process.
        parent = os.stat('/proc/%d' % os.getppid())
        return parent.st_uid, parent.st_gid
    if (CONF.config_file == CONF.default_config_files and
            CONF.config_dir == CONF.default_config_dirs):
        raise PermissionError('The daemon has no nova.conf: add --config-file '
                              'to [nova_sys_admin] helper_command')
    for fd in map(int, os.listdir('/proc/self/fd')):
        with contextlib.suppress(OSError):
            # fromfd() would leave a copy of any other file open.
            if fd < 3 or not stat.S_ISSOCK(os.fstat(fd).st_mode):
                continue
            with socket.fromfd(
                    fd, socket.AF_UNIX, socket.SOCK_STREAM) as found:
                if found.getpeername() == address:
                    groups = found.getsockopt(
                        socket.SOL_SOCKET, 59, 1024)  # SO_PEERGROUPS
                    return *_peer(found), *memoryview(groups).cast('I')
    raise PermissionError('The privsep daemon does not know its user')


def _peer(connection: socket.socket) -> tuple[int, ...]:
    """Return uid and gid of the process that listened for a connection."""
    return struct.unpack('iII', connection.getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1:]


def _walk(path: str, stack: contextlib.ExitStack) -> tuple[int, _Steps]:
    """Open a file step by step, so that Nova opens exactly what it checks."""
    others: _Steps = {}
    directory, way = None, re.split('/+', '/' + path)[::-1]
    for _number in range(100):
        fd = os.open(way.pop() or '/', dir_fd=directory,
                     flags=os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        stack.callback(os.close, fd)
        status = os.fstat(fd)
        if owner := _owner(fd, status):
            others.setdefault(os.readlink('/proc/self/fd/%d' % fd), owner)
        if stat.S_ISLNK(status.st_mode):
            way += re.split('/+', os.readlink('', dir_fd=fd).rstrip('/'))[::-1]
        elif way:
            directory = fd
        elif stat.S_ISREG(status.st_mode):
            return fd, others
        else:
            break
    raise ValueError('%s is not a file' % path)


def _owner(fd: int, status: os.stat_result) -> int:
    """Return the only user that can change a file, _UNUSED_ID for several."""
    mode = status.st_mode
    # A sticky directory keeps other users from replacing the files of root,
    # but not from linking to them.
    fixed = stat.S_ISLNK(mode) or stat.S_ISDIR(mode) and mode & stat.S_ISVTX
    linked = not stat.S_ISDIR(mode) and status.st_nlink > 1
    writable = linked or not fixed and mode & (stat.S_IWGRP | stat.S_IWOTH)
    with (open('/proc/self/fdinfo/%d' % fd, 'rb') as info,
          open('/proc/self/mountinfo', 'rb') as mounts):
        [mount] = re.findall(rb'mnt_id:\s*(\d+)', info.read())
        found = re.findall(rb'(?m)^%s (?!.*\bidmapped\b.* - ).*? - (\S+)'
                           % mount, mounts.read())
    trusted = _FILESYSTEMS.issuperset(found) and found and not writable
    return status.st_uid if trusted else _UNUSED_ID


def _rights(user: tuple[int, ...], owners: set[int]) -> tuple[int, list[str]]:
    """Return the uid to run programs as, and the command that switches to it.

    A ceph.conf can name libraries to load. If only root can change it, an
    unused uid runs the programs, with the right to read any file. Otherwise
    the user that the daemon serves runs them, without that right. In place of
    root, this is the only owner of the steps, or else the unused uid.
    """
    if not owners or not user[0]:
        user = min(owners) if len(owners) == 1 else _UNUSED_ID, _UNUSED_ID
    # The daemon has no CAP_KILL, so it cannot kill a process of another user.
    # It kills setpriv and timeout, which run as root, and the program follows.
    return user[0], [
        'setpriv', '--pdeathsig=KILL', 'timeout', '-k10', str(_LONGEST_RUN),
        'setpriv', '--no-new-privs', '--pdeathsig=KILL',
        # With a sign, an ID cannot be taken for the name of a user or group.
        '--reuid=+%d' % user[0], '--regid=+%d' % user[1],
        '--groups=' + ','.join(map('+%d'.__mod__, user[1:])),
        *([] if owners else ['--inh-caps=+dac_read_search',
                             '--ambient-caps=+dac_read_search'])]


def _serve(stack: contextlib.ExitStack, connection: socket.socket,
           argvs: Sequence[Sequence[str]], fds: Sequence[int]) -> None:
    with stack, contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, 10)  # The programs inherit it.
        for argv in argvs:
            reader, writer = socket.socketpair()
            writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            # Send the outcome before the output ends: the caller expects it.
            with writer:
                with reader:
                    socket.send_fds(connection, [b'out'], [reader.fileno()])
                outcome = _run(argv, writer.fileno(), fds, connection)
                connection.send(jsonutils.dump_as_bytes(outcome))
            if outcome[0]:
                break


def _run(argv: Sequence[str], stdout: int, fds: Sequence[int],
         connection: socket.socket) -> rbd_errors.Outcome:
    poller, tail = select.poll(), b''
    try:
        with subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=stdout,
                stderr=subprocess.PIPE, cwd='/', env=_ENVIRONMENT,
                umask=0o077, start_new_session=True, pass_fds=fds) as child:
            assert child.stderr is not None
            poller.register(connection, 0)
            poller.register(child.stderr, select.POLLIN)
            while connection.fileno() not in dict(poller.poll()):
                chunk = os.read(child.stderr.fileno(), 4096)
                if not chunk:
                    break
                tail = (tail + chunk)[-16384:]
            else:
                os.killpg(child.pid, signal.SIGKILL)
    except OSError as exc:
        return rbd_errors.outcome(exc.errno or 1, ascii(exc).encode())
    return rbd_errors.outcome(child.returncode, tail)
