# SPDX-License-Identifier: Apache-2.0

"""Images as sources, with a fake privileged side."""

import contextlib
import errno
import os
import pathlib
import typing as ty
from unittest import mock

from oslo_serialization import jsonutils

from nova.image import destination
from nova.image.rbd import cluster
from nova.image.rbd import export
from nova.image.rbd import program
from nova.image import transfer
from nova.tests.unit.image import fakes as common
from nova.tests.unit.image.rbd import fakes

FSID, IMAGE_ID, URL = fakes.FSID, fakes.IMAGE_ID, fakes.URL
NAMES = tuple(fakes.NAMES.values())
LOOKUP = ('rbd info', 'rbd snap ls')
Program = fakes.Program
INFO = Program(b'{"block_name_prefix": "rbd_data.1"}')
SNAPSHOTS = Program(b'[{"name": "other", "id": 3}, {"name": "snap", "id": 4}]')
VALID = Program(fakes.VALID)
FAILED, GONE = Program(b'', 5), Program(b'', 2)


class OpenSourceTestCase(fakes.RbdTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.path = os.path.join(self.directory, 'image')

    def export(self, export: Program, info: fakes.Programs = INFO,
               snapshots: fakes.Programs = SNAPSHOTS) -> fakes.FakeStart:
        """Have Ceph send this export."""
        return self.fake({
            fakes.OF_CONF: fakes.fsid(FSID), 'rbd export': export,
            'rbd export-diff': export, 'rbd info': info,
            'rbd snap ls': snapshots})

    def open(
        self, disk_format: str | None = 'qcow2', url: str = URL,
        verified: bool = True, size: int | None = None,
    ) -> contextlib.AbstractContextManager[transfer.Source]:
        return export.open_source(
            {'id': IMAGE_ID, 'disk_format': disk_format, 'size': size}, url,
            self.path, verified=verified)

    def fetch(self, verifier: transfer.Verifier | None = None,
              **kwargs: ty.Any) -> transfer.Report:
        with self.open(**kwargs) as source:
            return transfer.transfer(source, self.path, verifier)

    def assert_fails(self, reason: str, **kwargs: ty.Any) -> None:
        for disk_format in ('qcow2', 'raw'):
            cluster._left_out.clear()
            self.assertRaisesRegex(
                transfer.SourceError, reason, self.fetch,
                **({'disk_format': disk_format} | kwargs))
            self.assertFalse(os.path.exists(self.path))

    def assert_file(self, content: bytes) -> None:
        self.assertEqual(
            common.digest(content),
            common.digest(pathlib.Path(self.path).read_bytes()))


class TestOpenSource(OpenSourceTestCase):
    def test_dense(self) -> None:
        content = common.noise(3_000_000)
        fake = self.export(Program(content))
        for disk_format in ('qcow2', 'vmdk', 'iso', 'ami', 'vhdx', None):
            verifier = common.HashVerifier()
            report = self.fetch(verifier, disk_format=disk_format)
            self.assert_file(content)
            self.assertEqual(common.digest(content), verifier.digest)
            self.assertEqual(3_000_000, report.size)
            self.assertEqual(('rbd export',), fake.calls[-1][0])

    def test_raw(self) -> None:
        content = common.noise(5000)
        fake = self.export(Program(
            fakes.BANNER + fakes.name() +
            fakes.size(1 << 20) +
            fakes.data(9000, content) + fakes.END))
        report = self.fetch(disk_format='raw')
        self.assert_file(common.naive_image(1 << 20, [(9000, content)]))
        self.assertEqual(1 << 20, report.size)
        self.assertLess(report.written, 1 << 17)
        self.assertEqual(('rbd export-diff',), fake.calls[-1][0])

    def test_empty(self) -> None:
        for verified in (True, False):
            self.export(Program())
            self.assertEqual(0, self.fetch(verified=verified).size)
            self.assert_file(b'')

    def test_what_is_asked_of_the_privileged_side(self) -> None:
        fake = self.clusters(fakes.fsid(fakes.OTHER_FSID), fakes.fsid(FSID))
        fake.programs['rbd export'] = [Program(b'x')]
        self.fetch(url=URL.replace('images', 'fast%20images'))
        self.assertEqual(
            [((fakes.OF_CONF,), 0, '', '', ''),
             ((fakes.OF_CONF,), 1, '', '', ''),
             (('rbd export',), 1, 'fast images', IMAGE_ID, 'snap')],
            fake.calls)

    def test_line_that_a_tempest_plugin_looks_for(self) -> None:
        self.export(Program(b'x'))
        with self.assertLogs(export.LOG.logger, 'DEBUG') as logs:
            self.fetch()
        self.assertEqual(
            ['Attempting to export RBD image: [pool_name: images] '
             f'[image_uuid: {IMAGE_ID}] [snapshot_name: snap] '
             f'[dst_path: {self.path}]',
             f'Exporting image {IMAGE_ID} from the Ceph cluster of '
             '/etc/ceph/ceph.conf'],
            [record.getMessage() for record in logs.records])

    def test_locations_that_are_not_used(self) -> None:
        self.flags(rbd_pool=['fast', 'slow'], group='glance')
        fake = self.export(Program(b'x'))
        image = 'RBD image .*, whose name does not match the image ID'
        for reason, url in (
            (image, URL.replace(IMAGE_ID, 'volume-1')),
            (image, URL.replace(IMAGE_ID, IMAGE_ID.upper())),
            (image, URL.replace(IMAGE_ID, IMAGE_ID + '%20')),
            (image, f'rbd://{FSID}/{IMAGE_ID}/other/snap'),
            ('Pool images is not listed in .glance. rbd_pool: fast, slow$',
             URL),
            ('does not have the form', URL + '/x'),
        ):
            self.assert_fails(reason, url=url)
        self.assertEqual([], fake.calls)
        self.flags(rbd_pool=['fast', 'images'], group='glance')
        self.assert_fails(
            f'Ceph cluster {fakes.OTHER_FSID}', url=fakes.OTHER_URL)
        self.fetch()
        self.assert_file(b'x')

    def test_rbd_fails(self) -> None:
        for content in (b'', fakes.VALID[:40], fakes.VALID):
            self.export(Program(content, 2, phrases='error opening pool'))
            self.assert_fails(
                r'^rbd export(-diff)? exited with status 2 \(No such file or '
                r'directory\): error opening pool$')

    def test_privileged_call_fails(self) -> None:
        fake = self.export(Program())
        cluster.find_cluster(FSID)
        with mock.patch.object(fake, 'answer', ()):
            self.assert_fails('^The privileged call for .* failed: not enough')

    def test_malformed(self) -> None:
        self.export(Program(fakes.VALID[:-1]))
        self.assert_fails('unexpected end', disk_format='raw')
        self.export(VALID)
        self.assert_fails('wrong snapshot', disk_format='raw',
                          url=URL.replace('/snap', '/other'))

    def test_limits(self) -> None:
        self.flags(rbd_connect_timeout=60, rbd_stall_timeout=9,
                   group='glance')
        fake = self.export(Program(bytes(3_000_000)))
        cluster.find_cluster(FSID)
        with fakes.PollSpy(fake) as spy:
            self.fetch()
        # The start of rbd, its first byte, all others, its outcome.
        start, first, *others, last = spy.waits
        self.assertEqual((61, 61, {9}, 61), (start, first, set(others), last))
        with fakes.PollSpy(fake) as spy:
            self.fetch(verified=False)
        # Four for the output of each lookup.
        self.assertEqual([61] * 10, spy.waits[:10])
        self.assertEqual({9}, set(spy.waits[10:-9]))
        self.assertEqual([61] * 9, spy.waits[-9:])

    def test_stalls(self) -> None:
        for stall, content, seconds in (
            (9, b'', 61), (9, fakes.VALID[:-9], 9),
            # Nova replaces a value out of range.
            (0, fakes.VALID[:-9], 1),
        ):
            self.flags(rbd_connect_timeout=60, rbd_stall_timeout=stall,
                       group='glance')
            fake = self.export(Program(content, stalls='after'))
            cluster._left_out.clear()
            cluster.find_cluster(FSID)
            with fakes.PollSpy(fake):
                self.assert_fails(f'for {seconds} seconds: Ceph is down')

    def test_room_for_a_sparse_image(self) -> None:
        """If it may not fit, Ceph says how much data it contains."""
        usage = {'images': [
            {'name': IMAGE_ID, 'snapshot': 'other', 'used_size': 1 << 40},
            {'name': IMAGE_ID, 'snapshot': 'snap', 'used_size': 3 << 20},
            {'name': IMAGE_ID, 'used_size': 1 << 40}]}
        cheap, dear = ['rbd info', 'rbd du'], ['rbd info']
        for size, mib, info, commands, fits in (
            (8 << 20, 8, {}, [], True),
            (None, 0, {}, [], True),
            (9 << 20, 3, {'features': ['fast-diff']}, cheap, True),
            (9 << 20, 2, {'features': ['fast-diff']}, cheap, False),
            # Without it, rbd would read the whole list of objects.
            (9 << 20, 2, {'features': ['layering']}, dear, True),
            (9 << 20, 2, {'features': ['fast-diff'],
                          'flags': ['fast diff invalid']}, dear, True),
        ):
            fake = self.fake({
                fakes.OF_CONF: fakes.fsid(FSID), 'rbd export-diff': VALID,
                'rbd info': Program(jsonutils.dump_as_bytes(info)),
                'rbd du': Program(jsonutils.dump_as_bytes(usage))})
            with mock.patch.object(
                    destination, 'room', lambda _path: mib << 20):
                if fits:
                    self.fetch(disk_format='raw', size=size)
                else:
                    error = self.assertRaises(
                        destination.DestinationError, self.fetch,
                        disk_format='raw', size=size).error
                    self.assertRegex(
                        str(error), 'needs 3.0 MiB, 2.0 MiB are available')
                    self.assertEqual(self.path, error.filename)
            ran = [call[0][0] for call in fake.calls]
            self.assertEqual(commands, [
                name for name in ran if name in ('rbd info', 'rbd du')])

    def assert_fetch_fails(self, reason: str) -> None:
        self.assertRaisesRegex(transfer.SourceError, reason, self.fetch)

    def test_cluster_that_does_not_answer_is_left_out(self) -> None:
        for name, failing, left_out in (
            ('stalls', Program(b'x', stalls='after'), True),
            ('no monitor answers', Program(b'', 1, 'NO_ANSWER'), True),
            ('no OSD answers', Program(b'x', errno.ETIMEDOUT), True),
            ('no such image', Program(b'', errno.ENOENT), False),
            ('refused', Program(b'', errno.EPERM, 'REFUSED'), False),
        ):
            cluster._left_out.clear()
            fake = self.export(failing)
            with (fakes.PollSpy(fake) if name == 'stalls'
                  else contextlib.nullcontext()):
                self.assert_fetch_fails('Ceph is down|exited with status')
            before = len(fake.calls)
            with mock.patch.object(cluster.LOG, 'warning') as warning:
                self.assert_fetch_fails(
                    'did not answer; Nova tries it again in 60 seconds'
                    if left_out else 'exited with status')
            self.assertEqual(before + (not left_out), len(fake.calls), name)
            warning.assert_not_called()

    def test_cluster_is_tried_again_after_a_while(self) -> None:
        self.export(Program(b'', 1, 'NO_ANSWER'))
        with mock.patch.object(cluster.LOG, 'warning') as warning:
            self.assert_fetch_fails('no monitor answered')
            [conf] = cluster._left_out
            cluster.leave_out(cluster.Cluster(FSID, conf, 0))
        warning.assert_called_once()
        cluster._left_out[conf] -= 61
        self.assert_fetch_fails('no monitor answered')

    def test_interruption(self) -> None:
        for disk_format in ('qcow2', 'raw'):
            self.export(Program(stalls='after'))
            with self.open(disk_format) as source:

                def read() -> None:
                    list(source.extents())
                    source.readinto(memoryview(bytearray(1)))

                self.assert_interrupted(source.interrupt, read)

    def test_finish(self) -> None:
        """It fails unless the export was read to its end."""
        for disk_format in ('qcow2', 'raw'):
            self.export(VALID)
            with self.open(disk_format) as source:
                self.assertRaisesRegex(transfer.SourceError,
                                       'not read to the end', source.finish)
                transfer.transfer(source, self.path)
                source.finish()
            with self.open(disk_format) as source:
                next(source.extents())
                source.readinto(memoryview(bytearray(1)))
                self.assertRaisesRegex(transfer.SourceError,
                                       'not read to the end', source.finish)
            self.export(Program(status=5))
            with self.open(disk_format) as source:
                self.assertRaisesRegex(
                    transfer.SourceError, 'exited with status 5',
                    transfer.transfer, source, self.path)
                self.assertRaises(transfer.SourceError, source.finish)

    def test_reader_gives_up(self) -> None:
        for endless in (Program(bytes(10_000_000)),
                        Program(bytes(100_000), stalls='after')):
            self.export(endless)
            with self.open() as source:
                self.assertRaisesRegex(
                    transfer.SourceError, 'more than', transfer.transfer,
                    source, self.path, size=1)
            self.assertFalse(os.path.exists(self.path))
            with self.open():
                pass

    def test_empty_buffer(self) -> None:
        self.export(Program(stalls='after'))
        with self.open() as source:
            self.assertEqual(0, source.readinto(memoryview(b'')))


class TestUnverified(OpenSourceTestCase):
    """An export fails if the snapshot disappears during it."""

    def fetch_changed(self, info: fakes.Programs = INFO,
                      snapshots: fakes.Programs = SNAPSHOTS,
                      export: Program = VALID) -> None:
        self.fake_start = self.export(export, info, snapshots)
        self.fetch(disk_format='raw', verified=False)

    def test_undisturbed(self) -> None:
        many = ','.join('{"name": "s%d", "id": %d}' % (number, number)
                        for number in range(10, 5000))
        for snapshots in (SNAPSHOTS, Program(
                b'[%s,{"name":"snap","id":4}]' % many.encode())):
            self.fetch_changed(snapshots=snapshots)
            self.assertTrue(os.path.exists(self.path))
        self.assertEqual(((*LOOKUP, 'rbd export-diff', *LOOKUP), 0, *NAMES),
                         self.fake_start.calls[-1])

    def test_deleted_or_replaced(self) -> None:
        after_snapshots = (
            b'[]', b'null', b'{}', b'[null]', b'[', b'\xff', b'',
            b'[{"name": "other", "id": 4}]', b'[{"name": "snap"}]',
            b'[{"name": "snap", "id": 5}]',
            b'[{"name": "snap", "id": 4}, {"name": "snap", "id": 4}]')
        after_info = (b'{"block_name_prefix": "rbd_data.2"}', b'{}', b'[]',
                      b'x', b'1', b'null', b'')
        nothing, empty = Program(b'{}'), Program(b'[]')
        cases: list[tuple[fakes.Programs, fakes.Programs]] = [
            *((INFO, [SNAPSHOTS, after])
              for after in (GONE, *map(Program, after_snapshots))),
            *(([INFO, after], SNAPSHOTS)
              for after in (GONE, *map(Program, after_info))),
            # Both lookups agree, but neither finds the snapshot.
            (nothing, empty), (INFO, empty), (nothing, SNAPSHOTS)]
        for info, snapshots in cases:
            self.assertRaisesRegex(
                transfer.SourceError, 'may have been deleted during the '
                'export', self.fetch_changed, info, snapshots)
            self.assertFalse(os.path.exists(self.path))

    def test_failures(self) -> None:
        cases: list[tuple[str, int, dict[str, ty.Any]]] = [
            ('rbd info', 5, {'info': FAILED}),
            ('rbd info', 2, {'info': GONE}),
            ('rbd snap ls', 2, {'snapshots': GONE}),
            ('rbd info', 5, {'info': [INFO, FAILED]}),
            ('rbd snap ls', 5, {'snapshots': [SNAPSHOTS, FAILED]}),
            ('export-diff', 5, {'export': FAILED}),
            ('export-diff', 2, {'export': GONE})]
        for command, status, programs in cases:
            error = self.assertRaises(
                program.RunError, self.fetch_changed, **programs)
            self.assertIn(f'{command} exited with status {status}',
                          str(error))
            self.assertFalse(os.path.exists(self.path))


class TestDataPool(OpenSourceTestCase):
    def test_answers(self) -> None:
        for answer, pool in ((b'{"data_pool": "ec"}', 'ec'), (b'{}', None)):
            fake = self.clusters(
                fakes.fsid(fakes.OTHER_FSID), fakes.fsid(FSID))
            fake.programs['rbd info'] = [Program(answer)]
            self.assertEqual(pool, export.data_pool(URL))
            self.assertEqual((('rbd info',), 1, *NAMES), fake.calls[-1])

    def test_failure(self) -> None:
        self.export(Program(), info=FAILED)
        self.assertRaises(program.RunError, export.data_pool, URL)
        self.assertRaises(
            transfer.SourceError, export.data_pool, fakes.OTHER_URL)
        for answer in (b'', b'x', b'\xff', b'{', b'[]', b'null', b'7'):
            self.export(Program(), info=Program(answer))
            self.assertRaisesRegex(
                transfer.SourceError, 'rbd info did not print JSON',
                export.data_pool, URL)
