# SPDX-License-Identifier: Apache-2.0
"""A small Linux guest, made on the spot: it boots, says so, and idles.

What goes into it, Debian's kernel for clouds and a static busybox, is taken
out of the packages and not installed: a kernel that is installed builds an
initramfs and becomes the one the machine boots next, and busybox-static
replaces the busybox there is.
"""

import os
import pathlib
import re
import tempfile

from lab import errors
from lab import process
from lab import services

#: The programs that make a guest, and the Debian packages that hold them.
PROGRAMS = {
    'apt-get': 'apt',
    'cpio': 'cpio',
    'dpkg-deb': 'dpkg',
    'mcopy': 'mtools',
    'mformat': 'mtools',
    'qemu-img': 'qemu-utils',
    'sfdisk': 'fdisk',
    'syslinux': 'syslinux',
}

#: MiB of memory that the guest needs.
MEMORY = 96

MIB = 1 << 20

_KERNEL_PACKAGE = 'linux-image-cloud-amd64'
_BUSYBOX_PACKAGE = 'busybox-static'

# Of syslinux-common; it boots the partition that is marked active.
_BOOT_CODE = pathlib.Path('/usr/lib/syslinux/mbr/mbr.bin')
_BOOT_CODE_SIZE = 440

_SECTOR = 512
_DISK_SIZE = 32 * MIB
_PARTITION_START = MIB
_PARTITION_TABLE = f"""
label: dos
start={_PARTITION_START // _SECTOR}, type=6, bootable
"""

# Seconds; packages may have to come over a slow line.
_DOWNLOAD_TIMEOUT = 300

# The init program of the guest. It keeps the processor idle.
_INIT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
exec < /dev/ttyS0 > /dev/ttyS0 2>&1
echo {marker}
while /bin/busybox sleep 3600; do :; done
"""

_BOOT_MENU = """DEFAULT guest
PROMPT 0
LABEL guest
KERNEL vmlinuz
INITRD initrd
APPEND console=ttyS0 quiet nokaslr mitigations=off panic=1
"""

_UNPACK = 'dpkg-deb --fsys-tarfile "$1" | tar -x -C "$2" --wildcards "$3"'


def make(path: pathlib.Path, marker: str, disk_format: str) -> pathlib.Path:
    """Make the disk of a guest for BIOS machines with a serial port.

    It takes about a second, once the parts are in the lab's cache.

    :param path: of the file to make
    :param marker: the line that it writes to the serial port when it is up,
        plain characters only
    :param disk_format: raw or qcow2
    :returns: path
    :raises LabError: a program is missing, or a package cannot be had
    """
    if not re.fullmatch(r'[\w.-]+', marker, re.ASCII):
        raise errors.LabError(f'{marker!r} is no marker: use letters, '
                              f'digits, "_", "." and "-".')
    process.require_programs(PROGRAMS)
    if not _BOOT_CODE.exists():
        raise errors.LabError(
            f'{_BOOT_CODE} is missing: install the Debian package '
            f'syslinux-common.')
    kernel, busybox = _kernel(), _busybox()
    with tempfile.TemporaryDirectory(
            prefix='nova-guest-', dir=path.parent) as directory:
        work = pathlib.Path(directory)
        initrd = _make_initrd(work, busybox, marker)
        disk = _make_disk(work, kernel, initrd)
        process.run(['qemu-img', 'convert', '-f', 'raw', '-O', disk_format,
                     disk, path])
    return path


def _kernel() -> pathlib.Path:
    cached = _cached('vmlinuz')
    if not cached.exists():
        # The one depends on the other, which has the version in its name.
        depends = _apt('apt-cache', 'depends', '--important', _KERNEL_PACKAGE)
        found = re.search(r'Depends: (linux-image-\S+)', depends)
        if not found:
            raise errors.LabError(
                f'The Debian package {_KERNEL_PACKAGE} depends on no kernel.'
                f'\n{depends}')
        _unpack(found[1], './boot/vmlinuz-*', cached)
    return cached


def _busybox() -> pathlib.Path:
    cached = _cached('busybox')
    if not cached.exists():
        _unpack(_BUSYBOX_PACKAGE, './bin/busybox', cached)
    return cached


def _cached(name: str) -> pathlib.Path:
    return services.cache_directory() / 'guest' / name


def _unpack(package: str, member: str, path: pathlib.Path) -> None:
    """Put one file of a Debian package at a path.

    :param member: a pattern that one file of the package matches
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        work = pathlib.Path(directory)
        _apt('apt-get', 'download', '-q', package, cwd=work)
        [archive] = work.glob('*.deb')
        tree = work / 'tree'
        tree.mkdir()
        process.run(['sh', '-c', _UNPACK, 'sh', archive, tree, member])
        [file] = (found for found in tree.rglob('*') if found.is_file())
        file.replace(path)


def _apt(*command: str, cwd: pathlib.Path = pathlib.Path('/')) -> str:
    """Run a command of apt, once more with new lists if it fails.

    :raises LabError: it fails again
    """
    # With the caller's proxies.
    env = {**os.environ, 'LC_ALL': 'C', 'DEBIAN_FRONTEND': 'noninteractive'}
    try:
        return process.run(
            command, env=env, cwd=cwd, timeout=_DOWNLOAD_TIMEOUT)
    except errors.LabError:
        process.run(['apt-get', 'update', '-q'], env=env,
                    timeout=_DOWNLOAD_TIMEOUT)
        return process.run(
            command, env=env, cwd=cwd, timeout=_DOWNLOAD_TIMEOUT)


def _make_initrd(work: pathlib.Path, busybox: pathlib.Path,
                 marker: str) -> pathlib.Path:
    root = work / 'root'
    for name in ('bin', 'dev'):
        root.joinpath(name).mkdir(parents=True)
    program = root / 'bin' / 'busybox'
    program.write_bytes(busybox.read_bytes())
    init = root / 'init'
    init.write_text(_INIT.format(marker=marker))
    for path in (program, init):
        path.chmod(0o755)
    initrd = work / 'initrd'
    process.run(
        ['cpio', '--create', '--quiet', '--format=newc', '--owner=+0:+0',
         f'--file={initrd}'], cwd=root, text='bin\nbin/busybox\ndev\ninit\n')
    return initrd


def _make_disk(work: pathlib.Path, kernel: pathlib.Path,
               initrd: pathlib.Path) -> pathlib.Path:
    disk, menu = work / 'disk', work / 'syslinux.cfg'
    menu.write_text(_BOOT_MENU)
    with open(disk, 'wb') as file:
        file.truncate(_DISK_SIZE)
    process.run(['sfdisk', '--quiet', disk], text=_PARTITION_TABLE)
    with open(disk, 'r+b') as file:
        file.write(_BOOT_CODE.read_bytes()[:_BOOT_CODE_SIZE])
    volume = f'{disk}@@{_PARTITION_START}'
    process.run([
        'mformat', '-i', volume, '-H', str(_PARTITION_START // _SECTOR),
        '-T', str((_DISK_SIZE - _PARTITION_START) // _SECTOR), '::'])
    process.run(['mcopy', '-i', volume, kernel, initrd, menu, '::'])
    process.run(['syslinux', '--install', '--offset', str(_PARTITION_START),
                 disk])
    return disk
