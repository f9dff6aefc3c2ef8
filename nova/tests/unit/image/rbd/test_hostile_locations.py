# SPDX-License-Identifier: Apache-2.0

"""For any location, rbd gets four plain names or does not run."""

from collections.abc import Iterator
import itertools
import re
import typing as ty
import urllib.parse

import hypothesis
from hypothesis import strategies

from nova.image.rbd import location as rbd_location
from nova.image import transfer
import nova.privsep.rbd
from nova import test
from nova.tests.unit.image import fakes as common
from nova.tests.unit.image.rbd import fakes

# An example makes dozens of cases, so that thousands take seconds.
SETTINGS = hypothesis.settings(
    max_examples=250, deadline=None, database=None, derandomize=True)
FSID, IMAGE_ID = fakes.FSID, fakes.IMAGE_ID
GOOD = (FSID, 'images', IMAGE_ID, 'snap')

_NASTY = strategies.sampled_from([
    '', '.', '..', '-', '--', '--conf', '--pool=volumes', '-c/tmp/x', '@',
    'a@b', '/', 'a/b', '%2F', '%2f', '%252F', '%40', '%00', '%0A', '%2D%2D',
    '%', '%%', '%zz', '%E2%80%AE', '%ED%A0%80', '%FF', '\0', '\n', '\r\n',
    ' ', '+', '\\', '?', '#', ';', ':', '&x=1', '*', '$HOME', '`id`',
    'namespace/image', 'volumes', 'volume-' + IMAGE_ID, IMAGE_ID.upper(),
    'größe', 'gro\u0308ße', '\u202e', '\u2028', '\ufeff', '\uff0f', '\u2215',
    '\ud800', '\U0001f4a9', 'x' * 255, 'x' * 256, 'x' * 5000])
_PARTS = strategies.one_of(
    _NASTY, strategies.text(max_size=12),
    strategies.builds(''.join, strategies.lists(
        _NASTY | strategies.sampled_from(GOOD), max_size=3)))
_SCHEMES = ('rbd:/', 'rbd:', 'RBD://', 'rbd:///', '//', '', ' rbd://',
            'file://', 'rbd://x@', 'rbd://rbd://')


def quoted(part: str) -> str:
    """Quote a part of a location in the way of glance_store."""
    return urllib.parse.quote(part, '', errors='surrogatepass')


def urls(parts: list[str]) -> Iterator[str]:
    """Yield locations with these parts in any place, quoted and not."""
    both = [*parts, *map(quoted, parts)]
    for part in both:
        for place in range(4):
            yield 'rbd://' + '/'.join(
                [*GOOD[:place], part, *GOOD[place + 1:]])
    for count in range(1, 6):
        yield 'rbd://' + '/'.join(parts[:count])
        yield 'rbd://' + '/'.join(map(quoted, parts[:count]))
        yield 'rbd://' + '/'.join([*GOOD[:count], parts[0]])
    for scheme in _SCHEMES:
        yield scheme + '/'.join(GOOD)
    yield ''.join(parts)


# The format of --image (Ceph's src/tools/rbd/Utils.cc): a pool, namespace or
# snapshot in it overrides --pool, --namespace and --snap.
_RBD_SPEC = re.compile(
    r'(?:(?P<pool>[^/]*)/(?:(?P<namespace>[^/@]*)/)?)?'
    r'(?P<image>[^/@]*)(?:@(?P<snapshot>[^/@]*))?', re.DOTALL)
_UUID = re.compile(
    r'\A[\da-f]{8}-[\da-f]{4}-[\da-f]{4}-[\da-f]{4}-[\da-f]{12}\Z',
    re.ASCII | re.IGNORECASE)


def naive_parse(url: str) -> list[bytes]:
    """The parts of a URL, as simply as can be; nothing is checked."""
    return [urllib.parse.unquote_to_bytes(part)
            for part in url.removeprefix('rbd://').split('/')]


def options(command: ty.Any = 'rbd export', pool: ty.Any = 'P',
            image: ty.Any = IMAGE_ID, snapshot: ty.Any = 'S') -> list[str]:
    """Return what rbd is given because of these arguments."""
    return nova.privsep.rbd._options(command, pool, image, snapshot)


