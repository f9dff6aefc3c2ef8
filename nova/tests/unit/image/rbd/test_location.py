# SPDX-License-Identifier: Apache-2.0

"""Locations with one fault each; test_hostile_locations has the rest."""

from nova.image.rbd import location
from nova.image import transfer
from nova import test
from nova.tests.unit.image.rbd import fakes

FSID, IMAGE_ID = fakes.FSID, fakes.IMAGE_ID


class TestLocation(test.NoDBTestCase):
    def test_good(self) -> None:
        for url, parts in (
            (fakes.URL, (FSID, 'images', IMAGE_ID, 'snap')),
            ('rbd://f/p/i/s', ('f', 'p', 'i', 's')),
            ('rbd://F/P/I/S', ('F', 'P', 'I', 'S')),
            ('rbd://f/a%20b/i/s', ('f', 'a b', 'i', 's')),
            ('rbd://f/gr%C3%B6%c3%9Fe/i/s', ('f', 'größe', 'i', 's')),
            ('rbd://f/a-b_c.d~e/i/s', ('f', 'a-b_c.d~e', 'i', 's')),
            ('rbd://f/p%252Fq/i/s', ('f', 'p%2Fq', 'i', 's')),
            ('rbd://f/%3Fa%3Db%26c%23d/i/s', ('f', '?a=b&c#d', 'i', 's')),
            # These names mean no directories: there is no path here.
            ('rbd://f/../i/.', ('f', '..', 'i', '.')),
            ('rbd://f/%s/i/s' % ('p' * 255), ('f', 'p' * 255, 'i', 's')),
        ):
            self.assertEqual(
                location.Location(*parts), location.parse(url), url)

    def test_bad(self) -> None:
        for url in (
            '', 'rbd', 'rbd:', 'rbd://', 'rbd:///', 'rbd:////',
            'rbd://image', 'rbd://f/p/i', 'rbd://f/p/i/s/x',
            'rbd://f/p/i/s/', 'rbd:///p/i/s', 'rbd://f//i/s',
            'rbd://f/p//s', 'rbd://f/p/i/', '/rbd://f/p/i/s',
            'RBD://f/p/i/s', 'Rbd://f/p/i/s', 'rbds://f/p/i/s',
            'http://f/p/i/s', 'rbd:/f/p/i/s', 'rbd:f/p/i/s', 'f/p/i/s',
            ' rbd://f/p/i/s', 'rbd://f/p/i/s ', 'rbd://f/p/i/s\n',
            'rbd://f/p/i/s?x=1', 'rbd://f/p/i/s#x', 'rbd://f/p;x/i/s',
            'rbd://user@f/p/i/s', 'rbd://f:3300/p/i/s',
            'rbd://f/p/i@t/s', 'rbd://f/p/i%40t/s', 'rbd://f/p/i/@',
            'rbd://f/p%2Fq/i/s', 'rbd://f/p%2fq/i/s', 'rbd://f/p/%2F/s',
            'rbd://f/p/i/%2E%2E%2Fs',
            'rbd://f/-p/i/s', 'rbd://f/%2Dp/i/s', 'rbd://f/p/--conf/s',
            'rbd://f/p/i/%2d',
            'rbd://f/p%/i/s', 'rbd://f/p%2/i/s', 'rbd://f/p%zz/i/s',
            'rbd://f/p%00/i/s', 'rbd://f/p%0A/i/s', 'rbd://f/p%7F/i/s',
            'rbd://f/p\0/i/s', 'rbd://f/größe/i/s', 'rbd://f/p\u0661/i/s',
            'rbd://f/%FF/i/s', 'rbd://f/%C3/i/s', 'rbd://f/%ED%A0%80/i/s',
            'rbd://f/%E2%80%AE/i/s', 'rbd://f/%E2%80%A8/i/s',
            'rbd://f/p+q/i/s', 'rbd://f/p q/i/s', 'rbd://f/p\\q/i/s',
            'rbd://f/%s/i/s' % ('p' * 256), 'rbd://' + 'p' * 100_000,
        ):
            error = self.assertRaises(
                transfer.SourceError, location.parse, url)
            # The log quotes it, and must not get a second line.
            self.assertTrue(str(error).isprintable(), repr(url))
