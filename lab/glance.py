# SPDX-License-Identifier: Apache-2.0
"""Glance with its images in Ceph."""

import contextlib
import pathlib
import re
import sqlite3

from lab import barbican as lab_barbican
from lab import ceph as lab_ceph
from lab import config
from lab import errors
from lab import keystone as lab_keystone
from lab import process
from lab import services
from lab import wsgi

POOL = 'images'
CEPH_USER = 'glance'

_STORES = ['ceph:rbd']

# Not 416, which is the answer to a request that only asks for permission.
_DOWNLOAD = re.compile(r'"GET /v2/images/([^/ ]+)/file HTTP/[\d.]+" (?!416)')


def _rbd_store(ceph: lab_ceph.Ceph) -> dict[str, config.Value | None]:
    return {
        'rbd_store_pool': POOL,
        'rbd_store_user': CEPH_USER,
        'rbd_store_ceph_conf': ceph.conf,
        'rbd_store_chunk_size': '8',
    }


class Glance(process.LabFixture):
    """An image service whose one store is the pool ``images``.

    More stores, in other clusters, come by store_options().

    :ivar url: its endpoint
    :ivar access_log: one line per request, written when it ends
    """

    def __init__(self, directory: pathlib.Path, venv: services.ServiceVenv,
                 keystone: lab_keystone.Keystone, ceph: lab_ceph.Ceph, *,
                 barbican: lab_barbican.Barbican | None = None,
                 show_image_direct_url: bool = True,
                 show_multiple_locations: bool = False,
                 rbd_thin_provisioning: bool = True,
                 options: config.Options | None = None) -> None:
        """Describe the service; setUp() makes the pool and starts it.

        :param barbican: where the certificates of signed images are
        :param rbd_thin_provisioning: leave runs of zeros unallocated
        :param options: more of glance-api.conf
        """
        super().__init__()
        self.directory = directory
        self._venv = venv
        self._keystone = keystone
        self._ceph = ceph
        keys = barbican.client_options() if barbican else {}
        self._own: config.Options = config.merge(keys, {
            'DEFAULT': {
                'show_image_direct_url': show_image_direct_url,
                'show_multiple_locations': show_multiple_locations,
            },
            'ceph': {'rbd_thin_provisioning': rbd_thin_provisioning},
        })
        self._options = options or {}
        self._prepared = False
        self.service = wsgi.WsgiService(
            'glance', 'glance.wsgi.api:application', venv, directory,
            env={'OS_GLANCE_CONFIG_DIR': str(directory)},
            probe='/healthcheck')
        self.url = self.service.url
        self.access_log = self.service.access_log

    def _setUp(self) -> None:
        if not self._prepared:
            self.prepare()
        self._write_conf()
        self._keystone.add_service('glance', 'image', self.url)
        self.useFixture(self.service)

    def prepare(self) -> None:
        """Do what needs Ceph but not yet Keystone."""
        self.directory.mkdir(mode=0o700, exist_ok=True)
        for name in ('staging', 'tasks'):
            (self.directory / name).mkdir()
        self._make_pool(self._ceph)
        database = config.write(
            self.directory / 'database.conf',
            config.render(self._database()), 0o600)
        process.run(
            [self._venv.program('glance-manage'), '--config-file', database,
             'db_sync'], cwd=self.directory)
        self._prepared = True

    def _make_pool(self, ceph: lab_ceph.Ceph) -> None:
        ceph.create_pool(POOL)
        ceph.create_user(CEPH_USER, {
            'mon': 'profile rbd', 'osd': f'profile rbd pool={POOL}'})

    def store_options(self, name: str, ceph: lab_ceph.Ceph) -> config.Options:
        """Make room in another cluster; return the options of a store there.

        They are for restart(). The first store remains the default.
        """
        self._make_pool(ceph)
        return {
            'DEFAULT': {'enabled_backends': [*_STORES, f'{name}:rbd']},
            name: _rbd_store(ceph),
        }

    @property
    def conf(self) -> pathlib.Path:
        """The path of its glance-api.conf."""
        return self.directory / 'glance-api.conf'

    def _write_conf(self) -> None:
        options = config.merge(
            self._database(), self._base(), self._own, self._options)
        config.write(self.conf, config.render(options), 0o600)

    def _database(self) -> config.Options:
        return {'database': {
            'connection': f'sqlite:///{self._database_file}'}}

    @property
    def _database_file(self) -> pathlib.Path:
        return self.directory / 'glance.db'

    def _base(self) -> config.Options:
        here = self.directory
        return {
            'DEFAULT': {
                'use_stderr': True,
                'enabled_backends': _STORES,
            },
            'keystone_authtoken': {
                **self._keystone.credentials('glance'),
                'www_authenticate_uri': self._keystone.auth_url,
                'service_token_roles_required': True,
            },
            'paste_deploy': {
                'flavor': 'keystone',
                'config_file': self._venv.path.joinpath(
                    'etc', 'glance', 'glance-api-paste.ini'),
            },
            'glance_store': {'default_backend': 'ceph'},
            'ceph': _rbd_store(self._ceph),
            'os_glance_staging_store': {
                'filesystem_store_datadir': here / 'staging',
            },
            'os_glance_tasks_store': {
                'filesystem_store_datadir': here / 'tasks',
            },
        }

    def restart(self, options: config.Options | None = None) -> None:
        """Start it again, with other options if given.

        :param options: replace those given before, not the lab's own
        """
        self.service.daemon.stop()
        if options is not None:
            self._options = options
            self._write_conf()
        self.service.daemon.start()

    def record(self, image_id: str, **columns: str | int | None) -> None:
        """Make Glance say other things of an image, as if they were so.

        :param columns: of its table of images: checksum, os_hash_algo,
            os_hash_value, size (in bytes), status or deleted
        """
        names = ', '.join(f'{name} = ?' for name in columns)
        with contextlib.closing(
                sqlite3.connect(self._database_file)) as database, database:
            changed = database.execute(
                f'UPDATE images SET {names} WHERE id = ?',
                (*columns.values(), image_id)).rowcount
        if changed != 1:
            raise errors.LabError(f'Glance has no image {image_id}')

    def downloads(self, image_id: str) -> int:
        """Return the number of HTTP downloads of an image so far."""
        return count_downloads(self.access_log, image_id)

    def questions(self, image_id: str) -> int:
        """Return the number of requests for the locations of an image."""
        return self.access_log.read_text(encoding='utf-8').count(
            f'"GET /v2/images/{image_id}/locations ')


def count_downloads(access_log: pathlib.Path, image_id: str) -> int:
    """Return the number of requests for an image's data in a log."""
    text = access_log.read_text(encoding='utf-8')
    return sum(found == image_id for found in _DOWNLOAD.findall(text))
