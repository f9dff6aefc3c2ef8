# SPDX-License-Identifier: Apache-2.0
"""The steps of the cloud job.

Every step checks its result, and raises LabError with the actual result.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import dataclasses
import pathlib
import typing as ty

from lab import compute
from lab import config
from lab import errors
from lab import glance
from lab.job import evidence
from lab.job import guest
from lab.job import region as lab_region
from lab.job import tenant
from lab import process
from lab import signing

#: Parts of the scenario, each of which can be had alone: local qcow2 disks,
#: raw ones, and nova-compute on eventlet.
PASSES = ('qcow2', 'raw', 'eventlet')

# Seconds for what goes on in the background.
_SOON = 60

require = evidence.require


@dataclasses.dataclass(frozen=True)
class Step:
    """One thing that is done and shown.

    :ivar name: says what is done
    :ivar run: does it; returns what was seen, in a few words
    """

    name: str
    run: Callable[[], str]


@dataclasses.dataclass(frozen=True)
class _Image:
    """An image as Glance shows it, and what its guest says."""

    shown: ty.Any
    marker: str

    @property
    def id(self) -> str:
        return self.shown['id']


@dataclasses.dataclass(frozen=True)
class _Server:
    """A server's id, and the image it was made of."""

    server: tenant.Server
    image: _Image

    @property
    def id(self) -> str:
        return self.server.id


