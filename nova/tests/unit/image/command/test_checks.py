# SPDX-License-Identifier: Apache-2.0

"""Findings on hosts that the tests with real services do not have."""

import contextlib
import functools
import io
import os
import shutil
import typing as ty
from unittest import mock

from castellan.common import exception as castellan_exc
from castellan import key_manager
from oslo_utils.fixture import uuidsentinel as uuids

from nova import context as nova_context
from nova import exception
from nova.image import command
from nova.image.command import checks
from nova.image.command import host
from nova.image import download
from nova.image import glance
from nova.image import locations
from nova.image.rbd import cluster as rbd_cluster
from nova.image.rbd import export
from nova.image.rbd import location
from nova.image.rbd import program
from nova.image import transfer
import nova.privsep
import nova.privsep.utils
from nova.tests.unit.image.command import base
from nova.tests.unit.image import fakes
from nova.tests.unit.image.rbd import fakes as rbd_fakes

FSID = rbd_fakes.FSID
CONF = '/etc/ceph/ceph.conf'
URL = f'rbd://{FSID}/images/{uuids.image}/snap'
Cause = program.Cause
OK, WARNING = checks.OK, checks.WARNING
FAILED, SKIPPED = checks.FAILED, checks.SKIPPED
ROWS = (*checks._HOST_TABLE, *checks._CLUSTER_TABLE, *checks._IMAGE_TABLE)


