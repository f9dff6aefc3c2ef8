# SPDX-License-Identifier: Apache-2.0

"""The 'rbd' handler, with a stand-in for the privileged side."""

from collections.abc import Callable
from collections.abc import Sequence
import contextlib
import os
import pathlib
import typing as ty
from unittest import mock

import fixtures

from nova.image import compat
from nova.image.rbd import export as rbd
from nova.image.rbd import program as rbd_run
from nova.image import transfer
import nova.privsep.rbd
from nova import test
from nova.tests.unit.image.rbd import test_diff as test_rbd_diff
from nova.tests.unit.image.rbd import test_program as test_rbd_run
from nova.tests.unit.image import test_transfer

Program = test_rbd_run.Program

FSID = 'c0ffee00-0000-4000-8000-00000000cafe'
OTHER_FSID = '0ddba11e-0000-4000-8000-00000000cafe'
IMAGE_ID = '5ca1ab1e-0000-4000-8000-00000000cafe'
URL = f'rbd://{FSID}/images/{IMAGE_ID}/snap'
OTHER_URL = f'rbd://{OTHER_FSID}/images/{IMAGE_ID}/snap'

OF_CONF = 'ceph-conf --show-config-value=fsid'
OF_CLUSTER = 'ceph fsid'
#: A ceph.conf that has no fsid.
NONE = Program(b'00000000-0000-0000-0000-000000000000\n')
UNREADABLE = Program(b'', 2, 'BAD_CONF')
INFO = Program(b'{"block_name_prefix": "rbd_data.1"}')
SNAPSHOTS = Program(b'[{"name": "other", "id": 3}, {"name": "snap", "id": 4}]')
VALID = Program(test_rbd_diff.VALID)


def fsid(value: str) -> Program:
    return Program(value.encode() + b'\n')


class TestParse(test.NoDBTestCase):
    def test_good(self) -> None:
        for url, parts in (
            (URL, (FSID, 'images', IMAGE_ID, 'snap')),
            ('rbd://f/p/i/s', ('f', 'p', 'i', 's')),
            ('rbd://F/P/I/S', ('F', 'P', 'I', 'S')),
            ('rbd://f/a%20b/i/s', ('f', 'a b', 'i', 's')),
            ('rbd://f/gr%C3%B6%c3%9Fe/i/s', ('f', 'größe', 'i', 's')),
            ('rbd://f/a-b_c.d~e/i/s', ('f', 'a-b_c.d~e', 'i', 's')),
            ('rbd://f/p%252Fq/i/s', ('f', 'p%2Fq', 'i', 's')),
            ('rbd://f/%3Fa%3Db%26c%23d/i/s', ('f', '?a=b&c#d', 'i', 's')),
            # These are names of no directory: there is no path here.
            ('rbd://f/../i/.', ('f', '..', 'i', '.')),
            ('rbd://f/%s/i/s' % ('p' * 255), ('f', 'p' * 255, 'i', 's')),
        ):
            self.assertEqual(rbd.Location(*parts), rbd.parse(url), url)

    def test_bad(self) -> None:
        for url in (
            '', 'rbd', 'rbd:', 'rbd://', 'rbd:///', 'rbd:////',
            'rbd://image', 'rbd://f/p/i', 'rbd://f/p/i/s/x',
            'rbd://f/p/i/s/', 'rbd:///p/i/s', 'rbd://f//i/s',
            'rbd://f/p//s', 'rbd://f/p/i/', '/rbd://f/p/i/s',
            'RBD://f/p/i/s', 'Rbd://f/p/i/s', 'rbds://f/p/i/s',
            'http://f/p/i/s', 'rbd:/f/p/i/s', 'rbd:f/p/i/s', 'f/p/i/s',
            ' rbd://f/p/i/s', 'rbd://f/p/i/s ', 'rbd://f/p/i/s\n',
            'rbd://f/p/i/s?x=1', 'rbd://f/p/i/s#x', 'rbd://f/p;x/i/s',
            'rbd://user@f/p/i/s', 'rbd://f:3300/p/i/s',
            'rbd://f/p/i@t/s', 'rbd://f/p/i%40t/s', 'rbd://f/p/i/@',
            'rbd://f/p%2Fq/i/s', 'rbd://f/p%2fq/i/s', 'rbd://f/p/%2F/s',
            'rbd://f/p/i/%2E%2E%2Fs',
            'rbd://f/-p/i/s', 'rbd://f/%2Dp/i/s', 'rbd://f/p/--conf/s',
            'rbd://f/p/i/%2d',
            'rbd://f/p%/i/s', 'rbd://f/p%2/i/s', 'rbd://f/p%zz/i/s',
            'rbd://f/p%00/i/s', 'rbd://f/p%0A/i/s', 'rbd://f/p%7F/i/s',
            'rbd://f/p\0/i/s', 'rbd://f/größe/i/s', 'rbd://f/p\u0661/i/s',
            'rbd://f/%FF/i/s', 'rbd://f/%C3/i/s', 'rbd://f/%ED%A0%80/i/s',
            'rbd://f/%E2%80%AE/i/s', 'rbd://f/%E2%80%A8/i/s',
            'rbd://f/p+q/i/s', 'rbd://f/p q/i/s', 'rbd://f/p\\q/i/s',
            'rbd://f/%s/i/s' % ('p' * 256), 'rbd://' + 'p' * 100_000,
        ):
            error = self.assertRaises(
                transfer.SourceError, rbd.parse, url)
            # It goes to the log, where it must not break a line.
            self.assertTrue(str(error).isprintable(), repr(url))


