# SPDX-License-Identifier: Apache-2.0

"""What goes wrong in a build, told to the person who started it."""


class BuildError(Exception):
    """The build cannot go on. The message says what to do about it."""
