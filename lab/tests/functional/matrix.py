# SPDX-License-Identifier: Apache-2.0

"""One image by both ways, and what came of it."""

from collections.abc import Mapping
import dataclasses
import functools
import hashlib
import os
import pathlib
import tempfile
from typing import Any
from typing import ClassVar

from lab import barbican
from lab import cloud as lab_cloud
from lab import config
from lab import errors
from lab import process
from lab import signing
from lab.tests.functional import base
from lab.tests.functional import worker_base
from lab import worker as lab_worker

MIB = base.MIB
#: Several RBD objects, the last one not full, and no multiple of a sector.
SIZE = 17 * MIB + 777
#: Disk format -> offset and length of the random data; the rest is a hole,
#: and so are most objects of the raw image.
DATA = {
    'iso': {0: SIZE},
    'raw': {0: 3 * MIB + 1, 16 * MIB: MIB + 777},
}

#: Of [glance] in nova.conf.
Options = Mapping[str, config.Value | None]

PROPERTIES = ('img_signature', 'img_signature_certificate_uuid',
              'img_signature_hash_method', 'img_signature_key_type')


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of a download.

    :ivar error: the exception's class, or '' when there was none
    :ivar message: the exception's
    :ivar verified: what the image was verified by
    :ivar warnings: of Nova's image service
    :ivar exports: number of exports
    :ivar requests: how often Glance was asked for the data
    """

    error: str
    message: str
    verified: str
    warnings: list[str]
    exports: int
    requests: int


@functools.cache
def signer_of(key_type: str) -> signing.Signer:
    """A key with a self-signed certificate that is a CA's."""
    return signing.certify(f'Signer {key_type}', key_type, is_ca=True)


@functools.cache
def certificate_id(
    cloud: lab_cloud.Cloud, signer: signing.Signer,
) -> str:
    """The id of a certificate in Barbican, where it is put if need be."""
    return cloud.store_certificate(signer)


