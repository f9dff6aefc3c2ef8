# SPDX-License-Identifier: Apache-2.0

"""The 'rbd' handler, with a FIFO that is real and a cluster that is not."""

import errno
import os
import pathlib
import re
import stat
import tempfile
import threading
import time
import traceback
import typing as ty
from unittest import mock

import fixtures

from nova.image import rbd
from nova.image import transfer
import nova.privsep.rbd
import nova.privsep.rbd_errors
from nova import test
from nova.tests.unit.image import test_rbd_diff
from nova.tests.unit.image import test_transfer

rbd_errors = nova.privsep.rbd_errors

FSID = 'c0ffee00-0000-4000-8000-00000000cafe'
OTHER_FSID = '0ddba11e-0000-4000-8000-00000000cafe'
IMAGE_ID = '5ca1ab1e-0000-4000-8000-00000000cafe'
URL = f'rbd://{FSID}/images/{IMAGE_ID}/snap'


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
    def setUp(self) -> None:
        super().setUp()
        self.useFixture(test_transfer.LeakCheck())
        self.directory = self.useFixture(fixtures.TempDir()).path
        self.path = os.path.join(self.directory, 'image')
        # The reader is always there before; only one that has gone is not.
        self.useFixture(fixtures.MockPatchObject(
            nova.privsep.rbd, '_OPEN_SECONDS', 0.1))
        self.conf = self.make_conf('ceph.conf', f'[global]\nfsid = {FSID}')
        self.flags(rbd_ceph_conf=[self.conf], group='glance')

    def make_conf(self, name: str, content: str | bytes) -> str:
        if isinstance(content, str):
            content = content.encode()
        path = os.path.join(self.directory, name)
        pathlib.Path(path).write_bytes(content)
        return path


