# SPDX-License-Identifier: Apache-2.0

"""In native threads and in eventlet's mode; and what survives a crash."""

import os
import re
import subprocess

from nova.tests.functional.image_rbd import base
from nova.tests.functional.image_rbd import service_base
from nova.tests.lab import errors
from nova.tests.lab import process

MIB = base.MIB

#: Seconds that everything else in the service may have to wait.
LONGEST_GAP = 0.5


class Modes:
    """What must be the same in both modes."""

    def test_others_go_on_during_a_large_download(self):
        path = self.cloud.directory / 'images' / 'huge'
        if not path.exists():
            block = os.urandom(64 * MIB)
            with open(path, 'wb') as file:
                for _number in range(32):
                    file.write(block)
        image_id = self.upload(path, 'iso')
        # A hub that is blocked is so each time; a busy machine is not.
        gaps = []
        while len(gaps) < 3 and min(gaps, default=9) > LONGEST_GAP:
            beat = self.service.ask('watch_the_beat')
            fetched = self.fetch(image_id)
            self.service.ask('stop_the_beat').answer()
            gaps.append(beat.answer()['gap'])
            self.assert_fetched_by('rbd', image_id, fetched)
        self.assertLess(min(gaps), LONGEST_GAP, gaps)
        self.assert_same(path, fetched)

    def test_beat_of_a_blocked_service(self):
        # Or else the test above could not fail.
        beat = self.service.ask('watch_the_beat')
        self.service.ask('resources').answer()
        with self.stopped(self.service.pid):
            self.assertFalse(process.wait_for(lambda: beat.done, 0.7))
        self.service.ask('stop_the_beat').answer()
        self.assertLess(LONGEST_GAP, beat.answer()['gap'])

    def test_several_at_once(self):
        images = [self.upload(self.image, ('iso', 'raw')[number % 2])
                  for number in range(4)]
        requests = [self.service.fetch(image_id, self.out(image_id))
                    for image_id in images]
        for image_id, request in zip(images, requests):
            self.assert_same(self.image, request.fetched())
            self.assertEqual(0, self.cloud.glance.downloads(image_id))

    def test_ceph_refuses(self):
        self.configure(rbd_user='stranger')
        image_id = self.upload(self.image, 'iso')
        self.assert_by_http(
            "couldn't connect", image_id, self.fetch(image_id))

    def test_osd_is_stopped_in_the_middle(self):
        image_id = self.upload(self.large_image, 'raw')
        with self.slow_osd(0.05):
            request = self.service.fetch(image_id, self.out())
            self.rbd_pid(8 * MIB)
            with self.stopped(self.cloud.ceph.osd.pid):
                self.wait_for_log(
                    'Image %s could not be fetched' % image_id, request)
                # Meanwhile the service does everything else.
                self.service.ask('resources').answer(5)
        self.assert_by_http('No byte came for 2 seconds', image_id,
                            request.fetched(), self.large_image)

    def test_disk_is_full(self):
        image_id = self.upload(self.image, 'iso')
        run = self.shared_host.run_as_root
        directory = self.out().parent
        run('mount', '-t', 'tmpfs', '-o', 'size=4m,mode=777', 'lab',
            directory)
        try:
            error = self.assertRaises(
                errors.FetchFailed, self.fetch, image_id)
            self.assertIn('No space left on device', str(error))
            self.assertEqual('', run('ls', '-A', directory))
        finally:
            run('umount', directory)


class TestNativeThreads(Modes, service_base.ServiceTestCase):
    """Nova 34's default."""


