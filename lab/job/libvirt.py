# SPDX-License-Identifier: Apache-2.0
"""libvirt and QEMU on a compute host.

They find what they keep where they always do, but on the host's own mounts:
the machine's /etc, /run and /var stay as they are, and so does a libvirt that
runs there. QEMU ends with the host's process namespace at the latest.
"""

from collections.abc import Callable
import grp
import pathlib

from lab import compute
from lab import config
from lab import errors
from lab import namespace
from lab import process

# The account that Debian's package runs QEMU by.
QEMU_ACCOUNT = 'libvirt-qemu'

URI = 'qemu:///system'

_KVM = pathlib.Path('/dev/kvm')

# Seconds; the first contact waits for QEMU to tell what it can do.
_FIRST_CONTACT = 60

_PLACES = {
    'etc': '/etc/libvirt',
    'run': '/run',
    'lib': '/var/lib/libvirt',
    'cache': '/var/cache/libvirt',
    'log': '/var/log/libvirt',
}


def make_places(directory: pathlib.Path, service: namespace.Account
                ) -> list[tuple[pathlib.Path, pathlib.Path]]:
    """Make the directories that libvirt has on the host.

    :param directory: where they go; made here
    :param service: the account that may talk to libvirt
    :returns: pairs of what has to be mounted and over what
    """
    directory.mkdir(mode=0o711)
    pairs = []
    for name, place in _PLACES.items():
        path = directory / name
        path.mkdir(mode=0o755)
        pairs.append((path, pathlib.Path(place)))
    # /var/lock is a link to this directory.
    lock = directory / 'run' / 'lock'
    lock.mkdir()
    lock.chmod(0o1777)
    for name, options in (('libvirtd.conf', _daemon_options(service)),
                          ('qemu.conf', _qemu_options())):
        config.write(directory / 'etc' / name, ''.join(
            f'{option} = {value}\n' for option, value in options.items()))
    if _KVM.exists():
        pairs.append((_make_useless(directory / 'kvm'), _KVM))
    return pairs


def _make_useless(device: pathlib.Path) -> pathlib.Path:
    """A file in place of a device that no process may open.

    QEMU runs without KVM here. When libvirt finds that it could have it, but
    its own idea of that differs from QEMU's, it asks QEMU all over again for
    what it can do, for 13 seconds at each start of a guest.
    """
    device.touch(mode=0)
    return device


def _daemon_options(service: namespace.Account) -> dict[str, str]:
    # A host of Debian has a group libvirt with the service's user in it.
    # Here it is the group that this user has anyway.
    group = grp.getgrgid(service.gid).gr_name
    return {
        'unix_sock_group': f'"{group}"',
        'unix_sock_ro_perms': '"0770"',
        'unix_sock_rw_perms': '"0770"',
        'auth_unix_ro': '"none"',
        'auth_unix_rw': '"none"',
        'log_outputs': '"3:stderr"',
    }


def _qemu_options() -> dict[str, str]:
    account = namespace.account(QEMU_ACCOUNT)
    # Neither AppArmor nor control groups are the host's to set up here; its
    # namespace has what a namespace of QEMU's own would be for.
    return {
        'user': f'"+{account.uid}"',
        'group': f'"+{account.gid}"',
        'dynamic_ownership': '1',
        'security_driver': '"none"',
        'namespaces': '[]',
        'cgroup_controllers': '[]',
    }


class Libvirt(process.LabFixture):
    """libvirtd and the daemon that writes its guests' console logs.

    :ivar virtlogd: the latter
    :ivar libvirtd: the former
    """

    def __init__(self, host: compute.ComputeHost) -> None:
        """Describe it; setUp() starts it.

        :param host: has what make_places() returned as mounts
        """
        super().__init__()
        self._host = host

    def _setUp(self) -> None:
        self.virtlogd = self._start(
            'virtlogd', lambda: self._exists('/run/libvirt/virtlogd-sock'))
        self.libvirtd = self._start(
            'libvirtd', lambda: self._exists('/run/libvirt/libvirt-sock'))
        self.virsh('version', timeout=_FIRST_CONTACT)

    def _start(self, name: str, ready: Callable[[], bool]) -> process.Daemon:
        return self.useFixture(self._host.daemon(
            name, name, ready=ready, as_root=True))

    def _exists(self, path: str) -> bool:
        try:
            self._host.run_as_root('test', '-S', path)
        except errors.LabError:
            return False
        return True

    def virsh(self, *command: str, timeout: float = 30) -> str:
        """Run virsh as the compute service's user; return its output.

        :param timeout: in seconds
        :raises LabError: when it fails
        """
        return self._host.run(
            'virsh', '--connect', URI, *command, timeout=timeout)
