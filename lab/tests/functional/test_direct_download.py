# SPDX-License-Identifier: Apache-2.0

"""Images from a real Ceph, to the cache of a compute host."""

import hashlib
import os
import stat
import textwrap

from lab import errors
from lab.tests.functional import base
from lab.tests.functional import worker_base

MIB = base.MIB


class TestDirectDownload(worker_base.WorkerTestCase):
    """With the options of the guide, and nothing else."""

    def test_qcow2(self):
        path = self.make_qcow2(24 * MIB)
        image_id = self.upload(path, 'qcow2')

        fetched = self.fetch(image_id)

        self.assert_same(path, fetched)
        self.assert_fetched_by('rbd', image_id, fetched)
        self.assertEqual([], self.warnings(fetched.log))
        name = hashlib.sha1(image_id.encode()).hexdigest()
        self.assertEqual(self.host.instances / '_base' / name, fetched.path)

    def test_raw_keeps_its_holes(self):
        path = self.make_file(512 * MIB, {
            0: 4096, 9 * MIB - 1000: 2000, 100 * MIB: 8 * MIB,
            511 * MIB + 12345: 77})
        image_id = self.upload(path, 'raw')

        fetched = self.fetch(image_id)

        self.assert_same(path, fetched)
        self.assert_fetched_by('rbd', image_id, fetched)
        self.assertGreater(10 * MIB, fetched.allocated)

    def test_published_log_line(self):
        path = self.make_qcow2()
        image_id = self.upload(path, 'qcow2')

        fetched = self.fetch(image_id)

        name = hashlib.sha1(image_id.encode()).hexdigest()
        self.assertIn(
            'DEBUG nova.image.rbd.export Attempting to export RBD image: '
            '[pool_name: images] [image_uuid: %s] [snapshot_name: snap] '
            '[dst_path: %s/_base/%s.part]' % (
                image_id, self.host.instances, name), fetched.log)

    def test_under_eventlet(self):
        path = self.make_qcow2()
        image_id = self.upload(path, 'qcow2')

        fetched = self.host.fetch(
            image_id, env={'OS_NOVA_DISABLE_EVENTLET_PATCHING': 'false'})

        self.assert_same(path, fetched)
        self.assert_fetched_by('rbd', image_id, fetched)
        self.configure(allowed_direct_url_schemes=None)
        fetched = self.host.fetch(
            image_id, path=self.out(),
            env={'OS_NOVA_DISABLE_EVENTLET_PATCHING': 'false'})
        self.assert_same(path, fetched)
        self.assert_fetched_by('http', image_id, fetched)

    def test_second_use_is_a_cache_hit(self):
        path = self.make_qcow2()
        image_id = self.upload(path, 'qcow2')
        self.assertEqual(1, len(self.exports(self.fetch(image_id).log)))

        again = self.fetch(image_id)

        self.assert_same(path, again)
        self.assertEqual([], self.exports(again.log))
        self.assertEqual([], [x for x in again.log if ' fetched by ' in x])
        self.assertEqual(0, self.cloud.glance.downloads(image_id))

    def test_file_is_the_service_users(self):
        image_id = self.upload(self.make_qcow2(), 'qcow2')

        fetched = self.fetch(image_id)

        self.assertEqual((self.host.account.uid, 0o644),
                         (fetched.uid, fetched.mode))
        self.assertNotEqual(0, fetched.uid)
        # The service itself cannot do this.
        self.assertEqual((0, 0o600), (
            self.host.keyring.stat().st_uid,
            stat.S_IMODE(self.host.keyring.stat().st_mode)))
        error = self.assertRaises(
            errors.LabError, self.host.run, 'cat', self.host.keyring)
        self.assertIn('Permission denied', str(error))

    def test_leftover_file_is_no_obstacle(self):
        path = self.make_qcow2()
        image_id = self.upload(path, 'qcow2')
        cache = self.host.instances / '_base'
        cache.mkdir()
        leftover = cache / (
            hashlib.sha1(image_id.encode()).hexdigest() + '.part')
        leftover.write_bytes(b'x' * (40 * MIB))
        for file in (cache, leftover):
            os.chown(file, self.host.account.uid, -1)

        fetched = self.fetch(image_id)

        self.assert_same(path, fetched)
        self.assert_fetched_by('rbd', image_id, fetched)

    def test_sizes(self):
        for size in (1, 4097, 20 * MIB + 511):
            path = self.make_file(size)
            # Dense and with holes: they come by different streams.
            for disk_format in ('iso', 'raw'):
                image_id = self.upload(path, disk_format)
                fetched = self.fetch(image_id, path=self.out())
                self.assert_same(path, fetched)
                self.assert_fetched_by('rbd', image_id, fetched)

    def test_empty_image(self):
        path = self.make_file(0)
        for disk_format in ('iso', 'raw'):
            image_id = self.upload(path, disk_format)
            fetched = self.fetch(image_id, path=self.out())
            self.assert_same(path, fetched)
            self.assert_fetched_by('rbd', image_id, fetched)

    def test_deprecated_option(self):
        self.configure(allowed_direct_url_schemes=None,
                       enable_rbd_download=True)
        path = self.make_qcow2()
        image_id = self.upload(path, 'qcow2')

        fetched = self.fetch(image_id)

        self.assert_same(path, fetched)
        self.assert_fetched_by('rbd', image_id, fetched)

    def test_unknown_scheme(self):
        path = self.make_qcow2()
        image_id = self.upload(path, 'qcow2')
        for schemes, source in (('rbd,gopher', 'rbd'), ('gopher', 'http')):
            self.configure(allowed_direct_url_schemes=schemes)

            fetched = self.host.fetch(image_id, path=self.out())

            self.assert_same(path, fetched)
            self.assert_fetched_by(source, image_id, fetched)
            [warning] = self.warnings(fetched.log)
            self.assertIn('Nova ignores unsupported schemes', warning)
            self.assertIn('HTTP: gopher. The supported schemes are: rbd',
                          warning)

    def test_service_with_unknown_scheme_starts(self):
        self.host.configure({
            'DEFAULT': {'compute_driver': 'fake.FakeDriver'},
            'glance': {'allowed_direct_url_schemes': 'gopher'}})
        # It asks a conductor and Placement, which there are none of.
        start = textwrap.dedent('''
            import sys
            from unittest import mock
            from nova.cmd import compute
            sys.argv[1:] = ['--config-file', %r, '--nodebug']
            with (mock.patch('nova.conductor.api.API.wait_until_ready'),
                  mock.patch('nova.scheduler.client.report.'
                             'SchedulerReportClient'),
                  mock.patch('nova.utils.raise_if_old_compute'),
                  mock.patch('nova.service.wait'),
                  mock.patch('nova.service.serve') as serve):
                compute.main()
            print(type(serve.call_args.args[0].manager).__name__)
            ''') % str(self.host.conf)

        printed = self.host.run(self.host.python, '-c', start, timeout=60)

        self.assertEqual('ComputeManager', printed.split()[-1])


