# SPDX-License-Identifier: Apache-2.0

"""Direct downloads on hosts as deployment tools set them up.

On each, Nova downloads an image from Ceph, and nova-image-fetch --check finds
nothing wrong, run by the user of nova-compute and by root. The sources of the
tools' facts are in lab.layouts.
"""

import itertools
import os
import signal
from typing import ClassVar

from oslo_serialization import jsonutils

from lab import ceph as lab_ceph
from lab import compute
from lab import config
from lab import layouts
from lab import process
from lab.tests.functional import base

MIB = base.MIB
#: Seconds for one run of the command.
TIMEOUT = 90

#: How rbd runs, as --check describes it.
UNPRIVILEGED = 'as the user ID 65533, which can read any file'
AS_NOVA = (
    'as the user nova, because root is not the only user that can change %s')

DATA_POOL = 'images-data'

_numbers = itertools.count()


class CheckTestCase(base.LabTestCase):
    """nova-image-fetch --check on the host of the test."""

    @classmethod
    def login(cls) -> config.Options:
        """Credentials of Nova, which --check uses."""
        return {'service_user': {
            'send_service_user_token': True,
            **cls.cloud.keystone.credentials('nova')}}

    def start_check(self, image_id: str, *,
                    root: bool = False) -> process.Command:
        """Start the command; findings() waits for its end."""
        start = self.host.start_as_root if root else self.host.start
        return start(self.host.python.parent / 'nova-image-fetch',
                     *self.host.config_argv(), '--check', '--json', image_id)

    def findings(self, command: process.Command,
                 **verdicts: str) -> dict[str, str]:
        """Return what was found by each check, and its remedy.

        :param verdicts: of checks whose verdict is not "ok"
        """
        _status, out, err = command.wait(TIMEOUT)
        self.assertNotIn('Traceback', err)
        checks = jsonutils.loads(out)['checks']
        self.assertEqual(
            {'Key_manager': 'skipped', **verdicts},
            {one['check'].replace(' ', '_'): one['verdict']
             for one in checks if one['verdict'] != 'ok'}, out)
        found: dict[str, str] = {}
        for one in checks:
            found.setdefault(one['check'], '')
            found[one['check']] += '%(detail)s -> %(remedy)s\n' % one
        return found


class LayoutTestCase(CheckTestCase):
    layout: ClassVar[type[layouts.LayoutHost]]
    cluster: ClassVar[str] = 'ceph'

    def make_host(self) -> compute.ComputeHost:
        return self.useFixture(self.layout(
            self.cloud, name='layout%d' % next(_numbers),
            cluster=self.cluster, options=self.login()))

    def assert_works(self, rights: str) -> None:
        """Nova downloads from Ceph, and --check finds nothing wrong.

        :param rights: how rbd runs
        """
        path = self.make_qcow2(4 * MIB)
        image_id = self.upload(path, 'qcow2')
        checks = [self.start_check(image_id, root=root)
                  for root in (False, True)]
        for check in checks:
            found = self.findings(check)
            self.assertIn('; rbd runs ' + rights, found['ceph.conf'])
            self.assertIn('client.%s reads the image in pool images' %
                          self.layout.ceph_user, found['Read from Ceph'])
            self.assertIn('read as nova', found['Configuration'])

        fetched = self.host.fetch(image_id)

        self.assert_same(path, fetched)
        self.assert_fetched_by('rbd', image_id, fetched)
        self.assertEqual([], self.warnings(fetched.log))


class TestKollaAnsible(LayoutTestCase):
    layout = layouts.KollaAnsible

    def test_download(self) -> None:
        self.assert_works(AS_NOVA % '/etc/ceph/ceph.conf')


class TestEdpm(LayoutTestCase):
    layout = layouts.Edpm

    def test_download(self) -> None:
        self.assert_works(AS_NOVA % '/etc/ceph')


class TestEdpmFeatureRelease(TestEdpm):
    layout = layouts.EdpmFeatureRelease


class TestOpenStackHelm(LayoutTestCase):
    layout = layouts.OpenStackHelm

    def test_download(self) -> None:
        self.assert_works(AS_NOVA % '/etc/ceph')


class TestOpenStackHelmEmptyDir(TestOpenStackHelm):
    layout = layouts.OpenStackHelmEmptyDir


