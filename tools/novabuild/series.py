# SPDX-License-Identifier: Apache-2.0

"""Write the change as a series of patches, in the order of a review.

usage: python -m novabuild.series FOLDER

Each patch applies to the release with the patches before it, with
``patch -p1`` or ``git am``. All of them together are the single patch. A new
module comes before the first module that imports it, so Nova works after each
patch.
"""

from collections.abc import Iterable
import fnmatch
import re
import sys
import textwrap
from typing import NamedTuple

from novabuild import archive
from novabuild import errors
from novabuild import patch
from novabuild import project
from novabuild import release

_AUTHOR = 'OpenStack <openstack-discuss@lists.openstack.org>'
_DATE = 'Thu, 1 Jan 1970 00:00:00 +0000'
_UNIT = 'nova/tests/unit/'


class Step(NamedTuple):
    """One patch of the series."""

    title: str
    text: str
    patterns: tuple[str, ...]
    """Files of the step; they have their final form in it."""


STEPS = (
    Step(
        'image: add one pass from a byte source to a durable file',
        'A transfer reads an image once, and verifies and writes it at the '
        'same time, with a few buffers and native threads. The file gets its '
        'name only when it is complete and synced. The first byte source is '
        'the Image API over HTTP. Nothing uses these modules yet.',
        ('nova/image/compat.py', 'nova/image/destination.py',
         'nova/image/http_source.py', 'nova/image/transfer.py',
         f'{_UNIT}image/fakes.py', f'{_UNIT}image/test_compat.py',
         f'{_UNIT}image/test_destination.py',
         f'{_UNIT}image/test_http_source.py', f'{_UNIT}image/test_killed.py',
         f'{_UNIT}image/test_transfer.py')),
    Step(
        'conf: options of direct downloads',
        'allowed_direct_url_schemes is no longer deprecated. '
        'enable_rbd_download is, because it means the same. rbd_ceph_conf and '
        'rbd_pool are lists now. Until the image service reads them as such, '
        'the former rbd download fails and Nova falls back to HTTP.',
        ('nova/conf/glance.py', f'{_UNIT}conf/test_glance.py')),
    Step(
        'image: verify what a transfer reads',
        'The bytes of every source must match the signature of the image, or '
        'otherwise the hash that Glance recorded. Each attempt gets an unused '
        'verifier.',
        ('nova/image/verify.py', f'{_UNIT}image/test_verify.py')),
    Step(
        'privsep: run rbd with the rights that the files of the host imply',
        'The entry point accepts names only, checks who listens for the '
        'output, starts the program and returns. Options that grant access '
        'come from nova.conf. The program never runs as root unless Nova '
        'does.',
        ('nova/privsep/rbd.py', 'nova/privsep/rbd_errors.py',
         f'{_UNIT}privsep/*rbd*.py')),
    Step(
        'image: add the rbd source',
        'It parses a location strictly, finds its cluster among those in '
        'rbd_ceph_conf by fsid, and reads an export of the snapshot: a stream '
        'of all bytes, or, for raw images, only the allocated extents.',
        ('nova/image/rbd/*', f'{_UNIT}image/rbd/*')),
    Step(
        "image: split Glance's errors, metadata and client off the service",
        'The image service uses these modules in a later patch.',
        ('nova/image/client.py', 'nova/image/errors.py',
         'nova/image/metadata.py', f'{_UNIT}image/test_errors.py',
         f'{_UNIT}image/test_metadata.py')),
    Step(
        'image: ask Glance for locations that it hides from users',
        'With Image API 2.17, a service can read the locations of an image '
        'although Glance shows them to no user (OSSN-0065, OSSN-0090). '
        'Several locations are tried in the order of their distance.',
        ('nova/image/locations.py', f'{_UNIT}image/test_locations.py')),
    Step(
        'image: download through one pipeline, directly or over HTTP',
        'The image service keeps a registry of handlers for URL schemes. A '
        'download to a file tries the locations that a handler is active '
        'for, then the Image API. All sources go through the same transfer '
        'and the same verification. The plug point nova.image.download is '
        'gone.',
        ('nova/image/glance.py', 'nova/image/download.py',
         f'{_UNIT}image/test_download.py',
         f'{_UNIT}image/test_glance_service.py',
         'releasenotes/notes/rbd-direct-download-*')),
    Step(
        'Add the command nova-image-fetch, and a check of nova-status',
        'The command fetches an image as nova-compute does, or checks whether '
        'images can be fetched directly on this host. The check reports how '
        'Nova uses the options of direct downloads.',
        ('nova/image/command/*', f'{_UNIT}image/command/*',
         'nova/image/upgrade_check.py', f'{_UNIT}image/test_upgrade_check.py',
         'pyproject.toml', 'setup.cfg',
         'releasenotes/notes/nova-image-fetch-*')),
)


def divide(names: Iterable[str]) -> list[set[str]]:
    """Return the files of each step.

    :raises BuildError: a file belongs to no step, or to several
    """
    files: list[set[str]] = [set() for _step in STEPS]
    for name in names:
        found = [number for number, step in enumerate(STEPS) if any(
            fnmatch.fnmatchcase(name, pattern) for pattern in step.patterns)]
        if len(found) != 1:
            raise errors.BuildError(
                f'{name} belongs to {len(found)} patches of the series '
                'instead of 1. Correct STEPS in novabuild.series.')
        files[found[0]].add(name)
    return files


def patches(ours: project.Project) -> patch.Patches:
    """Yield the name and the content of each patch.

    :raises BuildError: the tree and the release do not fit together
    """
    before = patch.unpacked(release.sdist(ours.release))
    final = patch.changed(ours, before)
    changed = {name for name, entry in final.items()
               if before.get(name) != entry}
    for number, (step, names) in enumerate(zip(STEPS, divide(changed)), 1):
        after: archive.Entries = before | {
            name: final[name] for name in names}
        words = '-'.join(re.findall(r'[a-z]+', step.title.lower())[:8])
        yield f'{number:04}-{words}.patch', (
            _header(step, number) + patch.difference(before, after))
        before = after


def _header(step: Step, number: int) -> bytes:
    return (f'From: {_AUTHOR}\nDate: {_DATE}\n'
            f'Subject: [PATCH {number}/{len(STEPS)}] {step.title}\n\n'
            f'{textwrap.fill(step.text, 72)}\n---\n').encode()


if __name__ == '__main__':
    sys.exit(patch.main(sys.argv[1:], patches))
