# SPDX-License-Identifier: Apache-2.0

"""Faults of Ceph, the host and the disk cause no wrong image and no hang.

Each fault ends in the right image by the next source and one warning, or in
one error that says what is wrong; nothing is left.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import os
import pathlib
import signal
import socket

from glanceclient import exc as glance_exc
from oslo_utils import uuidutils

from lab import config
from lab import errors
from lab import process
from lab import service as lab_service
from lab.tests.functional import base
from lab.tests.functional import service_base
import nova.tests.unit.privsep.test_rbd_errors

MIB = base.MIB
NEW_KEY = nova.tests.unit.privsep.test_rbd_errors.NEW_KEY

CONNECT = "couldn't connect to the cluster$"
REFUSED = (r'status 13 \(Permission denied\): the monitors refuse client.nova'
           ': the keyring contains no key for this client, or the wrong '
           'one: ' + CONNECT)


class TestRefused(service_base.ServiceTestCase):
    """Ceph, or what the host knows of it, is not as it should be."""

    def setUp(self):
        super().setUp()
        # A failure to find out the fsid is remembered for a minute.
        self.forget()
        self.addCleanup(self.forget)

    def forget(self) -> None:
        self.service.ask('reload').answer()

    def fetch_by_http(self, reason: str) -> None:
        image_id = self.upload(self.image, 'iso')
        self.assert_by_http(reason, image_id, self.fetch(image_id))

    def test_nothing_is_wrong(self):
        for disk_format in ('iso', 'raw'):
            image_id = self.upload(self.image, disk_format)
            self.assert_by_rbd(image_id, self.fetch(image_id))

    def fetch_from_nowhere(self, image_id: str, kind: str) -> list[str]:
        """HTTP can't find it either, which ends in the usual error."""
        error = self.assertRaises(
            errors.FetchFailed, self.fetch, image_id)
        self.assertFalse(self.out().exists())
        self.assertEqual(kind, error.kind, str(error))
        return self.warnings(error.log)

    def test_no_such_image(self):
        image_id = self.upload(self.image, 'iso')
        ceph = self.cloud.ceph
        ceph.rbd('rename', 'images/' + image_id, 'images/moved')
        self.addCleanup(
            ceph.rbd, 'rename', 'images/moved', 'images/' + image_id)

        [warning] = self.fetch_from_nowhere(image_id, 'ImageUnacceptable')

        self.assertTrue(warning.endswith(
            'rbd export exited with status 2 (No such file or directory): '
            'error opening image'), warning)

    def test_no_such_snapshot(self):
        image_id = self.upload(self.image, 'raw')
        snap = 'images/%s@' % image_id
        ceph = self.cloud.ceph
        ceph.rbd('snap', 'rename', snap + 'snap', snap + 'moved')
        self.addCleanup(
            ceph.rbd, 'snap', 'rename', snap + 'moved', snap + 'snap')

        [warning] = self.fetch_from_nowhere(image_id, 'ImageUnacceptable')

        self.assertTrue(warning.endswith(
            'rbd export-diff exited with status 2 (No such file or '
            'directory): error setting snapshot context'), warning)

    def test_no_such_pool(self):
        image_id = self.upload(self.image, 'iso')
        ceph = self.cloud.ceph
        ceph.ceph('osd', 'pool', 'rename', 'images', 'moved')
        self.addCleanup(
            ceph.ceph, 'osd', 'pool', 'rename', 'moved', 'images')

        [warning] = self.fetch_from_nowhere(
            image_id, 'HTTPInternalServerError')

        self.assertTrue(warning.endswith(
            'rbd export exited with status 2 (No such file or directory): '
            'error opening pool'), warning)

    def test_unknown_user(self):
        self.configure(rbd_user='stranger')
        self.fetch_by_http(REFUSED.replace('nova', 'stranger'))

    def test_user_without_rights(self):
        # A client that may access the monitors, but no OSD.
        keyring = self.cloud.ceph.create_user(
            'poor', {'mon': 'profile rbd'})
        self.write_keyring(keyring.read_text())
        self.configure(rbd_user='poor', rbd_ceph_conf=(
            self.shared_host.directory / 'other.conf'))
        self.fetch_by_http(
            r'status 1 \(Operation not permitted\): error opening image$')

    def test_wrong_key(self):
        self.write_keyring('[client.nova]\n\tkey = AQBhZ2VuY3kAAxAA9jJ'
                           'Zr4sQvL6Sx7jkXXXXXXXXYg==\n')
        self.fetch_by_http(REFUSED)

    def test_keyring_without_a_key(self):
        for text in ('', '[client.other]\n\tkey = AQBhZ2VuY3kAAxAA9jJ'
                         'Zr4sQvL6Sx7jkXXXXXXXXYg==\n', '[client.nova]\n'):
            self.write_keyring(text)
            self.fetch_by_http(REFUSED)

    def test_no_keyring(self):
        self.write_ceph_conf(keyring='/nowhere/keyring')
        self.fetch_by_http('status 13 .*: no readable keyring was found: ' +
                           CONNECT)

    def test_keyring_is_a_directory(self):
        self.write_ceph_conf(keyring=self.shared_host.directory)
        self.fetch_by_http(r'status 21 \(Is a directory\): the keyring cannot '
                           'be parsed: ' + CONNECT)

    def test_keyring_is_damaged(self):
        self.write_keyring('garbage\n')
        self.fetch_by_http('status 5 .*: the keyring cannot be parsed: ' +
                           CONNECT)

    def test_key_is_damaged(self):
        self.write_keyring('[client.nova]\n\tkey = x\n')
        self.fetch_by_http('status 5 .*: the key cannot be decoded: ' +
                           CONNECT)

    def test_key_is_too_new(self):
        self.write_ceph_conf(key=NEW_KEY)
        self.fetch_by_http(
            'status 22 .* too old for it, or the key is damaged: install '
            'Ceph .* "ceph auth rotate client.nova --key-type=aes": ' +
            CONNECT)

    def test_no_ceph_conf(self):
        self.configure(rbd_ceph_conf='/nowhere/ceph.conf')
        self.fetch_by_http(r'not configured in \[glance\] rbd_ceph_conf '
                           '.*No such file')

    def test_ceph_conf_is_garbage(self):
        path = self.write_ceph_conf()
        image_id = self.upload(self.image, 'iso')
        for content in (b'', b'\0\xff' * 1000, b'[global', b'fsid', b'[a]\n'):
            path.write_bytes(content)
            self.forget()
            self.assert_by_http(
                r'not configured in \[glance\] rbd_ceph_conf', image_id,
                self.fetch(image_id))

    def test_ceph_conf_is_garbage_below_the_fsid(self):
        path = self.write_ceph_conf()
        path.write_text(path.read_text() + '[\n[client.nova\nx y z\n')
        self.fetch_by_http('ceph.conf cannot be read or parsed')

    def test_monitor_has_no_address(self):
        # rbd complains on its standard output, where the image should be.
        self.write_ceph_conf(mon_host='garbage garbage')
        self.fetch_by_http('status 22 .*: mon host in ceph.conf is missing or '
                           'cannot be resolved: ' + CONNECT)

    def test_cluster_is_another_one(self):
        self.write_ceph_conf(fsid=uuidutils.generate_uuid())
        self.fetch_by_http('Image is in Ceph cluster %s, which is not '
                           'configured in'
                           % self.cloud.ceph.fsid)

    def test_not_installed(self):
        for program, reason in (
            ('rbd', 'rbd or timeout is not installed: install ceph-common'),
            ('timeout', 'timeout is not installed: .* coreutils'),
            ('setpriv', 'setpriv cannot be started: install util-linux 2.33'),
            ('ceph-conf', 'ceph-conf or timeout is not installed'),
        ):
            self.fetch_without(program, reason)

    def fetch_without(self, program: str, reason: str) -> None:
        self.forget()
        # The programs of the host, all but this one.
        stage = self.shared_host.directory / 'programs'
        run = self.shared_host.run_as_root
        run('sh', '-c', 'set -e; mkdir -p "$1/all" "$1/some"; '
            'mount --bind /usr/bin "$1/all"; '
            'cp -rs "$1/all/." "$1/some/"; rm "$1/some/$2"; '
            'mount --bind "$1/some" /usr/bin', 'sh', stage, program)
        try:
            self.fetch_by_http(reason)
        finally:
            run('umount', '/usr/bin')
            run('sh', '-c', 'umount "$1/all" && rm -r "$1"', 'sh', stage)

    def test_cannot_be_run(self):
        run = self.shared_host.run_as_root
        old = self.files / 'setpriv'
        config.write(old, '#!/bin/sh\necho "setpriv: unrecognized option '
                     '\'--pdeathsig=KILL\'" >&2; exit 1\n', 0o755)
        for replacement, program, reason in (
            ('/dev/null', 'rbd', 'the host does not permit Nova to start rbd'),
            ('/dev/null', 'setpriv', 'setpriv cannot be started'),
            (old, 'setpriv', 'setpriv is too old'),
        ):
            self.forget()
            run('mount', '--bind', replacement, '/usr/bin/' + program)
            try:
                self.fetch_by_http(reason)
            finally:
                run('umount', '/usr/bin/' + program)

    def test_glance_goes_away_meanwhile(self):
        with Mute() as mute:
            self.write_ceph_conf(mon_host=mute.address)
            self.configure(rbd_connect_timeout=4, rbd_ceph_conf=(
                self.shared_host.directory / 'other.conf'))
            image_id = self.upload(self.image, 'iso')
            glance = self.cloud.glance.service.daemon
            request = self.service.fetch(image_id, self.out())
            self.rbd_pid()
            glance.kill()
            try:
                error = self.assertRaises(
                    errors.FetchFailed, request.fetched)
            finally:
                glance.start()

        self.assertEqual('GlanceConnectionFailed', error.kind)
        [warning] = [line for line in self.warnings(error.log)
                     if 'could not be fetched by rbd' in line]
        self.assertIn('status 110', warning)
        self.assertFalse(self.out().exists())


