# SPDX-License-Identifier: Apache-2.0

"""Direct image downloads on real Ceph, Keystone, Glance and Barbican."""
