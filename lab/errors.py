# SPDX-License-Identifier: Apache-2.0
"""Exceptions of the lab."""


class LabError(Exception):
    """The lab can't do what was asked; the message says what to do."""


class FetchFailed(LabError):
    """A fetch on a compute host ended with an error of Nova's.

    :ivar kind: name of the exception's class, such as ``ImageNotFound``
    :ivar log: the log lines of the attempt
    """

    def __init__(self, kind: str, message: str, log: list[str]) -> None:
        super().__init__(f'{kind}: {message}')
        self.kind = kind
        self.log = log
