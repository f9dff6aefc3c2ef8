# SPDX-License-Identifier: Apache-2.0

"""The PEP 517 build backend of this tree.

A wheel built here is a whole Nova: the released wheel that setup.cfg pins by
version and SHA-256, with the files of this tree's ``nova/`` laid over it and
the metadata of both merged. The tree contains nothing of the released Nova.
"""
