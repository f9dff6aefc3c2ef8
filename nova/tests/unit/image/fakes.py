# SPDX-License-Identifier: Apache-2.0

"""Sources, verifiers, handlers and checks that tests of images share."""

import base64
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import functools
import hashlib
import io
import itertools
import os
import pathlib
import random
import threading
import types
import typing as ty
from unittest import mock

from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives import hashes
import fixtures
from glanceclient.common import utils as glance_utils
from hypothesis import configuration
from oslo_utils.fixture import uuidsentinel as uuids
import requests

from nova.image import compat
from nova.image import transfer
from nova import test

#: Size of a block in tests of many small images.
SMALL = 128 * 1024
HOLE = 64 * 1024
PAGE = 4096

#: Seconds after which a wait for another thread fails a test.
LIMIT = 30

Extent = tuple[int, bytes]


class LeakCheck(fixtures.Fixture):
    """Fails a test that leaves a thread, a descriptor or a child behind."""

    def _setUp(self) -> None:
        # Under eventlet the first use makes threads that stay.
        compat.in_pool(os.getpid)()
        self._before = self._resources()
        self.addCleanup(self.check)

    def check(self) -> None:
        if left := self._resources() - self._before:
            raise AssertionError('left behind: %s' % sorted(left))

    @staticmethod
    def _resources() -> set[str]:
        found = set()
        for fd in os.listdir('/proc/self/fd'):
            # The descriptor that lists the others is gone by now.
            with contextlib.suppress(FileNotFoundError):
                target = os.readlink('/proc/self/fd/' + fd)
                # Of a hub, which eventlet gives to each thread of its pool.
                if target != 'anon_inode:[eventpoll]':
                    found.add('descriptor %s: %s' % (fd, target))
        for module in (threading, compat.native('threading')):
            found.update('thread %s %s' % (thread.name, thread.ident)
                         for thread in module.enumerate())
        for task in pathlib.Path('/proc/self/task').iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.update('child ' + pid for pid in
                             (task / 'children').read_text().split())
        return found


def wait(event: ty.Any) -> None:
    """Wait for an event that another thread sets."""
    if not event.wait(LIMIT):
        raise AssertionError('the event is not set')


class NoHypothesisFolder(fixtures.Fixture):
    """Keeps the caches of hypothesis out of the working directory."""

    def _setUp(self) -> None:
        configuration.set_hypothesis_home_dir(
            self.useFixture(fixtures.TempDir()).path)
        self.addCleanup(configuration.set_hypothesis_home_dir, None)


class MemorySource:
    """An image in memory, as a stream that is read in pieces."""

    def __init__(self, extents: Sequence[Extent], size: int | None = None,
                 pieces: Sequence[int] = (1 << 30,), endless: bool = False,
                 failure: Callable[[], Exception] | None = None) -> None:
        """:param pieces: numbers of bytes that reads return, repeated

        :param endless: whether it reports no length of its extents
        :param failure: returns the exception to raise at the end of the data
        """
        self.size = size
        self.finished: list[int] = []
        self.taken = 0
        self._extents = extents
        self._endless = endless
        self._failure = failure
        self._pieces = itertools.cycle(pieces)
        # A read past the end of an extent returns bytes of the next one.
        self._rest = memoryview(b''.join(data for _offset, data in extents))

    def extents(self) -> Iterator[tuple[int, int | None]]:
        for offset, data in self._extents:
            yield offset, None if self._endless else len(data)
        if self._failure is not None:
            raise self._failure()

    def readinto(self, buffer: memoryview) -> int:
        count = min(len(buffer), len(self._rest), next(self._pieces))
        if not count and self._failure is not None:
            raise self._failure()
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        self.taken += count
        return count

    def finish(self) -> None:
        self.finished.append(self.taken)

    def interrupt(self) -> None:
        pass


