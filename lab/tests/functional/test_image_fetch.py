# SPDX-License-Identifier: Apache-2.0

"""nova-image-fetch as an operator runs it, on a good host and on bad ones."""

from collections.abc import Mapping
import hashlib
import os
import pathlib
import re
import shlex
import shutil
import signal
from typing import ClassVar

from oslo_serialization import jsonutils

from lab import compute
from lab import config
from lab import process
from lab import signing
from lab.tests.functional import base
import nova.tests.unit.privsep.test_rbd_errors

MIB = base.MIB
NEW_KEY = nova.tests.unit.privsep.test_rbd_errors.NEW_KEY
SIZE = 24 * MIB
#: Seconds for one run of the command.
TIMEOUT = 60

Ended = tuple[int, str, str]


class OperatorHost(compute.ComputeHost):
    """Its sudo lets the privsep daemon have one more configuration file."""

    def overlay(self, options: config.Options) -> pathlib.Path:
        """Write such a file."""
        path = self.directory / 'overlay-{}.conf'.format(
            len(list(self.directory.glob('overlay-*.conf'))))
        helper = ['sudo', *self._privsep_helper(), '--config-file', str(path)]
        return config.write(path, config.render(config.merge(
            {'nova_sys_admin': {'helper_command': shlex.join(helper)}},
            options)))

    def _sudoers(self) -> str:
        context = ' ' + re.escape('--privsep_context')
        return super()._sudoers().replace(
            context, r'( --config-file %s/overlay-[0-9]+\.conf)?%s' % (
                re.escape(str(self.directory)), context))