class TestEventlet(Modes, service_base.ServiceTestCase):
    """The mode that is on its way out."""

    EVENTLET = True

    def test_cancelled_in_the_middle(self):
        """A green thread is killed; what it waited for is not waited for."""
        for after in (0, 8 * MIB):
            image_id = self.upload(self.large_image, 'iso')
            self.configure(rbd_stall_timeout=600)
            with self.slow_osd(0.05):
                request = self.service.fetch(image_id, self.out())
                rbd = self.rbd_pid(after)
                with self.stopped(self.cloud.ceph.osd.pid):
                    # It waits for bytes that do not come.
                    self.assertFalse(process.wait_for(
                        lambda: request.done, 0.5))
                    begin = self.now()
                    self.service.ask('cancel', request=request.number)
                    answer = request.answer(30)
                    seconds = self.now() - begin
                    self.assertTrue(process.wait_for(
                        lambda: not os.path.exists('/proc/%d' % rbd), 5))
            self.assertEqual('GreenletExit', answer['error'])
            self.assertLess(seconds, service_base.SLACK)
            self.assertEqual([], os.listdir(self.out().parent))
            self.assertEqual(0, self.cloud.glance.downloads(image_id))

    def test_cancelled_while_it_waits_for_its_turn(self):
        images = [self.upload(self.large_image, 'iso') for _number in 'ab']
        self.configure(rbd_stall_timeout=600)
        with self.stopped(self.cloud.ceph.osd.pid):
            first = self.service.fetch(images[0], self.out('a'))
            self.rbd_pid()
            second = self.service.fetch(images[1], self.out('b'))
            self.wait_for_log('[image_uuid: %s]' % images[1], second)
            for request in (second, first):
                self.service.ask('cancel', request=request.number)
                self.assertEqual(
                    'GreenletExit', request.answer(30)['error'])
        self.assertEqual([], os.listdir(self.out().parent))


class TestDurability(service_base.ServiceTestCase):
    """What is reported as done is on the disk, also after a crash."""

    _CALL = re.compile(r'^\d+ +(?P<call>\w+)\((?P<arguments>.*)$')

    @classmethod
    def setUpClass(cls):
        process.require_programs({'strace': 'strace'})
        super().setUpClass()

    def test_order(self):
        for disk_format in ('iso', 'raw'):
            image_id = self.upload(self.image, disk_format)
            calls = self.traced(image_id)
            names = [name for name, _arguments in calls]
            # One file, with no name yet: all of it, then its size, then both
            # to the disk.
            writes = [number for number, name in enumerate(names)
                      if name == 'pwrite64']
            self.assertTrue(writes)
            after = names[writes[-1] + 1:]
            self.assertEqual(
                ['ftruncate', 'fsync', 'linkat', 'renameat', 'fsync',
                 'write'], after, calls)
            truncated, synced, linked, renamed, directory, answer = [
                arguments for _name, arguments in calls[writes[-1] + 1:]]
            files = {self.descriptor(arguments) for name, arguments in calls
                     if name == 'pwrite64'}
            self.assertEqual(
                {self.descriptor(truncated), self.descriptor(synced)}, files)
            number = self.descriptor(synced)[0]
            self.assertIn('"/proc/self/fd/%s"' % number, linked)
            self.assertIn('".out.partial"', linked)
            self.assertRegex(renamed, '".out.partial".*"out"')
            self.assertEqual(
                str(self.out().parent), self.descriptor(directory)[1])
            self.assertIn(r'{\"id\":', answer)
            self.out().unlink()

    @staticmethod
    def descriptor(arguments: str) -> tuple[str, str]:
        """Number and path of what a call is about."""
        number, _separator, rest = arguments.partition('<')
        return number, rest.partition('>')[0]

    def traced(self, image_id: str) -> list[tuple[str, str]]:
        """Fetch an image; the calls that are about its file, in order."""
        log = self.files / 'trace'
        calls = ('pwrite64,pwritev,write,ftruncate,fsync,fdatasync,link,'
                 'linkat,rename,renameat,renameat2')
        tracer = process.spawn(
            ['strace', '-f', '-y', '-s', '64', '-o', log, '-e',
             'trace=' + calls, '-e', 'signal=none', '-p',
             str(self.service.pid)], stderr=subprocess.PIPE)
        try:
            self.assertIn(b'attached', tracer.stderr.readline())
            fetched = self.fetch(image_id)
            self.assert_by_rbd(image_id, fetched)
        finally:
            # It detaches.
            process.end(tracer, grace=10)
        found = []
        for line in log.read_text(errors='replace').splitlines():
            match = self._CALL.match(line)
            if match and self.is_about_the_file(*match.groups()):
                found.append((match['call'], match['arguments']))
        return found

    def is_about_the_file(self, call: str, arguments: str) -> bool:
        if call == 'write':
            return arguments.startswith('1<')
        if call == 'pwrite64':
            # Not Nova's trial of direct writes.
            return str(self.out().parent) in arguments
        return '/downloads' in arguments
