# SPDX-License-Identifier: Apache-2.0
"""Actions of users on servers, through the public APIs."""

from collections.abc import Callable
import time
import typing as ty

from keystoneauth1 import session as ks_session
import openstack
from openstack import exceptions as sdk_exc

from lab import errors
from lab.job import guest
from lab import keystone as lab_keystone
from lab import process

# Of the Compute API: trusted certificates need 2.63, images for an aggregate
# 2.81.
_MICROVERSION = '2.90'

# Seconds. A guest on an emulated processor takes ten of them.
_BUILD = 120
_BOOT = 90
_SNAPSHOT = 60
_DELETE = 60
_INTERVAL = 0.5

_DISK = 1  # GiB

Server = ty.Any


def connect(session: ks_session.Session) -> openstack.connection.Connection:
    """A connection to the services of the catalog."""
    return openstack.connection.Connection(
        session=session, region_name=lab_keystone.REGION,
        compute_default_microversion=_MICROVERSION)


class Administrator:
    """The administrator, who prepares the cloud for its users."""

    def __init__(self, session: ks_session.Session) -> None:
        self._compute = connect(session).compute

    def create_flavor(self) -> str:
        """Make a flavor for the guest; return its id."""
        return self._compute.create_flavor(
            name='guest', vcpus=1, ram=guest.MEMORY, disk=_DISK).id

    def create_aggregate(self, host: str) -> str:
        """Make an aggregate of one compute host; return its id."""
        aggregate = self._compute.create_aggregate(name='all')
        self._compute.add_host_to_aggregate(aggregate, host)
        return aggregate.id

    def precache(self, aggregate: str, image_id: str) -> None:
        """Ask for an image in the cache of all hosts; return at once."""
        self._compute.aggregate_precache_images(aggregate, image_id)

    def fault(self, server_id: str) -> dict[str, ty.Any]:
        """Return the fault of a server in the status ERROR."""
        return self._compute.get_server(server_id).fault or {}


class Tenant:
    """A user with servers."""

    def __init__(self, session: ks_session.Session, flavor: str) -> None:
        """:param flavor: id of the flavor that the servers have"""
        self._compute = connect(session).compute
        self._flavor = flavor

    def create(self, name: str, image_id: str,
               trusted_certs: list[str] | None = None) -> Server:
        """Ask for a server; wait until it is there or cannot be.

        :param trusted_certs: ids of certificates to verify the image with
        :raises LabError: it has neither status in time
        """
        more = ({'trusted_image_certificates': trusted_certs}
                if trusted_certs else {})
        server = self._compute.create_server(
            name=name, image_id=image_id, flavor_id=self._flavor,
            networks='none', **more)

        def settled() -> bool:
            nonlocal server
            server = self._compute.get_server(server.id)
            return server.status in ('ACTIVE', 'ERROR')

        if not process.wait_for(settled, _BUILD, _INTERVAL):
            raise errors.LabError(
                f'Server {name} is neither ACTIVE nor in ERROR after '
                f'{_BUILD} s, but {server.status}, {server.task_state}')
        return server

    def rescue(self, server: Server, image_id: str) -> Server:
        """Boot a server from another image; wait until this ends or fails.

        :returns: the server in its new state
        :raises LabError: Nova does not finish in time
        """
        server.rescue(self._compute, image_ref=image_id)

        def settled() -> bool:
            nonlocal server
            server = self._compute.get_server(server.id)
            return not server.task_state

        if not process.wait_for(settled, _BUILD, _INTERVAL):
            raise errors.LabError(
                f'Server {server.name} is still {server.task_state} after '
                f'{_BUILD} s')
        return server

    def wait_for_console(self, server: Server, marker: str) -> float:
        """Wait until a server's console has a line; return the seconds.

        :raises LabError: with what the console has, when time is up
        """
        begin = time.monotonic()
        text = ''

        def marked() -> bool:
            nonlocal text
            text = self._compute.get_server_console_output(
                server)['output'] or ''
            return marker in text.splitlines()

        if not process.wait_for(marked, _BOOT, _INTERVAL):
            raise errors.LabError(
                f'The console of server {server.name} should have a line '
                f'{marker} after {_BOOT} s. It has:\n{text[-3000:]}')
        return time.monotonic() - begin

    def snapshot(self, server: Server, name: str) -> str:
        """Make an image of a server's disk; return the image's id."""
        return self._compute.create_server_image(
            server, name, wait=True, timeout=_SNAPSHOT).id

    def servers(self) -> list[Server]:
        """All servers of the user's project."""
        return list(self._compute.servers())

    def delete(self, servers: list[Server]) -> None:
        """Delete servers, and wait until they are gone.

        :raises LabError: one is still there when time is up
        """
        for server in servers:
            self._compute.delete_server(server)
        for server in servers:
            if not process.wait_for(
                    self._is_gone(server), _DELETE, _INTERVAL):
                raise errors.LabError(
                    f'Server {server.name} is still there, {_DELETE} s '
                    f'after it was deleted')

    def _is_gone(self, server: Server) -> Callable[[], bool]:
        def gone() -> bool:
            try:
                self._compute.get_server(server.id)
            except sdk_exc.NotFoundException:
                return True
            return False

        return gone