class RbdTestCase(test.NoDBTestCase):
    CONFS = ('/etc/ceph/ceph.conf', '/etc/ceph/b.conf', '/etc/ceph/c.conf')

    def setUp(self) -> None:
        super().setUp()
        self.useFixture(test_transfer.LeakCheck())
        self.path = os.path.join(
            self.useFixture(fixtures.TempDir()).path, 'image')
        self.useFixture(fixtures.MockPatchObject(rbd, '_known_fsids', {}))
        self.now = 0.0
        self.useFixture(fixtures.MockPatchObject(
            rbd, 'time', mock.Mock(monotonic=lambda: self.now)))

    def fake(
        self, programs: dict[ty.Any, Program | Sequence[Program]],
    ) -> test_rbd_run.FakeStart:
        return self.useFixture(test_rbd_run.FakeStart(programs))

    def clusters(self, *programs: Program) -> test_rbd_run.FakeStart:
        """Have a ceph.conf for each of these answers to what its fsid is."""
        self.flags(rbd_ceph_conf=self.CONFS[:len(programs)], group='glance')
        rbd._known_fsids.clear()
        return self.fake({(number, OF_CONF): program
                          for number, program in enumerate(programs)})


class TestFsid(RbdTestCase):
    def ask(
        self, of_conf: Program | Sequence[Program],
        of_cluster: Program | Sequence[Program] = (),
    ) -> list[str]:
        """Read the fsid; return the commands that were run for it."""
        rbd._known_fsids.clear()
        fake = self.fake({OF_CONF: of_conf, OF_CLUSTER: of_cluster})
        try:
            self.found = rbd.read_fsid(0)
        except transfer.SourceError as exc:
            self.found = str(exc)
        return [commands[0] for commands, *_rest in fake.calls]

    def test_answers(self) -> None:
        for answer in (FSID, FSID.upper(), f' {FSID}\n'):
            self.assertEqual([OF_CONF], self.ask(fsid(answer)))
            self.assertEqual(FSID, self.found)
            self.assertEqual([OF_CONF, OF_CLUSTER],
                             self.ask(NONE, fsid(answer)))
            self.assertEqual(FSID, self.found)

    def test_holds_up_no_green_thread(self) -> None:
        with mock.patch.object(
                compat, 'in_native_thread',
                side_effect=lambda target: target) as in_native_thread:
            self.ask(fsid(FSID))
        in_native_thread.assert_called_once()
        self.assertEqual(FSID, self.found)

    def test_killed_green_thread(self) -> None:
        """The native thread goes on, and nothing closes its descriptors."""
        targets = []

        class Killed(BaseException):
            pass

        def in_native_thread(target: Callable[[], bytes]) -> mock.Mock:
            targets.append(target)
            return mock.Mock(side_effect=Killed)

        self.fake({OF_CONF: fsid(FSID)})
        with mock.patch.object(compat, 'in_native_thread', in_native_thread):
            self.assertRaises(Killed, rbd.run, 0, OF_CONF)
        [answer] = targets
        self.assertEqual(FSID.encode() + b'\n', answer())

    def test_not_an_fsid(self) -> None:
        """A key file can be where ceph.conf should be."""
        for answer in ('', 'hunter2', FSID + 'x', f'{FSID} {FSID}', '\xff'):
            self.ask(fsid(answer))
            self.assertEqual(
                'ceph-conf did not print an fsid', self.found)
            self.ask(NONE, fsid(answer))
            self.assertEqual('ceph did not print an fsid',
                             self.found)

    def test_remembered(self) -> None:
        fake = self.clusters(fsid(FSID), fsid(OTHER_FSID))
        for self.now in (0, 59, 10 ** 9):
            self.assertEqual((FSID, OTHER_FSID),
                             (rbd.read_fsid(0), rbd.read_fsid(1)))
        self.assertEqual(2, len(fake.calls))

    def test_failure_is_remembered_for_a_minute(self) -> None:
        fake = self.fake({OF_CONF: [UNREADABLE, UNREADABLE, fsid(FSID)]})
        errors = []
        for self.now, calls in ((0, 1), (59, 1), (61, 2), (120, 2)):
            errors.append(self.assertRaises(
                transfer.SourceError, rbd.read_fsid, 0))
            self.assertEqual(calls, len(fake.calls))
        self.assertEqual(
            {'ceph.conf cannot be read or parsed (it runs as the user ID '
             '4001, because root is not the only user that can change '
             '/etc/ceph)'}, set(map(str, errors)))
        self.assertEqual(4, len(set(map(id, errors))))
        self.now = 122
        self.assertEqual(FSID, rbd.read_fsid(0))

    def test_every_failure_of_a_cluster_is_remembered(self) -> None:
        for program, reason in (
            (fsid('x'), 'did not print an fsid'),
            (Program(stalls='before', dies=True), 'closed the connection'),
        ):
            rbd._known_fsids.clear()
            fake = self.fake({OF_CONF: [program, fsid(FSID)]})
            for self.now in (0, 59):
                self.assertRaisesRegex(
                    transfer.SourceError, reason, rbd.read_fsid, 0)
            self.assertEqual(1, len(fake.calls))

    def test_failure_of_the_call_is_not_remembered(self) -> None:
        with mock.patch.object(nova.privsep.rbd, 'start',
                               side_effect=PermissionError('no nova.conf')):
            for _attempt in range(2):
                self.assertRaisesRegex(
                    rbd_run.CallError, 'no nova.conf', rbd.read_fsid, 0)
        self.fake({OF_CONF: fsid(FSID)})
        self.assertEqual(FSID, rbd.read_fsid(0))

    def test_asked_again_if_the_cause_is_missing(self) -> None:
        silent, refused = Program(b'', 1), Program(b'', 13, 'REFUSED')
        for answers, attempts, found in (
            ([silent, fsid(FSID)], 2, FSID),
            ([silent, silent, fsid(FSID)], 3, FSID),
            ([silent] * 4, 3, 'ceph fsid ended with status 1'),
            ([refused] * 2, 1, 'ceph fsid ended with status 13'),
            ([silent, refused], 2, 'ceph fsid ended with status 13'),
        ):
            self.assertEqual([OF_CONF] + [OF_CLUSTER] * attempts,
                             self.ask(NONE, answers))
            self.assertTrue(self.found.startswith(found), self.found)

    def test_defaults(self) -> None:
        for confs, libvirt_conf, expected in (
            (['/b', '/c'], '/a', '/b'), ([], '/a', '/a'),
            ([], '', '/etc/ceph/ceph.conf'),
        ):
            self.flags(rbd_ceph_conf=confs, group='glance')
            self.flags(images_rbd_ceph_conf=libvirt_conf, group='libvirt')
            self.ask(fsid(FSID))
            self.assertEqual(rbd.Cluster(FSID, expected, 0),
                             rbd.find_cluster(FSID))


