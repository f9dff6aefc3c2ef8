# SPDX-License-Identifier: Apache-2.0

import hashlib
import typing as ty
from unittest import mock

from nova import exception
from nova.image import transfer
from nova.image import verify
from nova import test

DATA = b'the bytes of an image'
MD5 = hashlib.md5(DATA, usedforsecurity=False).hexdigest()
SHA512 = hashlib.sha512(DATA).hexdigest()
OTHER = hashlib.sha512(b'other bytes').hexdigest()


def image(**values: ty.Any) -> dict[str, ty.Any]:
    return {'id': 'cafe', 'checksum': None} | values


def check(expected: verify.Expectation, data: bytes = DATA) -> None:
    """Have a fresh verifier look at data, in pieces."""
    verifier = expected.start()
    assert verifier is not None
    for start in range(0, len(data), 5):
        verifier.update(memoryview(data)[start:start + 5])
    verifier.verify()


class TestRecordedHash(test.NoDBTestCase):
    def test_which_hash(self) -> None:
        for values, name in (
            ({'os_hash_algo': 'sha512', 'os_hash_value': SHA512}, 'sha512'),
            ({'os_hash_algo': 'sha512', 'os_hash_value': SHA512.upper()},
             'sha512'),
            ({'os_hash_algo': 'sha512', 'os_hash_value': SHA512,
              'checksum': 'not looked at'}, 'sha512'),
            ({'os_hash_algo': 'sha256',
              'os_hash_value': hashlib.sha256(DATA).hexdigest()}, 'sha256'),
            ({'os_hash_algo': 'blake2b',
              'os_hash_value': hashlib.blake2b(DATA).hexdigest()},
             'blake2b'),
            ({'os_hash_algo': 'md5', 'os_hash_value': MD5}, 'md5'),
            ({'checksum': MD5}, 'md5'),
            ({'checksum': MD5.upper()}, 'md5'),
            ({'os_hash_algo': None, 'os_hash_value': None, 'checksum': MD5},
             'md5'),
            ({'os_hash_algo': 'sha512', 'os_hash_value': None,
              'checksum': MD5}, 'md5'),
            ({'os_hash_algo': None, 'os_hash_value': SHA512,
              'checksum': MD5}, 'md5'),
        ):
            expected = verify.recorded_hash(image(**values))
            self.assertEqual((name, True), (expected.name, expected.is_hash),
                             str(values))
            check(expected)
            self.assertRaises(
                verify.WrongHash, check, expected, DATA + b'!')
            self.assertRaises(verify.WrongHash, check, expected, b'')

    def test_algorithm_that_this_host_does_not_have(self) -> None:
        # An extendable-output function has no digest to compare with.
        for algorithm in ('gost', 'shake_128', 'shake_256'):
            with self.assertLogs(verify.LOG.logger, 'WARNING') as logs:
                expected = verify.recorded_hash(image(
                    os_hash_algo=algorithm, os_hash_value='ab',
                    checksum=MD5))
            self.assertEqual('md5', expected.name)
            check(expected)
            self.assertEqual(1, len(logs.output))
            self.assertIn(algorithm, logs.output[0])
            self.assertIn('cafe', logs.output[0])

    def test_no_algorithm_that_this_host_has(self) -> None:
        for algorithm in ('gost', 'shake_128', 'no hash'):
            self.assertRaisesRegex(
                exception.ImageUnacceptable,
                'cafe.*%s is not available' % algorithm,
                verify.recorded_hash,
                image(os_hash_algo=algorithm, os_hash_value='ab'))

    def test_md5_where_only_fips_hashes_are_for_security(self) -> None:
        real = hashlib.new

        def fips(name: str, *args: ty.Any, **kwargs: ty.Any) -> ty.Any:
            if name == 'md5' and kwargs.get('usedforsecurity', True):
                raise ValueError('disabled for FIPS')
            return real(name, *args, **kwargs)

        with mock.patch('hashlib.new', fips):
            check(verify.recorded_hash(image(checksum=MD5)))

    def test_nothing_recorded(self) -> None:
        for values in ({}, {'checksum': ''}, {'os_hash_algo': 'sha512'},
                       {'os_hash_value': SHA512}):
            expected = verify.recorded_hash(image(**values))
            self.assertEqual('nothing', expected.name)
            self.assertIsNone(expected.start())

    def test_mismatch_tells_both(self) -> None:
        expected = verify.recorded_hash(
            image(os_hash_algo='sha512', os_hash_value=OTHER))
        error = self.assertRaises(verify.WrongHash, check, expected)
        self.assertEqual(SHA512, error.found)
        for part in ('sha512', SHA512, OTHER):
            self.assertIn(part, str(error))

    def test_fresh_for_every_source(self) -> None:
        expected = verify.recorded_hash(image(checksum=MD5))
        self.assertRaises(verify.WrongHash, check, expected, b'bad')
        check(expected)
        self.assertIsNot(expected.start(), expected.start())


class TestSignature(test.NoDBTestCase):
    def test_first_then_others(self) -> None:
        made = [mock.Mock(spec=transfer.Verifier) for _number in range(3)]
        again = mock.Mock(side_effect=made[1:])
        expected = verify.signature(made[0], again)
        self.assertIs(made[0], expected.start())
        again.assert_not_called()
        self.assertIs(made[1], expected.start())
        self.assertIs(made[2], expected.start())
        self.assertEqual(('signature', False),
                         (expected.name, expected.is_hash))


class TestDirectDownload(test.NoDBTestCase):
    def test_same_as_ever(self) -> None:
        by_hash = verify.recorded_hash(image(checksum=MD5))
        signature = verify.signature(mock.Mock(), mock.Mock())
        for expected in (by_hash, signature, verify.NOTHING):
            self.assertIs(expected, expected.for_direct_download())

    def test_switch_leaves_out_a_hash_only(self) -> None:
        self.flags(verify_direct_download=False, group='glance')
        by_hash = verify.recorded_hash(image(checksum=MD5))
        self.assertIs(verify.NOTHING, by_hash.for_direct_download())
        signature = verify.signature(mock.Mock(), mock.Mock())
        self.assertIs(signature, signature.for_direct_download())
