# SPDX-License-Identifier: Apache-2.0

import pathlib
from unittest import mock

import ddt
import fixtures
from oslo_config import cfg

from nova.conf import glance
from nova.conf import libvirt
from nova import test


# The [glance] group of Nova 34.0.0: its own options, and those that
# keystoneauth1 gives it. (Newer releases of that library add some.)
RELEASED_OPTIONS = {
    'api_servers', 'debug', 'default_trusted_certificate_ids',
    'enable_certificate_validation', 'enable_rbd_download', 'num_retries',
    'rbd_ceph_conf', 'rbd_connect_timeout', 'rbd_pool', 'rbd_user',
    'verify_glance_signatures',
}
LIBRARY_OPTIONS = {
    'cafile', 'certfile', 'collect_timing', 'connect_retries',
    'connect_retry_delay', 'endpoint_override', 'insecure', 'keyfile',
    'region_name', 'retriable_status_codes', 'service_name', 'service_type',
    'split_loggers', 'status_code_retries', 'status_code_retry_delay',
    'timeout', 'valid_interfaces',
}
NEW_OPTIONS = {
    'allowed_direct_url_schemes', 'direct_download_rate_limit',
    'rbd_stall_timeout', 'verify_direct_download',
}


class GlanceConfTestCase(test.NoDBTestCase):
    def _parse(self, text: str = '') -> cfg.ConfigOpts:
        """Read a nova.conf with this text in its [glance] group."""
        path = pathlib.Path(
            self.useFixture(fixtures.TempDir()).path, 'nova.conf')
        path.write_text(f'[glance]\n{text}\n')
        conf = cfg.ConfigOpts()
        # A group is shared by all that it is registered with: use a new one.
        with mock.patch.object(
                glance, 'glance_group', cfg.OptGroup('glance')):
            glance.register_opts(conf)
        conf(args=[], project='nova', default_config_files=[str(path)],
             default_config_dirs=[])
        return conf


@ddt.ddt
class TestOptions(GlanceConfTestCase):
    def test_names(self) -> None:
        self.assertEqual(sorted(RELEASED_OPTIONS | NEW_OPTIONS),
                         sorted(opt.dest for opt in glance.glance_opts))

    def test_listed_for_the_sample_file(self) -> None:
        (group, opts), = glance.list_opts().items()
        self.assertEqual('glance', group.name)
        names = [opt.dest for opt in opts]
        self.assertEqual(len(names), len(set(names)))
        self.assertLessEqual(
            RELEASED_OPTIONS | LIBRARY_OPTIONS | NEW_OPTIONS, set(names))

    def test_every_listed_option_is_registered(self) -> None:
        conf = self._parse()
        (_group, opts), = glance.list_opts().items()
        for opt in opts:
            self.assertIn(opt.dest, conf.glance)

    @ddt.data(
        ('api_servers', None),
        ('num_retries', 3),
        ('debug', False),
        ('verify_glance_signatures', False),
        ('enable_certificate_validation', False),
        ('default_trusted_certificate_ids', []),
        ('allowed_direct_url_schemes', []),
        ('verify_direct_download', True),
        ('direct_download_rate_limit', 0),
        ('enable_rbd_download', False),
        ('rbd_user', ''),
        ('rbd_ceph_conf', []),
        ('rbd_pool', []),
        ('rbd_connect_timeout', 5),
        ('rbd_stall_timeout', 60),
        ('service_type', 'image'),
        ('valid_interfaces', ['internal', 'public']),
        ('insecure', False),
        ('min_version', None),
    )
    @ddt.unpack
    def test_default(self, name: str, value: object) -> None:
        self.assertEqual(value, self._parse().glance[name])

    def test_mutable(self) -> None:
        """SIGHUP enables and disables direct downloads."""
        conf = self._parse()
        pathlib.Path(*conf.config_file).write_text(
            '[glance]\nallowed_direct_url_schemes = rbd\n'
            'enable_rbd_download = true\nverify_direct_download = false\n'
            'rbd_pool = images\n')
        conf.mutate_config_files()
        self.assertEqual(
            (['rbd'], True, False, []),
            (conf.glance.allowed_direct_url_schemes,
             conf.glance.enable_rbd_download,
             conf.glance.verify_direct_download, conf.glance.rbd_pool))

    def test_retries_are_not_negative(self) -> None:
        self.assertEqual(0, self._parse('num_retries = 0').glance.num_retries)
        group = self._parse('num_retries = -1').glance
        self.assertRaises(
            cfg.ConfigFileValueError, getattr, group, 'num_retries')

    def test_help_is_there_and_names_options_that_exist(self) -> None:
        known = {f'glance.{name}' for name in RELEASED_OPTIONS | NEW_OPTIONS}
        known |= {f'libvirt.{opt.dest}'
                  for opts in libvirt.list_opts().values() for opt in opts}
        for opt in glance.glance_opts:
            text = (opt.help or '').strip()
            self.assertNotEqual('', text, opt.name)
            for piece in text.split(':oslo.config:option:`')[1:]:
                self.assertIn(piece.partition('`')[0], known, opt.name)