class TestOverHTTP(worker_base.WorkerTestCase):
    """When it is not direct, or cannot be."""

    def setUp(self):
        super().setUp()
        self.path = self.make_qcow2()

    def test_option_off(self):
        self.configure(allowed_direct_url_schemes=None)
        image_id = self.upload(self.path, 'qcow2')

        fetched = self.fetch(image_id)

        self.assert_same(self.path, fetched)
        self.assert_fetched_by('http', image_id, fetched)
        self.assertEqual([], self.exports(fetched.log))
        self.assertEqual([], self.warnings(fetched.log))

    def test_location_hidden(self):
        with self.glance_options({'DEFAULT': {
                'show_image_direct_url': False}}):
            image_id = self.upload(self.path, 'qcow2')
            fetched = self.fetch(image_id)

        self.assert_same(self.path, fetched)
        self.assert_fetched_by('http', image_id, fetched)

    def test_empty_image(self):
        self.configure(allowed_direct_url_schemes=None)
        path = self.make_file(0)
        image_id = self.upload(path, 'raw')

        fetched = self.fetch(image_id, path=self.out())

        self.assert_same(path, fetched)
        self.assert_fetched_by('http', image_id, fetched)

    def test_location_of_another_scheme(self):
        store = self.cloud.glance.directory / 'files'
        store.mkdir()
        with self.glance_options({
                'DEFAULT': {'enabled_backends': 'ceph:rbd,files:file'},
                'files': {'filesystem_store_datadir': store}}):
            images = self.cloud.glance_client().images
            image = images.create(
                name='in a file', disk_format='qcow2',
                container_format='bare')
            with open(self.path, 'rb') as data:
                images.upload(image.id, data, backend='files')
            url = self.cloud.image(image.id)['direct_url']
            self.assertEqual('file', url.partition(':')[0])
            fetched = self.fetch(image.id)
            images.delete(image.id)

        self.assert_same(self.path, fetched)
        self.assert_fetched_by('http', image.id, fetched)
        self.assertEqual([], self.exports(fetched.log))
        self.assertEqual([], self.warnings(fetched.log))

    def test_ceph_refuses(self):
        self.configure(rbd_user='stranger')
        image_id = self.upload(self.path, 'qcow2')

        fetched = self.fetch(image_id)

        self.assert_same(self.path, fetched)
        self.assert_fetched_by('http', image_id, fetched)
        [warning] = self.warnings(fetched.log)
        self.assertIn('Image %s could not be fetched by rbd' % image_id,
                      warning)

    def test_ceph_conf_is_the_service_users(self):
        self.addCleanup(os.chown, self.host.ceph_conf, 0, -1)
        os.chown(self.host.ceph_conf, self.host.account.uid, -1)
        image_id = self.upload(self.path, 'qcow2')

        fetched = self.fetch(image_id)

        # The keyring is root's, and the service cannot read it.
        self.assert_same(self.path, fetched)
        self.assert_fetched_by('http', image_id, fetched)
        [warning] = self.warnings(fetched.log)
        self.assertIn('no readable keyring was found (the program runs as the '
                      'user nobody, because root is not the only user that '
                      'can change %s)' % self.host.ceph_conf, warning)

    def test_pool_not_allowed(self):
        self.configure(rbd_pool='vms,backups')
        image_id = self.upload(self.path, 'qcow2')

        fetched = self.fetch(image_id)

        self.assert_same(self.path, fetched)
        self.assert_fetched_by('http', image_id, fetched)
        self.assertEqual([], self.exports(fetched.log))
        [warning] = self.warnings(fetched.log)
        self.assertIn(
            'Pool images is not listed in [glance] rbd_pool', warning)

    def test_corrupt_in_ceph(self):
        image_id = self.upload(self.path, 'qcow2')
        self.flip(image_id, 0)

        error = self.assertRaises(
            errors.FetchFailed, self.fetch, image_id)

        self.assertEqual('ImageUnacceptable', error.kind)
        self.assertIn('corrupt image download: its sha512 hash', str(error))
        [warning] = self.warnings(error.log)
        self.assertIn('could not be fetched by rbd', warning)
        self.assertEqual([], os.listdir(self.host.instances / '_base'))

        self.configure(verify_direct_download=False)
        fetched = self.fetch(image_id)
        self.assertEqual(self.path.stat().st_size, fetched.size)
        self.assertTrue([line for line in fetched.log if line.endswith(
            ', verified by nothing')])


