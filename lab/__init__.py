# SPDX-License-Identifier: Apache-2.0
"""A small cloud on loopback: real Ceph, Keystone and Glance, for tests."""
