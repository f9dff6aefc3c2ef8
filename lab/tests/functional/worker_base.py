# SPDX-License-Identifier: Apache-2.0

"""One compute service for all tests of a class, which goes on running."""

import pathlib
import shutil
from typing import Any
from typing import ClassVar

from lab import compute
from lab import process
from lab.tests.functional import base
from lab import worker as lab_worker


class WorkerTestCase(base.LabTestCase):
    """Each class has one compute host with one compute service on it.

    Neither its options nor its image cache outlive a test.
    """

    worker: ClassVar[lab_worker.Worker]
    class_host: ClassVar[compute.ComputeHost]

    @classmethod
    def mounts(cls) -> list[tuple[pathlib.Path, pathlib.Path]]:
        """Return the bind mounts of the compute host."""
        return []

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.class_host = compute.ComputeHost(
            cls.cloud, name=cls.__name__.lower(), mounts=cls.mounts())
        cls.worker = lab_worker.Worker(cls.class_host)
        for fixture in (cls.class_host, cls.worker):
            fixture.setUp()
            cls.addClassCleanup(fixture.cleanUp)

    def make_host(self) -> compute.ComputeHost:
        return self.class_host

    def setUp(self) -> None:
        super().setUp()
        for name in ('_base', 'downloads'):
            self.addCleanup(shutil.rmtree, self.host.instances / name,
                            ignore_errors=True)
        self.addCleanup(self.host.configure)

    def fetch(self, image_id: str, **how: Any) -> compute.Fetched:
        """Fetch an image by the service; see Worker.fetch()."""
        return self.worker.fetch(image_id, **how)

    def running(self) -> list[str]:
        """All processes but the compute service's own two."""
        return [line for line in self.host.processes()
                if '--serve' not in line and 'privsep-helper' not in line]

    def leftovers(self) -> list[str]:
        process.wait_for(lambda: not self.running(), 10)
        return self.running()
