# SPDX-License-Identifier: Apache-2.0

"""Downloads images straight from Ceph: the handler of ``rbd://`` locations."""
