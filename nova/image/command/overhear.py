# SPDX-License-Identifier: Apache-2.0

"""Overhears what is said to the log only."""

import logging
import time
import typing as ty


class Words(logging.Handler):
    """The warnings of one logger, while this is in use.

    :param logger: name of the logger
    :param begin: what warnings begin with; it is left out
    :param seconds: how long the last of them may take to arrive, from another
        thread, when what they are about has failed
    """

    def __init__(
        self, logger: str, begin: str = '', seconds: float = 0,
    ) -> None:
        super().__init__(logging.WARNING)
        self._logger = logging.getLogger(logger)
        self._begin = begin
        self._seconds = seconds
        self._lines: list[str] = []

    def __enter__(self) -> ty.Self:
        self._logger.addHandler(self)
        return self

    def __exit__(self, kind: type[BaseException] | None,
                 *exc_info: object) -> None:
        if kind is not None:
            time.sleep(self._seconds)
        self._logger.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message.startswith(self._begin):
            self._lines.append(message.removeprefix(self._begin))

    def __str__(self) -> str:
        """The last few, in one line."""
        return ' | '.join(self._lines[-3:])