class TestSeveralLocations(worker_base.WorkerTestCase):
    """Glance shows a list of locations, and the direct URL besides."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.enterClassContext(cls.glance_options(
            {'DEFAULT': {'show_multiple_locations': True}}))

    def setUp(self):
        super().setUp()
        self.path = self.make_qcow2()

    def test_same_location_twice(self):
        image_id = self.upload(self.path, 'qcow2')
        image = self.cloud.image(image_id)
        self.assertEqual(image['direct_url'], image['locations'][0]['url'])

        fetched = self.fetch(image_id)

        self.assert_same(self.path, fetched)
        self.assert_fetched_by('rbd', image_id, fetched)
        self.assertEqual(1, len(self.exports(fetched.log)))

    def test_same_dead_location_twice(self):
        self.configure(rbd_user='stranger')
        image_id = self.upload(self.path, 'qcow2')

        fetched = self.fetch(image_id)

        self.assert_same(self.path, fetched)
        self.assert_fetched_by('http', image_id, fetched)
        self.assertEqual(1, len(self.exports(fetched.log)))
        self.assertEqual(1, len(self.warnings(fetched.log)))

    def test_first_location_is_dead(self):
        image_id = self._register('gone', 'snap')
        self._rbd('snap', 'rm', image_id, '--snap', 'gone')

        fetched = self.fetch(image_id)

        self.assert_same(self.path, fetched)
        self.assert_fetched_by('rbd', image_id, fetched)
        [warning] = self.warnings(fetched.log)
        self.assertIn('could not be fetched by rbd', warning)
        self.assertIn('No such file or directory', warning)

    def _register(self, *snapshots: str) -> str:
        """Store an image beside Glance, and tell Glance where it is."""
        images = self.cloud.glance_client().images
        image = images.create(
            name='by location', disk_format='qcow2', container_format='bare')
        self.addCleanup(images.delete, image.id)
        self.cloud.ceph.rbd('import', '--path', self.path, '--image',
                            image.id, '--pool', 'images')
        with open(self.path, 'rb') as file:
            digest = hashlib.file_digest(file, 'sha512').hexdigest()
        for snapshot in snapshots:
            self._rbd('snap', 'create', image.id, '--snap', snapshot)
            images.add_location(
                image.id, 'rbd://%s/images/%s/%s' % (
                    self.cloud.ceph.fsid, image.id, snapshot), {},
                **({'validation_data': {'os_hash_algo': 'sha512',
                                        'os_hash_value': digest}}
                   if snapshot == snapshots[0] else {}))
        return image.id

    def _rbd(self, command: str, action: str, image_id: str,
             *args: str) -> None:
        self.cloud.ceph.rbd(command, action, '--pool', 'images', '--image',
                            image_id, *args)
