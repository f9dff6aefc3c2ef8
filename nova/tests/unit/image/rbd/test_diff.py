# SPDX-License-Identifier: Apache-2.0

"""The decoder of export-diff, with handmade and random streams."""

from collections.abc import Sequence
import contextlib
import random
import tracemalloc

import hypothesis
from hypothesis import strategies

from nova.image.rbd import diff
from nova.image import transfer
from nova import test
from nova.tests.unit.image import fakes as common
from nova.tests.unit.image.rbd import fakes

SETTINGS = hypothesis.settings(
    max_examples=150, deadline=None, database=None, derandomize=True)
BANNER, END, VALID = fakes.BANNER, fakes.END, fakes.VALID
name, size, data, zeros = fakes.name, fakes.size, fakes.data, fakes.zeros


def decode(
        content: bytes, most: int = 1 << 30, piece: int = 1000,
        snapshot: str = 'snap') -> tuple[int | None, list[tuple[int, bytes]]]:
    """Decode all of a stream, as a transfer does."""
    decoder = diff.Decoder(fakes.Stream(content, most).readinto, snapshot)
    found = []
    for offset, length in decoder.extents():
        extent = bytearray()
        while len(extent) < length:
            buffer = memoryview(bytearray(min(piece, length - len(extent))))
            count = decoder.readinto(buffer)
            if not count:
                # As a transfer does.
                raise transfer.SourceError('unexpected end')
            extent += buffer[:count]
        found.append((offset, bytes(extent)))
    return decoder.size, found


class TestDecoder(test.NoDBTestCase):
    def test_valid(self) -> None:
        for most in (1, 2, 7, 1 << 30):
            for piece in (1, 3, 1000):
                self.assertEqual((100, fakes.VALID_EXTENTS),
                                 decode(VALID, most, piece))
        for count in (0, 1, (1 << 63) - 1):
            self.assertEqual((count, []),
                             decode(BANNER + name() + size(count) + END))
        self.assertEqual(
            (3, [(0, b'abc')]),
            decode(BANNER + name() + size(3) + data(0, b'abc') + END))
        snapshot = 'schnappschuß'
        self.assertEqual((0, []), decode(
            BANNER + name(snapshot.encode()) + size(0) + END,
            snapshot=snapshot))

    def test_size_is_not_known_before(self) -> None:
        decoder = diff.Decoder(fakes.Stream(VALID).readinto, 'snap')
        self.assertIsNone(decoder.size)
        extents = decoder.extents()
        next(extents)
        self.assertEqual(100, decoder.size)
        # The first extent was not read.
        self.assertRaisesRegex(
            transfer.SourceError, 'was not read', list, extents)

    def test_malformed(self) -> None:
        begin = BANNER + name() + size(100)
        most = (1 << 64) - 1
        for reason, *contents in (
            ('unexpected end', *(VALID[:end] for end in range(len(VALID)))),
            ('after the end',
             VALID + b'e', VALID + b'\0', VALID + data(40, b'x')),
            ('wrong banner', b'rbd diff v2\n' + VALID[len(BANNER):],
             b'rbd image v1\n' + VALID[len(BANNER):], VALID[1:], bytes(100)),
            ('unknown record', BANNER + b'f' + name()[1:] + VALID[12:],
             begin + b'\0' + END, begin + b'E'),
            ('wrong snapshot', *(BANNER + name(other) + size(9) + END
                                 for other in (b'nap', b'', b'\xff'))),
            ('snapshot name of',
             BANNER + name(b'snap', (1 << 32) - 1) + size(9),
             BANNER + name(b'snap', 4097) + bytes(5000)),
            ('no size or no', BANNER + name() + END, BANNER + size(9) + END),
            ('more than one size', begin + size(100) + END,
             begin + size(0) + END),
            ('size of 9223372036854775808',
             BANNER + name() + size(1 << 63) + END),
            ('size of', BANNER + name() + size(most) + END),
            ('outside', BANNER + name() + data(0, b'x') + size(9) + END,
             BANNER + name() + zeros(0, 1) + size(9) + END,
             BANNER + name() + zeros(0, 0) + size(9) + END,
             begin + data(100, b'x') + END, begin + data(98, b'xyz') + END,
             begin + zeros(99, 2) + END, begin + data(most, b'', most) + END,
             begin + data(0, b'', most) + END),
            ('out of order', begin + data(5, b'xyz') + data(4, b'x') + END,
             begin + data(5, b'xyz') + data(7, b'x') + END,
             begin + zeros(5, 9) + data(7, b'x') + END,
             begin + data(5, b'xyz') + zeros(0, 9) + END),
        ):
            for content in contents:
                error = self.assertRaises(
                    transfer.SourceError, decode, content)
                self.assertIn(reason, str(error), repr(content))

    def test_error_of_the_stream(self) -> None:
        # A failed export looks complete until the stream raises this.
        for content in (b'', VALID[:30], VALID):
            stream = fakes.Stream(content)

            def fail_at_end(buffer: memoryview) -> int:
                count = stream.readinto(buffer)
                if not count:
                    raise transfer.SourceError('status 5')
                return count

            decoder = diff.Decoder(fail_at_end, 'snap')
            self.assertRaisesRegex(
                transfer.SourceError, 'status 5',
                lambda: [decoder.readinto(memoryview(bytearray(length)))
                         for _offset, length in decoder.extents() if length])

    def test_reads_no_further_than_the_extent(self) -> None:
        stream = fakes.Stream(
            BANNER + name() + size(9) + data(0, b'abc') + END)
        decoder = diff.Decoder(stream.readinto, 'snap')
        reading = decoder.extents()
        self.assertEqual((0, 3), next(reading))
        buffer = memoryview(bytearray(100))
        self.assertEqual(3, decoder.readinto(buffer))
        self.assertEqual(b'abc', bytes(buffer[:3]))
        self.assertEqual([], list(reading))

    def test_memory(self) -> None:
        """The numbers in the stream do not decide how much is read."""
        begin = BANNER + name() + size((1 << 63) - 1)
        for content in (
            BANNER + name(b'snap', (1 << 32) - 1),
            BANNER + name(b'snap', 4096) + bytes(4096),
            begin + data(0, b'', (1 << 63) - 2),
            begin + zeros(0, (1 << 63) - 2) + END,
        ):
            stream = fakes.Stream(content)
            decoder = diff.Decoder(stream.readinto, 'snap')
            tracemalloc.start()
            self.addCleanup(tracemalloc.stop)
            with contextlib.suppress(transfer.SourceError):
                next(decoder.extents(), None)
            _now, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            self.assertLessEqual(stream.asked, 4096)
            self.assertLess(peak, 64 * 1024)


class TestAnyStream(test.NoDBTestCase):
    """A stream is decoded correctly or refused; nothing else can happen."""

    def setUp(self) -> None:
        super().setUp()
        self.useFixture(common.NoHypothesisFolder())

    @SETTINGS
    @hypothesis.given(
        parts=strategies.lists(strategies.tuples(
            strategies.integers(0, 5000), strategies.integers(0, 5000),
            strategies.booleans()), max_size=8),
        tail=strategies.integers(0, 5000),
        most=strategies.integers(1, 6000))
    def test_valid(self, parts: Sequence[tuple[int, int, bool]], tail: int,
                   most: int) -> None:
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
        self._decoded_or_refused(BANNER + b''.join(records))

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