class TestImageFetch(base.LabTestCase):
    """One host, with credentials of Nova's own in its nova.conf.

    Where something is wrong with it, one more configuration file says so.
    """

    class_host: ClassVar[OperatorHost]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.class_host = OperatorHost(
            cls.cloud, name='operator', options={
                'service_user': {
                    'send_service_user_token': True,
                    **cls.cloud.keystone.credentials('nova')},
                # Several run at once.
                'glance': {'rbd_connect_timeout': 20}})
        cls.class_host.setUp()
        cls.addClassCleanup(cls.class_host.cleanUp)

    def make_host(self) -> compute.ComputeHost:
        return self.class_host

    def setUp(self) -> None:
        super().setUp()
        self.program = self.host.python.parent / 'nova-image-fetch'
        self.addCleanup(shutil.rmtree, self.out().parent)

    def overlay(self, options: config.Options) -> pathlib.Path:
        """A file for one more --config-file."""
        path = self.class_host.overlay(options)
        self.addCleanup(path.unlink)
        return path

    def start(self, *arguments: process.Argument, root: bool = False,
              overlay: config.Options | None = None) -> process.Command:
        """Start the command, by the service's user or by root."""
        argv: list[process.Argument] = [
            self.program, '--config-file', self.host.conf]
        if overlay:
            argv += ['--config-file', self.overlay(overlay)]
        start = self.host.start_as_root if root else self.host.start
        return start(*argv, *arguments)

    def assert_no_traceback(self, ended: Ended) -> None:
        for stream in ended[1:]:
            self.assertNotIn('Traceback', stream)
            self.assertNotIn('Error:', stream)

    def end(self, command: process.Command, status: int) -> Ended:
        """Wait for its end, which is with this status and in sentences."""
        ended = command.wait(TIMEOUT)
        self.assertEqual(status, ended[0], '%s\n%s' % ended[1:])
        self.assert_no_traceback(ended)
        return ended

    def test_check_and_fetch(self) -> None:
        path = self.make_qcow2(SIZE)
        image_id = self.upload(path, 'qcow2')
        check = self.start('--check', image_id, root=True)
        to_cache = self.start(image_id, root=True)
        raw = self.make_file(SIZE, {0: 3 * MIB})
        by_http = self.start_by_http(raw)
        self.assert_right(self.end(check, 0), image_id)
        self.assert_by_http(self.end(by_http, 0), raw)
        self.assert_in_cache(self.end(to_cache, 0), image_id, path)
        # The command does not download a cached image again.
        again = self.end(self.start('--json', image_id), 0)
        document = jsonutils.loads(again[1])
        self.assertEqual(('ok', 'cache', None), (
            document['result'], document['source'], document['bytes']))
        self.assertEqual('', again[2])
        self.assertEqual(0, self.cloud.glance.downloads(image_id))

    def assert_right(self, ended: Ended, image_id: str) -> None:
        _status, out, err = ended
        *lines, empty, last = out.splitlines()
        self.assertEqual(('', ''), (empty, err))
        self.assertEqual('Direct downloads work on this host.', last)
        self.assertEqual(
            {'ok', '-'}, {line.split()[0] for line in lines}, out)
        self.assertEqual(['-     Key manager         signatures are not '
                          'verified'],
                         [line for line in lines if line.startswith('-')])
        fsid, account = self.cloud.ceph.fsid, self.host.account.name
        for words in (
            f'{self.host.conf}, read as {account}',
            f'{fsid} answers client.nova', 'with O_DIRECT',
            f'rbd://{fsid}/images/{image_id}/snap, shown to users as '
            'direct_url of the image',
            'client.nova reads the image in pool images',
            'nova in project service, from [service_user], with roles: admin',
        ):
            self.assertIn(words, out)

    def assert_in_cache(
        self, ended: Ended, image_id: str, path: pathlib.Path,
    ) -> None:
        _status, out, err = ended
        name = hashlib.sha1(image_id.encode()).hexdigest()
        cached = self.host.instances / '_base' / name
        self.assertEqual(path.read_bytes(), cached.read_bytes())
        status = cached.stat()
        self.assertEqual(
            (self.host.account.uid, self.host.account.gid, 0o644),
            (status.st_uid, status.st_gid, status.st_mode & 0o7777))
        self.assertEqual([name], os.listdir(cached.parent))
        # The lock that nova-compute takes.
        self.assertEqual(
            [f'nova-{name}'], os.listdir(self.host.instances / 'locks'))
        self.assertEqual('Downloading via rbd\n', err)
        self.assertRegex(
            out, rf'^Image {image_id} is at {cached}\n'
            r'  source       rbd\n  verified by  sha512\n'
            rf'  bytes        {status.st_size}\n  written      \d+\n'
            r'  seconds      [\d.]+\n  MiB/s        [\d.]+\n$')

    def start_by_http(self, path: pathlib.Path) -> process.Command:
        """Fetch an image over HTTP, to a path; see assert_by_http()."""
        self.raw_id = self.upload(path, 'raw')
        return self.start('--to', self.out(), '--source', 'http', '--json',
                          self.raw_id)

    def assert_by_http(self, ended: Ended, path: pathlib.Path) -> None:
        _status, out, err = ended
        document = jsonutils.loads(out)
        self.assertEqual(
            ('http', 'sha512', SIZE, 3 * MIB, [], False, ''),
            (document['source'], document['verified_by'],
             document['bytes'], document['written'], document['failed'],
             document['inspected'], err))
        self.assertEqual(path.read_bytes(), self.out().read_bytes())
        self.assertEqual(1, self.cloud.glance.downloads(self.raw_id))

    def test_interrupted(self) -> None:
        image_id = self.upload(self.make_file(SIZE), 'raw')
        option = '--osd-debug-inject-dispatch-delay-'

        def delay(probability: int) -> None:
            self.cloud.ceph.ceph(
                'tell', 'osd.0', 'injectargs', f'{option}duration=1.0',
                f'{option}probability={probability}')

        delay(1)
        self.addCleanup(delay, 0)
        command = self.host.start(
            self.program, '--config-file', self.host.conf, '--to',
            self.out('interrupted'), image_id)
        self.wait_for_export()
        command.send(signal.SIGINT)
        _status, out, err = self.end(command, 130)
        self.assertEqual('', out)
        self.assertEqual(
            'Downloading via rbd\nnova-image-fetch: interrupted\n', err)
        self.assertEqual([], os.listdir(self.out().parent))
        # Another process creates the file during the download.
        other = self.start('--to', self.out(), image_id)
        self.wait_for_export()
        self.out().write_bytes(b'of another process')
        delay(0)
        _status, out, err = self.end(other, 3)
        self.assertEqual(
            ('', f'Downloading via rbd\nnova-image-fetch: {self.out()} exists '
             'already. Remove it, or choose another path.\n'), (out, err))
        self.assertEqual(b'of another process', self.out().read_bytes())
        self.assertEqual([self.out().name], os.listdir(self.out().parent))

    def wait_for_export(self) -> None:
        self.assertTrue(process.wait_for(
            lambda: bool(self.host.pids('rbd', 'export-diff')), TIMEOUT))

    def findings(
        self, command: process.Command,
    ) -> Mapping[str, Mapping[str, str]]:
        """Return the findings of --check --json on a broken host."""
        ended = self.end(command, 1)
        document = jsonutils.loads(ended[1])
        self.assertEqual(('failed', ''), (document['result'], ended[2]))
        found = {one['check']: one for one in document['checks']}
        for one in found.values():
            # A failed check has a remedy; the others have none.
            self.assertEqual(one['verdict'] in ('failed', 'warning'),
                             bool(one['remedy']), repr(one))
        return found

    def assert_failed(
        self, found: Mapping[str, Mapping[str, str]],
        **expected: str,
    ) -> None:
        """These checks and no others, each with such words."""
        failed = {name.replace(' ', '_').replace('.', '_'): one
                  for name, one in found.items()
                  if one['verdict'] == 'failed'}
        self.assertEqual(set(expected), set(failed), repr(failed))
        for name, words in expected.items():
            self.assertRegex(
                '%(detail)s -> %(remedy)s' % failed[name], words)

    def ceph_conf(self, name: str, **options: config.Value) -> pathlib.Path:
        known = self.cloud.ceph.client_options(self.host.keyring)
        path = config.write(
            self.host.directory / name, config.render(config.merge(
                known, {'global': {key.replace('_', ' '): value for
                                   key, value in options.items()}})))
        self.addCleanup(path.unlink)
        return path

    def test_broken_hosts(self) -> None:
        image_id = self.upload(self.make_file(MIB), 'raw')
        self.cloud.ceph.create_user('image-fetch', {
            'mon': 'profile rbd',
            'osd': 'profile rbd-read-only pool=volumes'})
        no_rights = self.start('--check', '--json', image_id, overlay={
            'glance': {
                'rbd_user': 'image-fetch', 'verify_glance_signatures': True,
                'rbd_ceph_conf': self.ceph_conf(
                    'other.conf', keyring=self.cloud.ceph.directory /
                    'ceph.client.image-fetch.keyring')},
            'barbican': {'barbican_endpoint': 'http://127.0.0.1:9'}})
        no_ceph = self.start('--check', '--json', overlay={
            'DEFAULT': {'instances_path': '/nowhere/instances'},
            'glance': {
                'allowed_direct_url_schemes': 'ftp', 'rbd_connect_timeout': 1,
                'rbd_ceph_conf': self.ceph_conf(
                    'down.conf', mon_host='v2:127.0.0.1:9')}})
        no_helper = self.start('--check', '--json', overlay={
            'service_user': {'password': 'wrong'},
            'nova_sys_admin': {'helper_command': 'sudo -n /bin/true'}})
        no_image = self.start(
            '--source', 'rbd', '--to', self.out(), image_id, overlay={
                'glance': {'rbd_pool': 'volumes'}})
        self.assert_failed(
            self.findings(no_rights),
            Read_from_Ceph=r'status 1 \(Operation not permitted\).* -> .*ceph '
            "auth get client.image-fetch\" "
            ".*'profile rbd-read-only pool=images'",
            Key_manager=r' -> See \[key_manager\] and \[barbican\]')
        self.assert_failed(
            self.findings(no_ceph),
            Options='disabled; Nova ignores .*: ftp.* -> Correct .*schemes',
            Cluster='no monitor answered within 1 seconds -> Check mon host',
            Image_cache='instances_path is /nowhere/instances')
        found = self.findings(no_helper)
        self.assert_failed(
            found,
            Privileged_helper='exited non-zero .* -> .*sudo let',
            Credentials=r'credentials in \[service_user\]')
        for name in ('Programs', 'ceph.conf', 'Cluster'):
            self.assertEqual('skipped', found[name]['verdict'])
        _status, out, err = self.end(no_image, 1)
        self.assertEqual('', out)
        self.assertEqual(
            'Downloading via rbd\nnova-image-fetch: Image %s could not be '
            'downloaded via rbd: Pool images is not listed in [glance] '
            'rbd_pool: volumes\n' % image_id, err)
        self.assertEqual([], os.listdir(self.out().parent))

    def test_no_part_of_a_key_is_shown(self) -> None:
        [key] = re.findall(r'key = (\S+)', self.host.keyring.read_text())
        damaged = key[:20] + '!' + key[21:]
        new_key = NEW_KEY
        key_file = config.write(
            self.host.directory / 'keyfile', damaged + '\n', 0o600)
        keyring = config.write(
            self.host.directory / 'damaged.keyring',
            f'[client.nova]\n\tkey = {damaged}\n', 0o600)
        for path in (key_file, keyring):
            self.addCleanup(path.unlink)
        confs = {
            'decoded -> ': self.ceph_conf('key.conf', key=damaged),
            'decoded ': self.ceph_conf('keyfile.conf', keyfile=key_file),
            'decoded': self.ceph_conf('keyring.conf', keyring=keyring),
            'too old for it, .* rotate client.nova --key-type=aes" -> '
            'Upgrade ceph-common': self.ceph_conf('new.conf', key=new_key)}
        # rbd and ceph must ignore this variable.
        commands = {words: self.host.start(
            self.program, '--config-file', self.host.conf,
            '--config-file', self.overlay(
                {'glance': {'rbd_ceph_conf': conf}}), '--check', '--json',
            '--debug', env={'CEPH_ARGS': f'--key {damaged}'})
            for words, conf in confs.items()}
        for words, command in commands.items():
            ended = command.wait(TIMEOUT)
            found = {one['check']: one for one in
                     jsonutils.loads(ended[1])['checks']}
            self.assert_failed(found, Cluster=words)
            for part in (key, damaged, new_key):
                for place in range(len(part) - 7):
                    self.assertNotIn(part[place:place + 8], str(ended))

    def test_hidden_from_tenants(self) -> None:
        """Nova is told where it is, and has to have the tenant's own token
        for the certificate: that nova-compute has.
        """
        path = self.make_file(MIB)
        signer = signing.certify('Signer', 'ECC_SECP384R1')
        image_id = self.upload(path, 'raw', **signer.properties(
            path, self.cloud.store_certificate(signer)))
        with self.glance_options(
                {'DEFAULT': {'show_image_direct_url': False}}):
            command = self.start('--check', image_id, overlay={
                'glance': {'verify_glance_signatures': True}})
            _status, out, _err = self.end(command, 0)
        lines = {line[6:26].strip(): line for line in out.splitlines()}
        self.assertRegex(
            lines['Location'], f'^ok .* rbd://.*/{image_id}/snap, returned to '
            'Nova by GET /v2/images/ID/locations, hidden from users$')
        self.assertRegex(lines['Read from Ceph'], '^ok ')
        self.assertRegex(lines['Key manager'], '^WARN .*Forbidden')
