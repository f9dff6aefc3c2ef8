# SPDX-License-Identifier: Apache-2.0
"""Does what a plan says, on a lab of its own, and times it."""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import fcntl
import hashlib
import mmap
import os
import pathlib
import resource
import shutil
import subprocess
import time
import typing as ty

from lab.bench import plan
from lab.bench import report
from lab import cloud as lab_cloud
from lab import compute
from lab import config
from lab import errors
from lab import glance
from lab import link
from lab import process
from lab import service
from lab import services
from lab import signing
from lab import worker

Check = plan.Check
Way = plan.Way
Sample = report.Sample

# Seconds for one download, and for the making of one image.
_TIMEOUT = 900

_BLOCK = 4 * plan.MIB
_PIPE_SIZE = plan.MIB
_OBJECT_SIZE = '8M'
_RATE = '1gbit'

# The OSD's memory for data, where it is to have whole images in it.
_OSD_CACHE = 4 * plan.GIB

_NAMES = {'signature': Check.SHA256, 'sha512': Check.SHA512,
          'nothing': Check.NONE}


@dataclasses.dataclass(frozen=True)
class _Stored:
    """An image in Glance, and what it must be."""

    image: plan.Image
    image_id: str
    sha256: str


class Bench(process.LabFixture):
    """The lab of a benchmark."""

    def __init__(self, chosen: plan.Plan, released: pathlib.Path) -> None:
        """Describe it; setUp() starts it.

        :param released: interpreter of the released Nova
        """
        super().__init__()
        self._plan = chosen
        self._released = released
        self._stored: dict[str, _Stored] = {}
        self._far: compute.ComputeHost | None = None
        self._begin = time.monotonic()

    def _setUp(self) -> None:
        self._say('Starting Ceph, Keystone, Barbican and Glance')
        self._cloud = self.useFixture(lab_cloud.Cloud(
            barbican=True, osd_size=64 * plan.GIB, ceph_options=_CEPH,
            options={'DEFAULT': {'do_secure_hash': False}}))
        self._files = self._cloud.directory / 'files'
        self._files.mkdir()
        self._signer = signing.certify('Signer')
        self._certificate = self._cloud.store_certificate(self._signer)
        self._ours = self._make_host('ours')
        self._our_worker = self.useFixture(worker.Worker(self._ours))
        self._theirs = self._make_released_host()
        self._their_worker = self.useFixture(worker.Worker(self._theirs))

    def _say(self, text: str) -> None:
        print('[%6.1f s] %s' % (time.monotonic() - self._begin, text),
              flush=True)

    def _make_host(self, name: str, **kwargs: ty.Any) -> compute.ComputeHost:
        host = self.useFixture(
            compute.ComputeHost(self._cloud, name=name, **kwargs))
        self._out(host).parent.mkdir()
        shutil.chown(self._out(host).parent, host.account.uid)
        return host

    def _make_released_host(self) -> compute.ComputeHost:
        modules = self._cloud.directory / 'modules'
        modules.mkdir()
        services.link_ceph_modules(modules)
        host = self._make_host(
            'released', python=self._released,
            env={'PYTHONPATH': str(modules)})
        # It reads the keyring itself.
        shutil.chown(host.keyring, host.account.uid)
        return host

    @staticmethod
    def _out(host: compute.ComputeHost) -> pathlib.Path:
        return host.instances / 'out' / 'image'

    def run(self) -> dict[plan.Case, list[Sample]]:
        """Measure all cases, those of a group in turns.

        :raises LabError: something is not what it should be
        """
        samples: dict[plan.Case, list[Sample]] = {}
        for group, cases in self._plan.groups.items():
            with self._ready_for(cases):
                for number in range(self._plan.rounds[group]):
                    for case in cases:
                        sample = self._measure(case)
                        samples.setdefault(case, []).append(sample)
                        self._say('%s, round %d: %.2f s' % (
                            case.name, number + 1, sample.seconds))
        return samples

    @contextlib.contextmanager
    def _ready_for(self, cases: list[plan.Case]) -> Iterator[None]:
        """Have the images of a group, and forget those of others."""
        needed = {case.image.name: case.image for case in cases}
        for name in set(self._stored) - set(needed):
            self._delete(self._stored.pop(name))
        for image in needed.values():
            if image.name not in self._stored:
                self._say('Making %s' % image.name)
                self._stored[image.name] = self._store(image)
        for image in {case.image for case in cases if case.warm}:
            self._warm_up(self._stored[image.name])
        self._check(cases)
        with contextlib.ExitStack() as stack:
            if cases[0].group == plan.LINK:
                self._link = stack.enter_context(link.Link(_RATE))
                self._far = self._make_host('far', network=self._link.path)
                stack.callback(setattr, self, '_far', None)
                self._far_worker = stack.enter_context(
                    worker.Worker(self._far))
            yield

    def _check(self, cases: list[plan.Case]) -> None:
        """Our downloads are right, byte by byte."""
        for image in {case.image for case in cases if case.way == Way.RBD}:
            if image.name != plan.ZEROS:
                case = plan.Case('check', image, Way.RBD, Check.SHA512)
                self._fetch(case, digest=True)

    # Images

    def _store(self, image: plan.Image) -> _Stored:
        path = self._files / 'image'
        try:
            if image.name == plan.ZEROS:
                return self._store_zeros(image, path)
            _make(path, image)
            return self._import(image, path)
        finally:
            path.unlink(missing_ok=True)

    def _import(self, image: plan.Image, path: pathlib.Path) -> _Stored:
        """Store an image in the format of Glance, but faster."""
        sha256, sha512 = _digests(path, 'sha256', 'sha512')
        signed = self._signer.properties(path, self._certificate)
        image_id = self._register(image, path, sha512, signed)
        return _Stored(image, image_id, sha256)

    def _store_zeros(self, image: plan.Image, path: pathlib.Path) -> _Stored:
        with open(path, 'wb') as file:
            file.truncate(image.size)
            file.seek(image.size // 3)
            file.write(b'1')
        [sha512] = _digests(path, 'sha512')
        return _Stored(
            image, self._register(image, path, sha512, {}), '')

    def _register(self, image: plan.Image, path: pathlib.Path, sha512: str,
                  properties: dict[str, str]) -> str:
        images = self._cloud.glance_client().images
        image_id = images.create(
            name=image.name, disk_format=image.disk_format,
            container_format='bare', **properties).id
        place = ['--pool', glance.POOL, '--image', image_id, '--snap', 'snap']
        ceph = self._cloud.ceph
        ceph.rbd('import', '--no-progress', '--object-size', _OBJECT_SIZE,
                 '--dest-pool', glance.POOL, '--dest', image_id,
                 '--path', path, timeout=_TIMEOUT)
        ceph.rbd('snap', 'create', '--no-progress', *place)
        ceph.rbd('snap', 'protect', *place)
        # Other users may only add locations of the HTTP store.
        self._cloud.glance_client('nova').images.add_image_location(
            image_id, f'rbd://{ceph.fsid}/{glance.POOL}/{image_id}/snap',
            {'os_hash_algo': 'sha512', 'os_hash_value': sha512})
        if not process.wait_for(
                lambda: images.get(image_id).status == 'active', 60):
            raise errors.LabError(f'{image_id} does not become active')
        return image_id

    def _delete(self, stored: _Stored) -> None:
        self._cloud.glance_client().images.delete(stored.image_id)

    def _warm_up(self, stored: _Stored) -> None:
        """Read it in a way that has the OSD keep it; exports ask not to."""
        for _time in range(2):
            self._cloud.ceph.rbd(
                'bench', '--io-type', 'read', '--io-size', _OBJECT_SIZE,
                '--io-total', str(stored.image.size), '--io-threads', '2',
                '--rbd-cache=false',
                f'{glance.POOL}/{stored.image_id}@snap', timeout=_TIMEOUT)

    # Measurements

    def _measure(self, case: plan.Case) -> Sample:
        # Pending writes would slow down the measurement.
        os.sync()
        return self._how(case)(case)

    def _how(self, case: plan.Case) -> Callable[[plan.Case], Sample]:
        if case.count > 1:
            return self._fetch_several
        return {Way.BARE: self._export, Way.PIPE: self._export_to_nowhere,
                Way.WRITE: self._write, Way.HASH: self._hash,
                }.get(case.way, self._fetch)

    def _place(
        self, case: plan.Case,
    ) -> tuple[compute.ComputeHost, worker.Worker]:
        if self._far:
            return self._far, self._far_worker
        if case.way in (Way.NOVA34, Way.HTTP34):
            return self._theirs, self._their_worker
        return self._ours, self._our_worker

    def _fetch(self, case: plan.Case, digest: bool = False) -> Sample:
        stored = self._stored[case.image.name]
        host, by = self._place(case)
        host.configure({
            'DEFAULT': {'force_raw_images': bool(case.force_raw)},
            'glance': _GLANCE[case.way](host, case.check)})
        before = self._cloud.glance.downloads(stored.image_id)
        path = self._out(host) if case.force_raw is None else None
        fetched = by.fetch(stored.image_id, path=path, digest=digest,
                           timeout=_TIMEOUT)
        fetched.path.unlink()
        self._check_way(case, fetched, self._cloud.glance.downloads(
            stored.image_id) - before)
        if digest and fetched.sha256 != stored.sha256:
            raise errors.LabError(f'{case.name}: not the image stored')
        return Sample(fetched.seconds, fetched.cpu_seconds,
                      fetched.rss_growth)

    def _check_way(self, case: plan.Case, fetched: compute.Fetched,
                   over_http: int) -> None:
        """It came by the way that is measured, verified as it should be.

        :raises LabError: it did not
        """
        log = '\n'.join(fetched.log)
        if bool(over_http) != (case.way in (Way.HTTP, Way.HTTP34)):
            raise errors.LabError(f'{case.name}: another way was used\n{log}')
        if case.way in (Way.RBD, Way.HTTP):
            verified = log.rpartition('verified by ')[2].partition('\n')[0]
            if _NAMES.get(verified) != case.check:
                raise errors.LabError(
                    f'{case.name}: verified by {verified}\n{log}')
        elif case.way == Way.NOVA34 and (
                'signature verification succeeded' not in log):
            raise errors.LabError(f'{case.name}: not verified\n{log}')

    def _fetch_several(self, case: plan.Case) -> Sample:
        """The same image, to several files."""
        stored, host = self._stored[case.image.name], self._ours
        host.configure({'glance': _GLANCE[case.way](host, case.check)})
        paths = [self._out(host).with_name(str(number))
                 for number in range(case.count)]
        with service.Service(host) as by:
            begin = time.monotonic()
            requests = []
            for path in paths:
                requests.append(by.fetch(stored.image_id, path, digest=False))
                if not case.at_once:
                    requests[-1].fetched(_TIMEOUT)
            reports = [request.fetched(_TIMEOUT) for request in requests]
            seconds = time.monotonic() - begin
        for path in paths:
            if _digests(path, 'sha256') != [stored.sha256]:
                raise errors.LabError(f'{case.name}: not the image stored')
            path.unlink()
        return Sample(round(seconds, 3), round(
            sum(fetched.cpu_seconds for fetched in reports), 2))

    def _rbd(self, case: plan.Case, target: str) -> list[process.Argument]:
        host, _worker = self._place(case)
        command: list[process.Argument] = [
            'rbd', 'export', '--conf', host.ceph_conf,
            '--id', compute.CEPH_USER, '--pool', glance.POOL,
            '--image', self._stored[case.image.name].image_id,
            '--snap', 'snap', '--path', target, '--no-progress']
        return self._link.argv(*command) if self._far else command

    def _export(self, case: plan.Case) -> Sample:
        host, _worker = self._place(case)
        path = self._out(host)

        def export() -> None:
            subprocess.run(self._rbd(case, str(path)), check=True,
                           timeout=_TIMEOUT)
            with open(path, 'rb') as file:
                os.fsync(file.fileno())

        sample = _timed(export)
        path.unlink()
        return sample

    def _export_to_nowhere(self, case: plan.Case) -> Sample:
        return _timed(lambda: _drain(self._rbd(case, '-')))

    def _write(self, case: plan.Case) -> Sample:
        """Write as much data as the image contains, with O_DIRECT."""
        path = self._out(self._ours)
        block = mmap.mmap(-1, _BLOCK)
        block.write(os.urandom(_BLOCK))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_DIRECT

        def write() -> None:
            file = os.open(path, flags)
            try:
                for _number in range(-(-case.image.data // _BLOCK)):
                    os.write(file, block)
                os.fsync(file)
            finally:
                os.close(file)

        sample = _timed(write)
        path.unlink()
        return sample

    def _hash(self, case: plan.Case) -> Sample:
        algorithm = hashlib.new(case.check.value.replace('-', '').lower())
        block = memoryview(os.urandom(_BLOCK))

        def update() -> None:
            for start in range(0, case.image.size, _BLOCK):
                algorithm.update(block[:case.image.size - start])

        return _timed(update)


def _timed(work: Callable[[], None]) -> Sample:
    before, begin = _cpu(), time.monotonic()
    work()
    return Sample(round(time.monotonic() - begin, 3),
                  round(_cpu() - before, 2))


def _cpu() -> float:
    """Seconds of this process, and of those that it has waited for."""
    return sum(used.ru_utime + used.ru_stime for used in map(
        resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def _drain(command: list[process.Argument]) -> None:
    buffer = bytearray(_PIPE_SIZE)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout
        fcntl.fcntl(child.stdout, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        while os.readv(child.stdout.fileno(), [buffer]):
            pass
    if child.returncode:
        raise errors.LabError('rbd export failed')


def _make(path: pathlib.Path, image: plan.Image) -> None:
    """Make the file; what format it is said to have does not matter here."""
    with open(path, 'wb') as file:
        for number in range(image.pieces):
            file.seek(number * (image.size // image.pieces))
            for done in range(0, image.piece, plan.MIB):
                file.write(os.urandom(min(plan.MIB, image.piece - done)))
        file.truncate(image.size)
    if image.formatted:
        raw = path.rename(path.with_suffix('.raw'))
        subprocess.run(
            ['qemu-img', 'convert', '-f', 'raw', '-O', image.disk_format, raw,
             path], check=True, timeout=_TIMEOUT)
        raw.unlink()


def _digests(path: pathlib.Path, *names: str) -> list[str]:
    found = []
    for name in names:
        with open(path, 'rb') as file:
            found.append(hashlib.file_digest(file, name).hexdigest())
    return found


_CEPH: config.Options = {'osd': {
    # A fixed share of its memory for data, instead of next to nothing.
    'bluestore cache autotune': False,
    'bluestore cache size': _OSD_CACHE,
    'bluestore cache meta ratio': 0.05,
    'bluestore cache kv ratio': 0.05,
}}


def _our_options(host: compute.ComputeHost, check: Check) -> dict[str, bool]:
    return {'verify_glance_signatures': check == Check.SHA256,
            'verify_direct_download': check != Check.NONE}


#: Way -> what [glance] of nova.conf says.
_GLANCE: dict[Way, Callable[[compute.ComputeHost, Check], ty.Any]] = {
    Way.RBD: _our_options,
    Way.HTTP: lambda host, check: _our_options(host, check) | {
        'allowed_direct_url_schemes': None},
    Way.HTTP34: lambda host, check: {'allowed_direct_url_schemes': None},
    Way.NOVA34: lambda host, check: {
        'allowed_direct_url_schemes': None, 'enable_rbd_download': True,
        'verify_glance_signatures': True, 'rbd_user': compute.CEPH_USER,
        'rbd_pool': glance.POOL, 'rbd_ceph_conf': host.ceph_conf},
}