class Mute:
    """A server that accepts connections, and says nothing."""

    def __init__(self, accept: bool = True) -> None:
        """Make one.

        :param accept: whether the kernel accepts connections at all; if not,
            nothing answers, as if a firewall dropped what comes
        """
        self._stack = contextlib.ExitStack()
        self._accept = accept
        self.address = ''

    def __enter__(self) -> 'Mute':
        server = self._stack.enter_context(socket.socket())
        server.bind(('127.0.0.1', 0))
        server.listen(100 if self._accept else 0)
        self.address = 'v2:127.0.0.1:%d' % server.getsockname()[1]
        if not self._accept:
            # These fill the queue.
            for _number in range(4):
                client = self._stack.enter_context(socket.socket())
                client.setblocking(False)
                client.connect_ex(server.getsockname())
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()


class TestTimeLimits(service_base.ServiceTestCase):
    """A limit holds within two seconds; what moves is never ended."""

    def test_monitor_does_not_answer(self):
        small = self.files / 'small'
        small.write_bytes(os.urandom(4096))
        image_id = self.upload(small, 'iso')
        conf = self.shared_host.directory / 'other.conf'
        with Mute() as mute, Mute(accept=False) as dropped:
            for address in ('v2:127.0.0.1:%d' % process.free_port(),
                            mute.address, dropped.address):
                self.write_ceph_conf(mon_host=address)
                # Whichever of the two is longer.
                limits = [(1, 60), (3, 1)] if address == mute.address else [
                    (1, 60)]
                for connect, stall in limits:
                    self.configure(
                        rbd_ceph_conf=conf, rbd_connect_timeout=connect,
                        rbd_stall_timeout=stall)
                    fetched = self.fetch(image_id)
                    self.assert_same(small, fetched)
                    [warning] = self.warnings(fetched.log)
                    self.assertIn('exited with status 110 (Connection timed '
                                  f'out): no monitor answered within {connect}'
                                  " seconds: couldn't connect", warning)
                    self.assertLess(connect, fetched.seconds)
                    # This includes the HTTP download of the small image.
                    self.assertLess(
                        fetched.seconds, connect + service_base.SLACK)

    def test_osd_is_stopped_in_the_middle(self):
        self.configure(rbd_stall_timeout=3)
        image_id = self.upload(self.large_image, 'iso')
        with self.slow_osd():
            request = self.service.fetch(image_id, self.out())
            self.rbd_pid(8 * MIB)
            with self.stopped(self.cloud.ceph.osd.pid):
                begin = self.now()
                self.wait_for_log('Image %s could not be fetched' % image_id,
                                  request)
                seconds = self.now() - begin
        self.assert_by_http('received from .* for 3 seconds', image_id,
                            request.fetched(), self.large_image)
        # The last byte may have come a little before, or after.
        self.assertLess(1.5, seconds)
        self.assertLess(seconds, 3 + service_base.SLACK)

    def test_cluster_is_left_out(self):
        """Only the images that are under way wait for the time limit."""
        self.configure(rbd_stall_timeout=3)
        images = [self.upload(self.image, 'iso') for _number in range(6)]
        before = self.service.log.read_text().count(base.LEFT_OUT)
        with self.stopped(self.cloud.ceph.osd.pid):
            requests = [self.service.fetch(image_id, self.out(image_id))
                        for image_id in images[:5]]
            for image_id, request in zip(images, requests):
                self.wait_for_log(
                    'Image %s could not be fetched' % image_id, request)
        # Glance needs the OSD as well.
        found = [request.fetched() for request in requests]
        last = self.fetch(images[5])
        for image_id, fetched in zip(images, found):
            self.assert_same(self.image, fetched)
            self.assertEqual(1, self.cloud.glance.downloads(image_id))
        self.assert_by_http(
            'did not answer; Nova tries it again in', images[5], last)
        self.assertEqual([], self.exports(last.log))
        self.assertEqual(
            before + 1, self.service.log.read_text().count(base.LEFT_OUT))

    def test_osd_is_stopped_before(self):
        for connect, limit in ((1, 3), (3, 4)):
            image_id = self.upload(self.image, 'iso')
            self.configure(rbd_stall_timeout=3, rbd_connect_timeout=connect)
            with self.stopped(self.cloud.ceph.osd.pid):
                begin = self.now()
                request = self.service.fetch(image_id, self.out())
                self.wait_for_log('Image %s could not be fetched' % image_id,
                                  request)
                seconds = self.now() - begin
            self.assert_by_http('received from .* for %d seconds' % limit,
                                image_id, request.fetched())
            self.assertLess(limit, seconds)
            self.assertLess(seconds, limit + service_base.SLACK)

    def test_osd_goes_on_in_time(self):
        image_id = self.upload(self.large_image, 'iso')
        self.configure(rbd_stall_timeout=4)
        with self.slow_osd():
            request = self.service.fetch(image_id, self.out())
            self.rbd_pid(8 * MIB)
            with self.stopped(self.cloud.ceph.osd.pid):
                self.assertFalse(process.wait_for(
                    lambda: request.done, 2.5))
            fetched = request.fetched()
        self.assert_by_rbd(image_id, fetched, self.large_image)

    def test_slow_but_moving(self):
        # It takes several times as long as the stall timeout, during which
        # some byte always comes.
        image_id = self.upload(self.large_image, 'iso')
        self.configure(rbd_stall_timeout=3)
        with self.slow_osd(0.1):
            fetched = self.fetch(image_id)
        self.assert_by_rbd(image_id, fetched, self.large_image)
        self.assertLess(6, fetched.seconds)

    def test_rbd_stands_still(self):
        image_id = self.upload(self.large_image, 'raw')
        self.configure(rbd_stall_timeout=2)
        with self.slow_osd():
            request = self.service.fetch(image_id, self.out())
            pid = self.rbd_pid(8 * MIB)
            os.kill(pid, signal.SIGSTOP)
        self.assert_by_http('received from .* for 2 seconds', image_id,
                            request.fetched(), self.large_image)
        # Killed, though it stood still.
        self.assertFalse(os.path.exists('/proc/%d' % pid))