class TestCephAnsible(LayoutTestCase):
    layout = layouts.CephAnsible

    def test_download(self) -> None:
        self.assert_works(AS_NOVA % '/etc/ceph')


class TestCephAnsibleDefault(LayoutTestCase):
    """Nova cannot read the keyring, and says as which user it tried."""

    layout = layouts.CephAnsibleDefault

    def test_keyring_that_nova_cannot_read(self) -> None:
        path = self.make_qcow2(MIB)
        image_id = self.upload(path, 'qcow2')

        fetched = self.host.fetch(image_id)

        self.assert_same(path, fetched)
        self.assert_fetched_by('http', image_id, fetched)
        rights = AS_NOVA % '/etc/ceph'
        [warning] = self.warnings(fetched.log)
        self.assertIn(
            f'no readable keyring was found (the program runs {rights})',
            warning)
        found = self.findings(self.start_check(image_id), Cluster='failed',
                              Read_from_Ceph='skipped')
        self.assertIn(f'rbd reads it {rights}', found['Cluster'])


class TestJujuCharms(LayoutTestCase):
    layout = layouts.JujuCharms

    def test_download(self) -> None:
        self.assert_works(UNPRIVILEGED)

    def test_by_the_links(self) -> None:
        self.host.configure({
            **self.login(),
            'glance': {'rbd_ceph_conf': '/etc/ceph/ceph.conf'}})
        self.assert_works(UNPRIVILEGED)


class TestOpenStackAnsible(LayoutTestCase):
    layout = layouts.OpenStackAnsible

    def test_download(self) -> None:
        self.assert_works(UNPRIVILEGED)


class TestOpenStackAnsibleNamed(TestOpenStackAnsible):
    """With ceph_cluster_name: Ceph finds az1.client.cinder.keyring."""

    cluster = 'az1'


class TestKollaAnsibleNamed(LayoutTestCase):
    """With ceph_cluster: Ceph finds az1.client.cinder.keyring."""

    layout = layouts.KollaAnsible
    cluster = 'az1'

    def test_download(self) -> None:
        self.assert_works(AS_NOVA % '/etc/ceph/az1.conf')


class TwoClustersTestCase(CheckTestCase):
    """Glance has a second store, in a cluster with an erasure-coded pool.

    Such a pool cannot hold the metadata of an image, so that is in the pool
    images, and only the data is in the erasure-coded pool.
    """

    second: ClassVar[lab_ceph.Ceph]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cloud = cls.cloud
        cls.second = lab_ceph.Ceph(
            cloud.directory / f'second{next(_numbers)}', size=lab_ceph.GIB,
            osds=3, options={
                'client.glance': {'rbd default data pool': DATA_POOL}})
        cls.second.setUp()
        cls.addClassCleanup(cls.second.cleanUp)
        cls._make_data_pool(cls.second)
        cls.enterClassContext(cls.glance_options(
            cloud.glance.store_options('second', cls.second)))
        cls.second.ceph('auth', 'caps', 'client.glance', 'mon', 'profile rbd',
                        'osd', 'profile rbd pool=images, '
                        f'profile rbd pool={DATA_POOL}')

    @staticmethod
    def _make_data_pool(ceph: lab_ceph.Ceph) -> None:
        for command in (
            'erasure-code-profile set lab k=2 m=1 crush-failure-domain=osd',
            f'pool create {DATA_POOL} 8 8 erasure lab',
            f'pool set {DATA_POOL} allow_ec_overwrites true',
            f'pool application enable {DATA_POOL} rbd',
        ):
            ceph.ceph('osd', *command.split())

    def make_image(self, store: str, disk_format: str = 'qcow2') -> str:
        """Store an image."""
        make = self.make_file if disk_format == 'raw' else self.make_qcow2
        self.path = make(4 * MIB)
        return self.upload(self.path, disk_format, store=store)

    def assert_by_rbd(self, image_id: str) -> None:
        fetched = self.host.fetch(image_id)
        self.assert_same(self.path, fetched)
        self.assert_fetched_by('rbd', image_id, fetched)
        self.assertEqual([], self.warnings(fetched.log))


