# SPDX-License-Identifier: Apache-2.0

"""The check that nova-status makes of the options of direct downloads."""

import argparse
import os
import pathlib
import stat
from unittest import mock

import fixtures
from oslo_upgradecheck import upgradecheck

from nova.cmd import status
import nova.conf
from nova.image import upgrade_check
from nova import test

CONF = nova.conf.CONF
Code = upgradecheck.Code


class UpgradeCheckTestCase(test.NoDBTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.directory = pathlib.Path(
            self.useFixture(fixtures.TempDir()).path).resolve()
        self.conf = self.directory / 'ceph.conf'
        self.conf.touch(0o644)
        self.owners: dict[pathlib.Path, int] = {}
        self.useFixture(fixtures.MonkeyPatch(
            'pathlib.Path.stat', lambda path: self.stat(path)))
        self.flags(rbd_ceph_conf=[str(self.conf)], group='glance')

    def stat(self, path: pathlib.Path) -> os.stat_result:
        """Have all files belong to root, unless self.owners has others."""
        found = list(os.stat(path))
        found[4] = self.owners.get(path, 0)
        if path in self.directory.parents:
            found[0] = stat.S_IFDIR | 0o755
        return os.stat_result(found)

    def check(self) -> str:
        """Return the details of the warning, '' for a success."""
        result = upgrade_check.UpgradeCommands()._check_direct_downloads()
        details = result.details or ''
        self.assertEqual(Code.WARNING if details else Code.SUCCESS,
                         result.code)
        return details

    def assert_found(self, *patterns: str, **options: object) -> None:
        """Check that each pattern matches one sentence of the details."""
        self.flags(group='glance', **options)
        self.assertRegex(
            self.check(), '^' + r'\. '.join(patterns) + r'\.$')

    def test_nothing_to_say(self) -> None:
        self.assertEqual('', self.check())
        # They have no effect without direct downloads.
        self.flags(rbd_pool=['images'], rbd_connect_timeout=0,
                   rbd_ceph_conf=['/nowhere/ceph.conf'], group='glance')
        self.assertEqual('', self.check())

    def test_direct_downloads(self) -> None:
        self.flags(allowed_direct_url_schemes=['rbd'], group='glance')
        self.assertEqual('', self.check())

    def test_options(self) -> None:
        self.assert_found('.* over HTTP: file. The supported schemes are: rbd',
                          allowed_direct_url_schemes=['file'])
        self.assert_found(
            '.* are: rbd', '.* enable_rbd_download .* is deprecated.*',
            enable_rbd_download=True)
        self.assert_found(
            '.* are: rbd', '.* enable_rbd_download .*',
            '.* rbd_pool, .* directly: images, old',
            '.* rbd_connect_timeout is 0, .* uses 1',
            '.* rbd_stall_timeout is 99999, .* uses 86400',
            rbd_pool=['images', 'old'], rbd_connect_timeout=0,
            rbd_stall_timeout=99999)

    def test_timeout_is_no_number(self) -> None:
        path = self.directory / 'nova.conf'
        path.write_text('[glance]\nenable_rbd_download = true\n'
                        'rbd_stall_timeout = soon\n')
        CONF([], default_config_files=[str(path)], default_config_dirs=[])
        self.assert_found('.* enable_rbd_download .*',
                          '.* only HTTP: .* rbd_stall_timeout .* not valid.*')

    def test_ceph_conf(self) -> None:
        self.flags(allowed_direct_url_schemes=['rbd'], group='glance')
        link = self.directory / 'link.conf'
        link.symlink_to('ceph.conf')
        self.flags(rbd_ceph_conf=[str(link)], group='glance')
        for step, owner, mode, found in (
            (self.conf, 0, 0o644, False), (self.conf, 0, 0o600, False),
            (self.conf, 0, 0o664, True), (self.conf, 0, 0o646, True),
            (self.conf, 42, 0o600, True), (self.conf, 0, 0o1646, True),
            (self.directory, 0, 0o755, False),
            (self.directory, 0, 0o1777, False),
            (self.directory, 0, 0o775, True),
            (self.directory, 42, 0o1777, True),
        ):
            before = os.stat(step).st_mode
            os.chmod(step, mode)
            self.owners[step] = owner
            self.assertEqual(
                f'Root is not the only user that can change {step}: rbd runs '
                'as the user of nova-compute, which must be able to read '
                f'{link} and the keyring.' * found, self.check())
            os.chmod(step, before)
            self.owners.clear()

    def test_no_ceph_conf(self) -> None:
        self.assert_found(
            '/nowhere/a.conf, .*: No such file or directory',
            f'{self.conf}/b, .*: Not a directory',
            allowed_direct_url_schemes=['rbd'],
            rbd_ceph_conf=['/nowhere/a.conf', str(self.conf),
                           f'{self.conf}/b'])


class TestCommand(test.NoDBTestCase):
    def test_checks(self) -> None:
        """The release makes all its checks, and this one comes last."""
        released = status.UpgradeCommands._upgrade_checks
        checks = upgrade_check.UpgradeCommands._upgrade_checks
        self.assertEqual(released, checks[:-1])
        self.assertEqual('Direct image downloads', checks[-1][0])

    def test_main(self) -> None:
        parser = argparse.ArgumentParser()

        def main() -> int:
            status.add_command_parsers(parser.add_subparsers())
            return 7

        with (mock.patch.dict(status.CATEGORIES),
              mock.patch.object(status, 'main', main)):
            self.assertEqual(7, upgrade_check.main())
        action = parser.parse_args(['upgrade', 'check']).action_fn
        self.assertIsInstance(action.__self__, upgrade_check.UpgradeCommands)
