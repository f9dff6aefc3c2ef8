# SPDX-License-Identifier: Apache-2.0

"""Locations that Glance tells services only, and two Ceph clusters."""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import signal
from typing import ClassVar

from glanceclient import exc as glance_exc

from lab import ceph as lab_ceph
from lab import compute
from lab import config
from lab import errors
from lab import process
from lab.tests.functional import base
from lab.tests.functional import worker_base

MIB = base.MIB

#: The policy that OSSN-0090 recommends.
HIDDEN: config.Options = {'DEFAULT': {
    'show_image_direct_url': False, 'show_multiple_locations': False}}

#: The one line for a user without the role admin in [service_user].
POLICY = '"fetch_image_location": "rule:service_api or service_roles:service"'

#: A user of Nova's that has the role service, and no other.
PLAIN = 'nova-plain'


class TestLocations(worker_base.WorkerTestCase):
    """Glance has two stores, and hides from users what is where."""

    far: ClassVar[lab_ceph.Ceph]
    #: ceph.conf of both clusters on the compute host.
    near_conf: ClassVar[pathlib.Path]
    far_conf: ClassVar[pathlib.Path]
    #: Policies of Glance other than its defaults.
    policy: ClassVar[pathlib.Path]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cloud = cls.cloud
        cls.far = lab_ceph.Ceph(cloud.directory / 'far', size=lab_ceph.GIB)
        cls.far.setUp()
        cls.addClassCleanup(cls.far.cleanUp)
        cls.policy = config.write(cloud.directory / 'policy.yaml', '')
        cls.enterClassContext(cls.glance_options(config.merge(
            HIDDEN, cloud.glance.store_options('far', cls.far),
            {'oslo_policy': {'policy_file': cls.policy}})))
        if PLAIN not in cloud.keystone.users:
            cloud.keystone.add_user(PLAIN, 'service', 'service')
        cls.near_conf = cls.class_host.ceph_conf
        cls.far_conf = cls.class_host.add_cluster(cls.far, 'far')

    def setUp(self) -> None:
        super().setUp()
        self.log_in('nova')
        self.path = self.make_file(4 * MIB + 77)

    def log_in(self, user: str, **options: config.Value | None) -> None:
        """Give the compute host credentials, and both clusters.

        :param user: of Keystone
        :param options: more of [service_user]
        """
        self.host.configure({
            'glance': {'rbd_ceph_conf': [
                str(self.near_conf), str(self.far_conf)]},
            'service_user': {
                **self.cloud.keystone.credentials(user), **options}})

    def set_clusters(self, *confs: pathlib.Path) -> None:
        """Have the compute host know these clusters, the nearest first."""
        self.host.configure({
            'glance': {'rbd_ceph_conf': [str(conf) for conf in confs],
                       'rbd_connect_timeout': 2},
            'service_user': self.cloud.keystone.credentials('nova')})

    def make_image(self, *stores: str, **properties: str) -> str:
        """Store an image in Ceph; see upload()."""
        first, *others = stores or ('ceph',)
        image_id = self.upload(self.path, 'iso', store=first, **properties)
        if others:
            images = self.cloud.glance_client('admin').images
            images.image_import(image_id, method='copy-image', stores=others)
            self.assertTrue(process.wait_for(
                lambda: len(images.get(image_id)['stores'].split(',')) ==
                len(stores), 60))
        return image_id

    def fetch_to(self, name: str, image_id: str) -> compute.Fetched:
        """Fetch an image past the image cache."""
        fetched = self.fetch(image_id, path=self.out(name))
        self.assert_same(self.path, fetched)
        return fetched

    def assert_from(self, conf: pathlib.Path, image_id: str) -> None:
        """From that cluster, and no other one was asked."""
        name = f'{conf.name}-{image_id}'
        fetched = self.fetch_to(name, image_id)
        self.assert_fetched_by('rbd', image_id, fetched)
        self.assertEqual([], self.warnings(fetched.log))
        self.assertEqual([str(conf)], self.clusters(fetched.log))
        fetched.path.unlink()

    def assert_asked(self, image_id: str, times: int) -> None:
        """So often Glance was asked where the image is."""
        # It answers first and logs then.
        process.wait_for(
            lambda: self.cloud.glance.questions(image_id) == times, 5)
        self.assertEqual(times, self.cloud.glance.questions(image_id))

    def clusters(self, log: list[str]) -> list[str]:
        """The ceph.conf of each export."""
        return [line.rpartition(' ')[2] for line in log
                if 'from the Ceph cluster of' in line]

    def assert_by_http(
        self, image_id: str, fetched: compute.Fetched, *reasons: str,
    ) -> None:
        """By HTTP, with these warnings and no export."""
        self.assert_fetched_by('http', image_id, fetched)
        self.assertEqual([], self.clusters(fetched.log))
        warnings = self.warnings(fetched.log)
        self.assertEqual(len(reasons), len(warnings), repr(warnings))
        for reason, warning in zip(reasons, warnings):
            self.assertRegex(warning, reason)

    @contextlib.contextmanager
    def standing_still(self, ceph: lab_ceph.Ceph) -> Iterator[None]:
        """Have a cluster that does not answer."""
        os.kill(ceph.mon.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(ceph.mon.pid, signal.SIGCONT)

    def test_users_see_no_location(self):
        image_id = self.make_image(visibility='private')
        images = self.cloud.glance_client('demo').images
        image = images.get(image_id)
        self.assertEqual(set(), {'direct_url', 'locations'} & set(image))
        self.assertRaises(
            glance_exc.HTTPForbidden, images.get_image_locations, image_id)
        self.assert_asked(image_id, 1)

        self.assert_from(self.near_conf, image_id)

        self.assert_asked(image_id, 2)

    def test_image_that_the_user_must_not_see(self):
        image_id = self.cloud.upload(
            self.path, 'iso', user='admin', visibility='private')
        self.addCleanup(
            self.cloud.glance_client('admin').images.delete, image_id)

        error = self.assertRaises(
            errors.FetchFailed, self.fetch, image_id, path=self.out())

        self.assertEqual('ImageNotFound', error.kind)
        self.assert_asked(image_id, 0)

    def test_no_credentials(self):
        image_id = self.make_image()
        # There is none as long as that is not set.
        self.log_in('nova', auth_type=None)

        first = self.fetch_to('first', image_id)
        second = self.fetch_to('second', image_id)

        self.assert_by_http(
            image_id, first,
            r'^Glance hides the locations of images, and \[service_user\] in '
            'nova.conf contains no credentials')
        self.assert_by_http(image_id, second)
        self.assert_asked(image_id, 0)

    def test_wrong_credentials(self):
        image_id = self.make_image()
        self.log_in('nova', password='wrong')

        fetched = self.fetch_to('out', image_id)

        self.assert_by_http(
            image_id, fetched,
            r'cannot log in with the credentials in \[service_user\] to '
            f'request the locations of image {image_id}: .*HTTP 401')
        self.assert_asked(image_id, 0)

    def test_not_an_administrator(self):
        """By default, that is good for public images only."""
        private = self.make_image(visibility='private')
        public = self.cloud.upload(
            self.path, 'iso', user='admin', visibility='public')
        self.addCleanup(
            self.cloud.glance_client('admin').images.delete, public)
        for sent in (False, True):
            self.log_in(PLAIN, send_service_user_token=sent)
            self.assert_from(self.near_conf, public)
            self.assert_by_http(
                private, self.fetch_to(f'private-{sent}', private),
                f'locations of image {private} .* roles service and admin: '
                '.*HTTP 404')

        other = self.make_image(visibility='private')
        # Glance reads it again after a change.
        self.addCleanup(config.write, self.policy, '')
        config.write(self.policy, POLICY + '\n')
        self.assert_from(self.near_conf, other)

    def test_in_one_cluster(self):
        for store, conf in (('ceph', self.near_conf), ('far', self.far_conf)):
            self.assert_from(conf, self.make_image(store))

    def test_in_both_clusters(self):
        image_id = self.make_image('ceph', 'far')
        self.set_clusters(self.near_conf, self.far_conf)
        with self.standing_still(self.far):
            self.assert_from(self.near_conf, image_id)
        self.set_clusters(self.far_conf, self.near_conf)
        with self.standing_still(self.cloud.ceph):
            self.assert_from(self.far_conf, image_id)
        # Nova skips a location in an unknown cluster without a warning.
        self.set_clusters(self.far_conf)
        self.assert_from(self.far_conf, image_id)

    def test_nearest_cluster_is_down(self):
        image_id = self.make_image('ceph', 'far')
        self.set_clusters(self.far_conf, self.near_conf)

        with self.standing_still(self.far):
            fetched = self.fetch_to('out', image_id)

        self.assert_fetched_by('rbd', image_id, fetched)
        self.assertEqual([str(self.far_conf), str(self.near_conf)],
                         self.clusters(fetched.log))
        [warning] = self.warnings(fetched.log)
        self.assertIn("couldn't connect", warning)

    def test_in_neither_cluster(self):
        image_id = self.make_image('ceph')
        self.set_clusters(self.far_conf)

        fetched = self.fetch_to('out', image_id)

        self.assert_by_http(
            image_id, fetched,
            f'Image is in Ceph cluster {self.cloud.ceph.fsid}, which is not '
            rf'configured in \[glance\] rbd_ceph_conf \({self.far_conf}: '
            f'{self.far.fsid}')