class TestDeletedDuringExport(service_base.ServiceTestCase):
    """Ceph reads a deleted image as zeros, and rbd ends with status 0.

    If nothing verifies the bytes, Nova must not use them as an image.
    """

    def setUp(self):
        super().setUp()
        self.configure(verify_direct_download=False, rbd_stall_timeout=60)

    def upload_once(self, disk_format: str) -> str:
        """Store an image that the test deletes; see upload()."""
        image_id = self.cloud.upload(self.large_image, disk_format)
        self.addCleanup(self._delete_image, image_id)
        return image_id

    def _delete_image(self, image_id: str) -> None:
        with contextlib.suppress(glance_exc.HTTPNotFound):
            self.cloud.glance_client().images.delete(image_id)

    def delete_snapshot(self, image_id: str) -> None:
        name = 'images/%s@snap' % image_id
        self.cloud.ceph.rbd('snap', 'unprotect', name)
        self.cloud.ceph.rbd('snap', 'rm', name, '--no-progress')

    def delete_in_ceph(self, image_id: str) -> None:
        """Delete an image in Ceph in the same order as Glance does."""
        name = 'images/' + image_id
        self.delete_snapshot(image_id)
        self.cloud.ceph.rbd('rm', '--no-progress', name)

    def replace_in_ceph(self, image_id: str) -> None:
        """Delete an image, and create another one of the same name."""
        self.delete_in_ceph(image_id)
        name = 'images/' + image_id
        self.cloud.ceph.rbd('import', '--no-progress', self.large_image, name)
        self.cloud.ceph.rbd('snap', 'create', '--no-progress', name + '@snap')
        self.cloud.ceph.rbd('snap', 'protect', name + '@snap')

    def change_during_export(
        self, disk_format: str, change: Callable[[str], None],
    ) -> tuple[str, lab_service.Request]:
        """Fetch an image; stop rbd halfway, make a change, let rbd go on."""
        image_id = self.upload_once(disk_format)
        with self.slow_osd():
            request = self.service.fetch(image_id, self.out())
            pid = self.rbd_pid(8 * MIB)
            os.kill(pid, signal.SIGSTOP)
        try:
            change(image_id)
        finally:
            os.kill(pid, signal.SIGCONT)
        return image_id, request

    def assert_refused(
        self, kind: str, image_id: str, request: lab_service.Request,
    ) -> None:
        """Assert that the download over HTTP was tried, and failed, too."""
        error = self.assertRaises(errors.FetchFailed, request.fetched)
        self.assertEqual(kind, error.kind, str(error))
        self.assertEqual([], os.listdir(self.out().parent))
        [warning] = [line for line in self.warnings(error.log)
                     if 'could not be fetched by rbd' in line]
        self.assertRegex(
            warning, 'the next source is tried: The snapshot was not found in '
            'Ceph after the export, .* deleted during the export$')
        self.assertEqual(
            [], [line for line in error.log if 'fetched by' in line
                 and 'could not' not in line])

    def test_deleted_in_ceph(self):
        for disk_format in ('iso', 'raw'):
            image_id, request = self.change_during_export(
                disk_format, self.delete_in_ceph)
            self.assert_refused('ImageUnacceptable', image_id, request)

    def test_deleted_by_glance(self):
        image_id, request = self.change_during_export(
            'iso', self.cloud.glance_client().images.delete)
        self.assert_refused('ImageNotFound', image_id, request)

    def test_snapshot_deleted(self):
        image_id, request = self.change_during_export(
            'raw', self.delete_snapshot)
        # HTTP reads the same snapshot.
        self.assert_refused('ImageUnacceptable', image_id, request)

    def test_replaced_by_another_one(self):
        image_id, request = self.change_during_export(
            'iso', self.replace_in_ceph)
        fetched = request.fetched()
        self.assert_same(self.large_image, fetched)
        self.assert_fetched_by('http', image_id, fetched)
        [warning] = self.warnings(fetched.log)
        self.assertIn('deleted during the export', warning)

    def test_undisturbed(self):
        for disk_format in ('iso', 'raw'):
            image_id, request = self.change_during_export(
                disk_format, lambda _image_id: None)
            fetched = request.fetched()
            self.assert_same(self.large_image, fetched)
            self.assert_fetched_by('rbd', image_id, fetched, 'nothing')
            self.assertEqual([], self.warnings(fetched.log))

    def test_lookup_takes_longer_than_a_stall(self):
        self.configure(verify_direct_download=False, rbd_stall_timeout=1)
        image_id = self.upload(self.image, 'raw')
        with self.slow_osd(0.03):
            fetched = self.fetch(image_id)
        self.assert_same(self.image, fetched)
        self.assert_fetched_by('rbd', image_id, fetched, 'nothing')

    def test_monitor_does_not_answer(self):
        image_id = self.upload(self.image, 'iso')
        with Mute() as mute:
            conf = self.write_ceph_conf(mon_host=mute.address)
            self.configure(rbd_ceph_conf=conf, rbd_connect_timeout=1,
                           verify_direct_download=False)
            fetched = self.fetch(image_id)
        self.assert_by_http('no monitor answered within 1 seconds', image_id,
                            fetched)
        self.assertLess(fetched.seconds, 1 + service_base.SLACK)


