# SPDX-License-Identifier: Apache-2.0
"""A whole cloud on loopback, which boots instances from images in Ceph."""
