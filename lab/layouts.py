# SPDX-License-Identifier: Apache-2.0
"""Compute hosts as deployment tools lay them out.

The files of Ceph and Nova have the paths, owners and modes, and ceph.conf has
the text that a tool gives them. Each class names the tool's files that say so.
What a tool does not set is as the packages have it: /etc/ceph is root's, 0755.

On all of them, instances have local disks, and the Ceph client has no rights
but to read images. To what the tool writes, the operator has added
[glance] allowed_direct_url_schemes = rbd.

As the lab's monitor does not listen on a default port, an address has a port
where the tool writes a bare one.
"""

from collections.abc import Mapping
import os
import pathlib
import re
import sys
import typing as ty

from lab import ceph as lab_ceph
from lab import cloud as lab_cloud
from lab import compute
from lab import config
from lab import glance
from lab import namespace
from lab import process

_CAPS = {
    'mon': 'profile rbd',
    'osd': f'profile rbd-read-only pool={glance.POOL}',
}


class LayoutHost(compute.ComputeHost):
    """A compute host with an /etc and a /var/lib of its own.

    /etc is a copy of this machine's, with an account nova, and /var/lib is
    empty. No tool sets [nova_sys_admin] helper_command, so Nova starts the
    privsep daemon by its default, sudo nova-rootwrap.

    :cvar uid: of the account
    :cvar groups: supplementary groups of the account
    :cvar ceph_user: the Ceph client, without ``client.``
    :cvar config_options: the options of nova-compute's command line
    """

    uid: ty.ClassVar[int]
    groups: ty.ClassVar[tuple[str, ...]] = ()
    ceph_user: ty.ClassVar[str] = 'cinder'
    config_options: ty.ClassVar[tuple[str, ...]] = ()

    def __init__(self, cloud: lab_cloud.Cloud, *, name: str,
                 cluster: str = 'ceph',
                 others: Mapping[str, lab_ceph.Ceph] | None = None,
                 options: config.Options | None = None,
                 python: process.Argument = sys.executable) -> None:
        """Describe the host; setUp() makes it.

        :param cluster: what the tool calls the cluster of the cloud
        :param others: more clusters, by their names
        """
        super().__init__(cloud, name=name, options=options, python=python)
        self.clusters = {cluster: cloud.ceph, **(others or {})}
        self.ceph_conf = pathlib.Path(f'/etc/ceph/{cluster}.conf')
        self.account = namespace.Account('nova', self.uid, self.uid, tuple(
            namespace.account(group).gid for group in self.groups))
        self._mounts = [(self._outside(path), pathlib.Path(path))
                        for path in ('/etc', '/var/lib')]

    def _outside(self, path: str) -> pathlib.Path:
        """Return the path on this machine of a file on the host."""
        return self.directory / path.lstrip('/')

    def put(self, path: str, text: str, mode: int = 0o644,
            owner: str = 'root:root') -> None:
        """Write a file on the host.

        :param owner: names of user and group
        """
        user, group = self._ids(owner)
        config.write(
            self._outside(path), text, mode, owner=user, group=group)

    def make_directory(self, path: str, mode: int = 0o755,
                       owner: str = 'root:root') -> None:
        """Make a directory on the host, or change the one there is."""
        outside = self._outside(path)
        outside.mkdir(parents=True, exist_ok=True)
        os.chown(outside, *self._ids(owner))
        outside.chmod(mode)

    def link(self, path: str, target: str) -> None:
        """Make a symbolic link on the host."""
        self._outside(path).symlink_to(target)

    def _ids(self, owner: str) -> tuple[int, int]:
        user, group = (self.account if name == 'nova' else
                       namespace.account(name) for name in owner.split(':'))
        return user.uid, group.gid

    def _write_ceph_client(self) -> None:
        process.run(['cp', '--archive', '/etc', self._outside('/etc')])
        self._outside('/var/lib').mkdir(parents=True)
        self._add_account()
        self.make_directory('/etc/nova')
        prefix = self.python.parent.parent
        self.put('/etc/nova/rootwrap.conf', config.render({'DEFAULT': {
            'filters_path': prefix / 'etc/nova/rootwrap.d',
            'exec_dirs': [str(self.python.parent), '/usr/sbin', '/usr/bin']}}))
        self.write_ceph_client()

    def _add_account(self) -> None:
        line = f'nova:*:{self.uid}:'
        home = self.directory / 'state'
        with open(self._outside('/etc/passwd'), 'a') as file:
            file.write(f'{line}{self.uid}::{home}:/bin/sh\n')
        path = self._outside('/etc/group')
        text = path.read_text()
        for group in self.groups:
            text = re.sub(f'(?m)^{group}:.*:$', r'\g<0>nova', text)
        path.write_text(f'{text}{line}\n')

    def write_ceph_client(self) -> None:
        """Write the tool's files of the Ceph client."""
        raise NotImplementedError

    def keyring_text(self, name: str) -> str:
        """The text of the Ceph client's keyring.

        :param name: of the cluster
        """
        return self.clusters[name].create_user(
            self.ceph_user, _CAPS).read_text()

    def configure(self, options: config.Options | None = None) -> None:
        self.write_nova_conf(config.merge(
            self._usual_options(),
            {'nova_sys_admin': {'helper_command': None},
             'libvirt': {'rbd_user': self.ceph_user}},
            self.cloud.nova_options(), self.tool_options(), options or {}))

    def tool_options(self) -> config.Options:
        """The options that only this tool sets in nova.conf."""
        return {}

    def write_nova_conf(self, options: config.Options) -> None:
        """Write the tool's configuration files of Nova."""
        raise NotImplementedError

    def config_argv(self) -> list[process.Argument]:
        return list(self.config_options)

    def _sudoers(self) -> str:
        here = self.python.parent
        program = compute.escape(str(here / 'nova-rootwrap'))
        return (f'Defaults env_reset, !syslog, '
                f'secure_path="{here}:/usr/sbin:/usr/bin:/sbin:/bin"\n'
                f'nova ALL = (root) NOPASSWD: {program}'
                f' /etc/nova/rootwrap.conf *\n')


