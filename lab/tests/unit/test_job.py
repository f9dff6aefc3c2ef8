# SPDX-License-Identifier: Apache-2.0

import hashlib
import pathlib
import types
from typing import Any

import fixtures
import testtools

from lab import errors
from lab.job import evidence
from lab.job import guest

DATA = b'an image'
IMAGE: Any = {
    'id': '69c33dd5-94f1-4331-94e5-35f0b8af0ee1',
    'size': len(DATA),
    'os_hash_algo': 'sha512',
    'os_hash_value': hashlib.sha512(DATA).hexdigest(),
}
CACHED = hashlib.sha1(IMAGE['id'].encode()).hexdigest()

START = '2026-11-23 06:00:00.000 4711 '
CONTEXT = '[None req-1 demo demo] '


def fetched(source='rbd', size=len(DATA), verified='sha512'):
    return (f'{START}INFO nova.image.download {CONTEXT}Image {IMAGE["id"]} '
            f'fetched by {source}: {size} bytes, 8 bytes written, in 0.10 s, '
            f'1.0 MiB/s, verified by {verified}')


def warning(logger='nova.image.download'):
    return f'{START}WARNING {logger} {CONTEXT}Something is wrong'


class TestEvidence(testtools.TestCase):

    def setUp(self):
        super().setUp()
        self.directory = pathlib.Path(
            self.useFixture(fixtures.TempDir()).path)
        self.log = self.directory / 'nova-compute.log'
        self.log.write_text('')
        self.cache = self.directory / '_base'
        self.cache.mkdir()
        self.downloads = 0
        region: Any = types.SimpleNamespace(
            compute=types.SimpleNamespace(log=self.log),
            host=types.SimpleNamespace(instances=self.directory),
            cloud=types.SimpleNamespace(glance=types.SimpleNamespace(
                downloads=lambda image_id: self.downloads)))
        self.region = region
        self.evidence = evidence.Evidence(region)

    def say(self, *lines):
        with open(self.log, 'a') as file:
            file.writelines(f'{line}\n' for line in lines)

    def export(self, path=None):
        path = path or f'{self.cache / CACHED}.part'
        return (f'{START}DEBUG nova.image.rbd.export {CONTEXT}Attempting to '
                'export RBD image: [pool_name: images] '
                f'[image_uuid: {IMAGE["id"]}] [snapshot_name: snap] '
                f'[dst_path: {path}] open_source '
                f'/x/nova/image/rbd/export.py:200')

    def refused(self, what, call, *args):
        error = self.assertRaises(errors.LabError, call, *args)
        self.assertIn(what, str(error))

    def refused_from_ceph(self, what):
        self.refused(what, self.evidence.require_fetched_from_ceph,
                     IMAGE, 'sha512')

    def test_fetched_from_ceph(self):
        (self.cache / CACHED).write_bytes(DATA)
        self.say(self.export(), fetched())

        seen = self.evidence.require_fetched_from_ceph(IMAGE, 'sha512')

        self.assertEqual('8 bytes by rbd in 0.10 s, verified by sha512; '
                         'Glance served its file never', seen)

    def test_fetched_otherwise(self):
        (self.cache / CACHED).write_bytes(DATA)
        for line in (fetched('http'), fetched(verified='nothing'),
                     fetched(size=7), 'nothing'):
            self.evidence.begin()
            self.say(self.export(), line)
            self.refused_from_ceph('was fetched by rbd, 8 bytes')

    def test_fetched_twice(self):
        (self.cache / CACHED).write_bytes(DATA)
        self.say(self.export(), fetched(), fetched())

        self.refused_from_ceph('was fetched by rbd, 8 bytes')

    def test_fetched_by_http_as_well(self):
        (self.cache / CACHED).write_bytes(DATA)
        self.downloads = 1
        self.say(self.export(), fetched())

        self.refused_from_ceph('should have had 0 requests')

    def test_not_in_the_cache(self):
        self.say(self.export(), fetched())

        self.refused_from_ceph('should be there')

    def test_other_bytes(self):
        (self.cache / CACHED).write_bytes(b'an Image')
        self.say(self.export(), fetched())

        self.refused_from_ceph('is not what Glance recorded')

    def test_export_is_not_told(self):
        (self.cache / CACHED).write_bytes(DATA)
        self.say(fetched())

        self.refused_from_ceph('should tell of one export')

    def test_export_elsewhere(self):
        (self.cache / CACHED).write_bytes(DATA)
        self.say(self.export('/tmp/x'), fetched())

        self.refused_from_ceph('should go to the image cache')

    def test_warnings(self):
        (self.cache / CACHED).write_bytes(DATA)
        self.say(warning('nova.compute.manager'), self.export(), fetched())
        self.evidence.require_fetched_from_ceph(IMAGE, 'sha512')

        self.say(warning())
        self.refused_from_ceph('There should be no warning')

    def test_cache_hit(self):
        self.say(self.export(), fetched())
        self.evidence.begin()

        self.assertEqual('no export; Glance served its file never',
                         self.evidence.require_cache_hit(IMAGE))

        self.say(self.export())
        self.refused('Nothing should be fetched',
                     self.evidence.require_cache_hit, IMAGE)

    def test_cache_hit_after_http(self):
        self.downloads = 1

        self.refused('should have had 0 requests',
                     self.evidence.require_cache_hit, IMAGE)

    def test_refused(self):
        self.downloads = 1
        self.say(self.export())
        (self.cache / 'other').touch()
        self.evidence.require_refused(IMAGE)

        (self.cache / f'.{CACHED}.part.partial').touch()
        self.refused('nothing should be in the cache',
                     self.evidence.require_refused, IMAGE)

        self.say(fetched())
        self.refused('No image should be used',
                     self.evidence.require_refused, IMAGE)

    def test_leftovers(self):
        """Of all kinds, and what Nova keeps is none."""
        region, host = self.region, self.region.host
        host.directory = self.directory
        host.pids = lambda *words: []
        region.libvirt = types.SimpleNamespace(virsh=lambda *words: '\n')
        region.cloud.ceph = types.SimpleNamespace(rbd=lambda *words: '')
        (self.directory / 'tmp').mkdir()
        host.instances = self.directory / 'instances'
        (host.instances / '_base').mkdir(parents=True)
        (host.instances / '_base' / CACHED).touch()
        (host.instances / 'snapshots').mkdir()
        self.assertEqual([], self.evidence.leftovers())

        (host.instances / 'snapshots' / 'tmp1').mkdir()
        (host.instances / IMAGE['id']).mkdir()
        (host.instances / '_base' / f'{CACHED}.part').touch()
        (self.directory / 'tmp' / 'nova-rbd-1').mkdir()
        host.pids = lambda *words: [4711]
        region.libvirt.virsh = lambda *words: 'instance-1\n'
        region.cloud.ceph.rbd = lambda *words: 'image-1\n'
        self.assertEqual(
            ['domain', 'instance directory', 'snapshot', 'unfinished file',
             'socket', 'RBD image', 'process'],
            [left.rpartition(' ')[0].removesuffix(' 4711,')
             for left in self.evidence.leftovers()])

    def test_holes(self):
        path = self.cache / CACHED
        with open(path, 'wb') as file:
            file.truncate(1 << 20)
        image = IMAGE | {'size': 1 << 20}
        self.evidence.require_holes(image)

        path.write_bytes(b'x' * (1 << 20))
        self.refused('The image has holes',
                     self.evidence.require_holes, image)


class TestGuest(testtools.TestCase):

    def test_marker_that_a_shell_would_read(self):
        path = pathlib.Path('/nonexistent/guest')
        for marker in ('', 'a b', '$(date)', "it's", 'a\nb'):
            error = self.assertRaises(
                errors.LabError, guest.make, path, marker, 'raw')
            self.assertIn('is no marker', str(error))
