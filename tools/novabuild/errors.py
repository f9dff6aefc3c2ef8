# SPDX-License-Identifier: Apache-2.0


class BuildError(Exception):
    """The build cannot continue. The message tells the user what to do."""