class TestClusters(RbdTestCase):
    def test_fsid(self) -> None:
        for content in (
            f'[global]\nfsid = {FSID}\n',
            f'[global]\nfsid={FSID}',
            f'[global]\r\nfsid = {FSID}\r\n',
            f'# a\n; b\n\n[global]\n\tfsid = {FSID}\n  mon host = x\n',
            f'[global]\n  mon host = 10.0.0.1,\n  fsid = {FSID}\n',
            f'[global]\nmon host = [v2:10.0.0.1:3300]\nfsid = {FSID}\n',
            f'[global]\n# fsid = {OTHER_FSID}\n;fsid = x\nfsid = {FSID}',
            f'[global]\nfsid = {FSID} # of rack 1\n',
            f'[global]\nfsid = {FSID} ; of rack 1\n',
            f'[global]\nfsid = "{FSID}"\n', f"[global]\nfsid = '{FSID}'\n",
            f'[global]\nfsid = {FSID.upper()}\n',
            f'[client]\nfsid = {OTHER_FSID}\n[global]\nfsid = {FSID}\n',
            f'[global]\na = 1\n[client.x]\nb = %s %(c)s\n'
            f'[global]\nfsid = {FSID}\n',
            f'[global]\nfsid = {OTHER_FSID}\nfsid = {FSID}\n',
            f'[global]\nrun dir = /größe\nbare\nfsid = {FSID}\n',
        ):
            conf = self.make_conf('some.conf', content)
            self.assertEqual(FSID, rbd.read_fsid(conf), content)

    def test_no_fsid(self) -> None:
        for content in (
            '', '\n', '[global]\n', '[global]\nfsid\n', '[global]\nfsid =\n',
            '[global]\n# fsid = x\n', f'[client]\nfsid = {FSID}\n',
            f'fsid = {FSID}\n', f'[mon\nfsid = {FSID}\n', '\0\0\0',
            b'[global]\nname = \xff\xfe\n',
        ):
            conf = self.make_conf('some.conf', content)
            self.assertRaises(ValueError, rbd.read_fsid, conf)

    def test_errors_quote_nothing(self) -> None:
        """A ceph.conf can have a key, and a key file can take its place."""
        secret = 'AQDy8n1nAAAAABAAXJb5f1Vd8g7cYk1b2m3n4o=='
        for content in (
            secret, f'key = {secret}\n[global]\nfsid = {FSID}\n',
            f'= {secret}\n', f'[{secret}\n', f'[{secret}]\n',
            f'[global]\n= {secret}\n', f'[global]\nfsid = {secret}\n',
            f'[global]\nfsid = {FSID} {secret}\n',
            f'[global]\n\0{secret}\nkey\n',
        ):
            conf = self.make_conf('some.conf', content)
            self.flags(rbd_ceph_conf=[conf], group='glance')
            with self.assertLogs('nova.image.rbd', 'DEBUG') as logs:
                self.assertIsNone(rbd.rank(URL))
            told = [*logs.output]
            for call in (lambda: rbd.read_fsid(conf),
                         lambda: rbd.find_cluster(FSID)):
                error = self.assertRaises(
                    (ValueError, transfer.SourceError), call)
                told += traceback.format_exception(error)
            for place in range(len(secret) - 7):
                self.assertNotIn(secret[place:place + 8], ''.join(told))

    def test_no_file(self) -> None:
        for path in (os.path.join(self.directory, 'none'), self.directory):
            self.assertRaises(OSError, rbd.read_fsid, path)

    def test_the_one_with_this_fsid(self) -> None:
        other = self.make_conf('other', f'[global]\nfsid = {OTHER_FSID}')
        broken = self.make_conf('broken', b'\xff')
        missing = os.path.join(self.directory, 'missing')
        for confs in ([self.conf], [other, self.conf], [self.conf, other],
                      [missing, broken, self.conf]):
            self.flags(rbd_ceph_conf=confs, group='glance')
            for fsid in (FSID, FSID.upper()):
                self.assertEqual(rbd.Cluster(FSID, self.conf),
                                 rbd.find_cluster(fsid))
        self.flags(rbd_ceph_conf=[self.conf, other], group='glance')
        self.assertEqual(rbd.Cluster(OTHER_FSID, other),
                         rbd.find_cluster(OTHER_FSID))

    def test_none_with_this_fsid(self) -> None:
        broken = self.make_conf('broken', '[client]')
        missing = os.path.join(self.directory, 'missing')
        self.flags(rbd_ceph_conf=[self.conf, broken, missing],
                   group='glance')
        error = str(self.assertRaises(
            transfer.SourceError, rbd.find_cluster, OTHER_FSID))
        for part in (OTHER_FSID, self.conf, FSID, broken, missing,
                     'No such file', '[glance] rbd_ceph_conf'):
            self.assertIn(part, error)

    def test_defaults(self) -> None:
        read_fsid = self.useFixture(fixtures.MockPatchObject(
            rbd, 'read_fsid', return_value=FSID)).mock
        self.flags(rbd_ceph_conf=['/b', '/c'], group='glance')
        self.flags(images_rbd_ceph_conf='/a', group='libvirt')
        self.assertEqual('/b', rbd.find_cluster(FSID).conf)
        self.flags(rbd_ceph_conf=[], group='glance')
        self.assertEqual('/a', rbd.find_cluster(FSID).conf)
        self.flags(images_rbd_ceph_conf='', group='libvirt')
        self.assertEqual('/etc/ceph/ceph.conf', rbd.find_cluster(FSID).conf)
        self.assertEqual(
            ['/b', '/a', '/etc/ceph/ceph.conf'],
            [call.args[0] for call in read_fsid.mock_calls])