class CheckTestCase(base.CommandTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.flags(rbd_user='nova', group='glance')
        self.checks = checks.Checks(uuids.image)

    def assert_found(
        self, name: str, verdict: str, detail: str,
        remedy: str = '^$',
    ) -> None:
        [row] = [row for row in ROWS if row[0] == name]
        found = self.checks.check(*row)
        self.assertEqual((name, verdict), (found['check'], found['verdict']),
                         repr(found))
        # Each problem has a remedy.
        self.assertEqual(verdict in (FAILED, WARNING), bool(found['remedy']))
        self.assertRegex(found['detail'], detail)
        self.assertRegex(found['remedy'], remedy)

    def log_in(self) -> None:
        self.checks.user = 'nova'
        self.checks.context = nova_context.RequestContext(
            'user', 'project', user_name='nova')

    def show(self, **fields: ty.Any) -> dict[str, ty.Any]:
        self.checks.image = {
            'id': uuids.image, 'status': 'active', 'disk_format': 'iso',
            'size': 4096, 'properties': {}, 'locations': [], **fields}
        return self.checks.image

    def choose_cluster(self, conf: str, fsid: str) -> None:
        self.checks.number, self.checks.conf, self.checks.fsid = 0, conf, fsid
        self.checks.keyring = program.default_keyring(conf)
        self.checks.rights = 'as the user nova'

    def failure(self, cause: Cause, status: int = 1) -> program.RunError:
        return program.RunError(program.explain(cause) or 'it', status, cause)


class TestOrder(CheckTestCase):
    def run_all(self) -> list[checks.Finding]:
        self.flags(rbd_ceph_conf=['/a', '/b'], group='glance')
        return checks.run(None, quiet=True)['checks']

    def test_all_checks_run_whatever_fails(self) -> None:
        def broken(_checks: checks.Checks) -> str:
            raise ZeroDivisionError('one\n more')

        for name in ('_HOST_TABLE', '_CLUSTER_TABLE', '_IMAGE_TABLE'):
            self.replace(checks, name, new=tuple(
                (row[0], '', broken, 'Solve it.')
                for row in getattr(checks, name)))
        found = self.run_all()
        self.assertEqual(
            ['Configuration', 'Options', 'Privileged helper', 'Programs',
             'ceph.conf', 'Cluster', 'ceph.conf', 'Cluster', 'Credentials',
             'Glance', 'Location', 'Allowed', 'Read from Ceph', 'Key manager',
             'Image cache', 'Free space'], [one['check'] for one in found])
        for one in found:
            self.assertEqual(
                {'check': one['check'], 'verdict': FAILED,
                 'detail': 'one more', 'remedy': 'Solve it.'}, one)

    def test_skipped_without_a_helper_and_a_login(self) -> None:
        self.replace(nova.privsep.sys_admin_pctxt, 'start',
                     side_effect=PermissionError('status 1'))
        self.replace(host, 'log_in', side_effect=command.CommandError('no'))
        skipped = {one['check']: one['detail'] for one in self.run_all()
                   if one['verdict'] == SKIPPED}
        self.assertEqual({
            'Programs': 'the privileged helper does not run',
            'ceph.conf': 'the privileged helper does not run',
            'Cluster': 'there is no usable ceph.conf',
            'Glance': 'no credentials work',
            'Location': 'there is no image to try; name one',
            'Allowed': 'no location is known',
            'Read from Ceph': 'there is no location to read',
            'Key manager': 'no credentials work'}, skipped)

    def test_fsid_of_another_cluster_is_not_used(self) -> None:
        self.replace(nova.privsep.sys_admin_pctxt, 'start')
        self.replace(program, 'run', return_value=b'ceph version 16\n')
        self.replace(program, 'Run')
        self.replace(rbd_cluster, 'read_conf', side_effect=[
            FSID, self.failure(Cause.BAD_CONF)])
        self.replace(rbd_cluster, 'ask_cluster', return_value=FSID)
        self.assertEqual(
            [OK, SKIPPED], [one['verdict'] for one in self.run_all()
                            if one['check'] == 'Cluster'])


class TestHost(CheckTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.instances = self.make_directory()
        self.flags(instances_path=str(self.instances))

    def test_configuration(self) -> None:
        self.replace(host, 'config_files', return_value=['/a', '/b'])
        self.replace(host, 'user_name', return_value='nova')
        self.assert_found('Configuration', OK, '^/a, /b, read as nova$')

    def test_options(self) -> None:
        for schemes, images_type, verdict, detail, remedy in (
            (['rbd'], 'qcow2', OK, 'images_type = qcow2', '^$'),
            ([], 'qcow2', FAILED, 'disabled', 'url_schemes must be rbd'),
            (['ftp'], 'raw', FAILED,
             'disabled; Nova ignores unsupported schemes .*: ftp. ',
             'url_schemes must be rbd'),
            (['rbd', 'ftp'], 'raw', WARNING,
             '^Nova ignores unsupported schemes .*: ftp. ', 'Correct'),
            (['rbd'], 'rbd', FAILED, 'clones', 'images_type qcow2 or raw'),
        ):
            self.flags(allowed_direct_url_schemes=schemes, group='glance')
            self.flags(images_type=images_type, group='libvirt')
            self.assert_found('Options', verdict, detail, remedy)

    def test_timeouts(self) -> None:
        self.flags(allowed_direct_url_schemes=['rbd'], rbd_stall_timeout=0,
                   group='glance')
        self.assert_found('Options', WARNING, '^.glance. rbd_stall_timeout is '
                          '0, but must be .*: Nova uses 1$', 'Correct')

    def test_helper(self) -> None:
        self.replace(nova.privsep.sys_admin_pctxt, 'start')
        self.assert_found('Privileged helper', OK,
                          'sudo nova-rootwrap .*privsep-helper')
        self.assertTrue(self.checks.privileged)

    def test_helper_fails(self) -> None:
        self.replace(nova.privsep.sys_admin_pctxt, 'start',
                     side_effect=PermissionError('status 1'))
        self.flags(helper_command='sudo my-helper', group='nova_sys_admin')
        self.assert_found(
            'Privileged helper', FAILED, 'status 1$',
            'let that user run "sudo my-helper", whose output --debug')
        self.assertFalse(hasattr(self.checks, 'privileged'))

    def test_cache(self) -> None:
        direct = self.replace(
            nova.privsep.utils, 'supports_direct_io', return_value=True)
        cache = self.instances / '_base'
        for nearest in (self.instances, cache):
            nearest.mkdir(exist_ok=True)
            self.assert_found('Image cache', OK, 'with O_DIRECT')
            direct.assert_called_with(str(nearest))
        direct.return_value = False
        self.assert_found('Image cache', WARNING, 'not support O_DIRECT',
                          'ext4 or XFS')
        direct.side_effect = OSError(28, 'No space left on device')
        self.assert_found('Image cache', FAILED, 'No space left',
                          'needs free space')
        self.flags(instances_path='/nowhere')
        self.assert_found('Image cache', FAILED,
                          'instances_path is /nowhere, which', 'own it')

    def test_space(self) -> None:
        self.replace(shutil, 'disk_usage', return_value=mock.Mock(
            free=2 ** 30))
        self.assert_found('Free space', OK, '^1.0 GiB on')
        self.show(size=2 ** 30 - 1)
        self.assert_found('Free space', OK, '^1.0 GiB on')
        self.show(size=2 ** 30)
        self.assert_found('Free space', FAILED, 'the image needs 1.0 GiB',
                          'Free space there')


class TestCeph(CheckTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.read_conf = self.replace(
            rbd_cluster, 'read_conf', return_value=FSID)
        self.ask_cluster = self.replace(
            rbd_cluster, 'ask_cluster', return_value=FSID)
        self.run_program = self.replace(
            program, 'run', return_value=b'ceph version 16\n')
        run = self.replace(program, 'Run').return_value
        run.__enter__.return_value.rights = 'as the user nova'
        self.checks.privileged = True
        self.choose_cluster(CONF, FSID)
        self.flags(rbd_connect_timeout=7, group='glance')

    def test_programs(self) -> None:
        self.assert_found('Programs', OK, '^ceph version 16$')
        self.run_program.assert_called_once_with(0, 'rbd --version')
        for cause, detail in (
            (Cause.NOT_INSTALLED, 'rbd or timeout is not installed'),
            (Cause.NO_SETPRIV, 'util-linux 2.33 or newer'),
            (Cause.OLD_SETPRIV, 'util-linux 2.33 or newer'),
            (Cause.NOT_PERMITTED, 'AppArmor or SELinux'),
            (Cause.NOT_RUN, 'rbd cannot be executed'),
        ):
            self.run_program.side_effect = self.failure(cause)
            self.assert_found(
                'Programs', FAILED, detail,
                'Install ceph-common .*, util-linux 2.33 .* and coreutils')
        # If the call fails, it is not about the programs.
        self.run_program.side_effect = program.CallError(
            reason='No such file')
        self.assert_found('Programs', SKIPPED, 'No such file')

    def test_conf(self) -> None:
        for fsid, detail in (
                (FSID, f'fsid {FSID}'),
                ('', 'fsid not set, so Nova asks the cluster')):
            self.read_conf.return_value = fsid
            self.assert_found('ceph.conf', OK,
                              f'^{CONF}, {detail}; rbd runs as the user nova$')
            self.assertEqual(fsid, self.checks.fsid)
        for failure, detail, remedy in (
            (transfer.SourceError(reason=f'{CONF} failed: No such file'),
             f'{CONF} failed: No such file',
             f'Put the ceph.conf .*{CONF}.*--debug'),
            (self.failure(Cause.BAD_CONF), '^ceph.conf cannot be read or ',
             f'Correct {CONF}: "rbd --conf {CONF} ls" as root shows the'),
            (self.failure(Cause.NOT_INSTALLED), 'not installed: install '
             'ceph-common', '.'),
        ):
            self.read_conf.side_effect = failure
            self.assert_found('ceph.conf', FAILED, detail, remedy)

    def test_cluster(self) -> None:
        for fsid in (FSID, ''):
            self.checks.fsid = fsid
            self.assert_found('Cluster', OK, f'^{FSID} answers client.nova$')
        self.ask_cluster.assert_called_with(0)
        self.assertEqual({FSID}, self.checks.answering)

    def test_bad_cluster(self) -> None:
        conf = '/etc/ceph/site-1.conf'
        self.choose_cluster(conf, FSID)
        keyring = (f'keyring that {conf} names .*by default '
                   '/etc/ceph/site-1.client.nova.keyring.* contains the key.*'
                   '"ceph auth get client.nova".*reads it as the user nova.$')
        for cause, detail, remedy in (
            (Cause.NO_ANSWER, 'no monitor answered within 7 seconds$',
             f'mon host in {conf}'),
            (Cause.NO_MONITOR, 'mon host in ceph.conf is missing or '
             'cannot be resolved$',
             f'Correct {conf}.* "rbd --conf {conf} ls"'),
            (Cause.BAD_CONF, '^ceph.conf ', f'Correct {conf}'),
            (Cause.NEW_KEY, 'too old for it', 'Upgrade ceph-common'),
            (Cause.REFUSED, 'the monitors refuse client.nova', keyring),
            (Cause.NO_KEYRING, 'no readable keyring', keyring),
            (Cause.UNKNOWN, '^it$', keyring),
        ):
            self.ask_cluster.side_effect = self.failure(cause)
            self.assert_found('Cluster', FAILED, detail, remedy)
        self.ask_cluster.side_effect = transfer.SourceError(
            reason='ceph did not print an fsid')
        self.assert_found('Cluster', FAILED, 'did not print', keyring)
        self.ask_cluster.side_effect = None
        self.ask_cluster.return_value = rbd_fakes.OTHER_FSID
        self.assert_found(
            'Cluster', FAILED, f'{conf} contains the fsid {FSID}, but its '
            f'monitors belong to the cluster {rbd_fakes.OTHER_FSID}$',
            f'Correct fsid or mon host in {conf}')
        self.assertEqual(set(), self.checks.answering)


class TestGlance(CheckTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.get = self.replace(glance.API, 'get')
        self.get_all = self.replace(glance.API, 'get_all', return_value=[])
        self.replace(glance, 'generate_glance_url', return_value='http://g')
        self.permits = self.replace(
            download, 'is_permitted', return_value=True)
        self.log_in()

    def test_login(self) -> None:
        log_in = self.replace(host, 'log_in')
        for roles, verdict, remedy in (
                (['admin', 'service'], OK, '^$'),
                (['service'], WARNING, 'needs the role admin ')):
            log_in.return_value = 'service_user', nova_context.RequestContext(
                'user', 'project', user_name='nova', project_name='service',
                roles=roles)
            self.assert_found(
                'Credentials', verdict, r'^nova in project service, from '
                rf'\[service_user\], with roles: {", ".join(roles)}$', remedy)
        log_in.side_effect = command.CommandError('Keystone is away')
        self.assert_found('Credentials', FAILED, 'Keystone is away',
                          r'\[service_user\]')

    def test_named_image(self) -> None:
        image = self.get.return_value = self.show()
        del self.checks.image
        self.assert_found('Glance', OK, f'^http://g answers; image '
                          f'{uuids.image}, iso, 0.0 MiB$')
        self.assertIs(image, self.checks.image)
        self.get_all.assert_not_called()
        for failure, detail, remedy in (
            (exception.ImageNotFound(image_id=uuids.image),
             f'Image {uuids.image} could not', 'the user may see it'),
            (exception.GlanceConnectionFailed(server='g', reason='off'),
             'glance host g failed', 'endpoint_override'),
        ):
            self.get.side_effect = failure
            self.assert_found('Glance', FAILED, detail, remedy)

    def test_finds_an_image_in_ceph(self) -> None:
        self.checks = checks.Checks(None)
        self.log_in()
        self.assert_found('Glance', OK, 'shows no image to try')
        self.assert_found('Location', SKIPPED, 'name one')
        elsewhere = dict(self.show(), id=uuids.elsewhere)
        in_ceph = dict(elsewhere, id=uuids.in_ceph, locations=[{'url': URL}])
        self.get.side_effect = lambda _context, image_id, **_options: (
            in_ceph if image_id == uuids.in_ceph else elsewhere)
        for listed, expected in (([elsewhere, in_ceph], uuids.in_ceph),
                                 ([elsewhere], uuids.elsewhere)):
            self.get_all.return_value = listed
            self.assert_found('Glance', OK, expected)

    def test_not_permitted(self) -> None:
        self.show(locations=[{'url': URL}])
        self.permits.side_effect = exception.ImageNotAuthorized(
            image_id=uuids.image)
        self.assert_found('Location', WARNING,
                          f'Not authorized for image {uuids.image}',
                          'the rights of nova, .* token of the user')
        self.permits.side_effect = None
        self.permits.return_value = False
        self.show(status='queued')
        self.assert_found('Location', FAILED, 'did not say whether nova may '
                          'download the image, whose status is queued',
                          'Name an active image, or .* status 416')
        self.assertFalse(hasattr(self.checks, 'urls'))

    def test_shown_location(self) -> None:
        other = {'url': 'file:///x'}
        for fields, verdict, detail, remedy in (
            ({'locations': [other]}, FAILED, 'but in: file$', 'Name an .*'),
            ({'locations': [{'url': URL}, other]}, OK,
             f'^{URL}, shown to users as locations', '^$'),
            ({'locations': [{'url': URL}, {'url': URL}], 'direct_url': URL},
             OK, f'^{URL}, shown to users as direct_url', '^$'),
        ):
            self.show(**fields)
            self.assert_found('Location', verdict, detail, remedy)

    def test_hidden_location(self) -> None:
        self.show()
        read = self.replace(locations, 'read', return_value=[URL])
        self.assert_found('Location', OK, f'^{URL}, returned to Nova by GET '
                          '.*, hidden from users')
        read.assert_called_once_with(
            mock.ANY, self.checks.context, uuids.image)
        self.assertEqual([URL], self.checks.urls)
        read.return_value = []
        self.assert_found('Location', FAILED, 'but in: -$', '.')
        read.side_effect = locations.LocationsUnavailable('Glance refuses it')
        self.assert_found(
            'Location', FAILED, '^Glance refuses it$',
            'the roles service and admin.*show_image_direct_url')

    def test_allowed(self) -> None:
        self.show()
        self.checks.urls = ['rbd://x', URL]
        find = self.replace(
            rbd_cluster, 'find_cluster',
            return_value=rbd_cluster.Cluster(FSID, CONF, 0))
        self.assert_found('Allowed', OK,
                          f'^pool images of the cluster in {CONF}$')
        self.assertEqual(URL, self.checks.url)
        # Each location that this host cannot use has its reason.
        self.checks.urls.append(URL.replace(uuids.image, uuids.other))
        self.flags(rbd_pool=['volumes'], group='glance')
        self.assert_found(
            'Allowed', FAILED, 'does not have the form .*; Pool images is not '
            'listed .*; Location refers to RBD image', 'over HTTP')
        self.flags(rbd_pool=[], group='glance')
        self.checks.urls = [URL]
        find.side_effect = transfer.SourceError(reason='Not ours')
        self.assert_found('Allowed', FAILED, '^Not ours$', 'over HTTP')


class TestRead(CheckTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.show()
        self.choose_cluster(CONF, FSID)
        self.checks.url, self.checks.pool = URL, 'images'
        self.checks.location = location.parse(URL)
        self.checks.answering.add(FSID)
        self.open = self.replace(export, 'open_source')
        self.data_pool = self.replace(export, 'data_pool', return_value=None)
        self.assert_read = functools.partial(
            self.assert_found, 'Read from Ceph')

    def test_read(self) -> None:
        for extents in ([(0, b'data')], []):
            self.open.return_value = contextlib.nullcontext(
                fakes.MemorySource(extents))
            self.assert_read(OK, '^client.nova reads the image in pool images')
        self.checks.answering.clear()
        self.assert_read(SKIPPED, 'does not answer')

    def test_not_read(self) -> None:
        for error, remedy in (
            (self.failure(Cause.UNKNOWN, 1),
             "auth get client.nova\" .* pool=images' .*replaces all"),
            (self.failure(Cause.UNKNOWN, 13), 'ceph auth caps'),
            (self.failure(Cause.UNKNOWN, 2), 'Ceph does not contain'),
            (self.failure(Cause.REFUSED, 13), 'health detail'),
            (self.failure(Cause.NO_KEYRING, 2), 'health detail'),
            (self.failure(Cause.NO_ANSWER, 110), f'mon host in {CONF}'),
            (transfer.SourceError(reason='No data'), 'ceph health detail'),
        ):
            self.open.side_effect = error
            self.assert_read(FAILED, f'^{error}$', remedy)

    def test_pool_without_access(self) -> None:
        self.open.side_effect = self.failure(Cause.UNKNOWN, 1)
        for data_pool, pool in (
                (None, 'images'), ('data', 'data'),
                (self.failure(Cause.UNKNOWN, 1), 'images')):
            self.data_pool.side_effect = [data_pool]
            self.checks.pool = 'images'
            self.assert_read(FAILED, 'it', f'read the pool {pool}: .*'
                             f"'profile rbd-read-only pool={pool}'")


class TestKeyManager(CheckTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.manager = self.replace(key_manager, 'API').return_value
        self.flags(verify_glance_signatures=True, group='glance')
        self.log_in()
        self.assert_answer = functools.partial(
            self.assert_found, 'Key manager')

    def test_without_an_image(self) -> None:
        self.flags(verify_glance_signatures=False,
                   enable_certificate_validation=True, group='glance')
        self.assert_answer(SKIPPED, 'not verified')
        self.manager.get.assert_not_called()
        self.flags(default_trusted_certificate_ids=['x'], group='glance')
        self.assert_answer(OK, 'answers')
        # No such certificate exists, but the key manager answers.
        self.manager.get.side_effect = (
            castellan_exc.ManagedObjectNotFoundError(uuid='x'))
        self.assert_answer(OK, '^answers$')

    def test_image(self) -> None:
        self.show()
        self.assert_answer(WARNING, 'is not signed', 'Sign it')
        self.manager.get.reset_mock()
        self.show(properties={'img_signature_certificate_uuid': uuids.cert})
        self.assert_answer(OK, '^answers$')
        self.manager.get.assert_called_once_with(mock.ANY, uuids.cert)
        for failure, verdict, remedy in (
            (castellan_exc.Forbidden(), WARNING, 'token of the user'),
            (castellan_exc.KeyManagerError(reason='Forbidden: not yours'),
             WARNING, 'rights of nova, .*token of the user'),
            (castellan_exc.ManagedObjectNotFoundError(uuid='x'),
             FAILED, 'certificate exists'),
            (castellan_exc.KeyManagerError(reason='off'), FAILED,
             r'\[barbican\]'),
        ):
            self.manager.get.side_effect = failure
            self.assert_answer(verdict, '.', remedy)


READ = {'check': 'Read from Ceph', 'verdict': OK, 'detail': 'client.x',
        'remedy': ''}
SKIP = {**READ, 'verdict': SKIPPED, 'detail': 'no cluster'}
WARN = {'check': 'Image cache', 'verdict': WARNING, 'detail': 'slow',
        'remedy': 'Use ext4.'}
FAIL = {'check': 'Programs', 'verdict': FAILED, 'detail': 'no rbd',
        'remedy': 'Install it. ' * 9}


class TestShown(base.CommandTestCase):
    def show(self, *found: checks.Finding,
             kind: type[io.StringIO] = io.StringIO) -> tuple[bool, str]:
        with (mock.patch.object(checks.Checks, 'run', return_value=found),
              self.captured(kind) as (out, _err)):
            result = checks.run(None, quiet=False)
        self.assertEqual(list(found), result['checks'])
        return result['result'] == 'ok', out.getvalue()

    def test_text(self) -> None:
        read = 'ok    Read from Ceph      client.x\n'
        for found, passed, lines, last in (
            ((READ,), True, read, 'Direct downloads work on this host.'),
            ((SKIP,), True, '-     Read from Ceph      no cluster\n',
             'The checks found no error, but could not try'),
            ((WARN, READ), True, 'WARN  Image cache         slow\n' +
             ' ' * 23 + f'-> Use ext4.\n{read}',
             'Direct downloads work on this host.'),
            ((READ, FAIL), False, f'{read}FAIL  Programs            no rbd\n'
             + ' ' * 23 + '-> ' + 'Install it. ' * 8 + 'Install it.\n',
             'Direct downloads do not work on this host: see FAIL above.'),
        ):
            shown = self.show(*found)
            self.assertEqual(passed, shown[0])
            self.assertEqual(f'{lines}\n{last}', shown[1][
                :len(lines) + 1 + len(last)])

    def test_width_of_the_terminal(self) -> None:
        self.replace(os, 'environ', new=os.environ | {'COLUMNS': '60'})
        _passed, out = self.show(FAIL, kind=base.Terminal)
        self.assertEqual('Install it. ' * 9, ''.join(
            line[26:].strip() + ' ' for line in out.splitlines()[1:-2]))
        self.assertLessEqual(max(map(len, out.splitlines()[:-1])), 60)
