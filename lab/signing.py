# SPDX-License-Identifier: Apache-2.0
"""Keys and certificates, and images signed with them.

Images are signed as cursive verifies them: see the signature_utils module
there, and "Image signature verification" in Glance's user guide.
"""

import base64
import dataclasses
import datetime
import hashlib
import typing as ty

from cryptography.hazmat.primitives.asymmetric import dsa
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric import utils
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization
from cryptography import x509
from oslo_utils import timeutils

from lab import process

_DAY = datetime.timedelta(days=1)

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | dsa.DSAPrivateKey

#: ``img_signature_key_type`` -> function that creates such a key.
KEY_TYPES: dict[str, ty.Callable[[], Key]] = {
    'RSA-PSS': lambda: rsa.generate_private_key(65537, 2048),
    'ECC_SECP384R1': lambda: ec.generate_private_key(ec.SECP384R1()),
    'ECC_SECP521R1': lambda: ec.generate_private_key(ec.SECP521R1()),
    # Larger parameters take seconds.
    'DSA': lambda: dsa.generate_private_key(1024),
}

#: Values of ``img_signature_hash_method``.
HASH_METHODS: dict[str, hashes.HashAlgorithm] = {
    'SHA-224': hashes.SHA224(),
    'SHA-256': hashes.SHA256(),
    'SHA-384': hashes.SHA384(),
    'SHA-512': hashes.SHA512(),
}


@dataclasses.dataclass(frozen=True)
class Signer:
    """A private key with the certificate of its public one."""

    key_type: str
    key: Key
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        """The certificate, as Barbican stores it."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, name: str, key_type: str = 'ECC_SECP384R1',
              **fields: ty.Any) -> 'Signer':
        """Make a key whose certificate this one is the issuer of.

        :param fields: see certify()
        """
        return certify(name, key_type, issuer=self, **fields)

    def sign(self, path: process.Argument,
             hash_method: str = 'SHA-256') -> str:
        """The signature of a file, in Base64."""
        algorithm = HASH_METHODS[hash_method]
        with open(path, 'rb') as file:
            digest = hashlib.file_digest(
                file, hash_method.replace('-', '').lower()).digest()
        prehashed = utils.Prehashed(algorithm)
        match self.key:
            case rsa.RSAPrivateKey():
                signature = self.key.sign(digest, padding.PSS(
                    padding.MGF1(algorithm), padding.PSS.MAX_LENGTH),
                    prehashed)
            case ec.EllipticCurvePrivateKey():
                signature = self.key.sign(digest, ec.ECDSA(prehashed))
            case dsa.DSAPrivateKey():
                signature = self.key.sign(digest, prehashed)
        return base64.b64encode(signature).decode()

    def properties(self, path: process.Argument, certificate_id: str,
                   hash_method: str = 'SHA-256') -> dict[str, str]:
        """The properties of an image that is this file, signed.

        :param certificate_id: what Barbican knows the certificate by
        """
        return {
            'img_signature': self.sign(path, hash_method),
            'img_signature_hash_method': hash_method,
            'img_signature_key_type': self.key_type,
            'img_signature_certificate_uuid': certificate_id,
        }


def certify(name: str, key_type: str = 'RSA-PSS', *,
            issuer: Signer | None = None, is_ca: bool = False,
            path_length: int | None = None,
            begins: datetime.timedelta = -_DAY,
            ends: datetime.timedelta = 30 * _DAY) -> Signer:
    """Make a new key and its certificate.

    :param name: common name of the subject
    :param key_type: one of KEY_TYPES
    :param issuer: who signs the certificate; by default the key itself
    :param is_ca: whether it may be the issuer of others
    :param path_length: how many CAs may be between it and a leaf
    :param begins: start of its validity, from now
    :param ends: end of its validity, from now
    """
    key = KEY_TYPES[key_type]()
    subject = x509.Name([x509.NameAttribute(
        x509.oid.NameOID.COMMON_NAME, name)])
    now = timeutils.utcnow(with_timezone=True)
    builder = x509.CertificateBuilder(
        issuer_name=issuer.certificate.subject if issuer else subject,
        subject_name=subject, public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=now + begins, not_valid_after=now + ends,
    ).add_extension(
        x509.BasicConstraints(ca=is_ca, path_length=path_length),
        critical=True,
    ).add_extension(_key_usage(is_ca), critical=True)
    certificate = builder.sign(
        issuer.key if issuer else key, hashes.SHA256())
    return Signer(key_type, key, certificate)


def _key_usage(is_ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, key_cert_sign=is_ca, crl_sign=is_ca,
        content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False,
        decipher_only=False)