class Scenario:
    """The steps, on a region that is up."""

    def __init__(self, region: lab_region.Region,
                 files: pathlib.Path) -> None:
        """:param files: a directory for the images that are made"""
        self._region = region
        self._cloud = region.cloud
        self._files = files
        self._evidence = evidence.Evidence(region)
        self._admin = tenant.Administrator(region.session('admin'))
        self._user = tenant.Tenant(
            region.session('demo'), self._admin.create_flavor())
        self._signer = signing.certify('Signer', is_ca=True)
        self._certificate = self._cloud.store_certificate(self._signer)
        self._images: dict[str, _Image] = {}
        self._servers: dict[str, _Server] = {}

    def steps(self, passes: Iterable[str] = PASSES) -> Iterator[Step]:
        """The steps of some passes, in their order.

        After each pass all servers and images are deleted.
        """
        known = dict(zip(PASSES, (
            self._local_qcow2, self._raw, self._eventlet), strict=True))
        for name in passes:
            yield from known[name]()
            yield Step('Delete all servers and images: nothing is left',
                       self._delete_all)

    def _local_qcow2(self) -> Iterator[Step]:
        yield Step('nova-compute runs with least rights', self._rights)
        yield Step('Store a bootable qcow2 image in Glance',
                   lambda: self._store('first'))
        yield Step('Boot server 1 of it: by rbd',
                   lambda: self._boot_fetched('1', 'first'))
        yield Step('Boot server 2 of it: a cache hit',
                   lambda: self._boot_cached('2', 'first'))
        yield Step('Make a snapshot of server 1',
                   lambda: self._snapshot('1', 'snapshot'))
        yield Step('Boot server 3 of the snapshot: by rbd',
                   lambda: self._boot_fetched('3', 'snapshot'))
        yield Step('Boot server 4 of a signed image, certificate trusted',
                   self._boot_signed)
        yield Step('Boot a server of a signed image that was tampered with',
                   self._boot_tampered)
        yield Step('Have an image precached on an aggregate: by rbd',
                   self._precache)
        yield Step('Boot server 5 of it: a cache hit',
                   lambda: self._boot_cached('5', 'precached'))
        # Nova does not use Ceph for a minute then, or until it restarts.
        yield Step('Boot server 6 with Ceph out of reach: by HTTP',
                   self._boot_without_ceph)
        yield Step('Restart nova-compute with the options of Nova 34',
                   self._restart_with_published_options)
        yield Step('Make a snapshot of server 2',
                   lambda: self._snapshot('2', 'snapshot-2'))
        yield Step('Boot server 7 of the snapshot: by rbd',
                   lambda: self._boot_fetched('7', 'snapshot-2'))
        yield Step('Rescue server 7 with a deactivated image: refused',
                   self._rescue_with_deactivated)

    def _raw(self) -> Iterator[Step]:
        yield Step('Restart nova-compute with images_type = raw',
                   self._restart_with_raw_disks)
        yield Step('Store a bootable raw image in Glance',
                   lambda: self._store('raw', 'raw'))
        yield Step('Boot server 8 of it: by rbd', self._boot_raw)
        yield Step('Boot server 9 of it: a cache hit',
                   self._boot_raw_cached)

    def _eventlet(self) -> Iterator[Step]:
        yield Step('Restart nova-compute on eventlet',
                   self._restart_on_eventlet)
        yield Step('Store another qcow2 image in Glance',
                   lambda: self._store('eventlet'))
        yield Step('Boot server 10 of it: by rbd',
                   lambda: self._boot_fetched('10', 'eventlet'))
        yield Step('Boot server 11 of it: a cache hit',
                   lambda: self._boot_cached('11', 'eventlet'))

    # Images

    def _store(self, name: str, disk_format: str = 'qcow2',
               signed: bool = False) -> str:
        """Make an image and have it in Glance."""
        marker = f'guest-of-{name}-is-up'
        path = guest.make(
            self._files / f'{name}.{disk_format}', marker, disk_format)
        properties = self._signer.properties(
            path, self._certificate) if signed else {}
        image_id = self._cloud.upload(
            path, disk_format, name=name, **properties)
        path.unlink()
        return self._remember(name, image_id, marker)

    def _snapshot(self, number: str, name: str) -> str:
        server = self._servers[number]
        image_id = self._user.snapshot(server.server, name)
        seen = self._remember(name, image_id, server.image.marker)
        disk_format = self._images[name].shown['disk_format']
        require(disk_format == 'qcow2',
                f'The snapshot should be a qcow2; it is {disk_format}')
        return seen

    def _remember(self, name: str, image_id: str, marker: str) -> str:
        location = self._cloud.location(image_id)
        wanted = (f'rbd://{self._cloud.ceph.fsid}/{glance.POOL}/{image_id}'
                  f'/snap')
        require(location == wanted,
                f'Glance should have it at {wanted}, not at {location}')
        shown = self._cloud.image(image_id)
        self._images[name] = _Image(shown, marker)
        return (f'{shown["size"]} bytes at '
                f'rbd://FSID/{glance.POOL}/{image_id}/snap')

    # Servers

    def _create(self, number: str, name: str, **more: ty.Any) -> None:
        """Have a server that is ACTIVE."""
        image = self._images[name]
        self._evidence.begin()
        server = self._user.create(f'server-{number}', image.id, **more)
        self._servers[number] = _Server(server, image)
        if server.status != 'ACTIVE':
            raise errors.LabError(
                f'Server {number} is in the status {server.status}, not '
                f'ACTIVE. Its fault: {self._admin.fault(server.id)}\n'
                f'{self._evidence.errors()}')

    def _boot(self, number: str, name: str, **more: ty.Any) -> str:
        """Have a server whose guest is up."""
        self._create(number, name, **more)
        server = self._servers[number]
        marker = server.image.marker
        seconds = self._user.wait_for_console(server.server, marker)
        return f'ACTIVE; {seconds:.1f} s later its console: {marker}'

    def _boot_fetched(self, number: str, name: str,
                      verified: str = 'sha512', **more: ty.Any) -> str:
        booted = self._boot(number, name, **more)
        image, server = self._images[name], self._servers[number]
        fetched = self._evidence.require_fetched_from_ceph(
            image.shown, verified)
        disk = self._evidence.require_overlay(server.id, image.id)
        return f'{fetched}; {disk}; {booted}'

    def _boot_cached(self, number: str, name: str) -> str:
        self._create(number, name)
        image, server = self._images[name], self._servers[number]
        hit = self._evidence.require_cache_hit(image.shown)
        disk = self._evidence.require_overlay(server.id, image.id)
        return f'ACTIVE; {hit}; {disk}'

    def _boot_signed(self) -> str:
        self._store('signed', signed=True)
        return self._boot_fetched('4', 'signed', 'signature',
                                  trusted_certs=[self._certificate])

    def _boot_tampered(self) -> str:
        self._store('tampered', signed=True)
        image = self._images['tampered']
        self._cloud.ceph.flip(glance.POOL, image.id)
        self._evidence.begin()
        server = self._user.create(
            'server-tampered', image.id, trusted_certs=[self._certificate])
        self._servers['tampered'] = _Server(server, image)
        require(server.status == 'ERROR',
                f'The server should be in ERROR; it is {server.status}')
        fault = self._admin.fault(server.id)
        # Nova would have tried the next host, if there was one.
        require(fault.get('code') == 500 and
                'Exhausted all hosts' in fault.get('message', ''),
                f'The fault should say that no host could build it; it is '
                f'{fault}')
        text = f'Image signature verification failed for image {image.id}'
        require(self._evidence.said(text),
                f'The compute log should say "{text}"')
        self._evidence.require_refused(image.shown)
        return f'ERROR, "{fault["message"]}"; log: "{text}"; nothing cached'

    def _boot_without_ceph(self) -> str:
        self._store('over-http')
        image = self._images['over-http']
        with self._no_ceph():
            booted = self._boot('6', 'over-http')
        fetched = self._evidence.require_fetched(
            image.shown, 'http', 'sha512')
        warnings = self._evidence.warnings()
        text = (f'Image {image.id} could not be fetched by rbd, the next '
                f'source is tried: ')
        require(len(warnings) == 2 and text in warnings[1] and
                'does not answer: Nova uses other sources' in warnings[0],
                f'There should be a warning about the cluster, and then '
                f'"{text}..."; there is: {warnings}')
        reason = warnings[1].partition(text)[2]
        require(reason.endswith("couldn't connect to the cluster"),
                f'The warning should say that Ceph is out of reach; it says '
                f'{reason}')
        return f'{fetched}; warning, "{reason}"; {booted}'

    @contextlib.contextmanager
    def _no_ceph(self) -> Iterator[None]:
        """Configure the address of a Ceph that does not answer."""
        host = self._region.host
        right = host.ceph_conf.read_text()
        wrong = config.merge(
            self._cloud.ceph.client_options(host.keyring),
            {'global': {'mon host': f'v2:127.0.0.1:{process.free_port()}'}})
        config.write(host.ceph_conf, config.render(wrong))
        try:
            yield
        finally:
            config.write(host.ceph_conf, right)

    def _precache(self) -> str:
        self._store('precached')
        image = self._images['precached']
        aggregate = self._admin.create_aggregate(self._region.compute.name)
        self._evidence.begin()
        self._admin.precache(aggregate, image.id)
        cached = self._evidence.cached(image.id)
        require(process.wait_for(cached.exists, _SOON),
                f'Image {image.id} should be in the cache after {_SOON} s. '
                f'Errors in the log:\n{self._evidence.errors()}')
        return self._evidence.require_fetched_from_ceph(
            image.shown, 'sha512')

    def _rescue_with_deactivated(self) -> str:
        """Glance gives Nova the location, but refuses the user the image."""
        self._store('deactivated')
        image = self._images['deactivated']
        images = self._cloud.glance_client('admin').images
        images.deactivate(image.id)
        self._evidence.begin()
        server = self._user.rescue(self._servers['7'].server, image.id)
        # Glance does not delete the data of a deactivated image.
        images.reactivate(image.id)
        require(server.status != 'RESCUE',
                f'The server should not be rescued; it is {server.status}')
        text = f'Not authorized for image {image.id}'
        require(self._evidence.said(text),
                f'The compute log should say "{text}"')
        self._evidence.require_not_fetched(image.shown)
        return f'{server.status}; log: "{text}"; no export, nothing cached'

    def _boot_raw(self) -> str:
        booted = self._boot('8', 'raw')
        image, server = self._images['raw'], self._servers['8']
        fetched = self._evidence.require_fetched_from_ceph(
            image.shown, 'sha512')
        holes = self._evidence.require_holes(image.shown)
        disk = self._evidence.require_raw(server.id)
        return f'{fetched}; {holes}; {disk}; {booted}'

    def _boot_raw_cached(self) -> str:
        self._create('9', 'raw')
        image, server = self._images['raw'], self._servers['9']
        hit = self._evidence.require_cache_hit(image.shown)
        disk = self._evidence.require_raw(server.id)
        return f'ACTIVE; {hit}; {disk}'

    # The compute service

    def _rights(self) -> str:
        host = self._region.host
        user = self._evidence.compute_user()
        require(user == host.account.name,
                f'nova-compute should run as {host.account.name}; it runs as '
                f'{user}')
        status = host.keyring.stat()
        require((status.st_uid, status.st_mode & 0o777) == (0, 0o600),
                f'{host.keyring} should be for root only; its owner is '
                f'{status.st_uid}, its mode {status.st_mode & 0o777:o}')
        backend = self._require_backend('threading')
        return f'as {user}; the Ceph keyring is for root only; {backend}'

    def _restart(self, options: config.Options, **more: bool) -> str:
        self._evidence.begin()
        self._region.compute.restart(options, **more)
        return 'up again'

    def _restart_with_published_options(self) -> str:
        """The names and values that the tempest test checks."""
        options: dict[str, config.Value | None] = {
            'allowed_direct_url_schemes': None,
            'enable_rbd_download': True,
            'rbd_user': compute.CEPH_USER,
            'rbd_pool': glance.POOL,
            'rbd_ceph_conf': self._region.host.ceph_conf,
        }
        self._restart({'glance': options})
        return ', '.join(
            f'{name} = {value}' for name, value in options.items()
            if name in ('enable_rbd_download', 'rbd_pool'))

    def _restart_with_raw_disks(self) -> str:
        return self._restart({'libvirt': {'images_type': 'raw'}})

    def _restart_on_eventlet(self) -> str:
        self._restart({}, eventlet=True)
        return self._require_backend('eventlet')

    def _require_backend(self, name: str) -> str:
        """The service's own loop, which the log tells of, is of a backend."""
        require(self._evidence.said(f' oslo_service.backend._{name}.'),
                f'The compute log should have lines of oslo.service\'s '
                f'backend {name}')
        return f'its backend is {name}'

    def _delete_all(self) -> str:
        servers, images = self._user.servers(), list(self._images.values())
        require(len(servers) == len(self._servers),
                f'There should be {len(self._servers)} servers; there are '
                f'{len(servers)}')
        self._user.delete(servers)
        client = self._cloud.glance_client()
        for image in images:
            client.images.delete(image.id)
        self._servers.clear()
        self._images.clear()
        left = self._evidence.leftovers()
        require(not left, f'This is left: {left}')
        return (f'{len(servers)} servers and {len(images)} images; no domain, '
                f'instance directory, RBD image, unfinished file or rbd')
