# SPDX-License-Identifier: Apache-2.0

"""Downloads of images."""

from nova.image import transfer


class Progress:
    """Follows a download to a file; this class ignores all events.

    Only :meth:`on_source_started` may raise an exception.
    """

    def on_source_started(self, source: str, size: int | None) -> None:
        """Handle the start of an attempt; an exception ends the download.

        :param source: the scheme of a location, or 'http'
        :param size: size of the image in bytes, None if it is unknown
        """

    def on_progress(self, done: int, size: int | None) -> None:
        """Handle the arrival of data.

        :param done: bytes downloaded so far
        :param size: size of the image in bytes, None if it is unknown
        """

    def on_source_failed(self, source: str, reason: str) -> None:
        """Handle a failed attempt, which another source follows."""

    def on_complete(
        self, source: str, report: transfer.Report, verified_by: str,
    ) -> None:
        """Handle the end of a successful download.

        :param verified_by: 'signature', the name of a hash, or 'nothing'
        """
