# SPDX-License-Identifier: Apache-2.0

"""Tests for both concurrency modes; test_modes.py runs them in each."""

import os
import pathlib

from oslo_log import log as logging

from lab import errors
from lab import process
from lab.tests.functional import base
from lab.tests.functional import service_base

LOG = logging.getLogger(__name__)

MIB = base.MIB

#: Seconds that everything else in the service may have to wait.
LONGEST_GAP = 0.5


class Modes(service_base.ServiceTestCase):
    """Tests that run in both concurrency modes."""

    def test_others_go_on_during_a_large_download(self):
        path, image_id = self.huge_image()
        # A hub that is blocked is so each time; a busy machine is not.
        gaps: list[float] = []
        while len(gaps) < 3 and min(gaps, default=9) > LONGEST_GAP:
            beat = self.service.ask('watch_the_beat')
            fetched = self.fetch(image_id)
            self.service.ask('stop_the_beat').answer()
            gaps.append(beat.answer()['gap'])
            self.assert_fetched_by('rbd', image_id, fetched)
        LOG.info('Longest gaps in seconds: %s', gaps)
        self.assertLess(min(gaps), LONGEST_GAP, gaps)
        self.assert_same(path, fetched)

    def huge_image(self) -> tuple[pathlib.Path, str]:
        """1 GiB, made and stored once for both modes."""
        path = self.cloud.directory / 'images' / 'huge'
        known = path.with_suffix('.id')
        if not known.exists():
            block = os.urandom(64 * MIB)
            with open(path, 'wb') as file:
                for _number in range(16):
                    file.write(block)
            known.write_text(self.cloud.upload(path, 'iso'))
        return path, known.read_text()

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
        with self.slow_osd():
            request = self.service.fetch(image_id, self.out())
            self.rbd_pid(8 * MIB)
            with self.stopped(self.cloud.ceph.osd.pid):
                self.wait_for_log(
                    'Image %s could not be fetched' % image_id, request)
                # Meanwhile the service does everything else.
                self.service.ask('resources').answer(5)
        self.assert_by_http('received from .* for 2 seconds', image_id,
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