class TestKilled(service_base.ServiceTestCase):
    """Something dies in the middle."""

    def setUp(self):
        super().setUp()
        self.image_id = self.upload(self.large_image, 'iso')

    def test_rbd(self):
        with self.slow_osd():
            request = self.service.fetch(self.image_id, self.out())
            os.kill(self.rbd_pid(8 * MIB), signal.SIGKILL)
        self.assert_by_http('rbd export exited with status -9', self.image_id,
                            request.fetched(), self.large_image)

    def test_privsep_daemon(self):
        with self.slow_osd():
            request = self.service.fetch(self.image_id, self.out())
            rbd = self.rbd_pid(8 * MIB)
            [daemon] = self.daemons()
            os.kill(daemon, signal.SIGKILL)
            self.assertTrue(process.wait_for(
                lambda: not os.path.exists('/proc/%d' % rbd), 10))
        self.assert_by_http(
            'The privsep daemon closed the connection', self.image_id,
            request.fetched(), self.large_image)
        # It is started again when it is needed.
        image_id = self.upload(self.image, 'raw')
        self.assert_by_rbd(image_id, self.fetch(image_id))
        [again] = self.daemons()
        self.assertNotEqual(daemon, again)
        # The resources of a restarted daemon are no leak.
        self.before = self.resources()

    def test_service_in_the_middle(self):
        with self.slow_osd():
            self.service.fetch(self.image_id, self.out())
            self.rbd_pid(8 * MIB)
            self.kill_service()
        self.assertEqual(
            [], os.listdir(self.shared_host.directory / 'tmp'))
        self.restart()

    def test_service_before_the_first_byte(self):
        temporary = self.shared_host.directory / 'tmp'
        self.configure(rbd_stall_timeout=60)
        with self.stopped(self.cloud.ceph.osd.pid):
            self.service.fetch(self.image_id, self.out())
            self.rbd_pid()
            # Later than Nova's test whether the filesystem has O_DIRECT.
            self.assertTrue(process.wait_for(
                lambda: 'image-write' in self.resources()[0], 30))
            self.kill_service()
        self.assertEqual([], os.listdir(temporary))
        self.restart()

    def kill_service(self) -> None:
        """Kill the process like the kernel that runs out of memory."""
        self.service.kill()
        # The daemon ends by itself, and rbd with it.
        self.assertEqual([], self.shared_host.leftovers())
        self.assertEqual([], os.listdir(self.out().parent))

    def restart(self) -> None:
        self.site.start_service()
        self.before = self.resources()
        fetched = self.fetch(self.image_id)
        self.assert_by_rbd(self.image_id, fetched, self.large_image)

    def test_service_is_told_to_end(self):
        self.configure(rbd_stall_timeout=60)
        with self.slow_osd():
            self.service.fetch(self.image_id, self.out())
            self.rbd_pid(8 * MIB)
            self.service.kill(signal.SIGTERM)
            self.assertEqual([], self.shared_host.leftovers())
        self.assertEqual([], os.listdir(self.out().parent))
        self.site.start_service()
        self.before = self.resources()


