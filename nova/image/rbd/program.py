# SPDX-License-Identifier: Apache-2.0

"""Runs Ceph's programs through the privileged side and reads their output.

The privileged side (nova.privsep.rbd) connects to a socket that this process
listens on. For each program it sends two messages: a socket to read the output
from, and the outcome. Closing the connection ends the program.
"""

import contextlib
import errno
import os
import pwd
import signal
import struct
import tempfile
from typing import Self

from oslo_serialization import jsonutils

import nova.conf
from nova.i18n import _
from nova.image import compat
from nova.image import transfer
import nova.privsep.rbd
import nova.privsep.rbd_errors

Cause = nova.privsep.rbd_errors.Cause
CONF = nova.conf.CONF

#: Seconds that rbd, or ceph on a busy host, takes to exit after it failed to
#: connect. Nova waits for that, since their error explains more than a stall.
_RBD_MARGIN = 1
_CEPH_MARGIN = 10
_LONGEST_ANSWER = 1024 * 1024
_FD = struct.Struct('i')
#: Exit status of timeout(1) at the time limit of the privileged side.
_TIMED_OUT = 124

#: Causes that need no exit status beside them; it is not an errno.
_NO_ERRNO = {
    Cause.NO_SETPRIV: _(
        'setpriv cannot be started: install util-linux 2.33 or newer'),
    Cause.NOT_INSTALLED: _(
        '%(program)s or timeout is not installed: install ceph-common and '
        'coreutils'),
    Cause.OLD_SETPRIV: _(
        'setpriv is too old: install util-linux 2.33 or newer'),
    Cause.NOT_PERMITTED: _(
        'the host does not permit Nova to start %(program)s: check AppArmor '
        'or SELinux, and whether the container has CAP_SETUID, CAP_SETGID '
        'and CAP_DAC_READ_SEARCH'),
    Cause.NOT_RUN: _('%(program)s cannot be executed'),
    Cause.BAD_CONF: _('ceph.conf cannot be read or parsed')}
_EXPLANATIONS = _NO_ERRNO | {
    Cause.NEW_KEY: _(
        'the key begins with Ag (type AES-256), and rbd on this host is too '
        'old for it, or the key is damaged: install Ceph 19.2.6, 20.2.4 or '
        'newer, or create a key of the old type with "ceph auth rotate '
        '%(client)s --key-type=aes"'),
    Cause.BAD_KEY: _('the key cannot be decoded'),
    Cause.BAD_KEYRING: _('the keyring cannot be parsed'),
    Cause.NO_KEYRING: _('no readable keyring was found'),
    Cause.NO_MONITOR: _(
        'mon host in ceph.conf is missing or cannot be resolved'),
    Cause.REFUSED: _(
        'the monitors refuse %(client)s: the keyring contains no key for '
        'this client, or the wrong one'),
    Cause.NO_ANSWER: _('no monitor answered within %(seconds)d seconds')}
#: The rights of the program can explain these causes.
_OF_RIGHTS = (Cause.BAD_CONF, Cause.NO_KEYRING, Cause.BAD_KEYRING,
              Cause.BAD_KEY)


class RunError(transfer.SourceError):
    """One of Ceph's programs failed.

    :ivar status: an errno, or the negative number of the signal that killed it
    :ivar cause: the cause, as far as it is known
    """

    def __init__(self, reason: str, status: int, cause: Cause) -> None:
        super().__init__(reason=reason)
        self.status = status
        self.cause = cause


class CallError(transfer.SourceError):
    """The privileged side refused the call or did not answer."""


class Stalled(transfer.SourceError):
    """One of Ceph's programs sent no data in time."""


def is_outage(error: BaseException) -> bool:
    """Return True if an error means that the cluster does not answer."""
    return isinstance(error, Stalled) or isinstance(error, RunError) and (
        error.cause is Cause.NO_ANSWER or error.status == errno.ETIMEDOUT)


