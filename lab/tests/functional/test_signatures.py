# SPDX-License-Identifier: Apache-2.0

"""Signed images and trusted certificates, by Ceph and by HTTP."""

import base64
import datetime
import functools
import itertools
import os
import pathlib
from typing import Any
from typing import ClassVar

import ddt
from glanceclient import exc as glance_exc

from lab import signing
from lab.tests.functional import matrix

DAY = datetime.timedelta(days=1)
ABSENT = '6f9ad4a4-9b2a-4d5c-a3fd-1d4c0a1b7e58'

CANNOT = 'SignatureVerificationError'
NOT_TRUSTED = 'CertificateValidationFailed'


class SignedTestCase(matrix.MatrixTestCase):
    """All tests of a class use the same image."""

    path: ClassVar[pathlib.Path]
    image_id: ClassVar[str]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.path, cls.image_id = cls.make_class_image()

    def signed(self, key_type: str = 'RSA-PSS',
               hash_method: str = 'SHA-256') -> dict[str, str]:
        """The right properties."""
        signer = matrix.signer_of(key_type)
        return signer.properties(
            self.path, self.certificate_id(signer), hash_method)

    def accepted(self, **how: Any) -> None:
        self.assert_accepted(self.image_id, self.path, **how)

    def refused(self, error: str, reason: str, **how: Any) -> None:
        self.assert_refused(self.image_id, error, reason, **how)


