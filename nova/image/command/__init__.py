# SPDX-License-Identifier: Apache-2.0

"""The command ``nova-image-fetch``; see nova.image.command.main."""

import enum


class Status(enum.IntEnum):
    """Exit statuses; the man page and --help describe them."""
    DONE = 0
    FAILED = 1
    USAGE = 2
    HOST = 3
    IMAGE = 4
    SERVICE = 5
    INTERRUPTED = 130
    PIPE_CLOSED = 141


class CommandError(Exception):
    """Ends the command with a message and an exit status."""

    def __init__(self, message: str, status: Status = Status.FAILED) -> None:
        super().__init__(message)
        self.status = status


def one_line(text: str) -> str:
    """Reduce all white space to single spaces."""
    return ' '.join(text.split())


def describe(error: Exception) -> str:
    """Return the message of an error as one line."""
    return one_line(str(error)) or type(error).__name__