class TestErasureCoded(TwoClustersTestCase):
    """The Ceph client needs rights on both pools."""

    def use_client(self, *pools: str) -> str:
        """Have Nova use a client that may read these pools."""
        name = '-'.join(('ec', *pools))
        keyring = self.second.create_user(name, {
            'mon': 'profile rbd', 'osd': ', '.join(
                f'profile rbd-read-only pool={pool}' for pool in pools)})
        conf = config.write(
            self.host.directory / f'{name}.conf',
            config.render(self.second.client_options(keyring)))
        self.host.configure({
            **self.login(), 'glance': {
                'rbd_user': name, 'rbd_ceph_conf': conf}})
        return name

    def assert_refused(self, image_id: str, why: str, pool: str) -> None:
        """Nova falls back to HTTP, and --check names the pool."""
        check = self.start_check(image_id)
        fetched = self.host.fetch(image_id)
        self.assert_same(self.path, fetched)
        self.assert_fetched_by('http', image_id, fetched)
        self.assertEqual(
            [f'Image {image_id} could not be fetched by rbd, the next source '
             f'is tried: rbd {why.format("(Operation not permitted)")}'],
            self.warnings(fetched.log))
        found = self.findings(check, Read_from_Ceph='failed')
        self.assertIn(f'Let it read the pool {pool}: ',
                      found['Read from Ceph'])

    def test_rights_on_both_pools(self) -> None:
        image_id = self.make_image('second')
        self.assertTrue(self.second.rados('ls', '--pool', DATA_POOL))
        name = self.use_client('images', DATA_POOL)
        check = self.start_check(image_id)
        self.assert_by_rbd(image_id)
        self.assertIn(f'client.{name} reads the image in pool images',
                      self.findings(check)['Read from Ceph'])

    def test_rights_on_the_metadata_pool(self) -> None:
        self.use_client('images')
        for disk_format, command in (
            ('qcow2', 'export'), ('raw', 'export-diff'),
        ):
            self.assert_refused(
                self.make_image('second', disk_format),
                f'{command} exited with status 1 {{}}: {command} error',
                DATA_POOL)

    def test_rights_on_the_data_pool(self) -> None:
        self.use_client(DATA_POOL)
        self.assert_refused(
            self.make_image('second'),
            'export exited with status 1 {}: error opening image', 'images')

    def test_rights_on_neither_pool(self) -> None:
        self.use_client('volumes')
        self.assert_refused(
            self.make_image('second'),
            'export exited with status 1 {}: error opening image', 'images')


class TestClustersWithoutFsid(TwoClustersTestCase):
    """Neither ceph.conf has an fsid; Nova asks both clusters for it.

    The files are those of EDPM with availability zones.
    """

    class_host: ClassVar[layouts.LayoutHost]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        host = cls.class_host = layouts.Edpm(
            cls.cloud, name='layout%d' % next(_numbers), cluster='az0',
            others={'az1': cls.second})
        host.setUp()
        cls.addClassCleanup(host.cleanUp)
        for name, ceph in host.clusters.items():
            host.put(f'/etc/ceph/{name}.conf',
                     f'[global]\nmon_host = {ceph.address}\n', 0o600,
                     'nova:nova')
        cls.second.ceph(
            'auth', 'caps', f'client.{host.ceph_user}', 'mon', 'profile rbd',
            'osd', 'profile rbd-read-only pool=images, '
            f'profile rbd-read-only pool={DATA_POOL}')
        host.configure({**cls.login(), 'glance': {
            'rbd_connect_timeout': 3,
            'rbd_ceph_conf': [
                f'/etc/ceph/{name}.conf' for name in host.clusters]}})

    def make_host(self) -> compute.ComputeHost:
        return self.class_host

    def test_download(self) -> None:
        for store, name in (('ceph', 'az0'), ('second', 'az1')):
            image_id = self.make_image(store)
            check = self.start_check(image_id, root=True)
            self.assert_by_rbd(image_id)
            found = self.findings(check)
            self.assertEqual(2, found['ceph.conf'].count(
                'fsid not set, so Nova asks the cluster; rbd runs ' +
                AS_NOVA % '/etc/ceph'))
            self.assertIn(
                f'pool images of the cluster in /etc/ceph/{name}.conf',
                found['Allowed'])

    def test_first_cluster_is_down(self) -> None:
        image_id = self.make_image('second')
        monitor = self.cloud.ceph.mon.pid
        os.kill(monitor, signal.SIGSTOP)
        try:
            self.assert_by_rbd(image_id)
        finally:
            os.kill(monitor, signal.SIGCONT)
