# SPDX-License-Identifier: Apache-2.0
"""Measures the speed and the cost of downloads, side by side."""
