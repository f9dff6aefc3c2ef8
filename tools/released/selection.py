# SPDX-License-Identifier: Apache-2.0

"""The released tests that reach what this tree changes.

The list results from a search of the released tests for nova.image, [glance]
and nova.privsep, and for functional tests that set up the Glance fixture.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import pathlib
from typing import NamedTuple

from packaging import version

from suites import loading

MODES = ('threads', 'eventlet')
"""Concurrency modes of nova-compute."""


def environment(mode: str) -> dict[str, str]:
    """Return the environment variables for a concurrency mode."""
    return {
        'OS_NOVA_DISABLE_EVENTLET_PATCHING': str(mode == 'threads').lower(),
        # As in the release's own tox.ini.
        'NOVA_RAISE_ON_GREENLET_LEAK': 'true',
    }


def default_mode(release: version.Version) -> str:
    """Return the default mode of nova-compute in a release."""
    return 'threads' if release.major >= 34 else 'eventlet'


class Part(NamedTuple):
    """Tests that run together, as in the release's own tox.ini."""

    name: str
    prefixes: tuple[str, ...]
    """Names of packages and modules."""
    fast: tuple[str, ...] = ()
    """Those that are closest to the change."""
    environment: Mapping[str, str] = {}


def _named(package: str, *modules: str) -> tuple[str, ...]:
    return tuple(f'nova.tests.{package}{each}' for each in modules)


_FAST = _named(
    'unit.', 'image', 'virt.test_images', 'virt.test_imagecache',
    'virt.libvirt.test_imagecache', 'virt.libvirt.test_utils', 'privsep',
    'storage', 'virt.libvirt.storage', 'conf', 'test_conf',
    'objects.test_image_meta', 'objects.test_trusted_certs')
PARTS = (
    Part('unit', _FAST + _named(
        'unit.', 'virt.libvirt', 'compute', 'conductor.test_conductor',
        'api.openstack.compute.test_image_metadata',
        'api.openstack.compute.test_images',
        'api.openstack.compute.test_server_actions',
        'api.openstack.compute.test_servers', 'policies.test_servers',
        'notifications.test_base'), _FAST),
    # It imports modules again, so it needs a process of its own.
    Part('profiler', _named('unit.', 'test_profiler'),
         environment={'TEST_OSPROFILER': '1'}),
    Part('functional', _named(
        'functional.', 'test_images', 'compute.test_cache_image',
        'test_boot_from_volume', 'test_server_rescue', 'wsgi.test_servers',
    ) + _named(
        'functional.libvirt.test_', 'amd_sev', 'device_bus_migration',
        'evacuate', 'machine_type', 'rescue_deleted_base',
        'stateless_firmware', 'uefi', 'vif_model',
    ) + _named(
        'functional.regressions.test_bug_', '1558866', '1595962', '1628606',
        '1718512', '1741364', '1746483', '1780373', '1781710', '1797580',
        '1835822', '1843708', '1893284', '1895696', '1896463', '1928063',
        '2062127', '2062425', '2134375', '2143972')),
)
# Those that Nova 32 or 33 does not have.
NEW = {
    *_named('functional.libvirt.test_', 'amd_sev'),
    *_named('functional.regressions.test_bug_', '1741364', '2062127',
            '2134375')}


def released_modules(folder: pathlib.Path) -> list[str]:
    """Return the modules of tests of the Nova in a folder."""
    top = folder / 'nova/tests'
    return sorted(
        '.'.join(path.relative_to(folder).with_suffix('').parts)
        for path in top.rglob('test_*.py'))


def matching(
    prefixes: Sequence[str], modules: Sequence[str],
) -> list[str]:
    """Return the modules with such names.

    :raises SuiteError: a name matches no module
    """
    found = set()
    for prefix in prefixes:
        taken = {module for module in modules
                 if f'{module}.'.startswith(f'{prefix}.')}
        if not taken and prefix not in NEW:
            raise loading.SuiteError(
                f'The release has no tests in {prefix}. Correct '
                'tools/released/selection.py.')
        found |= taken
    return sorted(found)
