# SPDX-License-Identifier: Apache-2.0

"""In native threads and in eventlet's mode; and what survives a crash."""

import os
import re
import subprocess

from lab import process
from lab.tests.functional import base
from lab.tests.functional import modes
from lab.tests.functional import service_base

MIB = base.MIB


class TestNativeThreads(modes.Modes):
    """Nova 34's default."""


class TestEventlet(modes.Modes):
    """The mode that is on its way out."""

    EVENTLET = True

    def test_cancelled_in_the_middle(self):
        """A green thread is killed; what it waited for is not waited for."""
        for after in (0, 8 * MIB):
            image_id = self.upload(self.large_image, 'iso')
            self.configure(rbd_stall_timeout=600)
            with self.slow_osd():
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
    """A completed download is on the disk, also after a crash."""

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
            end = names.index('write', writes[-1]) + 1
            self.assertEqual(
                ['ftruncate', 'fsync', 'linkat', 'fsync', 'write'],
                names[writes[-1] + 1:end], repr(calls))
            truncated, synced, linked, directory, answer = [
                arguments for _name, arguments in calls[writes[-1] + 1:end]]
            files = {self.descriptor(arguments) for name, arguments in calls
                     if name == 'pwrite64'}
            self.assertEqual(
                {self.descriptor(truncated), self.descriptor(synced)}, files)
            number = self.descriptor(synced)[0]
            self.assertIn('"/proc/self/fd/%s"' % number, linked)
            self.assertIn('"out"', linked)
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
            assert tracer.stderr
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
