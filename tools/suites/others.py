# SPDX-License-Identifier: Apache-2.0

"""This tree on the other releases of Nova that it is made for.

The packages are those of this environment; only Nova is another one.
"""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import tempfile

from novabuild import project
from novabuild import release
from novabuild import whole
from suites import loading

TESTS = (
    r'nova\.tests\.unit\.image\.('
    r'test_(compat|errors|glance_service|locations)|'
    r'command\.test_(host|main))\.')
"""Those that reach what differs. NOVA_RELEASE=... tools/test.sh runs all."""


def releases() -> list[str]:
    """Give all pinned releases but the one that is installed here."""
    here = str(project.load(loading.ROOT).release.version)
    return [each for each in project.releases(loading.ROOT) if each != here]


@contextlib.contextmanager
def built(wanted: str) -> Iterator[dict[str, str]]:
    """Build on a release; give the environment variables to use it by.

    :raises BuildError: it cannot be built
    """
    ours = project.load(loading.ROOT, wanted)
    with tempfile.TemporaryDirectory(prefix=f'nova-{wanted}-') as name:
        top = pathlib.Path(name).resolve()
        with release.obtained(ours.release) as wheel:
            content = whole.entries(ours, whole.unpacked(wheel))
        for path, entry in content.items():
            target = top / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(entry.data)
        # Nova looks for its files of configuration beside its package.
        (top / 'etc').symlink_to(top / whole.names(ours).data / 'data/etc')
        yield {
            project.RELEASE_VARIABLE: wanted,
            'PYTHONPATH': os.pathsep.join(filter(None, (
                str(top), os.environ.get('PYTHONPATH')))),
        }
