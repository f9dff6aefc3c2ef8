# SPDX-License-Identifier: Apache-2.0

"""Recorded hashes, sizes and what goes wrong on the way, by both ways."""

import pathlib
from typing import Any
from typing import ClassVar

import ddt

from lab import faulty
from lab import signing
from lab.tests.functional import matrix

MIB = matrix.MIB
CORRUPT = 'ImageUnacceptable'
#: The error if only one source has delivered wrong bytes, or no source has
#: delivered the complete image.
LOST = 'CouldNotFetchImage'
UNSIGNED = 'the signature does not match the data'


@ddt.ddt
class TestRecordedHash(matrix.MatrixTestCase):
    """One row each, of an image that Glance says other things of."""

    OPTIONS = {'verify_glance_signatures': False}

    path: ClassVar[pathlib.Path]
    image_id: ClassVar[str]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.path, cls.image_id = cls.make_class_image('raw')

    def record(self, algorithm: str | None, value: str | None,
               checksum: str | None) -> None:
        """Record hashes; 'right' stands for the image's own."""
        if value == 'right' and algorithm:
            value = matrix.digest(self.path, algorithm)
        if checksum == 'right':
            checksum = matrix.digest(self.path, 'md5')
        self.cloud.glance.record(
            self.image_id, os_hash_algo=algorithm, os_hash_value=value,
            checksum=checksum)

    @ddt.named_data(
        ['sha512', 'sha512', 'right', None],
        ['sha256', 'sha256', 'right', None],
        ['blake2b', 'blake2b', 'right', None],
        ['weak sha1', 'sha1', 'right', None],
        ['weak md5', 'md5', 'right', None],
        ['checksum is not looked at', 'sha512', 'right', '00'],
        ['weak and checksum is not looked at', 'sha1', 'right', '00'])
    def test_right(self, algorithm, value, checksum):
        self.record(algorithm, value, checksum)

        self.assert_accepted(self.image_id, self.path, algorithm)

    @ddt.named_data(
        ['checksum alone', None, None, 0],
        ['algorithm without a value', 'sha512', None, 0],
        ['unknown algorithm', 'sha513', '00', 1],
        ['algorithm without a size', 'shake_256', '00', 1])
    def test_next_best(self, algorithm, value, warnings):
        self.record(algorithm, value, 'right')
        self.assert_accepted(
            self.image_id, self.path, 'md5', warnings=warnings)

        self.record(algorithm, value, '00')
        for way, error in (('rbd', CORRUPT), ('http', LOST)):
            seen = self.by(way, self.image_id)
            self.assertEqual(error, seen.error)
            self.assertIn('its md5 hash is', seen.message)

    def test_upper_case(self):
        self.record('sha256', matrix.digest(self.path, 'sha256').upper(),
                    None)

        self.assert_accepted(self.image_id, self.path, 'sha256')

    def test_nothing_recorded(self):
        self.record(None, None, None)

        self.assert_accepted(self.image_id, self.path, 'nothing')

    @ddt.named_data(
        ['sha512', 'sha512', '00' * 64],
        ['sha512 and too short', 'sha512', '00'],
        ['weak sha1', 'sha1', '00' * 20],
        ['weak md5', 'md5', '00' * 16])
    def test_wrong(self, algorithm, value):
        """A right checksum does not make up for it."""
        self.record(algorithm, value, 'right')

        self.assert_refused(
            self.image_id, CORRUPT, 'its %s hash is' % algorithm,
            fetched=True, by_http=LOST)

    @ddt.data('sha513', 'shake_256')
    def test_no_way_to_verify(self, algorithm):
        self.record(algorithm, '00', None)

        self.assert_refused(
            self.image_id, CORRUPT,
            'its hash algorithm %s is not available' % algorithm)

    @ddt.data('iso', 'raw')
    def test_flipped_in_ceph(self, disk_format):
        path, image_id = self.make_image(disk_format)
        self.assert_accepted(image_id, path, 'sha512')
        self.flip(image_id)

        for cached in (False, True):
            self.assert_refused(image_id, CORRUPT, 'its sha512 hash is',
                                fetched=True, cached=cached, by_http=LOST)

        # The one thing that the switch is for.
        seen = self.by('rbd', image_id,
                       options={'verify_direct_download': False})
        self.assertEqual(('', 'nothing', 1, 0), (
            seen.error, seen.verified, seen.exports, seen.requests))
        seen = self.by('http', image_id,
                       options={'verify_direct_download': False})
        self.assertEqual((LOST, 1), (seen.error, seen.requests))


