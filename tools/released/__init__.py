# SPDX-License-Identifier: Apache-2.0

"""Run the tests that Nova was released with, on the release and on our build.

Both sides are a Nova of their own in the same environment, so that whatever
differs between them is this tree's doing.
"""