class KollaAnsible(LayoutHost):
    """The container nova_compute of kolla-ansible.

    kolla-ansible: ansible/roles/nova-cell/templates/nova-compute.json.j2 and
    nova.conf.d/libvirt.conf.j2, doc/.../external-ceph-guide.rst; kolla:
    docker/base/set_configs.py, kolla/common/users.py.
    """

    uid = 42436

    def write_ceph_client(self) -> None:
        for name, ceph in self.clusters.items():
            self.put(f'/etc/ceph/{name}.conf', (
                f'[global]\nfsid = {ceph.fsid}\nmon_host = {ceph.address}\n'
                'auth_cluster_required = cephx\n'
                'auth_service_required = cephx\n'
                'auth_client_required = cephx\n'), 0o600, 'nova:nova')
            self.put(f'/etc/ceph/{name}.client.{self.ceph_user}.keyring',
                     self.keyring_text(name), 0o600, 'nova:nova')

    def write_nova_conf(self, options: config.Options) -> None:
        self.put('/etc/nova/nova.conf', config.render(options), 0o600,
                 'nova:nova')


class Edpm(LayoutHost):
    """The container nova_compute of Red Hat OpenStack on OpenShift (EDPM).

    edpm-ansible (main, 18-stable): roles/edpm_nova/files/kolla_config/
    nova_compute.yaml; tcib: container-images/kolla/base/set_configs.py;
    ceph.conf is what the manual asks for, "ceph config generate-minimal-conf".
    """

    uid = 42436
    ceph_user = 'openstack'
    mode: ty.ClassVar[int] = 0o600

    def write_ceph_client(self) -> None:
        self.make_directory('/etc/ceph', 0o700, 'nova:nova')
        for name, ceph in self.clusters.items():
            self.put(f'/etc/ceph/{name}.conf', self.ceph_conf_text(ceph),
                     self.mode, 'nova:nova')
            self.put(f'/etc/ceph/{name}.client.{self.ceph_user}.keyring',
                     self.keyring_text(name), self.mode, 'nova:nova')

    def ceph_conf_text(self, ceph: lab_ceph.Ceph) -> str:
        """The text of ceph.conf."""
        return ceph.ceph('config', 'generate-minimal-conf')

    def write_nova_conf(self, options: config.Options) -> None:
        """Write an empty nova.conf, and a directory with the options."""
        ceph_groups = ('libvirt', 'glance')
        self.put('/etc/nova/nova.conf', '', 0o600, 'nova:nova')
        self.make_directory('/etc/nova/nova.conf.d')
        for name, part in (
            ('01-nova', {group: values for group, values in options.items()
                         if group not in ceph_groups}),
            ('03-ceph-nova', {group: options[group]
                              for group in ceph_groups}),
        ):
            self.put(f'/etc/nova/nova.conf.d/{name}.conf',
                     config.render(part), 0o600, 'nova:nova')


