# SPDX-License-Identifier: Apache-2.0

"""What the operator sees."""

import contextlib
import dataclasses
import io
import os
import typing as ty
from unittest import mock

from oslo_serialization import jsonutils

from nova.image.command import checks
from nova.image.command import display
from nova.image.command import fetch
from nova.image.command import findings
from nova import test

OUTCOME = fetch.Outcome(
    'ID', '/there', 'rbd', (), 'sha512', 1000, 600, 1.2345, 99.9, True)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class DisplayTestCase(test.NoDBTestCase):
    @contextlib.contextmanager
    def captured(
        self, kind: type[io.StringIO] = io.StringIO,
    ) -> ty.Iterator[tuple[io.StringIO, io.StringIO]]:
        out, err = kind(), kind()
        with (contextlib.redirect_stdout(out),
              contextlib.redirect_stderr(err)):
            yield out, err


class TestOutcome(DisplayTestCase):
    def test_text(self) -> None:
        with self.captured() as (out, _err):
            display.show_outcome(OUTCOME, False)
        self.assertEqual(
            ['Image ID is at /there', '  source       rbd',
             '  verified by  sha512', '  bytes        1000',
             '  written      600', '  seconds      1.23',
             '  MiB/s        99.9'], out.getvalue().splitlines())

    def test_not_inspected(self) -> None:
        with self.captured() as (out, _err):
            display.show_outcome(
                dataclasses.replace(OUTCOME, inspected=False), False)
        self.assertIn('MiB/s        99.9\nThe format of the image was not '
                      'inspected: ', out.getvalue())

    def test_json(self) -> None:
        with self.captured() as (out, _err):
            display.show_outcome(OUTCOME, True)
        self.assertEqual(
            {'result': 'ok', 'image_id': 'ID', 'path': '/there',
             'source': 'rbd', 'failed': [], 'verified_by': 'sha512',
             'bytes': 1000, 'written': 600, 'seconds': 1.2345, 'rate': 99.9,
             'inspected': True},
            jsonutils.loads(out.getvalue()))

    def test_in_the_cache_already(self) -> None:
        with self.captured() as (out, _err):
            display.show_outcome(fetch.Outcome('ID', '/x', 'cache'), False)
        self.assertEqual('Image ID is in the cache already: /x\n',
                         out.getvalue())


class TestFindings(DisplayTestCase):
    FINE = findings.Finding('Options', findings.Verdict.OK, 'rbd')
    READ = findings.Finding(checks.READ, findings.Verdict.OK, 'client.x')
    WARNING = findings.Finding(
        'Image cache', findings.Verdict.WARNING, 'slow', 'Use ext4.')
    FAILED = findings.Finding(
        'Programs', findings.Verdict.FAILED, 'no rbd', 'Install it. ' * 9)
    SKIPPED = findings.Finding(
        checks.READ, findings.Verdict.SKIPPED, 'no cluster')

    def show(self, *found: findings.Finding, as_json: bool = False,
             kind: type[io.StringIO] = io.StringIO) -> tuple[bool, str]:
        with self.captured(kind) as (out, _err):
            fine = display.show_findings(found, as_json)
        return fine, out.getvalue()

    def test_right(self) -> None:
        self.assertEqual((True, (
            'ok    Options             rbd\n'
            'ok    Read from Ceph      client.x\n\n'
            'Direct downloads work on this host.\n')),
            self.show(self.FINE, self.READ))

    def test_not_tried(self) -> None:
        fine, out = self.show(self.FINE, self.SKIPPED)
        self.assertTrue(fine)
        self.assertIn('-     Read from Ceph      no cluster\n', out)
        self.assertIn('Nothing is wrong, but no image was tried', out)

    def test_warning_is_no_failure(self) -> None:
        fine, out = self.show(self.WARNING, self.READ)
        self.assertTrue(fine)
        self.assertIn('WARN  Image cache         slow\n'
                      '                       -> Use ext4.\n', out)

    def test_failed(self) -> None:
        fine, out = self.show(self.READ, self.FAILED)
        self.assertFalse(fine)
        self.assertIn('FAIL  Programs            no rbd\n', out)
        self.assertIn('do not work on this host', out)
        self.assertNotIn('downloads work', out)

    def test_as_wide_as_the_terminal(self) -> None:
        with mock.patch.dict(os.environ, COLUMNS='60'):
            _fine, out = self.show(self.FAILED, kind=Terminal)
        self.assertEqual('Install it. ' * 9, ''.join(
            line[26:].strip() + ' ' for line in out.splitlines()[1:-2]))
        self.assertLessEqual(max(map(len, out.splitlines()[:-1])), 60)

    def test_json(self) -> None:
        fine, out = self.show(self.FINE, self.FAILED, as_json=True)
        self.assertFalse(fine)
        self.assertEqual({'result': 'failed', 'checks': [
            {'check': 'Options', 'verdict': 'ok', 'detail': 'rbd',
             'remedy': ''},
            {'check': 'Programs', 'verdict': 'failed', 'detail': 'no rbd',
             'remedy': 'Install it. ' * 9}]}, jsonutils.loads(out))
        fine, out = self.show(self.FINE, as_json=True)
        self.assertEqual((True, 'ok'), (fine, jsonutils.loads(out)['result']))
