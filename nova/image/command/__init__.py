# SPDX-License-Identifier: Apache-2.0

"""What ``nova-image-fetch`` does; see nova.image.command.main."""