class MatrixTestCase(worker_base.WorkerTestCase):
    """Each image is fetched by the same compute service in all ways."""

    #: Of the compute host's [glance], unless a test says otherwise.
    OPTIONS: ClassVar[Options] = {
        'verify_glance_signatures': True}
    #: Options of the other sections of nova.conf.
    SECTIONS: ClassVar[config.Options] = {}

    @classmethod
    def make_class_image(
        cls, disk_format: str = 'iso',
    ) -> tuple[pathlib.Path, str]:
        """Store an image for all tests of the class; see make_image()."""
        directory = tempfile.TemporaryDirectory(prefix='nova-image-')
        cls.addClassCleanup(directory.cleanup)
        path = pathlib.Path(directory.name, disk_format)
        with open(path, 'wb') as file:
            for offset, length in DATA[disk_format].items():
                file.seek(offset)
                file.write(os.urandom(length))
        image_id = cls.cloud.upload(path, disk_format)
        cls.addClassCleanup(
            cls.cloud.glance_client().images.delete, image_id)
        return path, image_id

    @property
    def barbican(self) -> barbican.Barbican:
        assert self.cloud.barbican is not None
        return self.cloud.barbican

    def certificate_id(self, signer: signing.Signer) -> str:
        """The id of a certificate in Barbican."""
        return certificate_id(self.cloud, signer)

    def setUp(self) -> None:
        super().setUp()
        self.target = self.out(self.id().rpartition('.')[2][:100])

    def make_image(
        self, disk_format: str = 'iso',
    ) -> tuple[pathlib.Path, str]:
        """Store an image of random data, with a hole if it is raw.

        :returns: its file, its id
        """
        path = self.make_file(SIZE, DATA[disk_format])
        return path, self.upload(path, disk_format)

    @classmethod
    def set_properties(cls, image_id: str, **properties: str) -> None:
        """Give an image these signature properties, and no other ones."""
        images = cls.cloud.glance_client().images
        present = set(PROPERTIES) & set(images.get(image_id))
        images.update(image_id, remove_props=[
            *present - set(properties)], **properties)

    def by(self, way: str, image_id: str, *,
           trusted: list[str] | None = None, cached: bool = False,
           path: pathlib.Path | None = None,
           options: Options | None = None,
           worker: lab_worker.Worker | None = None) -> Outcome:
        """Download an image by one way; check that all or nothing is there.

        :param way: rbd, with HTTP behind it, or http
        :param trusted: ids of certificates
        :param cached: into the image cache
        :param path: the file it was made of; None: don't compare
        :param options: of [glance]
        :param worker: another user's; None: the default one
        """
        self.host.configure(config.merge(self.SECTIONS, {'glance': {
            **self.OPTIONS, **(options or {}),
            'allowed_direct_url_schemes': 'rbd' if way == 'rbd' else None}}))
        before = self.cloud.glance.downloads(image_id)
        error = message = ''
        try:
            fetched = (worker or self.worker).fetch(
                image_id, path=None if cached else self.target,
                trusted_certs=trusted)
        except errors.FetchFailed as failure:
            error, message, log = failure.kind, str(failure), failure.log
            self._assert_nothing_fetched()
        else:
            log = fetched.log
            if path is not None:
                self.assert_same(path, fetched)
            fetched.path.unlink()
        lines = [line for line in log
                 if line.startswith('INFO') and ' fetched by ' in line]
        self.assertEqual(int(not error), len(lines), f'{message} {lines}')
        exports = len(self.exports(log))
        if sum('supports direct I/O' in line for line in log) > exports:
            # A transfer over HTTP was begun; Glance may still have to log it.
            process.wait_for(
                lambda: self.cloud.glance.downloads(image_id) > before, 5)
        return Outcome(
            error, message, ''.join(lines).rpartition(' verified by ')[2],
            self.warnings(log), exports,
            self.cloud.glance.downloads(image_id) - before)

    def _assert_nothing_fetched(self) -> None:
        self.assertEqual([], os.listdir(self.target.parent))
        cache = self.host.instances / '_base'
        self.assertEqual([], os.listdir(cache) if cache.exists() else [])

    def assert_accepted(self, image_id: str, path: pathlib.Path,
                        verified: str = 'signature', *,
                        warnings: int = 0, **how: Any) -> None:
        """By both ways, from there, and verified by the same."""
        for way in ('rbd', 'http'):
            seen = self.by(way, image_id, path=path, **how)
            self.assertEqual(
                ('', verified, warnings, int(way == 'rbd'),
                 int(way == 'http')),
                (seen.error, seen.verified, len(seen.warnings), seen.exports,
                 seen.requests), f'{way}: {seen.message} {seen.warnings}')

    def assert_refused(self, image_id: str, error: str, reason: str, *,
                       fetched: bool = False, why: str | None = None,
                       by_http: str | None = None, **how: Any) -> None:
        """Assert that both ways fail, and that neither leaves a file.

        :param error: of a direct download that falls back to HTTP
        :param by_http: of a download over HTTP alone; None: the same
        :param reason: is in the error's message
        :param fetched: whether the data has to be seen for that; if not,
            none is asked for
        :param why: is in the warning that Ceph's data is not good, by default
            the reason
        """
        for way in ('rbd', 'http'):
            seen = self.by(way, image_id, **how)
            context = f'{way}: {seen.message} {seen.warnings}'
            self.assertEqual(
                error if way == 'rbd' else by_http or error, seen.error,
                context)
            self.assertIn(reason, seen.message, context)
            self.assertEqual(
                (int(fetched and way == 'rbd'), int(fetched)),
                (seen.exports, seen.requests), context)
            if fetched and way == 'rbd':
                self.assert_warned(seen, image_id, reason if why is None
                                   else why)

    def assert_warned(self, seen: Outcome, image_id: str, why: str) -> None:
        """Once, with the image, the scheme and the reason."""
        [warning] = seen.warnings
        self.assertIn(
            'Image %s could not be fetched by rbd, the next source is tried: '
            % image_id, warning)
        self.assertIn(why, warning)

    def resize(self, image_id: str, size: int) -> None:
        """Give an image another size in Ceph, in bytes, and say nothing."""
        rbd = functools.partial(self._rbd, image_id)
        rbd('snap', 'unprotect', snapshot=True)
        rbd('snap', 'rm', '--no-progress', snapshot=True)
        rbd('resize', '--size', f'{size}B', '--allow-shrink',
            '--no-progress')
        rbd('snap', 'create', '--no-progress', snapshot=True)
        rbd('snap', 'protect', snapshot=True)

    def _rbd(self, image_id: str, *command: str,
             snapshot: bool = False) -> None:
        where = ['--pool', 'images', '--image', image_id]
        if snapshot:
            where += ['--snap', 'snap']
        self.cloud.ceph.rbd(*command, *where)


def digest(path: pathlib.Path, algorithm: str) -> str:
    """The hash of a file, in hexadecimal."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(
            file, lambda: hashlib.new(algorithm, usedforsecurity=False),
        ).hexdigest()