@ddt.ddt
class TestSize(matrix.MatrixTestCase):
    """The size in Glance differs from the size in Ceph."""

    OPTIONS = {'verify_glance_signatures': False}

    @ddt.data('iso', 'raw')
    def test_glance_says_more(self, disk_format):
        _path, image_id = self.make_image(disk_format)
        self.cloud.glance.record(image_id, size=matrix.SIZE + 1000)

        self.assert_refused(
            image_id, LOST, '', fetched=True,
            why='It has %d bytes, the image has %d' % (
                matrix.SIZE, matrix.SIZE + 1000))

    @ddt.data('iso', 'raw')
    def test_glance_says_less(self, disk_format):
        _path, image_id = self.make_image(disk_format)
        self.cloud.glance.record(image_id, size=matrix.SIZE - 1000)

        # Over HTTP, it is all that there is to see.
        self.assert_refused(
            image_id, LOST, 'its sha512 hash is', fetched=True,
            why='It has more than the %d bytes' % (matrix.SIZE - 1000))

    @ddt.data('iso', 'raw')
    def test_shorter_in_ceph(self, disk_format):
        _path, image_id = self.make_image(disk_format)
        self.resize(image_id, matrix.SIZE - MIB)
        for hashes in ({'size': matrix.SIZE},
                       {'os_hash_value': None, 'checksum': None}):
            self.cloud.glance.record(image_id, **hashes)
            self.assert_refused(
                image_id, LOST, '', fetched=True,
                why='It has %d bytes, the image has %d' % (
                    matrix.SIZE - MIB, matrix.SIZE))

    @ddt.data('iso', 'raw')
    def test_longer_in_ceph(self, disk_format):
        """Over HTTP, Glance sends as much as it says."""
        path, image_id = self.make_image(disk_format)
        self.resize(image_id, matrix.SIZE + MIB)

        seen = self.by('http', image_id, path=path)
        self.assertEqual(('', 'sha512'), (seen.error, seen.verified))
        seen = self.by('rbd', image_id, path=path)
        self.assertEqual(('', 'sha512', 1, 1), (
            seen.error, seen.verified, seen.exports, seen.requests))
        # The end of a stream of bytes is not known before it comes.
        self.assert_warned(seen, image_id, {
            'iso': 'It has more than the %d bytes' % matrix.SIZE,
            'raw': 'It has %d bytes, the image has %d' % (
                matrix.SIZE + MIB, matrix.SIZE)}[disk_format])