class TestClusters(RbdTestCase):
    def test_the_one_with_this_fsid(self) -> None:
        for programs, number in (
            ([fsid(FSID)], 0), ([fsid(FSID), fsid(OTHER_FSID)], 0),
            ([fsid(OTHER_FSID), fsid(FSID)], 1),
            ([UNREADABLE, fsid('x'), fsid(FSID)], 2),
            ([fsid(FSID), fsid(FSID)], 0),
        ):
            self.clusters(*programs)
            for value in (FSID, FSID.upper()):
                self.assertEqual(
                    rbd.Cluster(FSID, self.CONFS[number], number),
                    rbd.find_cluster(value))

    def test_none_with_this_fsid(self) -> None:
        self.clusters(fsid(FSID), UNREADABLE, fsid('hunter2'))
        error = str(self.assertRaises(
            transfer.SourceError, rbd.find_cluster, OTHER_FSID))
        for part in (f'{OTHER_FSID}, which is not in [glance] rbd_ceph_conf',
                     f'({self.CONFS[0]}: {FSID}; ',
                     f'{self.CONFS[1]}: ceph.conf cannot be read',
                     f'{self.CONFS[2]}: ceph-conf did not print'):
            self.assertIn(part, error)
        self.assertNotIn('hunter2', error)

    def test_rank(self) -> None:
        mine, other = fsid(FSID), fsid(OTHER_FSID)
        for programs, ranks in (
            ([mine, other], (0, 1)), ([other, mine], (1, 0)),
            ([mine], (0, None)), ([mine, mine], (0, None)),
            ([UNREADABLE, other, mine], (2, 1)), ([UNREADABLE], (None, None)),
        ):
            self.clusters(*programs)
            self.assertEqual(ranks, (rbd.rank(URL), rbd.rank(OTHER_URL)))
            self.assertEqual(
                ranks[0], rbd.rank(URL.replace(FSID, FSID.upper())))
            # open_source() tells why a location cannot be used.
            self.assertEqual({0}, set(map(rbd.rank, (
                'rbd://image', 'rbd:', URL + '/x'))))

    def test_location_that_is_left_out(self) -> None:
        self.clusters(fsid(FSID))
        with self.assertLogs('nova.image.rbd.export', 'DEBUG') as logs:
            self.assertIsNone(rbd.rank(OTHER_URL))
        self.assertIn('A location is left out: It is in the Ceph cluster '
                      + OTHER_FSID, logs.output[0])