@ddt.ddt
class TestSignatures(SignedTestCase):
    """One row each."""

    @ddt.named_data(*(
        [f'{key_type} {hash_method}', key_type, hash_method]
        for key_type, hash_method in itertools.product(
            signing.KEY_TYPES, signing.HASH_METHODS)))
    def test_right(self, key_type, hash_method):
        self.set_properties(
            self.image_id, **self.signed(key_type, hash_method))

        self.accepted()

    @ddt.named_data(*(
        [key_type, key_type] for key_type in signing.KEY_TYPES))
    def test_of_another_image(self, key_type):
        signer = matrix.signer_of(key_type)
        other = self.files / 'other'
        other.write_bytes(b'another image')
        self.set_properties(self.image_id, **signer.properties(
            other, self.certificate_id(signer)))

        self.refused('InvalidSignature', '', fetched=True,
                     why='the signature does not match the data')

    @ddt.named_data(
        ['random', lambda right: os.urandom(len(right))],
        ['one bit', lambda right: right[:-1] + bytes([right[-1] ^ 1])],
        ['too short', lambda right: right[:-1]],
        ['of nothing', lambda right: b'0'])
    def test_wrong(self, change):
        properties = self.signed()
        properties['img_signature'] = base64.b64encode(change(
            base64.b64decode(properties['img_signature']))).decode()
        self.set_properties(self.image_id, **properties)

        self.refused('InvalidSignature', '', fetched=True,
                     why='the signature does not match the data')

    def test_by_another_key(self):
        stranger = signing.certify('Signer RSA-PSS')
        self.set_properties(self.image_id, **stranger.properties(
            self.path, self.signed()['img_signature_certificate_uuid']))

        self.refused('InvalidSignature', '', fetched=True,
                     why='the signature does not match the data')

    def test_by_another_hash_method(self):
        self.set_properties(self.image_id, **self.signed() | {
            'img_signature_hash_method': 'SHA-512'})

        self.refused('InvalidSignature', '', fetched=True,
                     why='the signature does not match the data')

    def test_unsigned(self):
        self.set_properties(self.image_id)

        self.refused(CANNOT, 'Missing property')

    @ddt.data(*matrix.PROPERTIES)
    def test_missing(self, name):
        properties = self.signed()
        del properties[name]
        self.set_properties(self.image_id, **properties)

        self.refused(CANNOT, 'Missing property')

    @ddt.named_data(
        ['hash method', 'img_signature_hash_method', 'MD5',
         'Invalid signature hash method: MD5'],
        ['hash method in lower case', 'img_signature_hash_method', 'sha-256',
         'Invalid signature hash method: sha-256'],
        ['key type', 'img_signature_key_type', 'RSA-PKCS1',
         'Invalid signature key type: RSA-PKCS1'],
        ['curve', 'img_signature_key_type', 'ECC_SECT571R1',
         'Invalid signature key type: ECC_SECT571R1'],
        ['key type of another certificate', 'img_signature_key_type',
         'ECC_SECP384R1', 'Invalid public key type'],
        ['signature', 'img_signature', 'not Base64',
         'not properly encoded using base64'],
        ['certificate', 'img_signature_certificate_uuid', ABSENT,
         'Certificate not found with ID: ' + ABSENT],
        ['id of a certificate', 'img_signature_certificate_uuid', 'no id',
         'Certificate no id cannot be used'])
    def test_unknown(self, name, value, reason):
        self.set_properties(self.image_id, **self.signed() | {name: value})

        self.refused(CANNOT, reason)

    @ddt.named_data(
        ['no certificate', b'no certificate', 'certificate',
         'cannot be used'],
        ['nothing in it', b'-----BEGIN CERTIFICATE-----\n'
         b'AAAA\n-----END CERTIFICATE-----\n', 'certificate',
         'cannot be used'],
        ['opaque', b'some bytes', 'opaque', 'Invalid certificate format'])
    def test_unreadable_certificate(self, payload, kind, reason):
        secret = self.barbican.store(
            self.cloud.session('demo'), payload, kind=kind)
        self.set_properties(self.image_id, **self.signed() | {
            'img_signature_certificate_uuid': secret})

        self.refused(CANNOT, reason)

    def test_somebody_elses_certificate(self):
        secret = self.cloud.store_certificate(
            matrix.signer_of('RSA-PSS'), 'admin')
        self.set_properties(self.image_id, **self.signed() | {
            'img_signature_certificate_uuid': secret})

        self.refused(CANNOT, 'Unable to retrieve certificate')

    def test_barbican_is_down(self):
        self.set_properties(self.image_id, **self.signed())
        daemon = self.barbican.service.daemon
        self.addCleanup(daemon.start)
        daemon.kill()

        self.refused(CANNOT, 'Unable to retrieve certificate')

    def test_nobody_asked(self):
        """A wrong signature does not matter where none is looked at."""
        self.set_properties(self.image_id, **self.signed() | {
            'img_signature': 'AAAA'})

        self.accepted(verified='sha512',
                      options={'verify_glance_signatures': False})

    def test_signed_before_the_upload(self):
        path, signer = self.make_file(matrix.SIZE), matrix.signer_of('DSA')
        certificate_id = self.certificate_id(signer)
        image_id = self.upload(
            path, 'raw', **signer.properties(path, certificate_id))
        self.assert_accepted(image_id, path)

        # Glance verifies an image that was signed before the upload.
        wrong = signer.properties(self.path, certificate_id)
        error = self.assertRaises(
            glance_exc.HTTPBadRequest, self.upload, path, 'raw', **wrong)
        self.assertIn('Signature verification', str(error))

    @ddt.data('iso', 'raw')
    def test_flipped_in_ceph(self, disk_format):
        path, image_id = self.make_image(disk_format)
        signer = matrix.signer_of('RSA-PSS')
        self.set_properties(image_id, **signer.properties(
            path, self.certificate_id(signer)))
        self.flip(image_id)

        for cached in (False, True):
            self.assert_refused(
                image_id, 'InvalidSignature', '', fetched=True, cached=cached,
                why='the signature does not match the data')
        # The switch is for hashes.
        self.assert_refused(
            image_id, 'InvalidSignature', '', fetched=True,
            why='the signature does not match the data',
            options={'verify_direct_download': False})

    def test_makes_the_hash_redundant(self):
        path, image_id = self.make_image()
        signer = matrix.signer_of('RSA-PSS')
        self.set_properties(image_id, **signer.properties(
            path, self.certificate_id(signer)))
        self.cloud.glance.record(image_id, os_hash_value='00', checksum='00')

        self.assert_accepted(image_id, path)
        self.assert_refused(
            image_id, 'ImageUnacceptable', 'corrupt image download',
            fetched=True, options={'verify_glance_signatures': False},
            by_http='CouldNotFetchImage')