class TestManyAtOnce(service_base.ServiceTestCase):
    """The privsep daemon has two threads for all of Nova."""

    def setUp(self):
        super().setUp()
        self.configure(rbd_stall_timeout=30)

    def test_ten_at_once(self):
        images = [self.upload(self.image, ('iso', 'raw')[number % 2])
                  for number in range(10)]
        with self.stopped(self.cloud.ceph.osd.pid):
            requests = [self.service.fetch(image_id, self.out(image_id))
                        for image_id in images]
            # None waits for another one.
            self.assertTrue(process.wait_for(
                lambda: len(self.shared_host.pids('rbd')) == 10, 60))
        for request in requests:
            self.assert_same(self.image, request.fetched())
        self.assertEqual(
            [0] * 10, [self.cloud.glance.downloads(image_id)
                       for image_id in images])

    def test_others_take_all_threads_of_the_daemon(self):
        """Other parts of Nova make long calls, so no export can start."""
        image_id = self.upload(self.image, 'iso')
        with contextlib.ExitStack() as stack:
            for number in range(2):
                self.occupy_a_thread(stack, number)
            fetched = self.fetch(image_id)
        self.assert_by_http('The privileged call .* failed: PrivsepTimeout',
                            image_id, fetched)

    def occupy_a_thread(
        self, stack: contextlib.ExitStack, number: int,
    ) -> None:
        """Make a privileged call that ends when the stack is left."""
        fifo = self.out('fifo%d' % number)
        os.mkfifo(fifo)
        self.service.ask('read_file', path=str(fifo))

        def end() -> None:
            # Not before the other side has opened it.
            os.close(os.open(fifo, os.O_WRONLY))

        stack.callback(end)