class Run(contextlib.ExitStack):
    """Programs that the privileged side runs, one after another.

    The context starts the first program. For each program, call begin(), then
    readinto() until it returns 0.

    :param cluster: index of a configured cluster
    :param commands: see nova.privsep.rbd.start()
    :ivar rights: describes the user that the programs run as, and why
    """

    def __init__(self, cluster: int, *commands: str, pool: str = '',
                 image: str = '', snapshot: str = '') -> None:
        super().__init__()
        self._conf = nova.conf.glance.ceph_confs(CONF)[cluster]
        self._arguments = (commands, cluster, pool, image, snapshot)
        self._commands = iter(commands)
        connect = nova.conf.glance.connect_timeout(CONF)
        stall = nova.conf.glance.stall_timeout(CONF)
        self._option, self._patience = (
            ('rbd_stall_timeout', max(connect + _RBD_MARGIN, stall)) if image
            else ('rbd_connect_timeout', connect + _CEPH_MARGIN))

    def __enter__(self) -> Self:
        socket = compat.native('socket')
        try:
            with (tempfile.TemporaryDirectory(prefix='nova-rbd-') as directory,
                  socket.socket(socket.AF_UNIX,
                                socket.SOCK_SEQPACKET) as listener):
                address = os.path.join(directory, 'socket')
                listener.bind(address)
                listener.listen(1)
                uid, self._step = nova.privsep.rbd.start(
                    address, *self._arguments)
                # The privileged side has connected already.
                self._connection = self.enter_context(listener.accept()[0])
            self._interruption = os.eventfd(0, os.EFD_CLOEXEC)
            self.callback(os.close, self._interruption)
        except Exception as exc:
            self.close()
            raise CallError(
                _('The privileged call for %(conf)s failed: %(reason)s') %
                {'conf': self._conf, 'reason': _reason(exc)}) from exc
        self.rights = _describe_rights(uid, self._step)
        return self

    def begin(self) -> None:
        """Wait until the next program starts.

        :raises transfer.SourceError: it does not
        """
        self._command = next(self._commands)
        _message, [fd] = self._receive()
        self._output = self.enter_context(open(fd, 'rb', 0))

    def readinto(self, buffer: memoryview, seconds: float = 0) -> int:
        """Read the next bytes of the output; 0 means that it succeeded.

        :param buffer: must not be empty
        :param seconds: time limit; by default, long enough for a program that
            cannot connect to the cluster to fail
        :raises RunError: the program failed
        :raises transfer.SourceError: no data arrived in time, interrupt() was
            called, or the privsep daemon ended
        """
        self._wait(self._output.fileno(), seconds or self._patience)
        count = os.readv(self._output.fileno(), [buffer])
        if not count:
            self._check_outcome()
        return count

    def answer(self) -> bytes:
        """Start the next program and return its whole output.

        :raises transfer.SourceError: see readinto()
        """
        self.begin()
        answer, length = memoryview(bytearray(_LONGEST_ANSWER)), 0
        while count := self.readinto(answer[length:]):
            length += count
            if length == _LONGEST_ANSWER:
                raise transfer.SourceError(
                    _('The output of %s is too long') % self._command)
        return bytes(answer[:length])

    def answer_and_close(self) -> bytes:
        """Return the output of the only program and leave the context."""
        with contextlib.closing(self):
            return self.answer()

    def interrupt(self) -> None:
        """End a readinto() that waits in another thread."""
        os.eventfd_write(self._interruption, 1)

    def _receive(self) -> tuple[bytes, list[int]]:
        self._wait(self._connection.fileno(), self._patience)
        socket = compat.native('socket')
        # socket.recv_fds() ignores its flags.
        message, ancillary, _flags, _address = self._connection.recvmsg(
            4096, socket.CMSG_LEN(_FD.size), socket.MSG_CMSG_CLOEXEC)
        if not message:
            raise transfer.SourceError(
                _('The privsep daemon closed the connection'))
        return message, [_FD.unpack(data)[0] for _level, _type, data in
                         ancillary]

    def _wait(self, fd: int, seconds: float) -> None:
        select = compat.native('select')
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        poller.register(self._interruption, select.POLLIN)
        ready = dict(poller.poll(seconds * 1000))
        if self._interruption in ready:
            raise transfer.SourceError(_('The read was interrupted'))
        if not ready:
            raise Stalled(
                _('No data received from %(command)s for %(seconds)d seconds: '
                  'Ceph is down or too slow, see [glance] %(option)s') %
                {'command': self._command, 'seconds': seconds,
                 'option': self._option})

    def _check_outcome(self) -> None:
        message, _fds = self._receive()
        status, name, phrases = jsonutils.loads(message)
        if status:
            cause = Cause.__members__[name]
            rights = self.rights if self._step else ''
            raise RunError(
                _describe(self._command, status, cause, phrases, rights),
                status, cause)


def run(cluster: int, command: str, **names: str) -> bytes:
    """Run a program through the privileged side and return its output.

    :raises transfer.SourceError: it failed
    """
    program = Run(cluster, command, **names)
    program.__enter__()
    # In a native thread, since a green thread can be killed while it waits.
    return compat.in_native_thread(program.answer_and_close)()


def client_name() -> str:
    """Return the full name of the Ceph client."""
    return 'client.' + (nova.conf.glance.ceph_user(CONF) or 'admin')


def default_keyring(conf: str) -> str:
    """Return the path where Ceph looks for the client's keyring by default."""
    return '/etc/ceph/%s.%s.keyring' % (
        nova.conf.glance.ceph_cluster(conf), client_name())


def explain(cause: Cause, command: str = 'rbd') -> str:
    """Return the message for a cause, '' if the cause is unknown."""
    return _EXPLANATIONS.get(cause, '') % {
        'program': command.partition(' ')[0], 'client': client_name(),
        'seconds': nova.conf.glance.connect_timeout(CONF)}


def _reason(error: Exception) -> str:
    if isinstance(error, LookupError):
        return _('nova.conf has changed since the privsep daemon read it: '
                 'restart nova-compute')
    return (getattr(error, 'strerror', None) or str(error) or
            type(error).__name__)


def _describe(command: str, status: int, cause: Cause, phrases: str,
              rights: str) -> str:
    explanation = explain(cause, command)
    if rights and cause in _OF_RIGHTS:
        explanation += _(' (the program runs %s)') % rights
    if cause in _NO_ERRNO:
        return explanation
    if status == _TIMED_OUT:
        return _('%s exceeded its time limit and was terminated') % command
    meaning = (os.strerror(status) if status >= 0
               else signal.strsignal(-status) or '-')
    failure = _('%(command)s exited with status %(status)d (%(meaning)s)') % {
        'command': command, 'status': status, 'meaning': meaning}
    return ': '.join(filter(None, (failure, explanation, phrases)))


def _describe_rights(uid: int, step: str) -> str:
    if not step:
        return _('as the user ID %d, which can read any file') % uid
    user = _('the user ID %d') % uid
    with contextlib.suppress(KeyError):
        user = _('the user %s') % pwd.getpwuid(uid).pw_name
    return _('as %(user)s, because root is not the only user that can change '
             '%(step)s') % {'user': user, 'step': step}