class HostileTestCase(test.NoDBTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.useFixture(common.NoHypothesisFolder())


class TestAnyLocation(HostileTestCase):
    @SETTINGS
    @hypothesis.given(strategies.lists(_PARTS, min_size=5, max_size=5))
    @hypothesis.example(['volumes', 'volumes/' + IMAGE_ID, '@other',
                         'volume-' + IMAGE_ID, IMAGE_ID + '@x'])
    def test_four_plain_names_or_an_error(self, parts: list[str]) -> None:
        for url in urls(parts):
            self._check(url)

    def _check(self, url: str) -> None:
        try:
            location = rbd_location.parse(url)
        except transfer.SourceError as error:
            # For a log: in one line, and not a long one.
            self.assertTrue(str(error).isprintable(), url)
            self.assertLess(len(str(error)), 1200)
            return
        parts = (location.fsid, location.pool, location.image,
                 location.snapshot)
        self.assertEqual([part.encode() for part in parts], naive_parse(url))
        for part in parts:
            self.assertRegex(part, r'\A[^/@\0\n-][^/@\0\n]{0,254}\Z')
            self.assertTrue(part.isprintable(), url)
        self._check_options(location)
        self._check_allowed(location)

    def _check_options(self, location: rbd_location.Location) -> None:
        names = location.pool, location.image, location.snapshot
        if not _UUID.fullmatch(location.image):
            self.assertRaises(ValueError, options, 'rbd export', *names)
            return
        given = options('rbd export', *names)
        pool, image, snapshot = names
        self.assertEqual(
            [*options()[:-3], '--snap=' + snapshot, '--pool=' + pool,
             '--image=' + image], given)
        seen = _RBD_SPEC.fullmatch(image)
        assert seen is not None, image
        self.assertEqual(
            (None, None, image, None),
            seen.group('pool', 'namespace', 'image', 'snapshot'))

    def _check_allowed(self, location: rbd_location.Location) -> None:
        try:
            rbd_location.check_allowed(location, IMAGE_ID)
            allowed = True
        except transfer.SourceError as error:
            self.assertTrue(str(error).isprintable())
            allowed = False
        # In any pool, the image must have exactly this name.
        self.assertEqual(location.image == IMAGE_ID, allowed)

    @SETTINGS
    @hypothesis.given(strategies.lists(
        strategies.text(
            strategies.characters(
                exclude_categories=['C', 'Z'], exclude_characters='/@'),
            min_size=1, max_size=30).filter(
                lambda name: not name.startswith('-')),
        min_size=4, max_size=4))
    def test_what_glance_store_makes_of_plain_names(self,
                                                    parts: list[str]) -> None:
        for names in itertools.permutations(parts):
            url = 'rbd://' + '/'.join(map(quoted, names))
            self.assertEqual(
                rbd_location.Location(*names), rbd_location.parse(url))

    def test_how_many_cases_there_are(self) -> None:
        """Thousands, not as many as the settings say."""
        per_example = len(list(urls(['x'] * 5)))
        self.assertLess(10_000, per_example * SETTINGS.max_examples)
        per_example = len(TestAnyArguments.NAMES) * TestAnyArguments.VALUES
        self.assertLess(10_000, per_example * SETTINGS.max_examples)

    @SETTINGS
    @hypothesis.given(strategies.lists(_PARTS, min_size=5, max_size=5))
    def test_pools(self, parts: list[str]) -> None:
        pools = ['images', parts[0] or 'fast']
        # oslo.config substitutes a name after a dollar sign.
        self.flags(rbd_pool=[pool.replace('$', '$$') for pool in pools],
                   group='glance')
        for part in ('images', *parts):
            location = rbd_location.Location(FSID, part, IMAGE_ID, 'snap')
            try:
                rbd_location.check_allowed(location, IMAGE_ID)
                allowed = True
            except transfer.SourceError:
                allowed = False
            self.assertEqual(part in pools, allowed)


_ANYTHING = strategies.one_of(
    _PARTS, strategies.none(), strategies.booleans(), strategies.integers(),
    strategies.floats(), strategies.binary(max_size=8),
    strategies.lists(_PARTS, max_size=2),
    strategies.sampled_from([
        'rbd export', 'rbd export-diff', 'rbd info', 'rbd snap ls', 'rbd',
        'rbd import', 'rbd export --x', 'ceph fsid', 60, 0, -1, '60']))


class TestAnyArguments(HostileTestCase):
    """The privileged side believes nothing that it is told."""

    NAMES = ('command', 'pool', 'image', 'snapshot')

    VALUES = 12

    @SETTINGS
    @hypothesis.given(strategies.lists(
        _ANYTHING, min_size=VALUES, max_size=VALUES))
    def test_refused_or_in_its_place(self, values: list[ty.Any]) -> None:
        for name, value in itertools.product(self.NAMES, values):
            self._check({name: value})
        self._check(dict(zip(self.NAMES, values)))

    def _check(self, changes: dict[str, ty.Any]) -> None:
        try:
            given = options(**changes)
        except (LookupError, TypeError):
            return
        except ValueError as error:
            self.assertTrue(str(error).isprintable(), changes)
            self.assertLess(len(str(error)), 400)
            return
        expected = options('ceph fsid')
        names = {'command': 'rbd export', 'pool': 'P', 'image': IMAGE_ID,
                 'snapshot': 'S'} | changes
        if names['command'] in (
                'rbd export', 'rbd export-diff', 'rbd info', 'rbd snap ls'):
            for name in ('pool', 'snapshot'):
                self.assertRegex(names[name], r'\A[^-/@\0\n][^/@\0\n]*\Z')
            self.assertRegex(names['image'], _UUID)
            if 'export' in names['command']:
                expected.append('--snap=' + names['snapshot'])
            expected += ['--pool=' + names['pool'],
                         '--image=' + names['image']]
        self.assertEqual(expected, given)
