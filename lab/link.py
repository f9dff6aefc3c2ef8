# SPDX-License-Identifier: Apache-2.0
"""A network link of limited speed between a compute host and the services."""

import os
import pathlib
import subprocess

from lab import process

# Of RFC 2544, for benchmarks.
_NEAR, _FAR = '198.18.{0}.1', '198.18.{0}.2'

# Burst size of the tc filter, and the longest time that a packet may queue.
_BURST = '256kb'
_LATENCY = '20ms'


class Link(process.LabFixture):
    """A network namespace whose one interface is a link to this machine.

    The services stay on 127.0.0.1 of this machine: inside the namespace that
    address is at the other end of the link, and nothing else is reachable.
    The speed limit is on what comes from the services.

    :ivar path: of the namespace, for nsenter
    """

    def __init__(self, rate: str, number: int = 0) -> None:
        """Describe the link; setUp() makes it.

        :param rate: as tc-tbf(8) has it, such as 1gbit
        :param number: tells links from each other, 0 to 255
        """
        super().__init__()
        self._rate = rate
        self._number = number

    def _setUp(self) -> None:
        process.require_root()
        process.require_programs(
            {'ip': 'iproute2', 'tc': 'iproute2', 'nsenter': 'util-linux'})
        # The link goes when the namespace goes, and that with its process.
        holder: subprocess.Popen[str] = process.spawn(
            ['unshare', '--net', 'sh', '-c',
             'echo ready; exec sleep infinity'], cwd='/', text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.addCleanup(process.end, holder, grace=0)
        assert holder.stdout
        holder.stdout.readline()
        self.path = pathlib.Path(f'/proc/{holder.pid}/ns/net')
        self._connect(holder.pid)

    def argv(self, *command: process.Argument) -> list[process.Argument]:
        """Return the command line that runs a command in the namespace."""
        return ['nsenter', f'--net={self.path}', '--', *command]

    def _connect(self, pid: int) -> None:
        near, far = (f'{name}{os.getpid()}x{self._number}'
                     for name in ('n', 'f'))
        here, there = (address.format(self._number)
                       for address in (_NEAR, _FAR))
        process.run(['ip', 'link', 'add', near, 'type', 'veth',
                     'peer', 'name', far, 'netns', str(pid)])
        self._open(near, here)
        self._open(far, there, *self.argv())
        process.run(self.argv('ip', 'route', 'add', '127.0.0.0/8',
                              'via', here, 'src', there))
        process.run(['tc', 'qdisc', 'add', 'dev', near, 'root', 'tbf',
                     'rate', self._rate, 'burst', _BURST,
                     'latency', _LATENCY])

    def _open(self, name: str, address: str,
              *prefix: process.Argument) -> None:
        """Bring an interface up, and let it carry loopback addresses."""
        process.run([*prefix, 'ip', 'address', 'add', f'{address}/30',
                     'dev', name])
        process.run([*prefix, 'sh', '-c', 'echo 1 > '
                     f'/proc/sys/net/ipv4/conf/{name}/route_localnet'])
        process.run([*prefix, 'ip', 'link', 'set', name, 'up'])
