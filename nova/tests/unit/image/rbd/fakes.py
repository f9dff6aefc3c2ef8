# SPDX-License-Identifier: Apache-2.0

"""Stand-ins for the privileged side, and streams as export-diff sends them."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
import os
import struct
import typing as ty
from unittest import mock

import fixtures
from oslo_serialization import jsonutils

from nova.image import compat
from nova.image.rbd import cluster
from nova.image import transfer
import nova.privsep.rbd
from nova import test
from nova.tests.unit.image import fakes as common
import nova.tests.unit.privsep.rbd_fakes

rbd_fakes = nova.tests.unit.privsep.rbd_fakes
LIMIT = common.LIMIT
FSID = 'c0ffee00-0000-4000-8000-00000000cafe'
OTHER_FSID = '0ddba11e-0000-4000-8000-00000000cafe'
IMAGE_ID = rbd_fakes.IMAGE_ID
URL = f'rbd://{FSID}/images/{IMAGE_ID}/snap'
OTHER_URL = f'rbd://{OTHER_FSID}/images/{IMAGE_ID}/snap'
NAMES = rbd_fakes.NAMES

#: Commands that print an fsid.
OF_CONF = 'ceph-conf --show-config-value=fsid'
OF_CLUSTER = 'ceph fsid'

BANNER = b'rbd diff v1\n'
END = b'e'


def name(snapshot: bytes = b'snap', length: int | None = None) -> bytes:
    if length is None:
        length = len(snapshot)
    return b't' + struct.pack('<I', length) + snapshot


def size(count: int) -> bytes:
    return b's' + struct.pack('<Q', count)


def data(offset: int, content: bytes, length: int | None = None) -> bytes:
    if length is None:
        length = len(content)
    return b'w' + struct.pack('<QQ', offset, length) + content


def zeros(offset: int, length: int) -> bytes:
    return b'z' + struct.pack('<QQ', offset, length)


VALID = (BANNER + name() + size(100) + data(0, b'abc') + data(3, b'') +
         zeros(10, 20) + data(30, b'0123456789') + zeros(99, 1) + END)
VALID_EXTENTS = [(0, b'abc'), (3, b''), (30, b'0123456789')]


class Stream:
    """A stream in memory that returns at most so many bytes at a time."""

    def __init__(self, content: bytes, most: int = 1 << 30) -> None:
        self._content = memoryview(content)
        self._most = most
        self.asked = 0

    def readinto(self, buffer: memoryview) -> int:
        self.asked = max(self.asked, len(buffer))
        count = min(len(buffer), len(self._content), self._most)
        buffer[:count] = self._content[:count]
        self._content = self._content[count:]
        return count


@dataclasses.dataclass(frozen=True)
class Program:
    """The messages that the stand-in sends for a program."""
    output: bytes = b''
    status: int = 0
    cause: str = 'UNKNOWN'
    phrases: str = ''
    #: Point at which it waits until the caller closes the connection.
    stalls: ty.Literal['', 'before', 'after', 'outcome'] = ''
    #: The daemon ends there, instead.
    dies: bool = False


Programs = Program | Sequence[Program]


def fsid(value: str) -> Program:
    return Program(value.encode() + b'\n')


class FakeStart(fixtures.Fixture):
    """Replaces nova.privsep.rbd.start(): connects, and sends outcomes."""

    def __init__(self, programs: Mapping[ty.Any, Programs],
                 answer: tuple[int, str] = (4001, '/etc/ceph')) -> None:
        """Make a stand-in.

        :param programs: by command, or by number of the cluster and command;
            each call takes the first of a list, and leaves the last one
        :param answer: the uid, and the step that not only root can change
        """
        self.programs = {
            key: [each] if isinstance(each, Program) else list(each)
            for key, each in programs.items()}
        self.answer = answer
        #: Arguments of the calls, without the address.
        self.calls: list[tuple[ty.Any, ...]] = []
        self.modes: list[int] = []
        self._socket = compat.native('socket')
        self._threads: list[ty.Any] = []

    def _setUp(self) -> None:
        # Not the one of a PollSpy.
        self._select = compat.native('select')
        #: Readable once a program stalls.
        self.stalled = os.eventfd(0)
        self.addCleanup(os.close, self.stalled)
        self.addCleanup(self._join)
        self.useFixture(
            fixtures.MockPatchObject(nova.privsep.rbd, 'start', self.start))

    def _join(self) -> None:
        for thread in self._threads:
            thread.join(LIMIT)
            assert not thread.is_alive(), 'The caller keeps the connection'

    def start(self, address: str, commands: Sequence[str], number: int,
              *names: str) -> tuple[int, str]:
        self.calls.append((commands, number, *names))
        self.modes.append(os.stat(os.path.dirname(address)).st_mode)
        connection = self._socket.socket(
            self._socket.AF_UNIX, self._socket.SOCK_SEQPACKET)
        connection.connect(address)
        thread = compat.native('threading').Thread(
            target=self._serve,
            args=(connection, [self._take(number, each)
                               for each in commands]))
        self._threads.append(thread)
        thread.start()
        return self.answer

    def _take(self, number: int, command: str) -> Program:
        programs = (self.programs.get((number, command)) or
                    self.programs[command])
        return programs.pop(0) if len(programs) > 1 else programs[0]

    def _serve(self, connection: ty.Any, programs: list[Program]) -> None:
        with connection, contextlib.suppress(ConnectionError):
            for program in programs:
                if program.stalls == 'before':
                    return self._stall(connection, program)
                reader, writer = os.pipe()
                with open(writer, 'wb') as output:
                    with open(reader, 'rb'):
                        self._socket.send_fds(connection, [b'x'], [reader])
                    output.write(program.output)
                    output.flush()
                    if program.stalls == 'after':
                        return self._stall(connection, program)
                    if program.stalls != 'outcome':
                        connection.send(jsonutils.dump_as_bytes([
                            program.status, program.cause, program.phrases]))
                if program.stalls or program.status:
                    return self._stall(connection, program)

    def _stall(self, connection: ty.Any, program: Program) -> None:
        if not program.dies:
            os.eventfd_write(self.stalled, 1)
            poller = self._select.poll()
            poller.register(connection, 0)
            poller.poll()


class PollSpy(fixtures.Fixture):
    """Notes how long transfers wait; a wait ends when a stand-in stalls."""

    def __init__(self, fake: FakeStart) -> None:
        self.waits: list[float] = []
        self._fake = fake

    def _setUp(self) -> None:
        native, spy = compat.native('select'), self

        class Poll:
            def __init__(self) -> None:
                self._poll = native.poll()
                self.register = self._poll.register
                self.register(spy._fake.stalled, native.POLLIN)

            def poll(self, milliseconds: float) -> list[tuple[int, int]]:
                spy.waits.append(milliseconds / 1000)
                ready = self._poll.poll(LIMIT * 1000)
                assert ready, 'A stand-in neither sends nor stalls'
                return [(fd, events) for fd, events in ready
                        if fd != spy._fake.stalled]

        spies = {'select': mock.Mock(poll=Poll, POLLIN=native.POLLIN)}
        real = compat.native
        self.useFixture(fixtures.MockPatchObject(
            compat, 'native', lambda module: (
                spies.get(module) or real(module))))


class RbdTestCase(test.NoDBTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.useFixture(common.LeakCheck())
        self.directory = self.useFixture(fixtures.TempDir()).path
        self.useFixture(fixtures.MockPatchObject(cluster, '_known_fsids', {}))
        self.useFixture(fixtures.MockPatchObject(cluster, '_left_out', {}))

    def fake(self, programs: Mapping[ty.Any, Programs],
             **kwargs: ty.Any) -> FakeStart:
        return self.useFixture(FakeStart(programs, **kwargs))

    def clusters(self, *programs: Program) -> FakeStart:
        """Have a cluster for each of these answers of ceph-conf."""
        self.confs = ['/etc/ceph/%d.conf' % number
                      for number in range(len(programs))]
        self.flags(rbd_ceph_conf=self.confs, group='glance')
        cluster._known_fsids.clear()
        cluster._left_out.clear()
        return self.fake({(number, OF_CONF): program
                          for number, program in enumerate(programs)})

    def assert_interrupted(self, interrupt: Callable[[], None],
                           read: Callable[[], object]) -> None:
        """Interrupt a read in another thread."""
        failures: list[str] = []

        def fail() -> None:
            try:
                read()
            except transfer.SourceError as error:
                failures.append(str(error))

        thread = compat.native('threading').Thread(target=fail)
        thread.start()
        interrupt()
        thread.join(LIMIT)
        self.assertEqual(['The read was interrupted'], failures)
