# SPDX-License-Identifier: Apache-2.0

"""Nova refuses a direct download that Glance refuses over HTTP."""

from collections.abc import Iterator
import contextlib
import pathlib
from typing import ClassVar

from oslo_utils import uuidutils

from lab import config
from lab import errors
from lab.tests.functional import matrix
from lab.tests.functional import test_locations
from lab import worker as lab_worker

#: User -> project and role, in addition to the users of the lab.
_USERS = {'reader': ('demo', 'reader'), 'stranger': ('other', 'member')}

#: Status -> whether such an image is marked as deleted in Glance's database.
#: Glance has no API that gives an image most of these statuses.
_STATUSES = {
    'active': False, 'deactivated': False, 'queued': False, 'saving': False,
    'uploading': False, 'importing': False, 'killed': False,
    'pending_delete': True, 'deleted': True}

_NOT_FOUND = 'ImageNotFound'
_REFUSED = 'ImageNotAuthorized'


class PermissionTestCase(matrix.MatrixTestCase):
    """Several users fetch one image on the same host."""

    OPTIONS = {'verify_glance_signatures': False}

    path: ClassVar[pathlib.Path]
    image_id: ClassVar[str]
    workers: ClassVar[dict[str, lab_worker.Worker]]
    policy: ClassVar[pathlib.Path]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        keystone = cls.cloud.keystone
        # As the guide recommends: Glance shows this user all locations.
        cls.SECTIONS = {'service_user': {
            **keystone.credentials('nova'), 'send_service_user_token': True}}
        cls.policy = config.write(cls.cloud.directory / 'download.yaml', '')
        cls.enterClassContext(cls.glance_options({
            'oslo_policy': {'policy_file': cls.policy}}))
        cls.path, cls.image_id = cls.make_class_image()
        cls.workers = {'demo': cls.worker}
        for name, (project, role) in _USERS.items():
            if name not in keystone.users:
                keystone.add_user(name, project, role)
        for name in ('admin', *_USERS):
            cls.workers[name] = lab_worker.Worker(cls.class_host, user=name)
            cls.workers[name].setUp()
            cls.addClassCleanup(cls.workers[name].cleanUp)
        # They start at the same time. The first answer takes seconds.
        for worker in cls.workers.values():
            with contextlib.suppress(errors.FetchFailed):
                worker.fetch(uuidutils.generate_uuid())

    def setUp(self) -> None:
        super().setUp()
        self.record(status='active', visibility='private')
        self.addCleanup(self.record, status='active', deleted=False)

    def record(self, **columns: str | int | None) -> None:
        self.cloud.glance.record(self.image_id, **columns)

    @classmethod
    @contextlib.contextmanager
    def hidden_locations(cls) -> Iterator[None]:
        """Have Glance hide the locations of images from users."""
        with cls.glance_options(config.merge(
                test_locations.HIDDEN,
                {'oslo_policy': {'policy_file': cls.policy}})):
            yield

    def set_policy(self, rule: str) -> None:
        """Let Glance send the data of images to these users only."""
        # Glance reads the file again when it has changed.
        self.addCleanup(config.write, self.policy, '')
        config.write(self.policy, f'"download_image": "{rule}"\n')

    def assert_verdict(
        self, user: str, error: str, directly: bool = False,
    ) -> None:
        """Assert the same verdict over HTTP and for a direct download.

        :param error: the name of Nova's exception; '' where the user gets the
            image
        :param directly: whether the image is exported from Ceph, too
        """
        for way in ('http', 'rbd'):
            asked = self.cloud.glance.questions(self.image_id)
            seen = self.by(way, self.image_id, worker=self.workers[user],
                           path=None if error else self.path)
            context = f'{user} by {way}: {seen}'
            self.assertEqual(error, seen.error, context)
            self.assertEqual([], seen.warnings, context)
            direct = directly and way == 'rbd'
            self.assertEqual(int(direct), seen.exports, context)
            if not direct:
                # Nova did not use its own credentials.
                self.assertEqual(
                    asked, self.cloud.glance.questions(self.image_id))


class TestStatus(PermissionTestCase):
    def check_all(self) -> None:
        for status, deleted in _STATUSES.items():
            for user, visibility in (
                ('demo', 'private'), ('admin', 'private'),
                ('reader', 'private'), ('stranger', 'private'),
                ('stranger', 'public'),
            ):
                self.record(status=status, deleted=deleted,
                            visibility=visibility)
                error = self.expected_error(status, user, visibility)
                self.assert_verdict(
                    user, error, status == 'active' and not error)

    @staticmethod
    def expected_error(status: str, user: str, visibility: str) -> str:
        """Return Nova's error for the answer that Glance 33 gives, or ''."""
        if _STATUSES[status] or (user, visibility) == ('stranger', 'private'):
            return _NOT_FOUND
        # By the default policy of Glance, a reader may not download.
        if user == 'reader' or (status == 'deactivated' and user != 'admin'):
            return _REFUSED
        return ''

    def test_locations_shown(self) -> None:
        self.check_all()

    def test_locations_hidden(self) -> None:
        with self.hidden_locations():
            self.check_all()

    def test_deactivated_by_the_api(self) -> None:
        images = self.cloud.glance_client('admin').images
        images.deactivate(self.image_id)
        self.assert_verdict('demo', _REFUSED)
        self.assert_verdict('admin', '')
        images.reactivate(self.image_id)
        self.assert_verdict('demo', '', directly=True)


class TestPolicy(PermissionTestCase):
    def test_by_role(self) -> None:
        self.set_policy('role:admin')
        self.assert_verdict('demo', _REFUSED)
        self.assert_verdict('admin', '', directly=True)

    def test_by_property(self) -> None:
        """A licensed image, which users may see."""
        self.set_policy("role:admin or not 'gold':%(licence)s")
        self.assert_verdict('demo', '', directly=True)
        images = self.cloud.glance_client().images
        images.update(self.image_id, licence='gold')
        self.addCleanup(images.update, self.image_id, ['licence'])
        self.assert_verdict('demo', _REFUSED)
        self.assert_verdict('admin', '', directly=True)
        images.update(self.image_id, licence='free')
        self.assert_verdict('demo', '', directly=True)

    def test_locations_hidden(self) -> None:
        with self.hidden_locations():
            self.set_policy('role:admin')
            self.assert_verdict('demo', _REFUSED)
            self.assert_verdict('admin', '', directly=True)


class TestQuestion(PermissionTestCase):
    """The request with which Nova asks Glance for permission."""

    def test_no_store_is_opened(self) -> None:
        """Glance gives the same answer for an image that Ceph has lost."""
        lost = self.upload(self.path, 'iso')
        self.cloud.ceph.rbd('rename', 'images/' + lost, 'images/elsewhere')
        self.addCleanup(
            self.cloud.ceph.rbd, 'rename', 'images/elsewhere',
            'images/' + lost)
        seen = self.by('rbd', lost)
        self.assertEqual(1, seen.exports, str(seen))

    def test_size_is_not_known(self) -> None:
        self.addCleanup(self.record, size=self.path.stat().st_size)
        self.record(size=None)
        seen = self.by('rbd', self.image_id)
        self.assertEqual(0, seen.exports, str(seen))

    def test_empty_image(self) -> None:
        path = self.files / 'empty'
        path.touch()
        image_id = self.upload(path, 'raw')
        seen = self.by('rbd', image_id, path=path)
        self.assertEqual(('', 'sha512', 1, 0), (
            seen.error, seen.verified, seen.exports, seen.requests))