class EdpmFeatureRelease(Edpm):
    """The same of the releases 18.0-fr1 to 18.0-fr4: all files are 0700.

    edpm-ansible (18.0-fr1): roles/edpm_nova/templates/config.json.j2;
    ceph.conf and keyring are those of ci-framework:
    roles/cifmw_ceph_client/templates/ceph_conf.j2, ceph_key.j2.
    """

    mode = 0o700

    def ceph_conf_text(self, ceph: lab_ceph.Ceph) -> str:
        return (f'[global]\nfsid = {ceph.fsid}\nmon host = {ceph.address}\n\n'
                '[client.libvirt]\n'
                'admin socket = /run/ceph/$cluster-$type.$id.$pid.asok\n'
                'log file = /var/log/ceph/qemu-guest-$pid.log\n')

    def keyring_text(self, name: str) -> str:
        [key] = re.findall(r'key = (\S+)', super().keyring_text(name))
        caps = ''.join(f'   caps {kind} = "{cap}"\n'
                       for kind, cap in _CAPS.items())
        return f'[client.{self.ceph_user}]\n   key = "{key}"\n{caps}'


class OpenStackHelm(LayoutHost):
    """The pod of openstack-helm's nova-compute; ceph.conf by Rook's adapter.

    openstack-helm: nova/templates/daemonset-compute.yaml,
    nova/templates/bin/_ceph-keyring.sh.tpl, _nova-compute.sh.tpl,
    ceph-adapter-rook/values.yaml. Left out: more --config-file in a
    directory that the init containers share.
    """

    uid = 42424
    config_options = ('--config-file', '/etc/nova/nova.conf',
                      '--config-dir', '/etc/nova/nova.conf.d')
    mode: ty.ClassVar[int] = 0o755

    def write_ceph_client(self) -> None:
        self.make_directory('/etc/ceph', self.mode, 'nova:nova')
        self.put('/etc/ceph/ceph.conf.template', '', 0o444)
        self.put('/etc/ceph/ceph.conf', self.ceph_conf_text(), 0o444,
                 'nova:nova')
        self.put('/etc/ceph/ceph.client.cinder.keyring',
                 self.keyring_text('ceph'), 0o644, 'nova:nova')

    def ceph_conf_text(self) -> str:
        """The text of ceph.conf, which has no fsid."""
        return ('[global]\nmon_count = 1\n'
                f'mon_host = {self.cloud.ceph.address}\n')

    def write_nova_conf(self, options: config.Options) -> None:
        self.put('/etc/nova/nova.conf', config.render(
            {**options, 'glance': {}}), 0o444)
        self.make_directory('/etc/nova/nova.conf.d')
        self.put('/etc/nova/nova.conf.d/glance.conf', config.render(
            {'glance': options['glance']}), 0o444)


class OpenStackHelmEmptyDir(OpenStackHelm):
    """The same with an emptyDir as /etc/ceph, which Kubernetes makes 0777.

    ceph.conf is the one for openstack-helm's own Ceph, which sends the log to
    the standard output: ceph-provisioners/values.yaml.
    """

    mode = 0o777

    def ceph_conf_text(self) -> str:
        return ('[global]\ncephx = true\n'
                'cephx_require_signatures = false\n'
                'cephx_cluster_require_signatures = true\n'
                'cephx_service_require_signatures = false\n'
                'debug_ms = 0/0\nlog_file = /dev/stdout\n'
                'mon_cluster_log_file = /dev/stdout\n'
                f'mon_host = [v2:{self.cloud.ceph.address}/0]\n'
                'objecter_inflight_op_bytes = 1073741824\n'
                'objecter_inflight_ops = 10240\n'
                '[osd]\nms_bind_port_max = 7100\n')


class CephAnsible(LayoutHost):
    """A client host of ceph-ansible, which does not deploy Nova.

    Here the operator has set a ``mode`` for the key and put nova into the
    group ceph, so that Nova can read the keyring.

    ceph-ansible: roles/ceph-config/tasks/main.yml and templates/ceph.conf.j2,
    roles/ceph-client/tasks/create_users_keys.yml.
    """

    uid = 64060
    groups = ('ceph',)
    mode: ty.ClassVar[int] = 0o640

    def write_ceph_client(self) -> None:
        ceph = self.cloud.ceph
        self.make_directory('/etc/ceph', 0o755, 'ceph:ceph')
        self.put('/etc/ceph/ceph.conf', (
            f'[global]\nfsid = {ceph.fsid}\n'
            f'mon host = [v2:{ceph.address}]\n\n'
            '[client.libvirt]\n'
            'admin socket = /run/ceph/$cluster-$type.$id.$pid.$cctid.asok '
            '# must be writable by QEMU\n'
            'log file = /var/log/ceph/qemu-guest-$pid.log '
            '# must be writable by QEMU\n'), 0o644, 'ceph:ceph')
        self.put('/etc/ceph/ceph.client.cinder.keyring',
                 self.keyring_text('ceph'), self.mode, 'ceph:ceph')

    def write_nova_conf(self, options: config.Options) -> None:
        """Use the owner and mode of Debian's packages."""
        self.put('/etc/nova/nova.conf', config.render(options), 0o640,
                 'root:nova')


