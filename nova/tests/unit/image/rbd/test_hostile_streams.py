# SPDX-License-Identifier: Apache-2.0

"""Any stream at all, decoded by two decoders that must agree."""

import os
import pathlib
import struct
import typing as ty
from unittest import mock

import fixtures
import hypothesis
from hypothesis import strategies

from nova.image.rbd import diff
from nova.image import transfer
from nova import test
from nova.tests.unit.image import fakes as common
from nova.tests.unit.image.rbd import fakes

# An example makes dozens of cases, so that thousands take seconds.
SETTINGS = hypothesis.settings(
    max_examples=250, deadline=None, database=None, derandomize=True)
MOST = (1 << 64) - 1
FILE_MOST = (1 << 63) - 1

Extents = list[tuple[int, bytes]]
Record = tuple[str, ty.Any, ty.Any]

_NUMBERS = strategies.one_of(
    strategies.integers(0, 60), strategies.sampled_from([
        0, 1, 255, 4096, 4097, (1 << 31) - 1, 1 << 32, FILE_MOST - 1,
        FILE_MOST, FILE_MOST + 1, MOST - 1, MOST]))
_RECORDS = strategies.one_of(
    strategies.builds(fakes.size, _NUMBERS),
    strategies.builds(fakes.zeros, _NUMBERS, _NUMBERS),
    strategies.builds(fakes.data, strategies.integers(0, 60),
                      strategies.binary(max_size=20)),
    # Lengths that are not those of the data.
    strategies.builds(fakes.data, _NUMBERS,
                      strategies.binary(max_size=20), _NUMBERS),
    strategies.builds(
        fakes.name, strategies.sampled_from([b'snap', b'', b'other']),
        strategies.none() | _NUMBERS.filter(lambda count: count < 1 << 32)),
    strategies.sampled_from([
        fakes.END, fakes.BANNER, b'f', b'l', b'\0', b'w']),
    strategies.binary(max_size=20))


def tokens(content: bytes) -> list[Record] | None:
    """Cut a stream into records; None if it is not made of such."""
    if not content.startswith(b'rbd diff v1\n'):
        return None
    rest, found = content[12:], list[Record]()
    while rest:
        tag, rest = rest[:1].decode('latin-1'), rest[1:]
        try:
            if tag == 't':
                (count,) = struct.unpack('<I', rest[:4])
                found.append((tag, rest[4:4 + count], count))
                rest = rest[4 + count:]
            elif tag == 's':
                found.append((tag, *struct.unpack('<Q', rest[:8]), None))
                rest = rest[8:]
            elif tag == 'z':
                found.append((tag, *struct.unpack('<QQ', rest[:16])))
                rest = rest[16:]
            elif tag == 'w':
                offset, count = struct.unpack('<QQ', rest[:16])
                if len(rest) < 16 + count:
                    return None
                found.append((tag, offset, rest[16:16 + count]))
                rest = rest[16 + count:]
            elif tag == 'e':
                found.append((tag, None, None))
            else:
                return None
        except struct.error:
            return None
    return found


def naive_decode(content: bytes) -> tuple[int, Extents] | None:
    """Decode a stream that is all in memory; None if it is to be refused."""
    records = tokens(content)
    if not records or [tag for tag, _a, _b in records].count('e') != 1:
        return None
    if records.pop()[0] != 'e':
        return None
    names = [(what, count) for tag, what, count in records if tag == 't']
    if not names or set(names) != {(b'snap', 4)}:
        return None
    sizes = [what for tag, what, _none in records if tag == 's']
    if len(sizes) != 1 or sizes[0] > FILE_MOST:
        return None
    tags = ''.join(tag for tag, _a, _b in records).replace('t', '')
    if not tags.startswith('s'):
        return None
    spans = [(what, what + (more if tag == 'z' else len(more)))
             for tag, what, more in records if tag in 'zw']
    edges = [edge for span in spans for edge in span]
    if edges != sorted(edges) or edges and edges[-1] > sizes[0]:
        return None
    return sizes[0], [(what, more) for tag, what, more in records
                      if tag == 'w']


def variants(records: list[bytes], rest: bytes) -> list[bytes]:
    """Streams of these records: whole, disordered, cut short, changed."""
    head = fakes.BANNER
    begin = head + fakes.name() + fakes.size(60)
    body = b''.join(records)
    streams = [head + body, begin + body, begin + body + fakes.END,
               begin + b''.join(reversed(records)) + fakes.END,
               begin + b''.join(sorted(records)) + fakes.END,
               begin + body + fakes.END + rest, body, rest]
    whole = streams[2]
    for number in range(12):
        # Cut, struck out and overwritten, all over the stream.
        place = len(whole) * number // 12
        streams += [whole[:place], whole[:place] + whole[place + 1:],
                    whole[:place] + rest + whole[place + len(rest):]]
    return streams


