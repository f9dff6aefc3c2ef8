# SPDX-License-Identifier: Apache-2.0

"""One lab for all tests of a process, and what they have in common."""

import atexit
from collections.abc import Iterator
import contextlib
import functools
import hashlib
import itertools
import os
import pathlib
import shutil
import subprocess
from typing import ClassVar

import fixtures
import testtools

from lab import cloud as lab_cloud
from lab import compute
from lab import config

MIB = 1 << 20

_GLANCE_OPTIONS: config.Options = {
    # So that any bytes will do for an image of a dense format.
    'image_format': {'require_image_format_match': False},
    # Small RBD objects make a small image have many: rbd asks for ten at
    # once, and the middle of a download is where more have to follow.
    'ceph': {'rbd_store_chunk_size': 1},
}

_numbers = itertools.count()


@functools.cache
def shared_cloud() -> lab_cloud.Cloud:
    """The cloud for all, which ends with the process.

    To start one takes longer than most of the tests.
    """
    cloud = lab_cloud.Cloud(barbican=True, options=_GLANCE_OPTIONS)
    cloud.setUp()
    atexit.register(cloud.cleanUp)
    return cloud


#: Part of a warning about a cluster.
LEFT_OUT = 'does not answer: Nova uses other sources'


class LabTestCase(testtools.TestCase):
    """Each test has a compute host of its own; all have the same cloud.

    What a test changes in the cloud it changes back. A lab that cannot be had
    is an error of every test: none is skipped.
    """

    cloud: ClassVar[lab_cloud.Cloud]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.cloud = cls.make_cloud()

    @classmethod
    def make_cloud(cls) -> lab_cloud.Cloud:
        """The cloud of the class."""
        return shared_cloud()

    def setUp(self) -> None:
        super().setUp()
        self.host = self.make_host()
        self.addCleanup(self._assert_nothing_left)
        self.files = pathlib.Path(self.useFixture(fixtures.TempDir()).path)

    def make_host(self) -> compute.ComputeHost:
        """The compute host of the test, which is cleaned up after it."""
        host = compute.ComputeHost(
            self.cloud, name='host%d' % next(_numbers))
        self.addCleanup(shutil.rmtree, host.directory, ignore_errors=True)
        return self.useFixture(host)

    def leftovers(self) -> list[str]:
        """The processes that should have ended, and have not."""
        return self.host.leftovers()

    def _assert_nothing_left(self) -> None:
        """No process, socket or temporary file outlives a download."""
        self.assertEqual([], self.leftovers())
        self.assertEqual([], os.listdir(self.host.directory / 'tmp'))
        self.assertEqual(
            [], [name for name in self._instance_files()
                 if name.endswith(('.part', '.partial', '.converted'))])

    def _instance_files(self) -> list[str]:
        return [name for _top, _dirs, files in os.walk(self.host.instances)
                for name in files]

    def configure(self, **glance: config.Value | None) -> None:
        """Set options of the compute host's [glance]."""
        self.host.configure({'glance': glance})

    def make_file(
        self, size: int, data: dict[int, int] | None = None,
    ) -> pathlib.Path:
        """Make a file of random data.

        :param size: in bytes
        :param data: offset -> length of the data; the rest is a hole. All of
            it by default
        """
        path = self.files / 'image'
        with open(path, 'wb') as file:
            for offset, length in (data or {0: size}).items():
                file.seek(offset)
                file.write(os.urandom(length))
            file.truncate(size)
        return path

    def make_qcow2(self, size: int = 16 * MIB) -> pathlib.Path:
        """Make a qcow2 with this many bytes of random data."""
        raw, path = self.make_file(size), self.files / 'image.qcow2'
        subprocess.run(['qemu-img', 'convert', '-O', 'qcow2', raw, path],
                       check=True, timeout=60)
        return path

    def upload(self, path: pathlib.Path, disk_format: str,
               **properties: str) -> str:
        """Store an image; it is deleted again after the test."""
        image_id = self.cloud.upload(path, disk_format, **properties)
        self.addCleanup(
            self.cloud.glance_client().images.delete, image_id)
        return image_id

    def objects(self, image_id: str) -> list[str]:
        """The names of an RBD image's data objects, in order."""
        return self.cloud.ceph.objects('images', image_id)

    def flip(self, image_id: str, number: int = -1) -> None:
        """Change one bit of an image in Ceph, under its snapshot.

        :param number: which of its objects
        """
        self.cloud.ceph.flip('images', image_id, number)

    def assert_same(
        self, path: pathlib.Path, fetched: compute.Fetched,
    ) -> None:
        """The file fetched is, byte by byte, the one uploaded."""
        with open(path, 'rb') as file:
            digest = hashlib.file_digest(file, 'sha256').hexdigest()
        self.assertEqual(
            (path.stat().st_size, digest), (fetched.size, fetched.sha256))

    def assert_fetched_by(
        self, source: str, image_id: str, fetched: compute.Fetched,
        verified: str = 'sha512',
    ) -> None:
        """The log says so, once; Glance's log says the same."""
        # There are lines on how far it is, too: "is being fetched by".
        [line] = [line for line in fetched.log if line.startswith('INFO')
                  and 'Image %s fetched by ' % image_id in line]
        self.assertIn('Image %s fetched by %s: %d bytes, ' % (
            image_id, source, fetched.size), line)
        self.assertTrue(line.endswith(', verified by ' + verified), line)
        self.assertEqual(source == 'http',
                         bool(self.cloud.glance.downloads(image_id)))

    def warnings(self, log: list[str]) -> list[str]:
        """Return the warnings about images."""
        return [line.partition(' ')[2].partition(' ')[2] for line in log
                if line.startswith('WARNING nova.image')
                and LEFT_OUT not in line]

    def exports(self, log: list[str]) -> list[str]:
        """Return the exports that a log contains."""
        return [line for line in log if 'Attempting to export' in line]

    @classmethod
    @contextlib.contextmanager
    def glance_options(cls, options: config.Options) -> Iterator[None]:
        """Run Glance with more options for a while."""
        cls.cloud.glance.restart(config.merge(_GLANCE_OPTIONS, options))
        try:
            yield
        finally:
            cls.cloud.glance.restart(_GLANCE_OPTIONS)

    def out(self, name: str = 'out') -> pathlib.Path:
        """A path that the compute service may write to."""
        directory = self.host.instances / 'downloads'
        if not directory.exists():
            directory.mkdir()
            shutil.chown(directory, self.host.account.uid)
        return directory / name
