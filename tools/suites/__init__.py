# SPDX-License-Identifier: Apache-2.0

"""Run this tree's tests against the Nova that was built from it.

The tests live in ``nova/`` of the checkout, but a package of the name nova is
imported as a whole from where it is installed. Each package in here is a
suite: a place where discovery starts, which loads the tests by their names.
"""