class HostileTestCase(test.NoDBTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.useFixture(common.NoHypothesisFolder())


class TestTwoDecoders(HostileTestCase):
    def test_naive_one_decodes(self) -> None:
        self.assertEqual(
            (100, fakes.VALID_EXTENTS),
            naive_decode(fakes.VALID))

    def test_how_many_cases_there_are(self) -> None:
        self.assertLess(10_000,
                        len(variants([], b'')) * SETTINGS.max_examples)

    @SETTINGS
    @hypothesis.given(strategies.lists(_RECORDS, max_size=6),
                      strategies.binary(min_size=1, max_size=9),
                      strategies.integers(1, 40))
    def test_any_stream(self, records: list[bytes], rest: bytes,
                        most: int) -> None:
        for content in variants(records, rest):
            self._compare(content, most)

    @SETTINGS
    @hypothesis.given(
        strategies.lists(strategies.tuples(
            strategies.integers(-1, 9), strategies.binary(max_size=20),
            strategies.booleans()), max_size=8),
        strategies.integers(-1, 99), strategies.integers(1, 40))
    def test_valid_stream_or_almost(self, parts: list[tuple[int, bytes, bool]],
                                    tail: int, most: int) -> None:
        """Extents may overlap by one byte, or reach one byte too far."""
        content, offset, valid = b'', 0, tail >= 0
        for gap, piece, is_data in parts:
            valid = valid and gap >= 0
            offset = max(0, offset + gap)
            content += (fakes.data(offset, piece) if is_data
                        else fakes.zeros(offset, len(piece)))
            offset += len(piece)
        content = (fakes.BANNER + fakes.name() +
                   fakes.size(max(0, offset + tail)) + content +
                   fakes.END)
        if valid:
            self.assertIsNotNone(naive_decode(content))
        self._compare(content, most)
        for end in range(len(content)):
            self._compare(content[:end], most)

    def _compare(self, content: bytes, most: int) -> None:
        expected = naive_decode(content)
        stream = fakes.Stream(content, most)
        try:
            found = self._decode(stream)
        except transfer.SourceError as error:
            self.assertTrue(str(error).isprintable(), content)
            self.assertIsNone(expected, repr(content))
        else:
            self.assertEqual(expected, found, repr(content))
        # Whatever lengths the stream tells of.
        self.assertLessEqual(stream.asked, 4096, content)

    @staticmethod
    def _decode(stream: fakes.Stream) -> tuple[int | None, Extents]:
        decoder = diff.Decoder(stream.readinto, 'snap')
        found = []
        for offset, length in decoder.extents():
            extent = b''
            while len(extent) < length:
                buffer = memoryview(bytearray(min(64, length - len(extent))))
                count = decoder.readinto(buffer)
                if not count:
                    # A transfer raises this error.
                    raise transfer.SourceError(reason='ended early')
                extent += buffer[:count]
            found.append((offset, extent))
        return decoder.size, found


class _DiffSource(diff.Decoder):
    def finish(self) -> None:
        pass

    def interrupt(self) -> None:
        pass


class TestFiles(HostileTestCase):
    """The file is the one of the naive decoder, or there is none."""

    @hypothesis.settings(SETTINGS, max_examples=25)
    @hypothesis.given(strategies.lists(_RECORDS, max_size=6),
                      strategies.binary(min_size=1, max_size=9))
    def test_any_stream(self, records: list[bytes], rest: bytes) -> None:
        directory = self.useFixture(fixtures.TempDir()).path
        path = os.path.join(directory, 'image')
        with (mock.patch.object(transfer, 'BLOCK', common.SMALL),
              mock.patch.object(transfer, '_ZEROS',
                                bytes(common.SMALL))):
            for content in variants(records, rest)[:12]:
                self._check(content, path)

    def _check(self, content: bytes, path: str) -> None:
        expected = naive_decode(content)
        size = 60 if expected is None else expected[0]
        source = _DiffSource(fakes.Stream(content).readinto, 'snap')
        try:
            transfer.transfer(source, path, size=size)
        except transfer.SourceError:
            self.assertIsNone(expected, repr(content))
            self.assertEqual([], os.listdir(os.path.dirname(path)))
            return
        except OSError as error:
            # A size that no filesystem takes.
            self.assertLess(1 << 40, size, error)
            self.assertEqual([], os.listdir(os.path.dirname(path)))
            return
        assert expected is not None, content
        self.assertEqual(size, os.stat(path).st_size)
        if size < 1 << 20:
            self.assertEqual(common.naive_image(*expected),
                             pathlib.Path(path).read_bytes())
        os.unlink(path)