class TestRank(RbdTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.other = self.make_conf('other', f'[global]\nfsid = {OTHER_FSID}')
        self.other_url = URL.replace(FSID, OTHER_FSID)

    def ranks(self, *confs: str) -> tuple[int | None, int | None]:
        self.flags(rbd_ceph_conf=list(confs), group='glance')
        return rbd.rank(URL), rbd.rank(self.other_url)

    def test_place_of_the_cluster(self) -> None:
        self.assertEqual((0, 1), self.ranks(self.conf, self.other))
        self.assertEqual((1, 0), self.ranks(self.other, self.conf))
        self.assertEqual((0, None), self.ranks(self.conf))
        self.assertEqual((0, None), self.ranks(self.conf, self.conf))

    def test_unreadable_files_keep_their_places(self) -> None:
        missing = os.path.join(self.directory, 'missing')
        broken = self.make_conf('broken', '[client]')
        self.assertEqual(
            (3, 1), self.ranks(missing, self.other, broken, self.conf))
        self.assertEqual((None, None), self.ranks(missing, broken))

    def test_default(self) -> None:
        self.flags(images_rbd_ceph_conf=self.other, group='libvirt')
        self.assertEqual((None, 0), self.ranks())

    def test_fsid_in_capitals(self) -> None:
        self.assertEqual(0, rbd.rank(URL.replace(FSID, FSID.upper())))

    def test_what_is_no_location_is_left_to_be_opened(self) -> None:
        for url in ('rbd://image', 'rbd:', URL + '/x'):
            self.assertEqual(0, rbd.rank(url))


class FakeExport:
    """Stands where the privileged side is called: writes into the FIFO."""

    def __init__(
        self, content: bytes = b'', status: int = 0, said: str = '',
        stall: bool = False, error: Exception | None = None,
        cause: str = '',
    ) -> None:
        """Make an export.

        :param stall: hang when the content is written, until the reader goes
        """
        self.arguments: dict[str, ty.Any] = {}
        self.fifo = ''
        self.modes: list[int] = []
        self._content = content
        self._outcome = status, cause, said
        self._stall = stall
        self._error = error

    def __call__(
        self, fifo: str, **arguments: ty.Any,
    ) -> rbd_errors.Outcome:
        self.fifo = fifo
        self.arguments = arguments
        self.modes = [os.stat(path).st_mode
                      for path in (os.path.dirname(fifo), fifo)]
        if self._error is not None:
            raise self._error
        fd = nova.privsep.rbd._open_fifo(fifo)
        try:
            self._write(fd)
        except BrokenPipeError:
            return 32, '', ''
        finally:
            os.close(fd)
        return self._outcome

    def _write(self, fd: int) -> None:
        # Never blocks: under eventlet this shares a thread with its reader.
        os.set_blocking(fd, False)
        write = transfer.native('os').write
        rest = memoryview(self._content)
        while rest:
            try:
                rest = rest[write(fd, rest):]
            except BlockingIOError:
                time.sleep(0.001)
        if not self._stall:
            return
        poller = transfer.native('select').poll()
        poller.register(fd, 0)
        while not poller.poll(0):
            time.sleep(0.01)


class TestOpenSource(RbdTestCase):
    def fetch(
        self, export: FakeExport, verifier: transfer.Verifier | None = None,
        disk_format: str | None = 'qcow2', url: str = URL,
        verified: bool = True,
    ) -> transfer.Report:
        image = {'id': IMAGE_ID, 'disk_format': disk_format}
        with mock.patch.object(nova.privsep.rbd, 'export', export):
            with rbd.open_source(
                    image, url, self.path, verified=verified) as source:
                return transfer.transfer(source, self.path, verifier)

    def assert_fails(
        self, reason: str, export: FakeExport, **kwargs: ty.Any,
    ) -> None:
        for disk_format in ('qcow2', 'raw'):
            self.assertRaisesRegex(
                transfer.SourceError, reason, self.fetch, export,
                disk_format=disk_format, **kwargs)
            self.assertFalse(os.path.exists(self.path))
            self.assert_fifo_is_gone()

    def assert_fifo_is_gone(self) -> None:
        self.assertEqual(
            [], [name for name in os.listdir(tempfile.gettempdir())
                 if name.startswith('nova-rbd-')])

    def assert_nothing_is_run(self, reason: str, **kwargs: ty.Any) -> None:
        export = FakeExport()
        self.assert_fails(reason, export, **kwargs)
        self.assertEqual('', export.fifo)

    def test_dense(self) -> None:
        content = test_transfer.noise(3_000_000)
        export = FakeExport(content)
        verifier = test_transfer.HashVerifier()
        report = self.fetch(export, verifier)
        self.assertEqual(
            test_transfer.digest(content),
            test_transfer.digest(pathlib.Path(self.path).read_bytes()))
        self.assertEqual(test_transfer.digest(content), verifier.digest)
        self.assertEqual(3_000_000, report.size)
        self.assertEqual('export', export.arguments['command'])
        self.assert_fifo_is_gone()

    def test_raw(self) -> None:
        content = test_transfer.noise(5000)
        export = FakeExport(
            test_rbd_diff.BANNER + test_rbd_diff.name() +
            test_rbd_diff.size(1 << 20) +
            test_rbd_diff.data(9000, content) + test_rbd_diff.END)
        report = self.fetch(export, disk_format='raw')
        self.assertEqual(
            test_transfer.digest(test_transfer.naive_image(
                1 << 20, [(9000, content)])),
            test_transfer.digest(pathlib.Path(self.path).read_bytes()))
        self.assertEqual(1 << 20, report.size)
        self.assertLess(report.written, 1 << 17)
        self.assertEqual('export-diff', export.arguments['command'])
        self.assert_fifo_is_gone()

    def test_empty(self) -> None:
        self.assertEqual(0, self.fetch(FakeExport()).size)
        self.assertEqual(0, os.stat(self.path).st_size)

    def test_every_other_format_is_dense(self) -> None:
        for disk_format in ('vmdk', 'iso', 'ami', 'vhdx', None):
            export = FakeExport(b'x')
            self.fetch(export, disk_format=disk_format)
            self.assertEqual('export', export.arguments['command'])

    def test_what_is_asked_of_the_privileged_side(self) -> None:
        self.flags(rbd_user='glance-reader', rbd_connect_timeout=7,
                   rbd_stall_timeout=9, group='glance')
        self.flags(rbd_user='other', group='libvirt')
        export = FakeExport(b'x')
        self.fetch(export, url=URL.replace('images', 'fast%20images'))
        self.assertEqual(
            {'command': 'export', 'conf': self.conf, 'user': 'glance-reader',
             'pool': 'fast images', 'image': IMAGE_ID, 'snapshot': 'snap',
             'connect_timeout': 7, 'stall_timeout': 9, 'verified': True},
            export.arguments)
        directory, fifo = export.modes
        self.assertEqual(0o700, stat.S_IMODE(directory))
        self.assertTrue(stat.S_ISFIFO(fifo))
        self.assertEqual(0o600, stat.S_IMODE(fifo))

    def test_default_user(self) -> None:
        for libvirt_user, expected in (('nova', 'nova'), (None, '')):
            self.flags(rbd_user=libvirt_user, group='libvirt')
            export = FakeExport(b'x')
            self.fetch(export)
            self.assertEqual(expected, export.arguments['user'])

    def test_line_that_a_tempest_plugin_looks_for(self) -> None:
        with self.assertLogs(rbd.LOG.logger, 'DEBUG') as logs:
            self.fetch(FakeExport(b'x'))
        self.assertEqual(
            ['Attempting to export RBD image: [pool_name: images] '
             f'[image_uuid: {IMAGE_ID}] [snapshot_name: snap] '
             f'[dst_path: {self.path}]',
             f'Image {IMAGE_ID} is exported from the Ceph cluster of '
             f'{self.conf}'],
            [record.getMessage() for record in logs.records])

    def test_location_of_another_image(self) -> None:
        for url in (
            URL.replace(IMAGE_ID, 'volume-1'),
            URL.replace(IMAGE_ID, IMAGE_ID.upper()),
            URL.replace(IMAGE_ID, IMAGE_ID + '%20'),
            f'rbd://{FSID}/{IMAGE_ID}/other/snap',
        ):
            self.assert_nothing_is_run('RBD image .* not of one', url=url)

    def test_location_in_another_pool(self) -> None:
        self.flags(rbd_pool=['fast', 'slow'], group='glance')
        self.assert_nothing_is_run('pool images is not in')
        self.flags(rbd_pool=['fast', 'images'], group='glance')
        self.fetch(FakeExport(b'x'))
        self.assertEqual(b'x', pathlib.Path(self.path).read_bytes())

    def test_location_in_another_cluster(self) -> None:
        self.assert_nothing_is_run(
            f'Ceph cluster {OTHER_FSID}', url=URL.replace(FSID, OTHER_FSID))

    def test_location_that_cannot_be_parsed(self) -> None:
        self.assert_nothing_is_run('not of the form', url=URL + '/x')

    def test_rbd_fails(self) -> None:
        said = ("rbd: error opening pool 'images': (2) No such file or "
                'directory')
        for content in (b'', test_rbd_diff.VALID[:40]):
            self.assert_fails(
                r'^rbd export(-diff)? ended with status 2 \(No such file or '
                r'directory\): ' + re.escape(said) + '$',
                FakeExport(content, 2, said))

    def test_several_messages(self) -> None:
        self.assert_fails(
            r'ended with status 5 \(Input/output error\): one; two$',
            FakeExport(b'', 5, 'one\ntwo'))

    def test_rbd_prints_no_message(self) -> None:
        self.assert_fails(r'ended with status 5 \(Input/output error\)$',
                          FakeExport(b'', 5))

    def test_causes(self) -> None:
        """Each cause has its own text, before the messages of rbd."""
        self.flags(rbd_user='nova', rbd_connect_timeout=7, group='glance')
        known = set()
        for cause in set(rbd_errors.Cause) - {rbd_errors.Cause.UNKNOWN}:
            words = rbd.explain(cause)
            known.add(words)
            self.assert_fails(
                re.escape(words + '; rbd: help!') + '$',
                FakeExport(b'', 13, 'rbd: help!', cause=cause.value))
        self.assertEqual(len(rbd_errors.Cause) - 1, len(known - {''}))
        self.assertEqual('', rbd.explain(''))

    def test_causes_that_say_what_to_do(self) -> None:
        self.flags(rbd_user='nova', rbd_connect_timeout=7, group='glance')
        for cause, words in (
            ('new-key', 'ceph auth rotate client.nova --key-type=aes'),
            ('new-key', 'install Ceph 19.2.6, 20.2.4 or newer'),
            ('refused', 'refuse client.nova'), ('no-answer', 'within 7 sec'),
        ):
            self.assertIn(words, rbd.explain(cause))

    def test_causes_without_an_errno(self) -> None:
        for cause in ('bad-conf', 'not-run', 'snapshot-lost'):
            self.assert_fails(
                '^' + re.escape(rbd.explain(cause)) + '$',
                FakeExport(b'', 1, cause=cause))

    def test_error_attributes(self) -> None:
        error = self.assertRaises(
            rbd.ExportError, self.fetch,
            FakeExport(b'', 13, cause='refused'))
        self.assertEqual((13, 'refused'), (error.status, error.cause))

    def test_snapshot_is_lost(self) -> None:
        """rbd has sent all bytes, and has ended with status 0."""
        for content, disk_format in ((b'x', 'qcow2'),
                                     (test_rbd_diff.VALID, 'raw')):
            export = FakeExport(content, cause='snapshot-lost')
            self.assertRaisesRegex(
                transfer.SourceError, 'may have been deleted', self.fetch,
                export, disk_format=disk_format, verified=False)
            self.assertFalse(os.path.exists(self.path))
            self.assertIs(False, export.arguments['verified'])
            self.assert_fifo_is_gone()

    def test_rbd_fails_after_all_of_the_stream(self) -> None:
        self.assertRaisesRegex(
            transfer.SourceError, 'rbd export-diff ended with status 5',
            self.fetch, FakeExport(test_rbd_diff.VALID, 5),
            disk_format='raw')
        self.assertFalse(os.path.exists(self.path))

    def test_rbd_dies_of_a_signal(self) -> None:
        self.assert_fails(
            r'status -9 \(Killed\): it took too long and was killed$',
            FakeExport(b'x', -9, cause='too-long'))

    def test_rbd_is_not_installed(self) -> None:
        self.assert_fails(
            '^rbd is not installed on this host, or cannot be run$',
            FakeExport(status=127, cause='not-run'))

    def test_privileged_call_fails(self) -> None:
        self.assert_fails(
            'The privileged export failed: no privsep helper',
            FakeExport(error=OSError('no privsep helper')))

    def test_diff_is_cut_short(self) -> None:
        self.assertRaisesRegex(
            transfer.SourceError, 'ends early', self.fetch,
            FakeExport(test_rbd_diff.VALID[:-1]), disk_format='raw')

    def test_diff_is_of_another_snapshot(self) -> None:
        self.assertRaisesRegex(
            transfer.SourceError, 'of snapshot', self.fetch,
            FakeExport(test_rbd_diff.VALID), disk_format='raw',
            url=URL.replace('/snap', '/other'))

    def spy_on_polls(self) -> list[float]:
        """Return where the milliseconds go that are waited for bytes."""
        waited: list[float] = []
        native = transfer.native('select')

        class Poll:
            def __init__(self) -> None:
                self._poll = native.poll()
                self.register = self._poll.register

            def poll(self, milliseconds: float) -> list[tuple[int, int]]:
                waited.append(milliseconds)
                return self._poll.poll(milliseconds)

        spies = {'select': mock.Mock(poll=Poll, POLLIN=native.POLLIN)}
        real = transfer.native
        self.useFixture(fixtures.MockPatchObject(
            transfer, 'native', lambda name: spies.get(name) or real(name)))
        return waited

    def test_nothing_comes(self) -> None:
        self.flags(rbd_connect_timeout=1, rbd_stall_timeout=1,
                   group='glance')
        waited = self.spy_on_polls()
        self.assertRaisesRegex(
            transfer.SourceError, 'No byte came for 2 seconds', self.fetch,
            FakeExport(stall=True))
        self.assertEqual([2000], [each for each in waited if each])
        self.assert_fifo_is_gone()

    def test_first_byte_has_the_longer_of_two_times(self) -> None:
        waited = self.spy_on_polls()
        for connect, stall, patience in ((9, 60, 60), (59, 60, 60),
                                         (60, 60, 61), (60, 9, 61)):
            self.flags(rbd_connect_timeout=connect, rbd_stall_timeout=stall,
                       group='glance')
            waited.clear()
            self.fetch(FakeExport(b'x'))
            self.assertEqual(patience * 1000, waited[0])

    def test_limits_include_the_snapshot_lookup(self) -> None:
        """Two runs of rbd before the first byte, two after the last one."""
        waited = self.spy_on_polls()
        for connect, stall, first, others in ((9, 60, 80, 80),
                                              (60, 9, 183, 131)):
            self.flags(rbd_connect_timeout=connect, rbd_stall_timeout=stall,
                       group='glance')
            waited.clear()
            self.fetch(FakeExport(bytes(3_000_000)), verified=False)
            self.assertEqual((first * 1000, {others * 1000}),
                             (waited[0], set(filter(None, waited[1:]))))

    def test_nothing_comes_any_more(self) -> None:
        self.flags(rbd_connect_timeout=60, rbd_stall_timeout=1,
                   group='glance')
        waited = self.spy_on_polls()
        self.assertRaisesRegex(
            transfer.SourceError, 'No byte came for 1 seconds', self.fetch,
            FakeExport(test_rbd_diff.VALID[:-9], stall=True),
            disk_format='raw')
        first, *others = [each for each in waited if each]
        self.assertEqual((61_000, {1000}), (first, set(others)))
        self.assertFalse(os.path.exists(self.path))
        self.assert_fifo_is_gone()

    def test_waiting_read_is_interrupted(self) -> None:
        for disk_format in ('qcow2', 'raw'):
            image = {'id': IMAGE_ID, 'disk_format': disk_format}
            failures: list[str] = []
            with (mock.patch.object(
                      nova.privsep.rbd, 'export', FakeExport(stall=True)),
                  rbd.open_source(image, URL, self.path,
                                  verified=True) as source):

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
            self.assert_fifo_is_gone()

    def test_privileged_side_does_not_come_back(self) -> None:
        """It is not waited for, nor does it keep others waiting."""
        self.useFixture(fixtures.MockPatchObject(rbd, '_END_SECONDS', 0.1))
        self.flags(rbd_connect_timeout=1, rbd_stall_timeout=1,
                   group='glance')
        self.flags(thread_pool_size=2, group='nova_sys_admin')
        rbd._slots.cache_clear()
        self.addCleanup(rbd._slots.cache_clear)
        slot = ty.cast(threading.BoundedSemaphore, rbd._slots())
        back = threading.Event()
        calls = []

        def hang(*_args: ty.Any, **_kwargs: ty.Any) -> rbd_errors.Outcome:
            calls.append(threading.current_thread())
            back.wait()
            return 0, '', ''

        with (mock.patch.object(nova.privsep.rbd, 'export', hang),
              self.assertLogs(rbd.LOG.logger, 'WARNING') as logs):
            self.assertRaisesRegex(
                transfer.SourceError, 'No byte came', self.fetch,
                ty.cast(FakeExport, hang))
        self.assertIn('has not ended an export', logs.output[0])
        self.assert_fifo_is_gone()
        self.assertTrue(slot.acquire(blocking=False))
        back.set()
        for thread in calls:
            thread.join()

    def test_leftovers_of_a_killed_process(self) -> None:
        temporary = self.useFixture(fixtures.TempDir()).path
        self.useFixture(fixtures.MonkeyPatch('tempfile.tempdir', temporary))
        paths = {}
        for name in ('old', 'empty', 'read', 'new', 'other'):
            paths[name] = tempfile.mkdtemp(
                prefix='some-' if name == 'other' else 'nova-rbd-')
            if name != 'empty':
                os.mkfifo(os.path.join(paths[name], 'stream'))
        reader = os.open(os.path.join(paths['read'], 'stream'),
                         os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        for name in paths.keys() - {'new'}:
            os.utime(paths[name], (0, 0))
        rbd._remove_leftovers.cache_clear()
        self.addCleanup(rbd._remove_leftovers.cache_clear)

        self.fetch(FakeExport(b'x'))

        self.assertEqual(
            {'read', 'new', 'other'},
            {name for name, path in paths.items() if os.path.exists(path)})

    def test_finish_tells_of_a_failed_export(self) -> None:
        image = {'id': IMAGE_ID}
        for disk_format in ('qcow2', 'raw'):
            export = FakeExport(status=5)
            with mock.patch.object(nova.privsep.rbd, 'export', export):
                with rbd.open_source(
                        image | {'disk_format': disk_format}, URL,
                        self.path, verified=True) as source:
                    # The outcome is known at the end of the stream.
                    self.assertRaises(
                        transfer.SourceError, transfer.transfer, source,
                        self.path)
                    self.assertRaisesRegex(
                        transfer.SourceError, 'status 5', source.finish)

    def test_not_read_to_the_end(self) -> None:
        """finish() fails if the export succeeded but was not read."""
        image = {'id': IMAGE_ID}
        for disk_format in ('qcow2', 'raw'):
            export = FakeExport(test_rbd_diff.VALID)
            with (mock.patch.object(nova.privsep.rbd, 'export', export),
                  rbd.open_source(
                      image | {'disk_format': disk_format}, URL,
                      self.path, verified=True) as source):
                end = time.monotonic() + 60
                reason = ''
                # The export ends by itself: its output fits into the pipe.
                while 'not read to its end' not in reason:
                    self.assertLess(time.monotonic(), end, reason)
                    time.sleep(0.001)
                    reason = str(self.assertRaises(
                        transfer.SourceError, source.finish))
                transfer.transfer(source, self.path)
                source.finish()

    def test_reader_gives_up(self) -> None:
        """The export ends, and is waited for, when its bytes are refused."""
        for export in (FakeExport(bytes(10_000_000)),
                       FakeExport(bytes(100_000), stall=True)):
            self.flags(rbd_stall_timeout=1, group='glance')
            with mock.patch.object(nova.privsep.rbd, 'export', export):
                with rbd.open_source(
                        {'id': IMAGE_ID, 'disk_format': 'qcow2'}, URL,
                        self.path, verified=True) as source:
                    self.assertRaisesRegex(
                        transfer.SourceError, 'more than', transfer.transfer,
                        source, self.path, size=1)
            self.assertFalse(os.path.exists(self.path))
            self.assert_fifo_is_gone()

    def test_not_read_at_all(self) -> None:
        export = FakeExport(bytes(10_000_000))
        with mock.patch.object(nova.privsep.rbd, 'export', export):
            with rbd.open_source(
                    {'id': IMAGE_ID, 'disk_format': 'qcow2'}, URL, self.path,
                    verified=True):
                pass
        self.assert_fifo_is_gone()

    def test_fifo_is_gone_once_both_ends_are_open(self) -> None:
        seen: list[bool] = []
        export = FakeExport(bytes(3_000_000))
        image = {'id': IMAGE_ID, 'disk_format': 'qcow2'}
        with mock.patch.object(nova.privsep.rbd, 'export', export):
            with rbd.open_source(
                    image, URL, self.path, verified=True) as source:
                transfer.transfer(
                    source, self.path, progress=lambda *_args: seen.append(
                        os.path.exists(os.path.dirname(export.fifo))))
        self.assertEqual({False}, set(seen))

    def test_pipe_cannot_be_made_larger(self) -> None:
        content = test_transfer.noise(3_000_000)
        with mock.patch('fcntl.fcntl', side_effect=PermissionError(
                errno.EPERM, 'over the limit')) as fcntl:
            self.fetch(FakeExport(content))
        fcntl.assert_called_once()
        self.assertEqual(
            test_transfer.digest(content),
            test_transfer.digest(pathlib.Path(self.path).read_bytes()))

    def test_fifo_cannot_be_made(self) -> None:
        # Not an error of the destination: another source may help.
        for name in ('tempfile.mkdtemp', 'os.mkfifo'):
            with mock.patch(name, side_effect=OSError(
                    errno.ENOSPC, 'No space left on device')):
                self.assertRaisesRegex(
                    transfer.SourceError, 'No space left', self.fetch,
                    FakeExport(b'x'))
            self.assert_fifo_is_gone()

    def test_thread_cannot_be_started(self) -> None:
        with test_transfer.no_thread(threading, 'image-rbd-export'):
            self.assertRaisesRegex(
                RuntimeError, 'new thread', self.fetch, FakeExport(b'x'))
        self.assert_fifo_is_gone()


class TestSlots(RbdTestCase):
    def test_an_export_occupies_one(self) -> None:
        self.flags(thread_pool_size=2, group='nova_sys_admin')
        rbd._slots.cache_clear()
        self.addCleanup(rbd._slots.cache_clear)
        slot = ty.cast(threading.BoundedSemaphore, rbd._slots())
        image = {'id': IMAGE_ID, 'disk_format': 'qcow2'}
        with mock.patch.object(nova.privsep.rbd, 'export', FakeExport(b'x')):
            with rbd.open_source(image, URL, self.path, verified=True):
                self.assertFalse(slot.acquire(blocking=False))
        self.assertTrue(slot.acquire(blocking=False))

    def test_one_thread_of_the_daemon_is_left_to_others(self) -> None:
        rbd._slots.cache_clear()
        self.addCleanup(rbd._slots.cache_clear)
        for threads, slots in ((1, 1), (2, 1), (8, 7)):
            self.flags(thread_pool_size=threads, group='nova_sys_admin')
            rbd._slots.cache_clear()
            semaphore = ty.cast(
                threading.BoundedSemaphore, rbd._slots())
            self.assertIs(semaphore, rbd._slots())
            taken = [semaphore.acquire(blocking=False)
                     for _number in range(slots + 1)]
            self.assertEqual([True] * slots + [False], taken)
