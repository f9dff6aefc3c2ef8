# SPDX-License-Identifier: Apache-2.0

"""The decoder of export-diff streams against streams made by hand."""

from collections.abc import Sequence
import random
import struct
import tracemalloc

import hypothesis
from hypothesis import strategies

from nova.image.rbd import diff as rbd_diff
from nova.image import transfer
from nova import test
from nova.tests.unit.image import test_transfer

SETTINGS = hypothesis.settings(
    max_examples=150, deadline=None, database=None, derandomize=True)
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


class Stream:
    """A stream in memory that gives no more than some bytes at a time."""

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


def decode(
    content: bytes, most: int = 1 << 30, piece: int = 1000,
) -> tuple[int | None, list[tuple[int, bytes]]]:
    """Decode all of a stream, as a transfer does."""
    decoder = rbd_diff.Decoder(Stream(content, most).readinto, 'snap')
    found = []
    for offset, length in decoder.extents():
        extent = bytearray()
        while len(extent) < length:
            buffer = memoryview(
                bytearray(min(piece, length - len(extent))))
            count = decoder.readinto(buffer)
            if not count:
                # What a transfer makes of it.
                raise transfer.SourceError(reason='ended early')
            extent += buffer[:count]
        found.append((offset, bytes(extent)))
    return decoder.size, found


VALID = (BANNER + name() + size(100) + data(0, b'abc') + data(3, b'') +
         zeros(10, 20) + data(30, b'0123456789') + zeros(99, 1) + END)
VALID_EXTENTS = [(0, b'abc'), (3, b''), (30, b'0123456789')]


class TestDecoder(test.NoDBTestCase):
    def assert_malformed(self, reason: str, content: bytes) -> None:
        self.assertRaisesRegex(
            transfer.SourceError, 'not a complete export-diff: .*' + reason,
            decode, content)

    def test_valid_in_any_pieces(self) -> None:
        for most in (1, 2, 7, 1 << 30):
            for piece in (1, 3, 1000):
                self.assertEqual((100, VALID_EXTENTS),
                                 decode(VALID, most, piece))

    def test_nothing_allocated(self) -> None:
        for count in (0, 1, (1 << 63) - 1):
            self.assertEqual((count, []),
                             decode(BANNER + name() + size(count) + END))

    def test_extent_up_to_the_end(self) -> None:
        self.assertEqual(
            (3, [(0, b'abc')]),
            decode(BANNER + name() + size(3) + data(0, b'abc') + END))

    def test_size_is_not_known_before(self) -> None:
        decoder = rbd_diff.Decoder(Stream(VALID).readinto, 'snap')
        self.assertIsNone(decoder.size)
        next(decoder.extents())
        self.assertEqual(100, decoder.size)

    def test_snapshot_in_unicode(self) -> None:
        snapshot = 'schnappschuß'
        content = BANNER + name(snapshot.encode()) + size(0) + END
        decoder = rbd_diff.Decoder(Stream(content).readinto, snapshot)
        self.assertEqual([], list(decoder.extents()))
        self.assertEqual(0, decoder.size)

    def test_cut_short_anywhere(self) -> None:
        for count in range(len(VALID)):
            self.assertRaisesRegex(transfer.SourceError, 'end(s|ed) early',
                                   decode, VALID[:count])

    def test_goes_on_after_its_end(self) -> None:
        for more in (b'e', b'\0', data(40, b'x')):
            self.assert_malformed('goes on', VALID + more)

    def test_malformed(self) -> None:
        begin = BANNER + name() + size(100)
        most = (1 << 64) - 1
        for reason, content in (
            ('begin like', b'rbd diff v2\n' + VALID[len(BANNER):]),
            ('begin like', b'rbd image v1\n' + VALID[len(BANNER):]),
            ('begin like', VALID[1:]),
            ('begin like', bytes(100)),
            ('unknown record', BANNER + b'f' + name()[1:] + VALID[12:]),
            ('unknown record', begin + b'\0' + END),
            ('unknown record', begin + b'E'),
            ('of snapshot', BANNER + name(b'nap') + size(9) + END),
            ('of snapshot', BANNER + name(b'') + size(9) + END),
            ('of snapshot', BANNER + name(b'\xff') + size(9) + END),
            ('a name of', BANNER + name(b'snap', (1 << 32) - 1) + size(9)),
            ('a name of', BANNER + name(b'snap', 4097) + bytes(5000)),
            ('no size', BANNER + name() + END),
            ('two sizes', begin + size(100) + END),
            ('two sizes', begin + size(0) + END),
            ('a size of 9223372036854775808',
             BANNER + name() + size(1 << 63) + END),
            ('a size of', BANNER + name() + size(most) + END),
            ('outside', BANNER + name() + data(0, b'x') + size(9) + END),
            ('outside', BANNER + name() + zeros(0, 1) + size(9) + END),
            ('outside', begin + data(100, b'x') + END),
            ('outside', begin + data(98, b'xyz') + END),
            ('outside', begin + zeros(99, 2) + END),
            ('outside', begin + data(most, b'', most) + END),
            ('outside', begin + data(0, b'', most) + END),
            ('not in order', begin + data(5, b'xyz') + data(4, b'x') + END),
            ('not in order', begin + data(5, b'xyz') + data(7, b'x') + END),
            ('not in order', begin + zeros(5, 9) + data(7, b'x') + END),
            ('not in order', begin + data(5, b'xyz') + zeros(0, 9) + END),
        ):
            self.assert_malformed(reason, content)

    def test_extent_left_unread(self) -> None:
        decoder = rbd_diff.Decoder(Stream(VALID).readinto, 'snap')
        self.assertRaisesRegex(
            transfer.SourceError, 'was not read', list, decoder.extents())

    def test_error_of_the_stream_comes_through(self) -> None:
        def fail(_buffer: memoryview) -> int:
            raise transfer.SourceError(reason='status 5')

        decoder = rbd_diff.Decoder(fail, 'snap')
        self.assertRaisesRegex(
            transfer.SourceError, 'status 5', next, decoder.extents())

    def test_end_is_asked_for(self) -> None:
        # A failed export looks complete until the stream says it has failed.
        stream = Stream(VALID)

        def fail_at_end(buffer: memoryview) -> int:
            count = stream.readinto(buffer)
            if not count:
                raise transfer.SourceError(reason='status 5')
            return count

        decoder = rbd_diff.Decoder(fail_at_end, 'snap')
        reading = decoder.extents()
        self.assertRaisesRegex(
            transfer.SourceError, 'status 5',
            lambda: [decoder.readinto(memoryview(bytearray(length)))
                     for _offset, length in reading if length])

    def test_reads_no_further_than_the_extent(self) -> None:
        stream = Stream(BANNER + name() + size(9) + data(0, b'abc') + END)
        decoder = rbd_diff.Decoder(stream.readinto, 'snap')
        reading = decoder.extents()
        self.assertEqual((0, 3), next(reading))
        buffer = memoryview(bytearray(100))
        self.assertEqual(3, decoder.readinto(buffer))
        self.assertEqual(b'abc', bytes(buffer[:3]))
        self.assertEqual([], list(reading))

    def test_asks_for_few_bytes_whatever_the_stream_says(self) -> None:
        begin = BANNER + name() + size((1 << 63) - 1)
        for content in (
            BANNER + name(b'snap', (1 << 32) - 1),
            BANNER + name(b'snap', 4096) + bytes(4096),
            begin + data(0, b'', (1 << 63) - 2),
            begin + zeros(0, (1 << 63) - 2) + END,
        ):
            stream = Stream(content)
            decoder = rbd_diff.Decoder(stream.readinto, 'snap')
            tracemalloc.start()
            self.addCleanup(tracemalloc.stop)
            try:
                next(decoder.extents(), None)
            except transfer.SourceError:
                pass
            _now, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            self.assertLessEqual(stream.asked, 4096)
            self.assertLess(peak, 64 * 1024)