class CephAnsibleDefault(CephAnsible):
    """The same with the default mode: only ceph can read the keyring."""

    mode = 0o600


class JujuCharms(LayoutHost):
    """A unit of the charm nova-compute, on Ubuntu's packages.

    charm-nova-compute: hooks/nova_compute_utils.py, nova_compute_context.py,
    templates/yoga/nova.conf; charmhelpers:
    contrib/openstack/templates/ceph.conf, core/host.py.
    """

    uid = 64060
    ceph_user = 'nova-compute-ceph-auth-c91ce26f'
    config_options = ('--config-file=/etc/nova/nova.conf',
                      '--config-file=/etc/nova/nova-compute.conf')
    charm_conf: ty.ClassVar[str] = '/var/lib/charm/nova-compute/ceph.conf'

    def write_ceph_client(self) -> None:
        self.put(f'/etc/ceph/ceph.client.{self.ceph_user}.keyring',
                 self.keyring_text('ceph'), 0o600, 'nova:nova')
        self.make_directory(os.path.dirname(self.charm_conf))
        self.put(self.charm_conf, (
            '[global]\nauth_supported = cephx\n'
            'keyring = /etc/ceph/$cluster.$name.keyring\n'
            f'mon host = {self.cloud.ceph.address}\n'
            'log to syslog = false\nerr to syslog = false\n'
            'clog to syslog = false\n\n[client]\n'))
        self.link('/etc/ceph/ceph.conf', '/etc/alternatives/ceph.conf')
        self.link('/etc/alternatives/ceph.conf', self.charm_conf)
        for path in ('/etc/ceph', os.path.dirname(self.charm_conf)):
            self.make_directory(path, 0o555)

    def tool_options(self) -> config.Options:
        return {'libvirt': {'images_rbd_ceph_conf': self.charm_conf}}

    def write_nova_conf(self, options: config.Options) -> None:
        self.put('/etc/nova/nova.conf', config.render(options), 0o640,
                 'root:nova')
        self.put('/etc/nova/nova-compute.conf',
                 '[DEFAULT]\ncompute_driver=libvirt.LibvirtDriver\n'
                 '[libvirt]\nvirt_type=kvm\n', 0o640, 'root:nova')


class OpenStackAnsible(LayoutHost):
    """A compute host of openstack-ansible, with nova_glance_rbd_inuse.

    openstack-ansible-ceph_client: tasks/ceph_config.yml,
    ceph_get_keyrings_from_mons.yml, ceph_auth.yml; openstack-ansible-os_nova:
    templates/nova.conf.j2 (the options of Nova 34), sudoers.j2. Left out:
    /etc/nova is a link there, and sudo may start privsep-helper as well.
    """

    uid = 990
    groups = ('ceph',)

    def write_ceph_client(self) -> None:
        for name, ceph in self.clusters.items():
            self.put(f'/etc/ceph/{name}.conf', (
                f'[global]\nfsid = {ceph.fsid}\n'
                f'mon host = [v2:{ceph.address}]\n'
                'auth_allow_insecure_global_id_reclaim = false\n'
                'log_to_syslog = true\nerr_to_syslog = true\n'))
            self.put(f'/etc/ceph/{name}.client.cinder.keyring',
                     self.keyring_text(name), 0o640, 'root:ceph')

    def tool_options(self) -> config.Options:
        return {'glance': {
            'allowed_direct_url_schemes': None,
            'enable_rbd_download': True,
            'rbd_user': self.ceph_user,
            'rbd_pool': glance.POOL,
            'rbd_ceph_conf': self.ceph_conf,
        }}

    def write_nova_conf(self, options: config.Options) -> None:
        self.make_directory('/etc/nova', 0o755, 'nova:nova')
        self.put('/etc/nova/nova.conf', config.render(options), 0o640,
                 'root:nova')
