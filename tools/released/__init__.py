# SPDX-License-Identifier: Apache-2.0

"""Run the tests that Nova was released with, on the release and on our build.

Both sides are whole Novas in the same environment, so this tree causes every
difference between them.
"""
