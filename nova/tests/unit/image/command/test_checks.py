# SPDX-License-Identifier: Apache-2.0

"""What is said of hosts that the functional tests do not have."""

import contextlib
import os
import re
import tempfile
import typing as ty
from unittest import mock

from castellan.common import exception as castellan_exc
from castellan import key_manager
from oslo_utils.fixture import uuidsentinel as uuids

from nova import context as nova_context
from nova import exception
from nova.image.command import check_ceph
from nova.image.command import check_host
from nova.image.command import check_image
from nova.image.command import checks
from nova.image.command import errors
from nova.image.command import findings
from nova.image.command import login
from nova.image import glance
from nova.image import locations
from nova.image.rbd import export as rbd
from nova.image.rbd import program as rbd_run
from nova.image import transfer
import nova.privsep
import nova.privsep.utils
from nova import test
from nova.tests.unit.image.rbd import test_export as test_rbd
from nova.tests.unit.image import fakes

FSID = test_rbd.FSID
CONF = '/etc/ceph/ceph.conf'
URL = f'rbd://{FSID}/images/{uuids.image}/snap'
Verdict = findings.Verdict
Cause = rbd_run.Cause


class CheckTestCase(test.NoDBTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.known = findings.Known(uuids.image)

    def replace(self, where: ty.Any, name: str,
                **options: ty.Any) -> mock.Mock:
        patch = mock.patch.object(where, name, **options)
        self.addCleanup(patch.stop)
        return patch.start()

    def make(self, check: ty.Callable[..., findings.Finding],
             *arguments: ty.Any) -> findings.Finding:
        found = findings.make('Name', lambda: check(self.known, *arguments))
        self.assertEqual('Name', found.check)
        # Whoever reads that something is wrong is told what to do.
        self.assertEqual(
            found.verdict in (Verdict.FAILED, Verdict.WARNING),
            bool(found.remedy), repr(found))
        return found

    def assert_found(
        self, verdict: findings.Verdict, detail: str, remedy: str,
        check: ty.Callable[..., findings.Finding], *arguments: ty.Any,
    ) -> None:
        found = self.make(check, *arguments)
        self.assertEqual(verdict, found.verdict, repr(found))
        self.assertRegex(found.detail, detail)
        self.assertRegex(found.remedy, remedy)

    def log_in(self, *roles: str) -> None:
        self.known.logged_in = login.Login(
            'service_user', 'nova', 'service', roles,
            nova_context.RequestContext('user', 'project'))

    def show(self, **fields: ty.Any) -> None:
        self.known.image = {
            'id': uuids.image, 'status': 'active', 'disk_format': 'iso',
            'size': 4096, 'properties': {}, 'locations': [], **fields}


class TestOrder(CheckTestCase):
    def test_all_are_made_whatever_comes_of_them(self) -> None:
        self.flags(rbd_ceph_conf=['/a', '/b'], group='glance')
        modules = (check_host, check_ceph, check_image)
        for module in modules:
            for name in vars(module):
                if name.startswith('check_'):
                    self.replace(module, name, side_effect=ZeroDivisionError)
        found = list(checks.run(None))
        self.assertEqual(
            ['Configuration', 'Options', 'Privileged helper', 'Programs',
             'ceph.conf', 'Cluster', 'ceph.conf', 'Cluster', 'Credentials',
             'Glance', 'Location', 'Allowed', 'Read from Ceph', 'Key manager',
             'Image cache', 'Free space'], [one.check for one in found])
        # A check that cannot be made is not one that went well.
        self.assertEqual({Verdict.FAILED}, {one.verdict for one in found})
        self.assertEqual({'ZeroDivisionError: ZeroDivisionError'},
                         {one.detail for one in found})


class TestHost(CheckTestCase):
    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.instances = folder.name
        self.flags(instances_path=folder.name)

    def test_options(self) -> None:
        for schemes, images_type, verdict, detail, remedy in (
            (['rbd'], 'qcow2', Verdict.OK, 'images_type = qcow2', '^$'),
            ([], 'qcow2', Verdict.FAILED, 'switched off',
             'allowed_direct_url_schemes = rbd'),
            (['ftp'], 'raw', Verdict.FAILED, 'no handler for: ftp',
             'Correct'),
            (['rbd'], 'rbd', Verdict.FAILED, 'clones', 'nothing to gain'),
        ):
            self.flags(allowed_direct_url_schemes=schemes, group='glance')
            self.flags(images_type=images_type, group='libvirt')
            self.assert_found(verdict, detail, remedy,
                              check_host.check_options)
            # The other checks need one that Nova takes.
            self.assertIsInstance(glance.active_handlers(), dict)

    def test_helper(self) -> None:
        start = self.replace(nova.privsep.sys_admin_pctxt, 'start')
        self.assert_found(Verdict.OK, 'sudo nova-rootwrap .*privsep-helper',
                          '^$', check_host.check_helper)
        self.assertTrue(self.known.privileged)

        self.known.privileged = False
        self.replace(check_host, '_WORDS_SECONDS', new=0)

        def fail() -> None:
            import oslo_privsep.daemon
            oslo_privsep.daemon.LOG.warning('privsep log: %s', 'sudo: no!')
            raise PermissionError('status 1')

        start.side_effect = fail
        self.flags(helper_command='sudo my-helper', group='nova_sys_admin')
        self.assert_found(
            Verdict.FAILED, 'does not start: status 1: sudo: no!',
            'let that user run: sudo my-helper$', check_host.check_helper)
        self.assertFalse(self.known.privileged)

    def test_cache(self) -> None:
        direct = self.replace(
            nova.privsep.utils, 'supports_direct_io', return_value=True)
        for make in (lambda: None,
                     lambda: os.mkdir(os.path.join(self.instances, '_base'))):
            make()
            self.assert_found(Verdict.OK, 'by O_DIRECT', '^$',
                              check_host.check_cache)
        direct.assert_called_with(os.path.join(self.instances, '_base'))
        direct.return_value = False
        self.assert_found(Verdict.WARNING, 'no O_DIRECT', 'ext4 or XFS',
                          check_host.check_cache)
        direct.side_effect = OSError(28, 'No space left on device')
        self.assert_found(Verdict.FAILED, 'No space left', 'make room',
                          check_host.check_cache)
        self.flags(instances_path='/nowhere')
        self.assert_found(
            Verdict.FAILED, 'instances_path is /nowhere: No such',
            'belong to the user', check_host.check_cache)

    def test_space(self) -> None:
        self.replace(os, 'statvfs', return_value=mock.Mock(
            f_bavail=1024, f_frsize=2 ** 20))
        self.assert_found(Verdict.OK, '1.0 GiB on', '^$',
                          check_host.check_space)
        self.show(size=2 ** 30 - 1)
        self.assert_found(Verdict.OK, '1.0 GiB on', '^$',
                          check_host.check_space)
        self.show(size=2 ** 30)
        self.assert_found(Verdict.FAILED, 'the image needs 1.0 GiB',
                          'Make room', check_host.check_space)


class TestCeph(CheckTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.conf = self.replace(rbd, 'read_conf', return_value=FSID)
        self.fsid = self.replace(rbd, 'ask_cluster', return_value=FSID)
        self.run_program = self.replace(
            rbd, 'run', return_value=b'ceph version 16\n')
        run = self.replace(rbd_run, 'Run').return_value
        run.__enter__.return_value.rights = 'as the user nova'
        self.known.privileged = True
        self.flags(rbd_user='nova', rbd_connect_timeout=7, group='glance')

    def failure(self, cause: rbd_run.Cause) -> rbd_run.RunError:
        return rbd_run.RunError(rbd_run.explain(cause), 1, cause)

    def test_programs(self) -> None:
        self.assert_found(Verdict.OK, '^ceph version 16$', '^$',
                          check_ceph.check_programs)
        self.run_program.assert_called_once_with(0, 'rbd --version')
        for cause, remedy in (
            (Cause.NOT_INSTALLED, 'Install ceph-common .*, util-linux'),
            (Cause.NO_SETPRIV, 'util-linux 2.33 or newer'),
            (Cause.OLD_SETPRIV, 'util-linux 2.33 or newer'),
            (Cause.NOT_PERMITTED, 'AppArmor or SELinux'),
            (Cause.NOT_RUN, 'ceph-common again'),
        ):
            self.run_program.side_effect = self.failure(cause)
            self.assert_found(Verdict.FAILED, re.escape(rbd_run.explain(
                cause)), remedy, check_ceph.check_programs)
        self.run_program.side_effect = transfer.SourceError(
            reason='No such file')
        self.assert_found(Verdict.SKIPPED, 'No such file', '^$',
                          check_ceph.check_programs)
        self.known.privileged = False
        self.assert_found(Verdict.SKIPPED, 'without the privileged', '^$',
                          check_ceph.check_programs)

    def test_conf(self) -> None:
        self.assert_found(
            Verdict.OK, f'^{CONF}, fsid {FSID}; rbd runs as the user nova$',
            '^$', check_ceph.check_conf, 0)
        self.assertEqual({0: FSID}, self.known.fsids)
        self.conf.return_value = ''
        self.assert_found(
            Verdict.OK, f'^{CONF}, without an fsid, so Nova asks the cluster; '
            'rbd runs as the user nova$', '^$', check_ceph.check_conf, 0)
        self.assertEqual({0: ''}, self.known.fsids)

    def test_bad_conf(self) -> None:
        for failure, detail, remedy in (
            (transfer.SourceError(reason=f'{CONF} failed: No such file'),
             f'{CONF} failed: No such file', 'Put the ceph.conf.*--debug'),
            (self.failure(Cause.BAD_CONF),
             f'^{CONF}: ceph.conf cannot be read or parsed$',
             f'Run "rbd --conf {CONF} ls" as root'),
            (self.failure(Cause.NOT_INSTALLED), 'not installed',
             'Install ceph-common'),
        ):
            self.conf.side_effect = failure
            self.assert_found(Verdict.FAILED, detail, remedy,
                              check_ceph.check_conf, 0)
        self.assertEqual({}, self.known.fsids)
        self.assert_found(Verdict.SKIPPED, 'without its ceph.conf', '^$',
                          check_ceph.check_cluster, 0)
        self.fsid.assert_not_called()

    def test_no_helper(self) -> None:
        self.known.privileged = False
        self.assert_found(Verdict.SKIPPED, 'without the privileged', '^$',
                          check_ceph.check_conf, 0)
        self.conf.assert_not_called()

    def test_cluster(self) -> None:
        for known in (FSID, ''):
            self.known.fsids[0] = known
            self.assert_found(Verdict.OK, f'^{FSID} answers client.nova$',
                              '^$', check_ceph.check_cluster, 0)
        self.fsid.assert_called_with(0)
        self.assertEqual({FSID}, self.known.answering)

    def test_bad_cluster(self) -> None:
        self.flags(rbd_ceph_conf=['/etc/ceph/site-1.conf'], group='glance')
        conf = '/etc/ceph/site-1.conf'
        self.known.fsids[0], self.known.rights[0] = FSID, 'as the user nova'
        keyring = (f'keyring that {conf} names .*by default '
                   '/etc/ceph/site-1.client.nova.keyring.* has the key.*'
                   'rbd reads it as the user nova.$')
        for cause, detail, remedy in (
            (Cause.NO_ANSWER, '^no monitor answered within 7 seconds$',
             f'mon host in {conf}'),
            (Cause.NO_MONITOR, 'mon host .* yields no address$',
             f'Correct {conf}. Run "rbd --conf {conf} ls"'),
            (Cause.BAD_CONF, '^client.nova cannot connect: ceph.conf ',
             f'Correct {conf}'),
            (Cause.NEW_KEY, 'too old for it', 'Upgrade ceph-common'),
            (Cause.REFUSED, 'the monitors refuse client.nova', keyring),
            (Cause.NO_KEYRING, 'finds no keyring', keyring),
            (Cause.UNKNOWN, '^client.nova cannot connect: ', keyring),
        ):
            self.fsid.side_effect = self.failure(cause)
            self.assert_found(Verdict.FAILED, detail, remedy,
                              check_ceph.check_cluster, 0)
        self.fsid.side_effect = transfer.SourceError(
            reason='ceph did not print an fsid')
        self.assert_found(Verdict.FAILED, 'did not print', '"ceph fsid"',
                          check_ceph.check_cluster, 0)
        self.fsid.side_effect = None
        self.fsid.return_value = test_rbd.OTHER_FSID
        self.assert_found(
            Verdict.FAILED, f'{conf} names the fsid {FSID}, but its monitors '
            f'are of the cluster {test_rbd.OTHER_FSID}$',
            f'Correct fsid or mon host in {conf}', check_ceph.check_cluster,
            0)
        self.assertEqual(set(), self.known.answering)


class TestGlance(CheckTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.get = self.replace(glance.API, 'get')
        self.get_all = self.replace(glance.API, 'get_all', return_value=[])
        self.replace(glance, 'generate_glance_url', return_value='http://g')
        self.permits = self.replace(
            glance.GlanceImageServiceV2, 'permits_direct_download',
            return_value=True)

    def test_login(self) -> None:
        log_in = self.replace(login, 'log_in')
        for roles, verdict, remedy in (
                (('admin', 'service'), Verdict.OK, '^$'),
                (('service',), Verdict.WARNING, 'without the role admin')):
            log_in.return_value = login.Login(
                'service_user', 'nova', 'service', roles,
                nova_context.RequestContext('user', 'project'))
            self.assert_found(
                verdict, r'^nova in project service, of \[service_user\]',
                remedy, check_image.check_login)
        self.known.logged_in = None
        log_in.side_effect = errors.CommandError('Keystone is away')
        self.assert_found(Verdict.FAILED, 'Keystone is away',
                          r'\[service_user\]', check_image.check_login)
        self.assert_found(Verdict.SKIPPED, 'no login', '^$',
                          check_image.check_glance)

    def test_named_image(self) -> None:
        self.log_in()
        self.show()
        image = self.get.return_value = self.known.image
        self.known.image = None
        self.assert_found(
            Verdict.OK, f'http://g answers; image {uuids.image}, iso, 0.0 MiB',
            '^$', check_image.check_glance)
        self.assertIs(image, vars(self.known)['image'])

    def test_no_image(self) -> None:
        self.log_in()
        for failure, detail, remedy in (
            (exception.ImageNotFound(image_id=uuids.image),
             f'has no image {uuids.image}', 'give the user that role'),
            (exception.GlanceConnectionFailed(server='g', reason='off'),
             'glance host g failed', 'endpoint_override'),
        ):
            self.get.side_effect = failure
            self.assert_found(Verdict.FAILED, detail, remedy,
                              check_image.check_glance)

    def test_finds_one_in_ceph(self) -> None:
        self.log_in()
        self.known.image_id = None
        self.show()
        elsewhere = dict(self.known.image or {}, id=uuids.elsewhere)
        in_ceph = dict(elsewhere, id=uuids.in_ceph, locations=[{'url': URL}])
        for listed, expected in (([elsewhere, in_ceph], uuids.in_ceph),
                                 ([elsewhere], uuids.elsewhere)):
            self.get_all.return_value = listed
            self.get.side_effect = lambda _context, image_id, **_options: (
                in_ceph if image_id == uuids.in_ceph else elsewhere)
            self.assert_found(Verdict.OK, expected, '^$',
                              check_image.check_glance)

    def test_finds_none(self) -> None:
        self.log_in()
        self.known.image_id = None
        self.assert_found(Verdict.OK, 'shows no image to try', '^$',
                          check_image.check_glance)
        self.assert_found(Verdict.SKIPPED, 'name one', '^$',
                          check_image.check_visible)

    def test_not_permitted(self) -> None:
        self.log_in()
        self.show(locations=[{'url': URL}])
        self.permits.side_effect = exception.ImageNotAuthorized(
            image_id=uuids.image)
        self.assert_found(
            Verdict.WARNING, f'not let nova download image {uuids.image}$',
            'policy download_image', check_image.check_visible)
        self.permits.side_effect = None
        self.permits.return_value = False
        self.assert_found(
            Verdict.FAILED, 'did not say whether nova may', 'status 416',
            check_image.check_visible)
        self.assertEqual([], self.known.urls)

    def test_visible(self) -> None:
        self.log_in()
        for fields, verdict, detail, remedy in (
            ({'status': 'queued'}, Verdict.FAILED, 'is queued', 'active'),
            ({'locations': [{'url': 'file:///x'}]}, Verdict.FAILED,
             'but in: file$', 'Name an image'),
            ({'locations': [{'url': URL}, {'url': 'file:///x'}]}, Verdict.OK,
             f'^{URL}, shown to users as locations', '^$'),
            ({'locations': [{'url': URL}, {'url': URL}], 'direct_url': URL},
             Verdict.OK, f'^{URL}, shown to users as direct_url', '^$'),
        ):
            self.show(**fields)
            self.assert_found(verdict, detail, remedy,
                              check_image.check_visible)

    def test_hidden(self) -> None:
        self.log_in()
        self.show()
        assert self.known.logged_in is not None
        read = self.replace(locations, 'read', return_value=[URL])
        self.assert_found(
            Verdict.OK, f'^{URL}, told to Nova by GET .*, hidden from users',
            '^$', check_image.check_visible)
        read.assert_called_once_with(
            mock.ANY, self.known.logged_in.context, uuids.image)
        self.assertEqual([URL], self.known.urls)
        read.side_effect = locations.LocationsUnavailable('Glance refuses it')
        self.assert_found(
            Verdict.FAILED, '^Glance refuses it$',
            'the roles service and admin.*show_image_direct_url',
            check_image.check_visible)

    def test_allowed(self) -> None:
        self.show()
        self.assert_found(Verdict.SKIPPED, 'no location', '^$',
                          check_image.check_allowed)
        self.known.urls = ['rbd://x', URL]
        cluster = self.replace(rbd, 'find_cluster', return_value=rbd.Cluster(
            FSID, CONF, 0))
        self.assert_found(Verdict.OK, f'pool images of the cluster in {CONF}',
                          '^$', check_image.check_allowed)
        self.assertEqual(URL, self.known.url)
        # As many as there are, where the host has none of their clusters.
        cluster.side_effect = transfer.SourceError(reason='Not ours')
        self.assert_found(
            Verdict.FAILED, 'not of the form.*; Not ours$', 'over HTTP',
            check_image.check_allowed)


class TestRead(CheckTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.flags(rbd_user='nova', group='glance')
        self.show()
        self.known.url = URL
        self.known.location = rbd.parse(URL)
        self.known.answering.add(FSID)
        self.open = self.replace(rbd, 'open_source')
        self.data_pool = self.replace(rbd, 'data_pool', return_value=None)

    def read(self, source: transfer.Source) -> None:
        self.open.return_value = contextlib.nullcontext(source)

    def test_read(self) -> None:
        for extents in ([(0, b'data')], []):
            self.read(fakes.MemorySource(extents))
            self.assert_found(
                Verdict.OK, '^client.nova reads the image in pool images$',
                '^$', check_image.check_read)

    def test_not_read(self) -> None:
        for error, remedy in (
            (rbd_run.RunError('rights', 1, Cause.UNKNOWN),
             "auth get client.nova\" .* pool=images' .*replaces all"),
            (rbd_run.RunError('rights', 13, Cause.UNKNOWN), 'ceph auth caps'),
            (rbd_run.RunError('no file', 2, Cause.UNKNOWN),
             'no longer in Ceph'),
            (rbd_run.RunError('no key', 13, Cause.REFUSED), 'health detail'),
            (rbd_run.RunError('no key', 2, Cause.NO_KEYRING),
             'health detail'),
            (transfer.SourceError(reason='No byte came for 60 seconds'),
             'ceph health detail'),
        ):
            self.open.side_effect = error
            self.assert_found(Verdict.FAILED, str(error), remedy,
                              check_image.check_read)

    def test_pool_that_is_not_readable(self) -> None:
        self.open.side_effect = rbd_run.RunError('rights', 1, Cause.UNKNOWN)
        for pool in ('images-data', 'images'):
            self.data_pool.return_value = pool if pool != 'images' else None
            self.assert_found(
                Verdict.FAILED, 'rights', f'Let it read the pool {pool}: .*'
                f"'profile rbd-read-only pool={pool}'",
                check_image.check_read)
        self.data_pool.side_effect = rbd_run.RunError(
            'rights', 1, Cause.UNKNOWN)
        self.assert_found(Verdict.FAILED, 'rights', 'the pool images:',
                          check_image.check_read)

    def test_not_tried(self) -> None:
        self.known.answering.clear()
        self.assert_found(Verdict.SKIPPED, 'does not answer', '^$',
                          check_image.check_read)
        self.known.location = None
        self.assert_found(Verdict.SKIPPED, 'nothing to read', '^$',
                          check_image.check_read)


class TestKeyManager(CheckTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.manager = self.replace(key_manager, 'API').return_value
        self.flags(verify_glance_signatures=True, group='glance')
        self.log_in()

    def test_not_asked(self) -> None:
        self.known.logged_in = None
        self.assert_found(Verdict.SKIPPED, 'no login', '^$',
                          check_image.check_key_manager)
        self.flags(verify_glance_signatures=False,
                   enable_certificate_validation=True, group='glance')
        self.assert_found(Verdict.SKIPPED, 'not verified', '^$',
                          check_image.check_key_manager)
        self.manager.get.assert_not_called()

    def test_asked_for_a_certificate_that_is_not_there(self) -> None:
        self.manager.get.side_effect = (
            castellan_exc.ManagedObjectNotFoundError(uuid='x'))
        self.assert_found(Verdict.OK, 'answers', '^$',
                          check_image.check_key_manager)

    def test_certificate(self) -> None:
        self.show(properties={'img_signature_certificate_uuid': uuids.cert})
        self.assert_found(Verdict.OK, 'answers', '^$',
                          check_image.check_key_manager)
        self.manager.get.assert_called_once_with(mock.ANY, uuids.cert)
        for failure, verdict, remedy in (
            (castellan_exc.Forbidden(), Verdict.WARNING,
             'the token of the user'),
            (castellan_exc.KeyManagerError(reason='Forbidden: not yours'),
             Verdict.WARNING, 'the token of the user'),
            (castellan_exc.ManagedObjectNotFoundError(uuid='x'),
             Verdict.FAILED, 'certificate is there'),
            (castellan_exc.KeyManagerError(reason='off'), Verdict.FAILED,
             r'\[barbican\]'),
        ):
            self.manager.get.side_effect = failure
            self.assert_found(verdict, '.', remedy,
                              check_image.check_key_manager)

    def test_not_signed(self) -> None:
        self.show()
        self.assert_found(Verdict.WARNING, 'is not signed', 'Sign it',
                          check_image.check_key_manager)
