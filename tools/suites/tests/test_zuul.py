# SPDX-License-Identifier: Apache-2.0

"""Zuul reads .zuul.yaml only when a change is up for review: this is sooner.

These tests know nothing about other projects: parent jobs, plugins and their
variables.
"""

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
    return yaml.safe_load((loading.ROOT / path).read_text(encoding='utf-8'))


def _files(folder: str, pattern: str) -> set[str]:
    return {path.relative_to(loading.ROOT).as_posix()
            for path in (loading.ROOT / folder).rglob(pattern)}


class ZuulTestCase(testtools.TestCase):

    def setUp(self) -> None:
        super().setUp()
        items = [item for entry in _load('.zuul.yaml')
                 for item in entry.items()]
        self.projects = [item for kind, item in items if kind == 'project']
        [self.job] = [item for kind, item in items
                      if kind == 'job' and item['name'] == JOB]
        self.playbooks = [self.job['pre-run'], self.job['post-run']]
        self.roles = {role for playbook in self.playbooks
                      for play in _load(playbook)
                      for role in play['roles']}
        self.tasks = [
            (f'roles/{role}', task) for role in self.roles - OTHER_ROLES
            for task in _load(f'roles/{role}/tasks/main.yaml')]
        self.roles |= {
            task['ansible.builtin.include_role']['name']
            for _role, task in self.tasks
            if 'ansible.builtin.include_role' in task}
        self.vars = self.job['vars']
        self.localrc = self.vars['devstack_localrc']
        self.sections = self.vars['devstack_local_conf']['post-config'][
            '$NOVA_CPU_CONF']

    def test_pipeline(self):
        self.assertEqual([{'experimental': {'jobs': [JOB]}}], self.projects)

    def test_files(self):
        """Every file that is named exists, and every file is named."""
        own = self.roles - OTHER_ROLES
        named = {f'roles/{role}/{name}' for role in own for name in (
            'README.rst', 'defaults/main.yaml', 'tasks/main.yaml')}
        for role, task in self.tasks:
            for module, folder in (('copy', 'files'),
                                   ('template', 'templates')):
                source = task.get(f'ansible.builtin.{module}', {}).get('src')
                if source:
                    named.add(f'{role}/{folder}/{source}')
        self.assertEqual(named, _files('roles', '*.*'))
        self.assertEqual(set(self.playbooks), _files('playbooks', '*.*'))

    def test_scripts(self):
        scripts = _files('roles', '*.sh')
        self.assertTrue(scripts)
        for script in scripts:
            subprocess.run(
                ['bash', '-n', loading.ROOT / script], check=True)

    def test_irrelevant_files(self):
        patterns = self.job['irrelevant-files']
        relevant = {'.zuul.yaml', *self.playbooks}.union(*(
            _files(folder, f'*.{suffix}')
            for folder in ('roles', 'nova/image', 'nova/privsep', 'nova/conf')
            for suffix in ('py', 'sh', 'yaml', 'j2')))
        irrelevant = {
            'README.rst', 'tox.ini', 'doc/source/index.rst', '.gitignore',
            'nova/tests/unit/image/test_rbd.py', 'tools/test.sh',
            'lab/ceph.py',
            'roles/rbd-download-host/README.rst'}
        self.assertEqual(irrelevant, {
            name for name in relevant | irrelevant
            if any(re.match(pattern, name) for pattern in patterns)})

    def test_options_of_nova(self):
        nova_conf = self.useFixture(config_fixture.Config(nova.conf.CONF))
        for section, values in self.sections.items():
            group = None if section == 'DEFAULT' else section
            # An unknown name and an invalid value raise an error.
            nova_conf.config(group=group, **{
                name: str(value) for name, value in values.items()})
        self.assertRaises(
            cfg.NoSuchOptError, nova_conf.config,
            group='glance', allowed_direct_url_scheme='rbd')
        conf = nova_conf.conf
        self.assertFalse(conf.force_raw_images)
        self.assertEqual('qcow2', conf.libvirt.images_type)
        self.assertEqual(['rbd'], conf.glance.allowed_direct_url_schemes)
        # whitebox requires these two.
        self.assertEqual(['images'], conf.glance.rbd_pool)
        self.assertTrue(conf.glance.enable_rbd_download)

    def test_same_values_everywhere(self):
        """Nova, Glance, devstack and the roles use the same names."""
        glance = self.sections['glance']
        self.assertEqual(self.vars['rbd_download_client'], glance['rbd_user'])
        self.assertEqual({glance['rbd_pool']}, {
            self.vars['rbd_download_pool'], self.localrc['GLANCE_CEPH_POOL']})
        self.assertEqual('/etc/ceph/ceph.conf', glance['rbd_ceph_conf'])
        base = _load('roles/rbd-download-host/defaults/main.yaml')
        self.assertEqual(
            f'{base["rbd_download_base_dir"]}/whitebox-nodes.yaml',
            self.localrc['WHITEBOX_NODES_YAML'])
        # Zuul checks out what devstack enables.
        for name, url in self.vars['devstack_plugins'].items():
            self.assertEqual(f'https://opendev.org/openstack/{name}', url)
            self.assertIn(f'openstack/{name}', self.job['required-projects'])

    def test_tempest(self):
        for name, runs in (
            ('whitebox_tempest_plugin.api.compute.test_rbd_direct_download.'
             'TestRBDDirectDownload.test_rbd_logs_and_conf', True),
            ('tempest.scenario.test_snapshot_pattern.TestSnapshotPattern.'
             'test_snapshot_pattern', True),
            ('whitebox_tempest_plugin.api.compute.test_cpu_pinning.A.test',
             False),
            ('tempest.api.volume.test_volumes_get.A.test', False),
        ):
            found = re.search(self.vars['tempest_test_regex'], name)
            self.assertEqual(runs, bool(found), name)
        excluded = self.vars['tempest_exclude_regex']
        self.assertTrue(re.search(excluded, 'a.B.test_c[id-1,slow]'))
        self.assertFalse(re.search(excluded, 'a.B.test_c[id-1,compute]'))
