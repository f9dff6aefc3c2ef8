# SPDX-License-Identifier: Apache-2.0

"""Runs Ceph's programs through the privileged side, and reads their output.

The privileged side (nova.privsep.rbd) connects to a socket that this process
listens on, and sends two messages over it for each program: a socket to read
the output from, and the outcome. A program ends when the connection is closed.
"""

import contextlib
import os
import pwd
import signal
import struct
import tempfile
from typing import Any
from typing import Self

from oslo_serialization import jsonutils

import nova.conf
from nova.i18n import _
from nova.image import transfer
import nova.privsep.rbd
import nova.privsep.rbd_errors

rbd_errors = nova.privsep.rbd_errors
Cause = rbd_errors.Cause
CONF = nova.conf.CONF

#: Seconds that rbd, or ceph on a busy host, takes to fail after it could not
#: connect: its own error says more than the lack of data.
_RBD_MARGIN = 1
_CEPH_MARGIN = 10

_LONGEST_ANSWER = 1024 * 1024
_LONGEST_MESSAGE = 4096
_FD = struct.Struct('i')

#: Exit status of timeout(1) when the time limit of the privileged side ends.
_TIMED_OUT = 124

#: Causes that say more than the exit status, which is not an errno then.
_NO_ERRNO = (Cause.NO_SETPRIV, Cause.NOT_INSTALLED, Cause.OLD_SETPRIV,
             Cause.NOT_PERMITTED, Cause.NOT_RUN, Cause.BAD_CONF)

#: Causes that the rights of the program can explain.
_OF_RIGHTS = (Cause.BAD_CONF, Cause.NO_KEYRING, Cause.BAD_KEYRING,
              Cause.BAD_KEY)


class RunError(transfer.SourceError):
    """A program of Ceph has failed.

    :ivar status: its exit status: an errno, or the negative number of the
        signal that killed it
    :ivar cause: why, as far as it is known
    """

    def __init__(self, reason: str, status: int, cause: Cause) -> None:
        super().__init__(reason=reason)
        self.status = status
        self.cause = cause


class CallError(transfer.SourceError):
    """The privileged side refuses the call, or does not answer."""


class Run:
    """Programs that the privileged side runs, one after another.

    For each of them, call begin(), and readinto() until it returns 0.

    :ivar rights: the user that the programs run as, and why, for people
    """

    def __init__(self, cluster: int, *commands: str, pool: str = '',
                 image: str = '', snapshot: str = '') -> None:
        """Describe the programs; the context starts the first of them.

        :param cluster: which of the configured clusters
        :param commands: see nova.privsep.rbd.start()
        """
        self._conf = nova.conf.glance.ceph_confs(CONF)[cluster]
        self._arguments = (commands, cluster, pool, image, snapshot)
        self._commands = iter(commands)
        self._command = ''
        self._reader = -1
        connect = CONF.glance.rbd_connect_timeout
        if image:
            self._option = 'rbd_stall_timeout'
            self._patience = max(
                connect + _RBD_MARGIN, CONF.glance.rbd_stall_timeout)
        else:
            self._option = 'rbd_connect_timeout'
            self._patience = connect + _CEPH_MARGIN
        self._resources = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with self._resources as stack:
            self._interruption = os.eventfd(0, os.EFD_CLOEXEC)
            stack.callback(os.close, self._interruption)
            stack.callback(self._close_reader)
            # The privileged side ends the program when this is closed.
            self._connection = stack.enter_context(self._connect())
            self._resources = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._resources.close()

    def begin(self) -> None:
        """Wait until the next program starts.

        :raises transfer.SourceError: it does not
        """
        self._command = next(self._commands)
        _message, fds = self._receive()
        self._close_reader()
        [self._reader] = fds

    def readinto(
        self, buffer: memoryview, seconds: float | None = None,
    ) -> int:
        """Read the next bytes of the output; 0: the program has succeeded.

        :param buffer: not empty
        :param seconds: how long to wait; by default, long enough for a
            program that cannot connect to the cluster to fail
        :raises RunError: the program has failed
        :raises transfer.SourceError: it wrote nothing for so many seconds, it
            was interrupted, or the privsep daemon has ended
        """
        self._wait(self._reader, seconds)
        count = os.readv(self._reader, [buffer])
        if not count:
            self._check_outcome()
        return count

    def answer(self) -> bytes:
        """Start the next program, and return its whole output.

        :raises transfer.SourceError: see readinto()
        """
        self.begin()
        answer, length = memoryview(bytearray(_LONGEST_ANSWER)), 0
        while count := self.readinto(answer[length:]):
            length += count
            if length == _LONGEST_ANSWER:
                raise transfer.SourceError(
                    reason=_('The output of %s is too long') % self._command)
        return bytes(answer[:length])

    def answer_and_close(self) -> bytes:
        """Return the output of the only program, and leave the context."""
        with self._resources:
            return self.answer()

    def interrupt(self) -> None:
        """End a readinto() that waits in another thread."""
        os.eventfd_write(self._interruption, 1)

    def _connect(self) -> Any:
        """Return the connection to the privileged side."""
        socket = transfer.native('socket')
        try:
            with (tempfile.TemporaryDirectory(prefix='nova-rbd-') as directory,
                  socket.socket(socket.AF_UNIX,
                                socket.SOCK_SEQPACKET) as listener):
                address = os.path.join(directory, 'socket')
                listener.bind(address)
                listener.listen(1)
                uid, self._step = nova.privsep.rbd.start(
                    address, *self._arguments)
                self.rights = _describe_rights(uid, self._step)
                # The privileged side has connected already.
                return listener.accept()[0]
        except Exception as exc:
            raise CallError(
                reason=_('The privileged call for %(conf)s failed: '
                         '%(reason)s') %
                {'conf': self._conf, 'reason': _reason(exc)}) from exc

    def _receive(self) -> tuple[bytes, list[int]]:
        self._wait(self._connection.fileno(), None)
        socket = transfer.native('socket')
        # socket.recv_fds() ignores its flags.
        message, ancillary, _flags, _address = self._connection.recvmsg(
            _LONGEST_MESSAGE, socket.CMSG_LEN(_FD.size),
            socket.MSG_CMSG_CLOEXEC)
        fds = [_FD.unpack(data)[0] for _level, _type, data in ancillary]
        if not message:
            raise transfer.SourceError(
                reason=_('The privsep daemon closed the connection'))
        return message, fds

    def _wait(self, fd: int, seconds: float | None) -> None:
        if seconds is None:
            seconds = self._patience
        select = transfer.native('select')
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        poller.register(self._interruption, select.POLLIN)
        ready = dict(poller.poll(seconds * 1000))
        if self._interruption in ready:
            raise transfer.SourceError(reason=_('It was interrupted'))
        if not ready:
            raise transfer.SourceError(
                reason=_('%(command)s sent no data for %(seconds)d seconds: '
                         'Ceph is down or too slow, see [glance] %(option)s') %
                {'command': self._command, 'seconds': seconds,
                 'option': self._option})

    def _check_outcome(self) -> None:
        message, _fds = self._receive()
        status, name, phrases = jsonutils.loads(message)
        if status:
            cause = rbd_errors.Cause[name]
            rights = self.rights if self._step else ''
            raise RunError(
                _describe(self._command, status, cause, phrases, rights),
                status, cause)

    def _close_reader(self) -> None:
        fd, self._reader = self._reader, -1
        if fd >= 0:
            os.close(fd)


