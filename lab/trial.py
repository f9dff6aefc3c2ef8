# SPDX-License-Identifier: Apache-2.0
"""A compute service that does what it is told, several things at a time.

It runs as nova-compute would: see lab.fetch. Each line of standard
input is a request, a JSON object with "id", "action" and the arguments of one
of the functions below; each line of standard output answers one.
"""

if __name__ == '__main__':
    import os
    # Native threading by default, in every release.
    os.environ.setdefault('OS_NOVA_DISABLE_EVENTLET_PATCHING', 'true')
    from nova import monkey_patch
    monkey_patch.patch()

from collections.abc import Callable
import dataclasses
import gc
import hashlib
import logging as py_logging
import os
import resource
import socket
import sys
import tempfile
import threading
import time
import typing as ty

from keystoneauth1 import session as ks_session
from oslo_serialization import jsonutils

from lab import fetch as lab_fetch
import nova.conf
from nova.image import compat
from nova.image.rbd import cluster
import nova.privsep
import nova.privsep.path
import nova.privsep.rbd

CONF = nova.conf.CONF

#: Seconds between two beats.
BEAT = 0.02

# A thread that is about to end, and no longer counts.
_ANSWERED = 'answered'

#: Threads of oslo.privsep: one reads what the daemon writes to a pipe.
_PRIVSEP = ('fd_logger', 'privsep_reader')

Answer = dict[str, ty.Any]


class Service:
    """The handlers of the requests."""

    def __init__(self, config_file: str) -> None:
        self._recorder = lab_fetch.prepare(config_file)
        nova.privsep.sys_admin_pctxt.start()
        self._context = lab_fetch.request_context(
            lab_fetch.authentication(os.environ), ks_session.Session())
        self._lock = threading.Lock()
        self._beats = False
        #: request id -> what ends the thread that works on it
        self._kills: dict[int, Callable[[], None]] = {}

    def serve(self) -> None:
        """Answer requests until there are no more."""
        # By a native thread, which does not keep the green ones waiting.
        read = compat.in_pool(sys.stdin.readline)
        while line := read():
            request = jsonutils.loads(line)
            self._start(request.pop('id'), request)

    def _start(self, number: int, request: Answer) -> None:
        eventlet = compat.eventlet()
        if eventlet is None:
            threading.Thread(target=self._work, args=(number, request),
                             name='request', daemon=True).start()
        else:
            green = eventlet.spawn(self._work, number, request)
            self._kills[number] = green.kill

    def _work(self, number: int, request: Answer) -> None:
        action = getattr(self, request.pop('action'))
        begin, log = time.monotonic(), len(self._recorder.lines)
        try:
            answer = action(**request)
        except BaseException as exc:
            py_logging.getLogger('nova').exception('A request failed')
            answer = {'error': type(exc).__name__, 'message': str(exc)}
        answer.setdefault('seconds', round(time.monotonic() - begin, 3))
        answer['log'] = self._recorder.lines[log:]
        if compat.eventlet() is None:
            threading.current_thread().name = _ANSWERED
        with self._lock:
            print(jsonutils.dumps({'id': number, **answer}, default=str),
                  flush=True)

    def fetch(self, image_id: str, path: str, digest: bool) -> Answer:
        """Download an image to a file, with what nova.conf says now."""
        meter = lab_fetch.Meter()
        lab_fetch.fetch_to_path(self._context, image_id, path, [])
        meter.stop()
        # A hash of the whole file would keep other green threads waiting.
        return dataclasses.asdict(
            compat.in_native_thread(lab_fetch.report)(path, meter, [], digest))

    def reload(self) -> Answer:
        """Read nova.conf again, as after a restart of the service."""
        cluster._known_fsids.clear()
        return {'reloaded': lab_fetch.reload_options()}

    def call(
        self, address: str | None = None, limit: int | None = None,
        **arguments: ty.Any,
    ) -> Answer:
        """Make the privileged call with any arguments.

        :param address: give this address to the privileged side, which is
            not to connect then
        :param limit: close the connection after so many bytes
        """
        with (tempfile.TemporaryDirectory() as directory, socket.socket(
                socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener):
            own = os.path.join(directory, 'socket')
            listener.bind(own)
            listener.listen()
            listener.setblocking(False)
            uid, step = nova.privsep.rbd.start(
                own if address is None else address, **arguments)
            connection, _address = listener.accept()
        connection.setblocking(True)
        with connection:
            runs = list(_runs(connection, limit))
        return {'uid': uid, 'step': step, 'runs': runs}

    def other_call(self, path: str) -> Answer:
        """Make a privileged call of another part of Nova."""
        nova.privsep.path.utime(path)
        return {}

    def read_file(self, path: str) -> Answer:
        """Make one that lasts as long as reading a FIFO does."""
        nova.privsep.path.last_bytes(path, 1)
        return {}

    def limit_files(self, size: int | None) -> Answer:
        """Let files grow to so many bytes, or to any size again."""
        _soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE,
                           (hard if size is None else size, hard))
        return {}

    def cancel(self, request: int) -> Answer:
        """Kill the green thread of another request."""
        self._kills[request]()
        return {}

    def resources(self) -> Answer:
        """The threads and descriptors that there are now.

        The threads of oslo.privsep do not count, nor does the pipe that one
        of them reads: they last as long as the daemon.
        """
        # A thread that has ended can leave its pipe to the collector.
        gc.collect()
        names = [thread.name for thread in
                 compat.native('threading').enumerate()]
        # On eventlet, that one is green.
        pipes = [thread.name for thread in threading.enumerate()].count(
            _PRIVSEP[0])
        descriptors = sorted(
            filter(None, map(_target, os.listdir('/proc/self/fd'))))
        for target in [target for target in descriptors
                       if target.startswith('pipe:')][:pipes]:
            descriptors.remove(target)
        return {'descriptors': descriptors, 'threads': sorted(
            name for name in names if name not in (_ANSWERED, *_PRIVSEP))}

    def watch_the_beat(self) -> Answer:
        """Beat until told to stop; the longest time between two beats."""
        self._beats, longest = True, 0.0
        last = time.monotonic()
        while self._beats:
            time.sleep(BEAT)
            now = time.monotonic()
            longest = max(longest, now - last)
            last = now
        return {'gap': longest}

    def stop_the_beat(self) -> Answer:
        self._beats = False
        return {}


def _runs(
    connection: socket.socket, limit: int | None,
) -> ty.Iterator[Answer]:
    """Yield output and outcome of each program."""
    while True:
        message, fds, _flags, _address = socket.recv_fds(connection, 4096, 1)
        if not message:
            return
        content = bytearray()
        with open(fds[0], 'rb', buffering=0) as output:
            while data := output.read(1 << 20):
                content += data
                if limit is not None and len(content) >= limit:
                    return
        status, cause, phrases = jsonutils.loads(connection.recv(4096))
        yield {'status': status, 'cause': cause, 'phrases': phrases,
               'size': len(content), 'text': content[:2000].decode('latin-1'),
               'sha256': hashlib.sha256(content).hexdigest()}


def _target(descriptor: str) -> str | None:
    try:
        return os.readlink('/proc/self/fd/' + descriptor)
    except FileNotFoundError:
        # The one that lists the others.
        return None


if __name__ == '__main__':
    Service(sys.argv[1]).serve()
    # Without waiting for threads that still work on requests.
    os._exit(0)
