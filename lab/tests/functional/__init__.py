# SPDX-License-Identifier: Apache-2.0

"""Direct image downloads on real Ceph, Keystone, Glance and Barbican."""

# Up to Nova 32 the concurrency mode of tests is chosen in this package alone.
import nova.tests.unit  # noqa: F401
