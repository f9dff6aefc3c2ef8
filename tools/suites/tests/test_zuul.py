# SPDX-License-Identifier: Apache-2.0

"""Zuul reads .zuul.yaml only when a change is up for review: this is sooner.

What other projects have (parent jobs, plugins, their variables) is not known
here.
"""

import functools
import pathlib
import re
import subprocess
from typing import Any

import nova.conf
from oslo_config import cfg
from oslo_config import fixture as config_fixture
import testtools
import yaml

from suites import loading

JOB = 'nova-ceph-qcow2-rbd-download'
# Roles of zuul-jobs, which every job of OpenStack's Zuul can use.
OTHER_ROLES = {'copy-build-sshkey'}


def _load(path: str) -> Any:
    text = (loading.ROOT / path).read_text(encoding='utf-8')
    return yaml.safe_load(text)


@functools.cache
def _items() -> list[tuple[str, Any]]:
    return [(kind, item) for entry in _load('.zuul.yaml')
            for kind, item in entry.items()]


def _job() -> dict[str, Any]:
    [job] = [item for kind, item in _items()
             if kind == 'job' and item['name'] == JOB]
    return job


def _playbooks() -> list[str]:
    found: list[str] = []
    for key in ('pre-run', 'run', 'post-run'):
        value = _job().get(key, [])
        found += [value] if isinstance(value, str) else value
    return found


def _roles() -> set[str]:
    """The roles that the playbooks of the job name, and so on from there."""
    pending = [role for playbook in _playbooks()
               for play in _load(playbook) for role in play['roles']]
    found: set[str] = set()
    while pending:
        role = pending.pop()
        found.add(role)
        if role in OTHER_ROLES:
            continue
        for task in _load(f'roles/{role}/tasks/main.yaml'):
            included = task.get('ansible.builtin.include_role')
            if included and included['name'] not in found:
                pending.append(included['name'])
    return found


def _files(folder: str, pattern: str) -> list[pathlib.Path]:
    return sorted((loading.ROOT / folder).rglob(pattern))


class ZuulTestCase(testtools.TestCase):

    def test_pipeline(self):
        projects = [item for kind, item in _items() if kind == 'project']
        self.assertEqual([{'experimental': {'jobs': [JOB]}}], projects)

    def test_playbooks_and_roles(self):
        own = _roles() - OTHER_ROLES
        self.assertTrue(own)
        for role in own:
            for file in ('README.rst', 'defaults/main.yaml'):
                path = loading.ROOT / 'roles' / role / file
                self.assertTrue(path.is_file(), path)

    def test_nothing_is_left_over(self):
        self.assertEqual(
            {path.relative_to(loading.ROOT).as_posix()
             for path in _files('playbooks', '*.yaml')}, set(_playbooks()))
        self.assertEqual(
            {path.name for path in (loading.ROOT / 'roles').iterdir()},
            _roles() - OTHER_ROLES)

    def test_files_that_tasks_name(self):
        names = []
        for role in _roles() - OTHER_ROLES:
            for task in _load(f'roles/{role}/tasks/main.yaml'):
                for module, folder in (('copy', 'files'),
                                       ('template', 'templates')):
                    source = task.get(f'ansible.builtin.{module}', {}).get(
                        'src')
                    if source:
                        names.append(f'roles/{role}/{folder}/{source}')
        self.assertEqual(
            sorted(names),
            [path.relative_to(loading.ROOT).as_posix()
             for path in _files('roles', '*')
             if path.parent.name in ('files', 'templates')])

    def test_scripts(self):
        scripts = _files('roles', '*.sh')
        self.assertTrue(scripts)
        for script in scripts:
            subprocess.run(['bash', '-n', str(script)], check=True)

    def test_irrelevant_files(self):
        patterns = [re.compile(text) for text in _job()['irrelevant-files']]

        def irrelevant(name: str) -> bool:
            return any(pattern.match(name) for pattern in patterns)

        wanted = ['.zuul.yaml', *_playbooks()]
        wanted += [path.relative_to(loading.ROOT).as_posix()
                   for folder in ('roles', 'nova/image', 'nova/privsep',
                                  'nova/conf')
                   for path in _files(folder, '*.*')
                   if path.suffix in ('.py', '.sh', '.yaml', '.j2')]
        self.assertEqual([], [name for name in wanted if irrelevant(name)])
        for name in ('README.rst', 'tox.ini', 'doc/source/index.rst',
                     'nova/tests/unit/image/test_rbd.py', '.gitignore',
                     'roles/rbd-download-host/README.rst', 'tools/test.sh',
                     'lab/ceph.py'):
            self.assertTrue(irrelevant(name), name)


