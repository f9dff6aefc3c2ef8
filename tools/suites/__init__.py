# SPDX-License-Identifier: Apache-2.0

"""Run this tree's tests on the Nova that was built from it.

The tests are in ``nova/`` of the checkout, but Python imports all of the
package nova from where it is installed. Discovery starts in suites.suite,
which loads the tests by their names.
"""