class OpenSourceTestCase(RbdTestCase):
    def export(
        self, export: Program, **programs: Program | Sequence[Program],
    ) -> test_rbd_run.FakeStart:
        """Have Ceph send this export."""
        return self.fake({
            OF_CONF: fsid(FSID), 'rbd export': export,
            'rbd export-diff': export, 'rbd info': INFO,
            'rbd snap ls': SNAPSHOTS,
            **{name.replace('_', ' '): each
               for name, each in programs.items()}})

    def open(
        self, disk_format: str | None = 'qcow2', url: str = URL,
        verified: bool = True,
    ) -> contextlib.AbstractContextManager[transfer.Source]:
        return rbd.open_source({'id': IMAGE_ID, 'disk_format': disk_format},
                               url, self.path, verified=verified)

    def fetch(
        self, verifier: transfer.Verifier | None = None, **kwargs: ty.Any,
    ) -> transfer.Report:
        with self.open(**kwargs) as source:
            return transfer.transfer(source, self.path, verifier)

    def assert_fails(self, reason: str, **kwargs: ty.Any) -> None:
        for disk_format in ('qcow2', 'raw'):
            self.assertRaisesRegex(
                transfer.SourceError, reason, self.fetch,
                **({'disk_format': disk_format} | kwargs))
            self.assertFalse(os.path.exists(self.path))