@ddt.ddt
class TestFaultyWays(matrix.MatrixTestCase):
    """Ceph and Glance have it right; what arrives is something else."""

    rbd: ClassVar[faulty.FaultyRbd]
    proxy: ClassVar[faulty.FaultyProxy]
    images: ClassVar[dict[str, str]]
    paths: ClassVar[dict[str, pathlib.Path]]

    @classmethod
    def mounts(cls) -> list[tuple[pathlib.Path, pathlib.Path]]:
        cls.rbd = faulty.FaultyRbd(cls.cloud.directory / 'faulty')
        cls.proxy = faulty.FaultyProxy(cls.cloud.glance.url)
        for fixture in (cls.rbd, cls.proxy):
            fixture.setUp()
            cls.addClassCleanup(fixture.cleanUp)
        return [(cls.rbd.program, faulty.RBD)]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        signer = signing.certify('Signer')
        certificate_id = cls.cloud.store_certificate(signer)
        cls.images, cls.paths = {}, {}
        for disk_format in ('iso', 'raw'):
            path, image_id = cls.make_class_image(disk_format)
            cls.set_properties(
                image_id, **signer.properties(path, certificate_id))
            cls.images[disk_format] = image_id
            cls.paths[disk_format] = path

    def setUp(self) -> None:
        super().setUp()
        self.spoil()
        self.addCleanup(self.spoil)

    def spoil(self, rbd: str = '', http: str = '') -> None:
        self.rbd.set(rbd)
        self.proxy.fault = http

    def by(self, way: str, image_id: str, *,
           options: matrix.Options | None = None,
           **how: Any) -> matrix.Outcome:
        return super().by(way, image_id, options={
            'endpoint_override': self.proxy.url, **(options or {})}, **how)

    @ddt.data('iso', 'raw')
    def test_no_fault(self, disk_format):
        for signed, verified in ((True, 'signature'), (False, 'sha512')):
            self.assert_accepted(
                self.images[disk_format], self.paths[disk_format],
                verified, options={'verify_glance_signatures': signed})

    @ddt.named_data(
        ['iso flip signed', 'iso', 'flip', True, UNSIGNED],
        ['iso flip', 'iso', 'flip', False, 'its sha512 hash is'],
        ['iso cut signed', 'iso', 'cut', True, 'It has'],
        ['iso cut last', 'iso', 'cut-last', False, 'It has'],
        ['iso add', 'iso', 'add', False, 'more than'],
        ['raw flip signed', 'raw', 'flip', True, UNSIGNED],
        ['raw flip', 'raw', 'flip', False, 'its sha512 hash is'],
        ['raw cut', 'raw', 'cut', False, 'ended early'],
        ['raw cut last', 'raw', 'cut-last', False, 'unexpected end'],
        ['raw add signed', 'raw', 'add', True, 'after the end'])
    def test_fault(self, disk_format, fault, signed, why):
        """By one way, then by both."""
        image_id = self.images[disk_format]
        options = {'verify_glance_signatures': signed}

        # The next source has it right.
        self.spoil(rbd=fault)
        seen = self.by('rbd', image_id, options=options,
                       path=self.paths[disk_format])
        self.assertEqual(
            ('', 'signature' if signed else 'sha512', 1, 1),
            (seen.error, seen.verified, seen.exports, seen.requests))
        self.assert_warned(seen, image_id, why)

        # No source has it right.
        error = by_http = LOST
        if fault == 'flip':
            # For a raw image, the fault flips another byte in the export than
            # over HTTP, so the sources deliver different bytes.
            error, by_http = (
                ('InvalidSignature',) * 2 if signed else
                (CORRUPT if disk_format == 'iso' else LOST, LOST))
        self.spoil(rbd=fault, http=fault)
        self.assert_refused(image_id, error, '', fetched=True, why=why,
                            options=options, cached=True, by_http=by_http)

    @ddt.data(True, False)
    def test_connection_breaks(self, signed):
        self.spoil(rbd='cut', http='break')

        self.assert_refused(
            self.images['iso'], LOST, 'The connection failed',
            fetched=True, why='It has',
            options={'verify_glance_signatures': signed})

    def test_size_is_always_checked(self):
        for fault in ('cut', 'add'):
            self.spoil(rbd=fault)
            seen = self.by(
                'rbd', self.images['raw'], path=self.paths['raw'],
                options={'verify_glance_signatures': False,
                         'verify_direct_download': False})
            self.assertEqual(('sha512', 1), (seen.verified, seen.requests))

    def test_signature_is_always_checked(self):
        self.spoil(rbd='flip')
        seen = self.by('rbd', self.images['raw'],
                       path=self.paths['raw'],
                       options={'verify_direct_download': False})
        self.assertEqual(('signature', 1), (seen.verified, seen.requests))
        self.assert_warned(seen, self.images['raw'], UNSIGNED)
