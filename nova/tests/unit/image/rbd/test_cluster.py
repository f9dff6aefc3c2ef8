# SPDX-License-Identifier: Apache-2.0

"""The cluster of a location, with a fake privileged side."""

import threading
import typing as ty
from unittest import mock

from nova.image.rbd import cluster
from nova.image.rbd import location
from nova.image.rbd import program
from nova.image import transfer
import nova.privsep.rbd
from nova.tests.unit.image import fakes as common
from nova.tests.unit.image.rbd import fakes

FSID, OTHER_FSID = fakes.FSID, fakes.OTHER_FSID
MINE, OTHER = fakes.fsid(FSID), fakes.fsid(OTHER_FSID)
#: A ceph.conf without an fsid.
NONE = fakes.fsid('00000000-0000-0000-0000-000000000000')
UNREADABLE = fakes.Program(b'', 2, 'BAD_CONF')


class TestFsid(fakes.RbdTestCase):
    def ask(self, of_conf: fakes.Programs,
            of_cluster: fakes.Programs = ()) -> list[str]:
        """Read the fsid; return the commands that ran."""
        cluster._known_fsids.clear()
        fake = self.fake(
            {fakes.OF_CONF: of_conf, fakes.OF_CLUSTER: of_cluster})
        try:
            self.found = cluster.read_fsid(0)
        except transfer.SourceError as exc:
            self.found = str(exc)
        return [commands[0] for commands, *_rest in fake.calls]

    def pass_time(self, seconds: float) -> None:
        for conf, (known, expiry) in cluster._known_fsids.items():
            cluster._known_fsids[conf] = known, expiry - seconds

    def test_answers(self) -> None:
        for text in (FSID, FSID.upper(), f' {FSID}\n'):
            answer = fakes.fsid(text)
            for answers, commands in (
                ((answer,), [fakes.OF_CONF]),
                ((NONE, answer), [fakes.OF_CONF, fakes.OF_CLUSTER]),
            ):
                self.assertEqual(commands, self.ask(*answers))
                self.assertEqual(FSID, self.found)

    def test_not_an_fsid(self) -> None:
        """A keyring can be where ceph.conf should be."""
        for text in ('', 'hunter2', FSID + 'x', f'{FSID} {FSID}', '\xff'):
            answer = fakes.fsid(text)
            for answers, name in (((answer,), 'ceph-conf'),
                                  ((NONE, answer), 'ceph')):
                self.ask(*answers)
                self.assertEqual(f'{name} did not print an fsid', self.found)

    def test_remembered(self) -> None:
        fake = self.clusters(MINE, OTHER)
        for seconds in (0, 59, 10 ** 9):
            self.pass_time(seconds)
            self.assertEqual((FSID, OTHER_FSID),
                             (cluster.read_fsid(0), cluster.read_fsid(1)))
        self.assertEqual(2, len(fake.calls))

    def test_asked_once_at_a_time(self) -> None:
        """Fifty boots do not start fifty programs."""
        fake = self.fake({fakes.OF_CONF: [UNREADABLE]})
        errors = []

        def read() -> None:
            try:
                cluster.read_fsid(0)
            except transfer.SourceError as exc:
                errors.append(exc)

        threads = [threading.Thread(target=read) for _number in range(9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(common.LIMIT)
        self.assertEqual((9, 1), (len(errors), len(fake.calls)))

    def test_failure_is_remembered_for_a_minute(self) -> None:
        for failure, reason in (
            (UNREADABLE,
             r'^ceph.conf cannot be read or parsed \(the program runs as the '
             'user ID 4001, because root is not the only user that can '
             r'change /etc/ceph\)$'),
            (fakes.fsid('x'), 'did not print an fsid'),
            (fakes.Program(stalls='before', dies=True),
             'closed the connection'),
        ):
            cluster._known_fsids.clear()
            fake = self.fake({fakes.OF_CONF: [failure, failure, MINE]})
            errors = []
            for seconds, calls in ((0, 1), (50, 1), (15, 2), (50, 2)):
                self.pass_time(seconds)
                errors.append(self.assertRaises(
                    transfer.SourceError, cluster.read_fsid, 0))
                self.assertRegex(str(errors[-1]), reason)
                self.assertEqual(calls, len(fake.calls))
            # Each error has a traceback of its own.
            self.assertEqual(4, len(set(map(id, errors))))
            self.pass_time(15)
            self.assertEqual(FSID, cluster.read_fsid(0))

    def test_failure_of_the_call_is_not_remembered(self) -> None:
        with mock.patch.object(nova.privsep.rbd, 'start',
                               side_effect=PermissionError('no nova.conf')):
            for _attempt in range(2):
                self.assertRaisesRegex(program.CallError, 'no nova.conf',
                                       cluster.read_fsid, 0)
        self.fake({fakes.OF_CONF: MINE})
        self.assertEqual(FSID, cluster.read_fsid(0))

    def test_asked_again_if_the_cause_is_unknown(self) -> None:
        silent = fakes.Program(b'', 1)
        refused = fakes.Program(b'', 13, 'REFUSED')
        for answers, attempts, found in (
            ([silent, MINE], 2, FSID),
            ([silent, silent, MINE], 3, FSID),
            ([silent] * 4, 3, 'ceph fsid exited with status 1'),
            ([refused] * 2, 1, 'ceph fsid exited with status 13'),
            ([silent, refused], 2, 'ceph fsid exited with status 13'),
        ):
            self.assertEqual([fakes.OF_CONF] + [fakes.OF_CLUSTER] * attempts,
                             self.ask(NONE, answers))
            self.assertTrue(self.found.startswith(found), self.found)

    def test_defaults(self) -> None:
        for confs, libvirt_conf, expected in (
            (['/b', '/c'], '/a', '/b'), ([], '/a', '/a'),
            ([], '', '/etc/ceph/ceph.conf'),
        ):
            self.flags(rbd_ceph_conf=confs, group='glance')
            self.flags(images_rbd_ceph_conf=libvirt_conf, group='libvirt')
            self.ask(MINE)
            self.assertEqual(cluster.Cluster(FSID, expected, 0),
                             cluster.find_cluster(FSID))


class TestClusters(fakes.RbdTestCase):
    def test_found(self) -> None:
        for programs, number in (
            ([MINE], 0), ([MINE, OTHER], 0), ([OTHER, MINE], 1),
            ([UNREADABLE, fakes.fsid('x'), MINE], 2), ([MINE, MINE], 0),
        ):
            self.clusters(*programs)
            for value in (FSID, FSID.upper()):
                self.assertEqual(
                    cluster.Cluster(FSID, self.confs[number], number),
                    cluster.find_cluster(value))

    def test_not_found(self) -> None:
        self.clusters(MINE, UNREADABLE, fakes.fsid('hunter2'))
        # A location can contain the text of an error in place of an fsid.
        for fsid in (OTHER_FSID, 'ceph-conf did not print an fsid'):
            error = str(self.assertRaises(
                transfer.SourceError, cluster.find_cluster, fsid))
            for part in (
                f'Ceph cluster {fsid}, which is not configured in [glance]',
                f'({self.confs[0]}: {FSID}; ',
                f'{self.confs[1]}: ceph.conf cannot be read',
                f'{self.confs[2]}: ceph-conf did not print',
            ):
                self.assertIn(part, error)
            self.assertNotIn('hunter2', error)

    def test_proximity(self) -> None:
        cases: list[tuple[list[fakes.Program], tuple[ty.Any, ty.Any]]] = [
            ([MINE, OTHER], (0, 1)), ([OTHER, MINE], (1, 0)),
            ([MINE], (0, None)), ([MINE, MINE], (0, None)),
            ([UNREADABLE, OTHER, MINE], (2, 1)),
            ([UNREADABLE], (None, None))]
        for programs, expected in cases:
            self.clusters(*programs)
            upper = fakes.URL.replace(FSID, FSID.upper())
            self.assertEqual((*expected, expected[0]), tuple(map(
                cluster.proximity, (fakes.URL, fakes.OTHER_URL, upper))))
            # open_source() reports why such a location cannot be used.
            for url in ('rbd://image', 'rbd:', fakes.URL + '/x'):
                self.assertRaises(transfer.SourceError, location.parse, url)
                self.assertEqual(0, cluster.proximity(url))

    def test_skipped_location(self) -> None:
        self.clusters(MINE)
        with self.assertLogs(cluster.LOG.logger, 'DEBUG') as logs:
            self.assertIsNone(cluster.proximity(fakes.OTHER_URL))
        self.assertIn('Skipping location: Image is in Ceph cluster '
                      + OTHER_FSID, logs.output[0])
