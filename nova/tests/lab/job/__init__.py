# SPDX-License-Identifier: Apache-2.0
"""A whole cloud on one machine, which boots instances from images in Ceph."""