def _reason(error: Exception) -> str:
    if isinstance(error, LookupError):
        return _('nova.conf was changed since the privsep daemon has read it: '
                 'restart nova-compute')
    return (getattr(error, 'strerror', None) or str(error) or
            type(error).__name__)


def client_name() -> str:
    """Return the whole name of the Ceph client, for people."""
    return 'client.' + (nova.conf.glance.ceph_user(CONF) or 'admin')


def default_keyring(conf: str) -> str:
    """Return where Ceph looks for the keyring of the client by default."""
    return '/etc/ceph/%s.%s.keyring' % (
        nova.conf.glance.ceph_cluster(conf), client_name())


def _describe_rights(uid: int, step: str) -> str:
    if not step:
        return _('as the user ID %d, which can read any file') % uid
    user = _('the user ID %d') % uid
    with contextlib.suppress(KeyError):
        user = _('the user %s') % pwd.getpwuid(uid).pw_name
    return _('as %(user)s, because root is not the only user that can change '
             '%(step)s') % {'user': user, 'step': step}


def _describe(
    command: str, status: int, cause: Cause, phrases: str, rights: str,
) -> str:
    """Return a sentence about a program that has failed."""
    explanation = explain(cause, command)
    if rights and cause in _OF_RIGHTS:
        explanation += _(' (it runs %s)') % rights
    if cause in _NO_ERRNO:
        return explanation
    if status == _TIMED_OUT:
        return _('%s took too long and was ended') % command
    meaning = (os.strerror(status) if status >= 0
               else signal.strsignal(-status) or '-')
    failure = _('%(program)s ended with status %(status)d (%(meaning)s)') % {
        'program': command, 'status': status, 'meaning': meaning}
    return ': '.join(filter(None, (failure, explanation, phrases)))


def explain(cause: Cause, command: str = 'rbd') -> str:
    """Return the text for a cause, or '' for an unknown one."""
    program = command.partition(' ')[0]
    return {
        Cause.NO_SETPRIV: _(
            'setpriv cannot be started: install util-linux 2.33 or newer'),
        Cause.NOT_INSTALLED: _(
            '%s, or timeout, is not installed: install ceph-common and '
            'coreutils') % program,
        Cause.OLD_SETPRIV: _(
            'setpriv is too old: install util-linux 2.33 or newer'),
        Cause.NOT_PERMITTED: _(
            'the host does not permit Nova to start %s: check AppArmor or '
            'SELinux, and that the container has CAP_SETUID, CAP_SETGID and '
            'CAP_DAC_READ_SEARCH') % program,
        Cause.NOT_RUN: _('%s cannot be run') % program,
        Cause.BAD_CONF: _('ceph.conf cannot be read or parsed'),
        Cause.NEW_KEY: _(
            'the key begins with Ag (type AES-256), and rbd on this host is '
            'too old for it, or the key is damaged: install Ceph 19.2.6, '
            '20.2.4 or newer, or make a key of the old type by "ceph auth '
            'rotate %s --key-type=aes"') % client_name(),
        Cause.BAD_KEY: _('the key cannot be decoded'),
        Cause.BAD_KEYRING: _('the keyring cannot be parsed'),
        Cause.NO_KEYRING: _('it finds no keyring that it can read'),
        Cause.NO_MONITOR: _('mon host in ceph.conf yields no address'),
        Cause.REFUSED: _(
            'the monitors refuse %s: the keyring has no key of this client, '
            'or not the key that the cluster has') % client_name(),
        Cause.NO_ANSWER: _('no monitor answered within %d seconds') %
        CONF.glance.rbd_connect_timeout,
    }.get(cause, '')
