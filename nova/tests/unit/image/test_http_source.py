# SPDX-License-Identifier: Apache-2.0

from collections.abc import Iterable
from collections.abc import Iterator
import os
import threading

import requests

from nova.image import compat
from nova.image import http_source
from nova.image import transfer
from nova.tests.unit.image import fakes


class TestChunkSource(fakes.TransferTestCase):
    def open(self, chunks: Iterable[bytes]) -> http_source.ChunkSource:
        source = http_source.ChunkSource(chunks)
        self.addCleanup(source.close)
        return source

    def read(self, source: http_source.ChunkSource, size: int) -> bytes:
        buffer = bytearray(size)
        count = compat.in_native_thread(source.readinto)(memoryview(buffer))
        return bytes(buffer[:count])

    def read_all(self, source: http_source.ChunkSource,
                 size: int) -> list[bytes]:
        return list(iter(lambda: self.read(source, size), b''))

    def test_one_extent_of_unknown_length(self) -> None:
        source = self.open([b'abc'])
        self.assertEqual([(0, None)], list(source.extents()))
        self.assertIsNone(source.size)

    def test_chunks_and_buffers_of_any_size(self) -> None:
        chunks = [b'', b'abcde', b'', b'', b'f', b'ghijkl', b'']
        for size in (1, 4, 100):
            source = self.open(iter(chunks))
            found = self.read_all(source, size)
            self.assertEqual(b'abcdefghijkl', b''.join(found))
            # The end stays the end.
            self.assertEqual(b'', self.read(source, 1))

    def test_no_chunks(self) -> None:
        self.assertEqual([], self.read_all(self.open([]), 10))

    def test_finish_has_nothing_to_say(self) -> None:
        source = self.open([b'abc'])
        self.assertIsNone(source.finish())  # type: ignore[func-returns-value]

    def test_connection_breaks(self) -> None:
        def body() -> Iterator[bytes]:
            yield b'abc'
            raise requests.exceptions.ChunkedEncodingError('it broke')

        # An error of the source: an OSError would be the destination's.
        self.assertRaisesRegex(
            transfer.SourceError, 'it broke', self.read_all,
            self.open(body()), 10)

    def test_close_ends_the_response(self) -> None:
        ended = []

        def body() -> Iterator[bytes]:
            try:
                # More than the buffers of a socket take.
                for _number in range(100):
                    yield bytes(1 << 20)
            finally:
                ended.append(True)

        source = self.open(body())
        self.read(source, 2)
        self.assertEqual([], ended)
        source.close()
        self.assertEqual([True], ended)

    def test_silent_server(self) -> None:
        """It sends nothing more while the transfer is interrupted."""
        silent = threading.Event()

        def body() -> Iterator[bytes]:
            yield b'abc'
            fakes.wait(silent)
            yield b'def'

        source = self.open(body())
        self.assertEqual(b'abc', self.read(source, 10))
        source.interrupt()
        if compat.eventlet() is None:
            # No other thread reads then.
            silent.set()
            self.assertEqual(b'def', self.read(source, 10))
        else:
            self.assertRaisesRegex(transfer.SourceError, 'interrupted',
                                   self.read, source, 10)


class TestManyDownloads(fakes.TransferTestCase):
    def test_other_work_goes_on(self) -> None:
        """Slow downloads do not occupy eventlet's pool of 20 threads."""
        go_on = threading.Event()
        under_way = threading.Semaphore(0)

        def body() -> Iterator[bytes]:
            under_way.release()
            fakes.wait(go_on)
            yield b'image'

        def download(number: int) -> None:
            source = http_source.ChunkSource(body())
            try:
                transfer.transfer(source, f'{self.path}{number}')
            finally:
                source.close()

        threads = [threading.Thread(target=download, args=(number,))
                   for number in range(40)]
        for thread in threads:
            self.addCleanup(thread.join, fakes.LIMIT)
        self.addCleanup(go_on.set)
        for thread in threads:
            thread.start()
        for _thread in threads:
            self.assertTrue(under_way.acquire(timeout=fakes.LIMIT))
        # Nova calls libvirt in this way.
        compat.in_pool(os.getpid)()
        self.assertEqual(40, len([
            thread for thread in threads if thread.is_alive()]))
        go_on.set()
        for thread in threads:
            thread.join(fakes.LIMIT)
        self.assertEqual(40, len(os.listdir(self.directory)))