@ddt.ddt
class TestTrustedCertificates(SignedTestCase):
    """One row each; the image is signed with the first of its chain."""

    @functools.cached_property
    def root(self) -> signing.Signer:
        return signing.certify('Root', 'ECC_SECP384R1', is_ca=True)

    @functools.cached_property
    def intermediate(self) -> signing.Signer:
        return self.root.issue('Intermediate', is_ca=True)

    def sign(self, signer: signing.Signer) -> None:
        self.set_properties(self.image_id, **signer.properties(
            self.path, self.certificate_id(signer)))

    def ids(self, *signers: signing.Signer) -> list[str]:
        return [self.certificate_id(signer) for signer in signers]

    def check(self, reason: str | None, signer: signing.Signer,
              *trusted: signing.Signer) -> None:
        """By the ids in the request; what is accepted, by default ids, too.

        :param reason: why it is not trusted; None: it is
        """
        self.sign(signer)
        ids = self.ids(*trusted)
        if reason is not None:
            self.refused(NOT_TRUSTED, reason, trusted=ids)
            return
        self.accepted(
            trusted=ids, options={'verify_glance_signatures': False})
        self.accepted(options={'enable_certificate_validation': True,
                               'default_trusted_certificate_ids': ids})

    def test_self_signed(self):
        signer = matrix.signer_of('RSA-PSS')

        self.check(None, signer, signer)

    def test_self_signed_and_no_ca(self):
        signer = signing.certify('Alone', 'ECC_SECP384R1')

        self.check('Could not locate the signing certificate', signer, signer)

    def test_of_the_root(self):
        self.check(None, self.root.issue('Leaf'), self.root)

    def test_whole_chain(self):
        leaf = self.intermediate.issue('Leaf', 'RSA-PSS')

        self.check(None, leaf, self.intermediate, self.root)

    def test_intermediate_is_missing(self):
        leaf = self.intermediate.issue('Leaf')

        self.check('Could not locate the signing certificate', leaf,
                   self.root)

    def test_root_is_missing(self):
        leaf = self.intermediate.issue('Leaf')

        self.check('', leaf, self.intermediate)

    def test_another_root_of_the_same_name(self):
        other = signing.certify('Root', 'ECC_SECP384R1', is_ca=True)

        self.check('Could not locate the signing certificate',
                   self.root.issue('Leaf'), other)

    def test_another_root_with_a_key_of_another_kind(self):
        other = signing.certify('Root', 'RSA-PSS', is_ca=True)

        self.check('', self.root.issue('Leaf'), other)

    def test_issuer_is_no_ca(self):
        leaf = self.root.issue('Leaf')

        self.check('', leaf.issue('Leaf of a leaf'), leaf, self.root)

    def test_chain_is_too_long(self):
        root = signing.certify('Short', 'ECC_SECP384R1', is_ca=True,
                               path_length=0)
        intermediate = root.issue('Intermediate', is_ca=True)

        self.check('not configured to support certificate chains of '
                   'sufficient length', intermediate.issue('Leaf'),
                   intermediate, root)

    @ddt.named_data(['expired', -9 * DAY, -DAY], ['not yet', DAY, 9 * DAY])
    def test_time(self, begins, ends):
        leaf = self.root.issue('Leaf', begins=begins, ends=ends)

        self.check('outside its valid date range', leaf, self.root)
        # Without validation of certificates, dates are not checked.
        self.accepted()

    @ddt.named_data(['expired', -9 * DAY, -DAY], ['not yet', DAY, 9 * DAY])
    def test_time_of_the_issuer(self, begins, ends):
        root = signing.certify('Old', 'ECC_SECP384R1', is_ca=True,
                               begins=begins, ends=ends)

        self.check('Could not locate the signing certificate',
                   root.issue('Leaf'), root)

    def test_one_that_is_not_there(self):
        self.sign(self.root.issue('Leaf'))

        self.accepted(trusted=[ABSENT, *self.ids(self.root)])
        self.refused(NOT_TRUSTED, 'Could not locate the signing certificate',
                     trusted=[ABSENT])

    def test_one_that_is_unreadable(self):
        self.sign(self.root.issue('Leaf'))
        secret = self.barbican.store(
            self.cloud.session('demo'), b'no certificate')

        self.refused(NOT_TRUSTED, '',
                     trusted=[secret, *self.ids(self.root)])

    def test_none_to_trust(self):
        self.sign(self.root.issue('Leaf'))

        self.refused(NOT_TRUSTED, 'no trusted certificate IDs were provided',
                     options={'enable_certificate_validation': True})

    def test_defaults_are_for_who_names_none(self):
        self.sign(self.root.issue('Leaf'))
        other = signing.certify('Other', 'ECC_SECP384R1', is_ca=True)

        def defaults(signer: signing.Signer) -> dict[str, Any]:
            return {'enable_certificate_validation': True,
                    'default_trusted_certificate_ids': self.ids(signer)}

        self.accepted(trusted=self.ids(self.root), options=defaults(other))
        self.refused(NOT_TRUSTED, 'Could not locate the signing certificate',
                     trusted=self.ids(other), options=defaults(self.root))

    def test_defaults_alone_ask_for_a_signature(self):
        options = {'verify_glance_signatures': False,
                   'enable_certificate_validation': True,
                   'default_trusted_certificate_ids': self.ids(self.root)}
        self.sign(self.root.issue('Leaf'))
        self.accepted(options=options)

        self.set_properties(self.image_id)

        self.refused(CANNOT, 'Missing property', options=options)
        self.refused(CANNOT, 'Missing property', trusted=self.ids(self.root))

    def test_trusted_and_wrong(self):
        leaf = self.root.issue('Leaf')
        self.sign(leaf)
        self.set_properties(self.image_id, **leaf.properties(
            __file__, *self.ids(leaf)))

        self.refused('InvalidSignature', '', fetched=True,
                     why='the signature does not match the data',
                     trusted=self.ids(self.root))
