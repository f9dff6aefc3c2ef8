# SPDX-License-Identifier: Apache-2.0

"""Tests of what this tree is made of: its files, and what it depends on."""
