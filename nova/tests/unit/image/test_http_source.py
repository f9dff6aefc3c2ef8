# SPDX-License-Identifier: Apache-2.0

from collections.abc import Iterator

import requests

from nova.image import http_source
from nova.image import transfer
from nova import test


class TestChunkSource(test.NoDBTestCase):
    def read_all(self, source: http_source.ChunkSource,
                 size: int) -> list[bytes]:
        found = []
        buffer = bytearray(size)
        while count := source.readinto(memoryview(buffer)):
            found.append(bytes(buffer[:count]))
        return found

    def test_one_extent_of_unknown_length(self) -> None:
        source = http_source.ChunkSource([b'abc'])
        self.assertEqual([(0, None)], list(source.extents()))
        self.assertIsNone(source.size)

    def test_chunks_and_buffers_of_any_size(self) -> None:
        chunks = [b'', b'abcde', b'', b'', b'f', b'ghijkl', b'']
        for size, expected in (
            (1, [b'a', b'b', b'c', b'd', b'e', b'f', b'g', b'h', b'i', b'j',
                 b'k', b'l']),
            (4, [b'abcd', b'e', b'f', b'ghij', b'kl']),
            (100, [b'abcde', b'f', b'ghijkl']),
        ):
            source = http_source.ChunkSource(iter(chunks))
            self.assertEqual(expected, self.read_all(source, size))
            # The end stays the end.
            self.assertEqual(0, source.readinto(memoryview(bytearray(1))))

    def test_no_chunks(self) -> None:
        self.assertEqual([], self.read_all(http_source.ChunkSource([]), 10))

    def test_interrupt_changes_nothing(self) -> None:
        source = http_source.ChunkSource([b'abc'])
        source.interrupt()
        buffer = memoryview(bytearray(3))
        self.assertEqual(3, source.readinto(buffer))
        self.assertEqual(b'abc', bytes(buffer))

    def test_finish_has_nothing_to_say(self) -> None:
        source = http_source.ChunkSource([b'abc'])
        self.assertIsNone(source.finish())  # type: ignore[func-returns-value]

    def test_connection_breaks(self) -> None:
        def body() -> Iterator[bytes]:
            yield b'abc'
            raise requests.exceptions.ChunkedEncodingError('it broke')

        # An error of the source: an OSError would be the destination's.
        self.assertRaisesRegex(
            transfer.SourceError, 'it broke', self.read_all,
            http_source.ChunkSource(body()), 10)

    def test_close_ends_the_response(self) -> None:
        ended = []

        def body() -> Iterator[bytes]:
            try:
                yield b'abc'
                yield b'def'
            finally:
                ended.append(True)

        source = http_source.ChunkSource(body())
        source.readinto(memoryview(bytearray(2)))
        self.assertEqual([], ended)
        source.close()
        self.assertEqual([True], ended)

    def test_close_of_what_cannot_be_closed(self) -> None:
        source = http_source.ChunkSource([b'abc'])
        source.close()
        self.assertEqual([b'abc'], self.read_all(source, 10))

    def test_chunks_are_asked_for_one_by_one(self) -> None:
        asked = []

        def body() -> Iterator[bytes]:
            for number in range(3):
                asked.append(number)
                yield b'abcd'

        source = http_source.ChunkSource(body())
        self.assertEqual([], asked)
        buffer = memoryview(bytearray(2))
        source.readinto(buffer)
        source.readinto(buffer)
        self.assertEqual([0], asked)
        source.readinto(buffer)
        self.assertEqual([0, 1], asked)