@ddt.ddt
class TestNovaConf(GlanceConfTestCase):
    @ddt.data(
        ('rbd_pool = images', 'rbd_pool', ['images']),
        ('rbd_pool = images, old-images', 'rbd_pool',
         ['images', 'old-images']),
        ('rbd_pool =', 'rbd_pool', []),
        ('rbd_ceph_conf = /etc/ceph/a.conf', 'rbd_ceph_conf',
         ['/etc/ceph/a.conf']),
        ('rbd_ceph_conf = /a.conf,/b.conf', 'rbd_ceph_conf',
         ['/a.conf', '/b.conf']),
        ('rbd_user = glance', 'rbd_user', 'glance'),
        ('allowed_direct_url_schemes = rbd', 'allowed_direct_url_schemes',
         ['rbd']),
        ('verify_direct_download = false', 'verify_direct_download', False),
        ('api_servers = http://a:9292,http://b:9292', 'api_servers',
         ['http://a:9292', 'http://b:9292']),
    )
    @ddt.unpack
    def test_value(self, text: str, name: str, value: object) -> None:
        self.assertEqual(value, self._parse(text).glance[name])

    def test_old_name_of_insecure(self) -> None:
        self.assertIs(True, self._parse('api_insecure = true').glance.insecure)

    @ddt.data(
        ('ca_file', 'cafile'), ('cert_file', 'certfile'),
        ('key_file', 'keyfile'))
    @ddt.unpack
    def test_old_place_of_tls_files(self, old: str, new: str) -> None:
        conf = self._parse(f'[ssl]\n{old} = /etc/nova/tls.pem')
        self.assertEqual('/etc/nova/tls.pem', conf.glance[new])


class TestCeph(GlanceConfTestCase):
    """The options as both sides of a direct download read them."""

    def test_confs_and_user(self) -> None:
        for text, libvirt_conf, libvirt_user, confs, user in (
            ('', '', None, ['/etc/ceph/ceph.conf'], ''),
            ('', '/a.conf', 'nova', ['/a.conf'], 'nova'),
            ('rbd_ceph_conf = /b.conf,/c.conf\nrbd_user = glance',
             '/a.conf', 'nova', ['/b.conf', '/c.conf'], 'glance'),
        ):
            conf = mock.Mock(
                glance=self._parse(text).glance,
                libvirt=mock.Mock(images_rbd_ceph_conf=libvirt_conf,
                                  rbd_user=libvirt_user))
            self.assertEqual(confs, glance.ceph_confs(conf))
            self.assertEqual(user, glance.ceph_user(conf))

    def test_timeouts(self) -> None:
        for name, read, longest in (
            ('rbd_connect_timeout', glance.connect_timeout, 300),
            ('rbd_stall_timeout', glance.stall_timeout, 86400),
        ):
            for value, used in (
                (-1, 1), (0, 1), (1, 1), (2, 2), (longest, longest),
                (longest + 1, longest), (10 ** 30, longest),
            ):
                conf = self._parse(f'{name} = {value}')
                self.assertEqual(used, read(conf))
                self.assertEqual(
                    [] if used == value else
                    [f'[glance] {name} is {value}, but must be 1 to '
                     f'{longest}: Nova uses {used}'],
                    glance.timeouts_out_of_range(conf))
            conf = self._parse(f'{name} = soon')
            for function in (read, glance.timeouts_out_of_range):
                self.assertRaisesRegex(
                    cfg.ConfigFileValueError, name, function, conf)

    def test_cluster(self) -> None:
        for path, name in (
            ('/etc/ceph/ceph.conf', 'ceph'),
            ('/etc/ceph/site-1.conf', 'site-1'), ('a.b.conf', 'a.b'),
            ('/x.conf/site.conf', 'site'), ('/x.conf/site', 'ceph'),
            ('/etc/ceph/site.config', 'site'), ('/etc/ceph/site', 'ceph'),
        ):
            self.assertEqual(name, glance.ceph_cluster(path), path)


@ddt.ddt
class TestDeprecation(GlanceConfTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.log = self.useFixture(
            fixtures.FakeLogger(name='oslo_config.cfg'))
        # Otherwise there is only one warning in a process.
        self.useFixture(fixtures.MockPatch(
            'oslo_log.versionutils._deprecated_messages_sent', {}))
        for opt in glance.glance_opts:
            self.useFixture(fixtures.MockPatchObject(
                opt, '_logged_deprecation', False))

    def test_rbd_download_points_to_its_successor(self) -> None:
        conf = self._parse('enable_rbd_download = true')
        self.assertIs(True, conf.glance.enable_rbd_download)
        self.assertIn('"enable_rbd_download" from group "glance" is '
                      'deprecated', self.log.output)
        self.assertIn('allowed_direct_url_schemes', self.log.output)

    @ddt.data('allowed_direct_url_schemes = rbd', 'rbd_pool = images',
              'rbd_user = glance', 'rbd_ceph_conf = /a.conf',
              'verify_direct_download = true')
    def test_no_word_about_the_others(self, text: str) -> None:
        conf = self._parse(text)
        conf.glance[text.partition(' ')[0]]
        self.assertEqual('', self.log.output)
