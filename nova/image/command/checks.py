# SPDX-License-Identifier: Apache-2.0

"""Whether direct downloads work on this host, and what is wrong if not.

Every check says what it saw. One that fails also says how to solve it; those
that need what failed are left out, the others go on.
"""

from collections.abc import Iterator
import functools

import nova.conf
from nova.i18n import _
from nova.image.command import check_ceph
from nova.image.command import check_host
from nova.image.command import check_image
from nova.image.command import findings

#: The check that proves all of it.
READ = _('Read from Ceph')


def run(image_id: str | None) -> Iterator[findings.Finding]:
    """Make one check after the other, in the order in which things are needed.

    :param image_id: an image to try; None: a recent one in Ceph
    """
    known = findings.Known(image_id)
    for name, check in (
        (_('Configuration'), check_host.check_configuration),
        (_('Options'), check_host.check_options),
        (_('Privileged helper'), check_host.check_helper),
        (_('Programs'), check_ceph.check_programs),
    ):
        yield findings.make(name, functools.partial(check, known))
    for number in range(len(nova.conf.glance.ceph_confs(nova.conf.CONF))):
        for name, check_one in (
            (_('ceph.conf'), check_ceph.check_conf),
            (_('Cluster'), check_ceph.check_cluster),
        ):
            yield findings.make(
                name, functools.partial(check_one, known, number))
    for name, check in (
        (_('Credentials'), check_image.check_login),
        (_('Glance'), check_image.check_glance),
        (_('Location'), check_image.check_visible),
        (_('Allowed'), check_image.check_allowed),
        (READ, check_image.check_read),
        (_('Key manager'), check_image.check_key_manager),
        (_('Image cache'), check_host.check_cache),
        (_('Free space'), check_host.check_space),
    ):
        yield findings.make(name, functools.partial(check, known))