class TestOpenSource(OpenSourceTestCase):
    def test_dense(self) -> None:
        content = test_transfer.noise(3_000_000)
        fake = self.export(Program(content))
        for disk_format in ('qcow2', 'vmdk', 'iso', 'ami', 'vhdx', None):
            verifier = test_transfer.HashVerifier()
            report = self.fetch(verifier, disk_format=disk_format)
            self.assertEqual(
                test_transfer.digest(content),
                test_transfer.digest(pathlib.Path(self.path).read_bytes()))
            self.assertEqual(test_transfer.digest(content), verifier.digest)
            self.assertEqual(3_000_000, report.size)
            self.assertEqual(('rbd export',), fake.calls[-1][0])

    def test_raw(self) -> None:
        content = test_transfer.noise(5000)
        fake = self.export(Program(
            test_rbd_diff.BANNER + test_rbd_diff.name() +
            test_rbd_diff.size(1 << 20) +
            test_rbd_diff.data(9000, content) + test_rbd_diff.END))
        report = self.fetch(disk_format='raw')
        self.assertEqual(
            test_transfer.digest(test_transfer.naive_image(
                1 << 20, [(9000, content)])),
            test_transfer.digest(pathlib.Path(self.path).read_bytes()))
        self.assertEqual(1 << 20, report.size)
        self.assertLess(report.written, 1 << 17)
        self.assertEqual(('rbd export-diff',), fake.calls[-1][0])

    def test_empty(self) -> None:
        for verified in (True, False):
            self.export(Program())
            self.assertEqual(0, self.fetch(verified=verified).size)
            self.assertEqual(0, os.stat(self.path).st_size)

    def test_what_is_asked_of_the_privileged_side(self) -> None:
        fake = self.clusters(fsid(OTHER_FSID), fsid(FSID))
        fake.programs['rbd export'] = [Program(b'x')]
        self.fetch(url=URL.replace('images', 'fast%20images'))
        self.assertEqual(
            [((OF_CONF,), 0, '', '', ''), ((OF_CONF,), 1, '', '', ''),
             (('rbd export',), 1, 'fast images', IMAGE_ID, 'snap')],
            fake.calls)

    def test_line_that_a_tempest_plugin_looks_for(self) -> None:
        self.export(Program(b'x'))
        with self.assertLogs(rbd.LOG.logger, 'DEBUG') as logs:
            self.fetch()
        self.assertEqual(
            ['Attempting to export RBD image: [pool_name: images] '
             f'[image_uuid: {IMAGE_ID}] [snapshot_name: snap] '
             f'[dst_path: {self.path}]',
             f'Image {IMAGE_ID} is exported from the Ceph cluster of '
             '/etc/ceph/ceph.conf'],
            [record.getMessage() for record in logs.records])

    def test_locations_that_are_not_used(self) -> None:
        self.flags(rbd_pool=['fast', 'slow'], group='glance')
        fake = self.export(Program(b'x'))
        image = 'RBD image .* not of one that has its id'
        for reason, url in (
            (image, URL.replace(IMAGE_ID, 'volume-1')),
            (image, URL.replace(IMAGE_ID, IMAGE_ID.upper())),
            (image, URL.replace(IMAGE_ID, IMAGE_ID + '%20')),
            (image, f'rbd://{FSID}/{IMAGE_ID}/other/snap'),
            ('Its pool images is not in .glance. rbd_pool', URL),
            ('not of the form', URL + '/x'),
        ):
            self.assert_fails(reason, url=url)
        self.assertEqual([], fake.calls)
        self.flags(rbd_pool=['fast', 'images'], group='glance')
        self.assert_fails(f'Ceph cluster {OTHER_FSID}', url=OTHER_URL)
        self.fetch()
        self.assertEqual(b'x', pathlib.Path(self.path).read_bytes())

    def test_rbd_fails(self) -> None:
        for content in (b'', test_rbd_diff.VALID[:40], test_rbd_diff.VALID):
            self.export(Program(content, 2, phrases='error opening pool'))
            self.assert_fails(
                r'^rbd export(-diff)? ended with status 2 \(No such file or '
                r'directory\): error opening pool$')

    def test_privileged_call_fails(self) -> None:
        fake = self.export(Program())
        rbd.find_cluster(FSID)
        with mock.patch.object(fake, 'answer', ()):
            self.assert_fails('^The privileged call for .* failed: not enough')

    def test_malformed(self) -> None:
        self.export(Program(test_rbd_diff.VALID[:-1]))
        self.assert_fails('ends early', disk_format='raw')
        self.export(VALID)
        self.assert_fails('of snapshot', disk_format='raw',
                          url=URL.replace('/snap', '/other'))

    def test_limits(self) -> None:
        self.flags(rbd_connect_timeout=60, rbd_stall_timeout=9,
                   group='glance')
        fake = self.export(Program(bytes(3_000_000)))
        rbd.find_cluster(FSID)
        with test_rbd_run.PollSpy(fake) as spy:
            self.fetch()
        # The start of rbd, its first byte, all others, its outcome.
        start, first, *others, last = spy.waits
        self.assertEqual((61, 61, {9}, 61), (start, first, set(others), last))
        with test_rbd_run.PollSpy(fake) as spy:
            self.fetch(verified=False)
        # Four for the output of each lookup.
        self.assertEqual([61] * 10, spy.waits[:10])
        self.assertEqual({9}, set(spy.waits[10:-9]))
        self.assertEqual([61] * 9, spy.waits[-9:])

    def test_stalls(self) -> None:
        self.flags(rbd_connect_timeout=60, rbd_stall_timeout=9,
                   group='glance')
        for content, seconds in ((b'', 61), (test_rbd_diff.VALID[:-9], 9)):
            fake = self.export(Program(content, stalls='after'))
            rbd.find_cluster(FSID)
            with test_rbd_run.PollSpy(fake):
                self.assert_fails(f'sent no data for {seconds} seconds')

    def test_interruption(self) -> None:
        for disk_format in ('qcow2', 'raw'):
            self.export(Program(stalls='after'))
            failures: list[str] = []
            with self.open(disk_format) as source:

                def read() -> None:
                    try:
                        list(source.extents())
                        source.readinto(memoryview(bytearray(1)))
                    except transfer.SourceError as error:
                        failures.append(str(error))

                thread = transfer.native('threading').Thread(target=read)
                thread.start()
                source.interrupt()
                thread.join(60)
            self.assertEqual(['It was interrupted'], failures)

    def test_finish(self) -> None:
        """It fails unless the export was read to its end."""
        for disk_format in ('qcow2', 'raw'):
            self.export(VALID)
            with self.open(disk_format) as source:
                self.assertRaisesRegex(transfer.SourceError,
                                       'not read to its end', source.finish)
                transfer.transfer(source, self.path)
                source.finish()
            with self.open(disk_format) as source:
                next(source.extents())
                source.readinto(memoryview(bytearray(1)))
                self.assertRaisesRegex(transfer.SourceError,
                                       'not read to its end', source.finish)
            self.export(Program(status=5))
            with self.open(disk_format) as source:
                self.assertRaisesRegex(
                    transfer.SourceError, 'ended with status 5',
                    transfer.transfer, source, self.path)
                self.assertRaises(transfer.SourceError, source.finish)

    def test_reader_gives_up(self) -> None:
        for export in (Program(bytes(10_000_000)),
                       Program(bytes(100_000), stalls='after')):
            self.export(export)
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

    def fetch_changed(
        self, info: Sequence[Program], snapshots: Sequence[Program],
        export: Program = VALID,
    ) -> None:
        self.fake_start = self.export(
            export, rbd_info=info, rbd_snap_ls=snapshots)
        self.fetch(disk_format='raw', verified=False)

    def test_undisturbed(self) -> None:
        many = ','.join('{"name": "s%d", "id": %d}' % (number, number)
                        for number in range(10, 5000))
        for snapshots in (SNAPSHOTS, Program(
                b'[%s,{"name":"snap","id":4}]' % many.encode())):
            self.fetch_changed([INFO], [snapshots])
            self.assertTrue(os.path.exists(self.path))
        lookup = 'rbd info', 'rbd snap ls'
        self.assertEqual(
            ((*lookup, 'rbd export-diff', *lookup), 0, 'images', IMAGE_ID,
             'snap'), self.fake_start.calls[-1])

    def assert_lost(
        self, info: Sequence[Program], snapshots: Sequence[Program],
    ) -> None:
        self.assertRaisesRegex(
            transfer.SourceError, 'may have been deleted during the export',
            self.fetch_changed, info, snapshots)
        self.assertFalse(os.path.exists(self.path))

    def test_deleted_or_replaced(self) -> None:
        gone = Program(b'', 2, phrases='error opening image')
        for after in (
            gone, *map(Program, (
                b'[]', b'null', b'{}', b'[null]', b'[', b'\xff', b'',
                b'[{"name": "other", "id": 4}]', b'[{"name": "snap"}]',
                b'[{"name": "snap", "id": 5}]',
                b'[{"name": "snap", "id": 4}, {"name": "snap", "id": 4}]')),
        ):
            self.assert_lost([INFO], [SNAPSHOTS, after])
        for after in (gone, *map(Program, (
            b'{"block_name_prefix": "rbd_data.2"}', b'{}', b'[]', b'x', b'1',
            b'null', b'',
        ))):
            self.assert_lost([INFO, after], [SNAPSHOTS])

    def test_nothing_to_compare_with(self) -> None:
        """Both lookups agree, but neither finds the snapshot."""
        for info, snapshots in ((b'{}', b'[]'), (INFO.output, b'[]'),
                                (b'{}', SNAPSHOTS.output)):
            self.assert_lost([Program(info)], [Program(snapshots)])

    def test_failures(self) -> None:
        failed = Program(b'', 5)
        gone = Program(b'', 2)
        for info, snapshots, export, reason in (
            ([failed], [SNAPSHOTS], VALID, 'rbd info ended with status 5'),
            ([gone], [SNAPSHOTS], VALID, 'rbd info ended with status 2'),
            ([INFO], [gone], VALID, 'rbd snap ls ended with status 2'),
            ([INFO, failed], [SNAPSHOTS], VALID,
             'rbd info ended with status 5'),
            ([INFO], [SNAPSHOTS, failed], VALID,
             'rbd snap ls ended with status 5'),
            ([INFO], [SNAPSHOTS], failed, 'export-diff ended with status 5'),
            ([INFO], [SNAPSHOTS], gone, 'export-diff ended with status 2'),
        ):
            error = self.assertRaises(
                rbd_run.RunError, self.fetch_changed, info, snapshots, export)
            self.assertIn(reason, str(error))
            self.assertFalse(os.path.exists(self.path))


class TestDataPool(OpenSourceTestCase):
    def test_answers(self) -> None:
        for answer, pool in ((b'{"data_pool": "ec"}', 'ec'), (b'{}', None)):
            fake = self.clusters(fsid(OTHER_FSID), fsid(FSID))
            fake.programs['rbd info'] = [Program(answer)]
            self.assertEqual(pool, rbd.data_pool(URL))
            self.assertEqual(
                (('rbd info',), 1, 'images', IMAGE_ID, 'snap'),
                fake.calls[-1])

    def test_failure(self) -> None:
        self.export(Program(), rbd_info=Program(b'', 1))
        self.assertRaises(rbd_run.RunError, rbd.data_pool, URL)
        self.assertRaises(transfer.SourceError, rbd.data_pool, OTHER_URL)
        for answer in (b'', b'x', b'\xff', b'{', b'[]', b'null', b'7'):
            self.export(Program(), rbd_info=Program(answer))
            self.assertRaisesRegex(
                transfer.SourceError, 'rbd info did not print JSON',
                rbd.data_pool, URL)
