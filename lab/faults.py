# SPDX-License-Identifier: Apache-2.0
"""Faults of data, and a program that applies them to the output of rbd.

Its arguments are the real rbd, a file with the name of the fault, and those of
rbd. It needs only this file. The images must fit into memory.
"""

from collections.abc import Callable
import pathlib
import subprocess
import sys


def _flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1:]


#: Name of a fault -> what it makes of the whole data.
FAULTS: dict[str, Callable[[bytes], bytes]] = {
    '': bytes,
    'flip': _flip,
    'cut': lambda data: data[:-1000],
    'cut-last': lambda data: data[:-1],
    'add': lambda data: data + b'more' * 250,
}


def main() -> int:
    real, fault, *arguments = sys.argv[1:]
    # ceph.conf is one of the descriptors.
    done = subprocess.run(
        [real, *arguments], stdout=subprocess.PIPE, close_fds=False)
    change = FAULTS[pathlib.Path(fault).read_text()]
    sys.stdout.buffer.write(change(done.stdout))
    return done.returncode


if __name__ == '__main__':
    sys.exit(main())
