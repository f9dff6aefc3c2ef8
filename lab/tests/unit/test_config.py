# SPDX-License-Identifier: Apache-2.0

import os
import pathlib
import stat

import fixtures
from oslo_config import cfg
import testtools

from lab import config


class TestConfig(testtools.TestCase):

    def setUp(self):
        super().setUp()
        self.directory = pathlib.Path(
            self.useFixture(fixtures.TempDir()).path)

    def test_merge_last_layer_wins(self):
        merged = config.merge(
            {'DEFAULT': {'debug': False, 'host': 'a'}},
            {'DEFAULT': {'debug': True}, 'glance': {'rbd_user': 'x'}})
        self.assertEqual(
            {'DEFAULT': {'debug': True, 'host': 'a'},
             'glance': {'rbd_user': 'x'}}, merged)

    def test_merge_leaves_its_layers_alone(self):
        layer = {'DEFAULT': {'debug': False}}
        config.merge(layer, {'DEFAULT': {'debug': True}})
        self.assertEqual({'DEFAULT': {'debug': False}}, layer)

    def test_oslo_config_reads_what_is_written(self):
        path = config.write(self.directory / 'x.conf', config.render({
            'DEFAULT': {'flag': True, 'absent': None, 'number': 5},
            'group': {'names': ['a', 'b'], 'path': pathlib.Path('/x')}}))
        conf = cfg.ConfigOpts()
        conf.register_opts([
            cfg.BoolOpt('flag'), cfg.StrOpt('absent'), cfg.IntOpt('number')])
        conf.register_opts(
            [cfg.ListOpt('names'), cfg.StrOpt('path')], group='group')
        conf([], default_config_files=[str(path)])
        self.assertIs(True, conf.flag)
        self.assertIsNone(conf.absent)
        self.assertEqual(5, conf.number)
        self.assertEqual(['a', 'b'], conf.group.names)
        self.assertEqual('/x', conf.group.path)

    def test_write_sets_the_mode_whatever_the_umask(self):
        self.addCleanup(os.umask, os.umask(0o077))
        path = config.write(self.directory / 'x', 'text', 0o644)
        self.assertEqual(0o644, stat.S_IMODE(path.stat().st_mode))

    def test_write_replaces_a_file_whole(self):
        path = self.directory / 'x'
        config.write(path, 'long text', 0o600)
        config.write(path, 'text', 0o600)
        self.assertEqual('text', path.read_text())
        self.assertEqual(['x'], os.listdir(self.directory))
