# SPDX-License-Identifier: Apache-2.0

"""How the command ends when it cannot do what it was asked for."""

import enum


class Status(enum.IntEnum):
    """Exit statuses; they are documented, so they stay what they are."""
    DONE = 0
    #: The image could not be fetched, or a check has failed.
    FAILED = 1
    #: The command line makes no sense (argparse's own choice).
    USAGE = 2
    #: This host, its nova.conf or this user is not fit for it.
    HOST = 3
    #: There is no such image, or none that these credentials may see.
    IMAGE = 4
    #: Keystone or Glance do not answer, or refuse the credentials.
    SERVICE = 5
    #: 128 and the number of the signal, as shells have it.
    INTERRUPTED = 130
    PIPE_CLOSED = 141


class CommandError(Exception):
    """A sentence for the operator, and the exit status it comes with."""

    def __init__(
        self, message: str, status: Status = Status.FAILED,
    ) -> None:
        super().__init__(message)
        self.status = status
