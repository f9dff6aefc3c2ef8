# SPDX-License-Identifier: Apache-2.0

"""The privileged side of rbd in the process of a test."""

from collections.abc import Callable
import typing as ty
from unittest import mock

import fixtures

from nova.image import compat
import nova.privsep.rbd
from nova.tests import fixtures as nova_fixtures
from nova.tests.unit.image import fakes

IMAGE_ID = '5ca1ab1e-0000-4000-8000-00000000cafe'
NAMES = {'pool': 'images', 'image': IMAGE_ID, 'snapshot': 'snap'}


class PrivilegedSide(fixtures.Fixture):
    """Runs nova.privsep.rbd with native modules, as in the daemon."""

    def _setUp(self) -> None:
        self.threads: list[ty.Any] = []
        self.errors: list[BaseException] = []
        self.useFixture(nova_fixtures.PrivsepFixture())
        self.addCleanup(self.join)
        replaced: dict[str, ty.Any] = {
            module: compat.native(module)
            for module in ('os', 'select', 'socket', 'subprocess')}
        replaced['threading'] = mock.Mock(Thread=self._make_thread)
        for module, new in replaced.items():
            self.useFixture(
                fixtures.MockPatchObject(nova.privsep.rbd, module, new))

    def _make_thread(self, target: Callable[..., object], args: ty.Any,
                     daemon: bool) -> ty.Any:
        def run() -> None:
            try:
                target(*args)
            except BaseException as exc:
                self.errors.append(exc)

        assert daemon, 'The daemon would wait for it'
        thread = compat.native('threading').Thread(target=run, daemon=True)
        self.threads.append(thread)
        return thread

    def join(self) -> None:
        for thread in self.threads:
            thread.join(fakes.LIMIT)
            assert not thread.is_alive(), 'A thread is still running'
        assert not self.errors, self.errors