class TestAnyStream(test.NoDBTestCase):
    """A stream is decoded right, or refused: nothing else can happen."""

    def setUp(self) -> None:
        super().setUp()
        self.useFixture(test_transfer.NoHypothesisFolder())

    @SETTINGS
    @hypothesis.given(
        parts=strategies.lists(strategies.tuples(
            strategies.integers(0, 5000), strategies.integers(0, 5000),
            strategies.booleans()), max_size=8),
        tail=strategies.integers(0, 5000),
        most=strategies.integers(1, 6000))
    def test_valid(
        self, parts: Sequence[tuple[int, int, bool]], tail: int, most: int,
    ) -> None:
        records, extents, offset = b'', [], 0
        for number, (gap, length, is_data) in enumerate(parts):
            offset += gap
            if is_data:
                content = random.Random(number).randbytes(length)
                extents.append((offset, content))
                records += data(offset, content)
            else:
                records += zeros(offset, length)
            offset += length
        self.assertEqual(
            (offset + tail, extents),
            decode(BANNER + name() + size(offset + tail) + records + END,
                   most))

    @SETTINGS
    @hypothesis.given(
        strategies.lists(strategies.tuples(
            strategies.integers(0, len(VALID)), strategies.integers(0, 8),
            strategies.binary(max_size=8)), min_size=1, max_size=3))
    def test_changed(self, changes: list[tuple[int, int, bytes]]) -> None:
        content = VALID
        for start, length, new in changes:
            content = content[:start] + new + content[start + length:]
        self._decoded_or_refused(content)

    @SETTINGS
    @hypothesis.given(strategies.lists(strategies.one_of(
        strategies.binary(max_size=20),
        strategies.sampled_from([name(), END, b'w', b'z', b's', b't']),
        strategies.builds(size, strategies.integers(0, 100)),
        strategies.builds(zeros, strategies.integers(0, 100),
                          strategies.integers(0, 100)),
        strategies.builds(data, strategies.integers(0, 100),
                          strategies.binary(max_size=20))), max_size=8))
    def test_records_in_any_order(self, records: list[bytes]) -> None:
        content = BANNER + b''.join(records)
        self._decoded_or_refused(content)

    def _decoded_or_refused(self, content: bytes) -> None:
        try:
            total, extents = decode(content)
        except transfer.SourceError as error:
            self.assertNotEqual('', str(error))
            return
        assert total is not None, content
        end = 0
        for offset, extent in extents:
            self.assertLessEqual(end, offset, content)
            end = offset + len(extent)
            self.assertIn(extent, content)
        self.assertLessEqual(end, total, content)
        self.assertTrue(content.endswith(END), content)
