# SPDX-License-Identifier: Apache-2.0

"""The released tests that reach what this tree changes.

The list results from a search of the released tests for nova.image, [glance]
and nova.privsep, and for functional tests that set up the Glance fixture.
"""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import pathlib
from typing import NamedTuple

from packaging import version

from suites import loading

UNIT = 'nova.tests.unit'
FUNCTIONAL = 'nova.tests.functional'
NO_GROUP = 'no test'
"""Group of failures before any test was loaded."""
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


class Group(NamedTuple):
    """Modules of tests with one row in the table."""

    name: str
    prefixes: tuple[str, ...]
    """Names of packages and modules."""
    fast: bool = False


class Part(NamedTuple):
    """Groups that run together, as in the release's own tox.ini."""

    name: str
    groups: tuple[Group, ...]
    environment: Mapping[str, str] = {}


def _unit(name: str, *modules: str, fast: bool = False) -> Group:
    return Group(name, tuple(f'{UNIT}.{each}' for each in modules), fast)


def _functional(name: str, *modules: str) -> Group:
    return Group(name, tuple(f'{FUNCTIONAL}.{each}' for each in modules))


PARTS = (
    Part('unit', (
        _unit('image', 'image', fast=True),
        _unit('image cache', 'virt.test_images', 'virt.test_imagecache',
              'virt.libvirt.test_imagecache', 'virt.libvirt.test_utils',
              fast=True),
        _unit('privsep, storage', 'privsep', 'storage',
              'virt.libvirt.storage', fast=True),
        _unit('configuration', 'conf', 'test_conf', fast=True),
        _unit('objects of images', 'objects.test_image_meta',
              'objects.test_trusted_certs', fast=True),
        _unit('virt.libvirt', 'virt.libvirt'),
        _unit('compute', 'compute'),
        _unit('conductor', 'conductor.test_conductor'),
        _unit('API of images and servers',
              'api.openstack.compute.test_image_metadata',
              'api.openstack.compute.test_images',
              'api.openstack.compute.test_server_actions',
              'api.openstack.compute.test_servers', 'policies.test_servers',
              'notifications.test_base'),
    )),
    # It imports modules again, so it needs a process of its own.
    Part('profiler', (_unit('profiler', 'test_profiler'),),
         environment={'TEST_OSPROFILER': '1'}),
    Part('functional', (
        _functional('images (functional)', 'test_images',
                    'compute.test_cache_image', 'test_boot_from_volume',
                    'test_server_rescue', 'wsgi.test_servers'),
        _functional('libvirt (functional)', *(
            f'libvirt.test_{name}' for name in (
                'amd_sev', 'device_bus_migration', 'evacuate', 'machine_type',
                'rescue_deleted_base', 'stateless_firmware', 'uefi',
                'vif_model'))),
        _functional('regressions (functional)', *(
            f'regressions.test_bug_{number}' for number in (
                1558866, 1595962, 1628606, 1718512, 1741364, 1746483, 1780373,
                1781710, 1797580, 1835822, 1843708, 1893284, 1895696, 1896463,
                1928063, 2062127, 2062425, 2134375, 2143972))),
    )),
)


def released_modules(folder: pathlib.Path) -> list[str]:
    """Return the modules of tests of the Nova in a folder."""
    top = folder / 'nova/tests'
    return sorted(
        '.'.join(path.relative_to(folder).with_suffix('').parts)
        for path in top.rglob('test_*.py'))


def grouped(
    groups: Iterable[Group], modules: Sequence[str],
) -> dict[str, str]:
    """Return the names of groups, by module.

    A module is in the first group that matches it.

    :raises SuiteError: a group matches no module
    """
    chosen: dict[str, str] = {}
    for group in groups:
        taken = [module for module in modules if f'{module}.'.startswith(
            tuple(f'{prefix}.' for prefix in group.prefixes))]
        if not taken:
            raise loading.SuiteError(
                f'The release has no tests of the group "{group.name}". '
                'Correct tools/released/selection.py.')
        for module in taken:
            chosen.setdefault(module, group.name)
    return chosen


def group_of(test: str, chosen: Mapping[str, str]) -> str:
    """Return the name of a test's group."""
    for module, group in chosen.items():
        # "setUpClass (nova.tests...)" is the id of a failure, too.
        if f'{module}.' in test:
            return group
    return NO_GROUP