class ConfigTestCase(testtools.TestCase):
    """What the job has devstack write into nova-cpu.conf."""

    def setUp(self) -> None:
        super().setUp()
        self.variables = _job()['vars']
        local_conf = self.variables['devstack_local_conf']['post-config']
        self.sections = local_conf['$NOVA_CPU_CONF']
        self.nova = self.useFixture(config_fixture.Config(nova.conf.CONF))

    def test_options(self):
        for section, values in self.sections.items():
            group = None if section == 'DEFAULT' else section
            # A name or a value that Nova does not know raises an error.
            self.nova.config(group=group, **{
                name: str(value) for name, value in values.items()})
        conf = self.nova.conf
        self.assertFalse(conf.force_raw_images)
        self.assertEqual('qcow2', conf.libvirt.images_type)
        self.assertEqual(['rbd'], conf.glance.allowed_direct_url_schemes)
        # whitebox compares and demands these two.
        self.assertEqual(['images'], conf.glance.rbd_pool)
        self.assertTrue(conf.glance.enable_rbd_download)

    def test_unknown_option(self):
        self.assertRaises(
            cfg.NoSuchOptError, self.nova.config,
            group='glance', allowed_direct_url_scheme='rbd')

    def test_ceph(self):
        """Nova, Glance and the role speak of the same client and pool."""
        glance = self.sections['glance']
        self.assertEqual(
            self.variables['rbd_download_client'], glance['rbd_user'])
        self.assertEqual(
            [glance['rbd_pool']] * 2,
            [self.variables['rbd_download_pool'],
             self.variables['devstack_localrc']['GLANCE_CEPH_POOL']])
        self.assertEqual('/etc/ceph/ceph.conf', glance['rbd_ceph_conf'])

    def test_plugins(self):
        """Zuul checks out what devstack enables."""
        projects = set(_job()['required-projects'])
        for name, url in self.variables['devstack_plugins'].items():
            self.assertEqual(f'https://opendev.org/openstack/{name}', url)
            self.assertIn(f'openstack/{name}', projects)

    def test_nodes(self):
        """whitebox looks where the role puts its file."""
        base = _load('roles/rbd-download-host/defaults/main.yaml')
        self.assertEqual(
            f'{base["rbd_download_base_dir"]}/whitebox-nodes.yaml',
            self.variables['devstack_localrc']['WHITEBOX_NODES_YAML'])

    def test_tempest(self):
        """The expression takes whole modules, and whitebox's test."""
        chosen = re.compile(self.variables['tempest_test_regex'])
        for name in (
                'whitebox_tempest_plugin.api.compute.test_rbd_direct_download.'
                'TestRBDDirectDownload.test_rbd_logs_and_conf',
                'tempest.scenario.test_snapshot_pattern.TestSnapshotPattern.'
                'test_snapshot_pattern'):
            self.assertTrue(chosen.search(name), name)
        for name in (
                'whitebox_tempest_plugin.api.compute.test_cpu_pinning.A.test',
                'tempest.api.volume.test_volumes_get.A.test'):
            self.assertFalse(chosen.search(name), name)
        excluded = re.compile(self.variables['tempest_exclude_regex'])
        self.assertTrue(excluded.search('a.B.test_c[id-1,slow]'))
        self.assertFalse(excluded.search('a.B.test_c[id-1,compute]'))
