# SPDX-License-Identifier: Apache-2.0
"""How fast images come, and what they cost, by several ways side by side."""