class HashVerifier:
    """Records the bytes, and the calls of verify()."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.count = 0
        self.asked = 0

    def update(self, data: memoryview, /) -> None:
        self._hash.update(data)
        self.count += len(data)

    def verify(self) -> None:
        self.asked += 1

    @property
    def digest(self) -> tuple[int, str]:
        return self.count, self._hash.hexdigest()


class RefusingVerifier(HashVerifier):
    """Refuses the bytes, optionally after so many of them."""

    def __init__(self, after: int | None = None) -> None:
        super().__init__()
        self._after = after

    def update(self, data: memoryview, /) -> None:
        super().update(data)
        if self._after is not None and self.count >= self._after:
            raise ValueError('not these bytes')

    def verify(self) -> None:
        super().verify()
        raise ValueError('not these bytes')


@contextlib.contextmanager
def no_thread(module: types.ModuleType, name: str) -> Iterator[None]:
    """Make threads of this name fail to start, as at a limit."""
    start = module.Thread.start

    def limited(thread: threading.Thread) -> None:
        if thread.name == name:
            raise RuntimeError("can't start new thread")
        start(thread)

    with mock.patch.object(module.Thread, 'start', limited):
        yield


def digest(content: bytes) -> tuple[int, str]:
    """Return a short replacement for content, for readable failures."""
    return len(content), hashlib.sha256(content).hexdigest()


def broken_cable() -> Exception:
    return transfer.SourceError(reason='the cable is broken')


broken = broken_cable


def noise(length: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(length)


def naive_image(size: int, extents: Sequence[Extent]) -> bytes:
    image = bytearray(size)
    for offset, data in extents:
        image[offset:offset + len(data)] = data
    return bytes(image)


def naive_written(image: bytes) -> int:
    """Return how many bytes of an image are written, without holes."""
    total = 0
    for start in range(0, len(image), HOLE):
        unit = image[start:start + HOLE]
        if any(unit):
            total += -(-len(unit) // PAGE) * PAGE
    return min(total, len(image))


class TransferTestCase(test.NoDBTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.leaks = self.useFixture(LeakCheck())
        self.directory = self.useFixture(fixtures.TempDir()).path
        self.path = os.path.join(self.directory, 'image')

    def use_small_blocks(self) -> None:
        self.replace(transfer, 'BLOCK', SMALL)
        self.replace(transfer, '_ZEROS', bytes(SMALL))

    def replace(self, where: object, name: str, new: object) -> None:
        self.useFixture(fixtures.MockPatchObject(where, name, new))

    def forbid(self, flag: int, code: int) -> None:
        """Make open(2) fail for this flag."""
        real = os.open

        def limited(path: str, flags: int, *args: ty.Any,
                    **kwargs: ty.Any) -> int:
            if flags & flag == flag:
                raise OSError(code, os.strerror(code), path)
            return real(path, flags, *args, **kwargs)

        self.replace(os, 'open', limited)

    def content(self) -> bytes:
        return pathlib.Path(self.path).read_bytes()

    def make(self, data: bytes, path: str | None = None) -> None:
        pathlib.Path(path or self.path).write_bytes(data)

    def assert_nothing_left(self) -> None:
        self.assertEqual([], os.listdir(self.directory))

    def assert_fails(
        self, error: type[Exception], reason: str, source: transfer.Source,
        verifier: transfer.Verifier | None = None, size: int | None = None,
    ) -> None:
        """Check that the transfer fails and leaves no file, not an old one."""
        self.make(b'left by an attempt that was killed')
        self.assertRaisesRegex(
            error, reason, transfer.transfer, source, self.path, verifier,
            size)
        self.assert_nothing_left()


RIGHT = noise(300_000)
WRONG = RIGHT[:-1] + bytes([RIGHT[-1] ^ 1])


class Image(dict[str, ty.Any]):
    """The part of a warlock model that the service uses."""

    schema: Mapping[str, ty.Any] = {'name': 'image', 'properties': {
        name: {} for name in (
            'checksum', 'direct_url', 'disk_format', 'id', 'locations',
            'os_hash_algo', 'os_hash_value', 'size', 'status',
            'visibility')}}


class FakeGlance:
    """A GlanceClient with one image and its data."""

    has_explicit_endpoint = False
    api_server = 'http://glance.example.com/image'

    def __init__(self, image: Image) -> None:
        self.image = image
        self.body: bytes | None = RIGHT
        #: The locations that it returns to services only.
        self.hidden: list[str] = []
        #: Raised instead of an answer, or at the end of the body.
        self.refusal: Exception | None = None
        self.broken: Exception | None = None
        self.methods: list[str] = []
        #: The named arguments of the last call.
        self.kwargs: Mapping[str, ty.Any] | None = None
        self.closed = 0

    def call(self, _context: object, version: int, method: str,
             controller: str | None = None, args: Sequence[ty.Any] = (),
             kwargs: Mapping[str, ty.Any] | None = None) -> ty.Any:
        assert (version, controller, args) == (2, None, (uuids.image,))
        self.methods.append(method)
        self.kwargs = kwargs
        if method == 'get':
            return self.image
        if method == 'get_image_locations':
            return [{'url': url, 'metadata': {}} for url in self.hidden]
        assert method == 'data', method
        if self.refusal is not None:
            raise self.refusal
        data = None
        if self.body is not None:
            data = glance_utils.IterableWithLength(
                self._chunks(self.body), len(self.body))
        return glance_utils.RequestIdProxy((data, requests.Response()))

    def _chunks(self, body: bytes) -> Iterator[bytes]:
        try:
            for start in range(0, len(body), 65536):
                yield body[start:start + 65536]
            if self.broken is not None:
                raise self.broken
        finally:
            self.closed += 1


class FakeHandler:
    """A handler that records its calls."""

    def __init__(self, *outcomes: bytes | Exception) -> None:
        """:param outcomes: the image's bytes or an exception for each call"""
        self._outcomes = list(outcomes)
        self.calls: list[tuple[str, str, str]] = []
        self.verified: list[bool] = []
        self.sources: list[MemorySource] = []
        self.closed = 0

    @contextlib.contextmanager
    def __call__(self, image: Mapping[str, ty.Any], url: str, path: str, /, *,
                 verified: bool) -> Iterator[transfer.Source]:
        self.verified.append(verified)
        self.calls.append((image['id'], url, path))
        outcome = self._outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        self.sources.append(MemorySource([(0, outcome)], endless=True))
        try:
            yield self.sources[-1]
        finally:
            self.closed += 1

    @property
    def urls(self) -> list[str]:
        return [url for _image_id, url, _path in self.calls]


class UnreadBody(io.BytesIO):
    """A response body that must not be read, since it can be an image."""

    def read(self, *_args: ty.Any) -> ty.NoReturn:
        raise AssertionError('the body of the answer was read')


@functools.cache
def private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def signature_of(data: bytes) -> dict[str, str]:
    """Return the signature properties of an image."""
    algorithm = hashes.SHA256()
    signature = private_key().sign(
        data, padding.PSS(padding.MGF1(algorithm), padding.PSS.MAX_LENGTH),
        algorithm)
    return {
        'img_signature': base64.b64encode(signature).decode(),
        'img_signature_hash_method': 'SHA-256',
        'img_signature_key_type': 'RSA-PSS',
        'img_signature_certificate_uuid': uuids.certificate,
    }
