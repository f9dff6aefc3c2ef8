# SPDX-License-Identifier: Apache-2.0

"""Base class of the command's tests."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import io
import pathlib
import tempfile
import typing as ty
from unittest import mock

import fixtures

from nova.image import command
from nova import test


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class CommandTestCase(test.NoDBTestCase):
    def replace(
        self, where: ty.Any, name: str, **options: ty.Any,
    ) -> mock.Mock:
        """Replace an attribute with a mock for the rest of the test."""
        return self.useFixture(
            fixtures.MockPatchObject(where, name, **options)).mock

    def assert_error(
        self, status: command.Status, message: str,
        function: Callable[..., object], *args: object,
    ) -> None:
        """Check that a function fails with a one-line CommandError."""
        error = self.assertRaises(command.CommandError, function, *args)
        self.assertRegex(str(error), message)
        self.assertNotIn('\n', str(error))
        self.assertNotIn('secret', str(error))
        self.assertEqual(status, error.status)

    def make_directory(self) -> pathlib.Path:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        return pathlib.Path(directory.name)

    @contextlib.contextmanager
    def captured(
        self, kind: type[io.StringIO] = io.StringIO,
    ) -> Iterator[tuple[io.StringIO, io.StringIO]]:
        """Capture standard output and standard error."""
        out, err = kind(), kind()
        with (contextlib.redirect_stdout(out),
              contextlib.redirect_stderr(err)):
            yield out, err
