# SPDX-License-Identifier: Apache-2.0
"""Reports the current step on standard output."""

from collections.abc import Iterator
import contextlib
import time


class Steps:
    """Tells what goes on, and how long it takes."""

    def __init__(self) -> None:
        self._begin = time.monotonic()
        #: Duration of the last step in seconds, even if it failed.
        self.seconds = 0.0

    @contextlib.contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Print a line, and the seconds when it is done."""
        begin = time.monotonic()
        print(f'[{begin - self._begin:5.1f} s] {text} ...', end=' ',
              flush=True)
        try:
            yield
        except BaseException:
            self.seconds = time.monotonic() - begin
            print('failed', flush=True)
            raise
        self.seconds = time.monotonic() - begin
        print(f'{self.seconds:.1f} s', flush=True)