class TestDestination(service_base.ServiceTestCase):
    """The disk is not as it should be: no other source would help."""

    def setUp(self):
        super().setUp()
        self.image_id = self.upload(self.large_image, 'iso')

    @contextlib.contextmanager
    def mounted(self, kind: str, options: str) -> Iterator[pathlib.Path]:
        """Have another filesystem where the file goes."""
        run = self.shared_host.run_as_root
        directory = self.out().parent
        run('mount', '-t', kind, '-o', options, 'lab', directory)
        try:
            run('chown', str(self.shared_host.account.uid), directory)
            yield directory
        finally:
            run('umount', directory)

    def assert_nothing_there(self, *but: str) -> None:
        self.assertEqual(sorted(but), self.listing())

    def listing(self) -> list[str]:
        return sorted(self.shared_host.run_as_root(
            'ls', '-A', self.out().parent).split())

    def assert_fails(self, reason: str) -> None:
        error = self.assertRaises(
            errors.FetchFailed, self.fetch, self.image_id)
        self.assertRegex(str(error), reason)
        self.assertIn(str(self.out()), str(error))
        # Not even asked for: it would not fit either.
        self.assertEqual(0, self.cloud.glance.downloads(self.image_id))

    def test_full_at_the_start(self):
        with self.mounted('tmpfs', 'size=64k') as directory:
            self.shared_host.run_as_root(
                'sh', '-c', 'cat /dev/zero > "$1/other" || true', 'sh',
                directory)
            self.assert_fails('No space left on device')
            self.assert_nothing_there('other')

    def test_full_in_the_middle(self):
        with self.mounted('tmpfs', 'size=24m'):
            self.assert_fails('No space left on device')
            self.assert_nothing_there()

    def test_room_for_a_sparse_image(self):
        """Ceph says how much data it contains, before the export."""
        path = self.cloud.directory / 'sparse'
        self.addCleanup(path.unlink)
        with open(path, 'wb') as file:
            file.write(os.urandom(32 * MIB))
            file.truncate(256 * MIB)
        self.image_id = self.upload(path, 'raw')
        with self.mounted('tmpfs', 'size=24m'):
            self.assert_fails('needs 32.0 MiB, 24.0 MiB are available')
            self.assert_nothing_there()
        with self.mounted('tmpfs', 'size=40m'):
            self.assert_by_rbd(
                self.image_id, self.fetch(self.image_id), path)

    def test_full_of_what_was_left_before(self):
        image_id = self.upload(self.image, 'iso')
        with self.mounted('tmpfs', 'size=10m'):
            self.shared_host.run_as_root(
                'sh', '-c', 'cat /dev/zero > "$1" || true; chown "$2" "$1"',
                'sh', self.out(), str(self.shared_host.account.uid))
            self.assert_by_rbd(image_id, self.fetch(image_id))
            self.assertEqual(['out'], self.listing())

    def test_read_only(self):
        with self.mounted('tmpfs', 'size=24m'):
            self.shared_host.run_as_root(
                'mount', '-o', 'remount,ro', self.out().parent)
            error = self.assertRaises(
                errors.FetchFailed, self.fetch, self.image_id)
            self.assertIn('Read-only file system', str(error))

    def test_not_ours(self):
        with self.mounted('tmpfs', 'size=24m') as directory:
            self.shared_host.run_as_root('chown', 'root', directory)
            self.shared_host.run_as_root('chmod', '755', directory)
            error = self.assertRaises(
                errors.FetchFailed, self.fetch, self.image_id)
            self.assertIn('Permission denied', str(error))

    def test_without_direct_writes(self):
        with self.mounted('ramfs', 'mode=755'):
            for number, disk_format in enumerate(('iso', 'raw')):
                image_id = self.upload(self.image, disk_format)
                fetched = self.fetch(image_id, str(number))
                self.assert_by_rbd(image_id, fetched)

    def test_quota(self):
        # Of the process: not every kernel has one of filesystems.
        self.service.ask('limit_files', size=16 * MIB).answer()
        try:
            self.assert_fails('File too large')
        finally:
            self.service.ask('limit_files', size=None).answer()
        self.assertEqual([], os.listdir(self.out().parent))
