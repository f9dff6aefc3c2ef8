# SPDX-License-Identifier: Apache-2.0

"""The output of the command."""

import io
import os

from oslo_serialization import jsonutils

from nova.image.command import checks
from nova.image.command import display
from nova.tests.unit.image.command import base

OUTCOME = {
    'image_id': 'ID', 'path': '/there', 'source': 'rbd', 'failed': [],
    'verified_by': 'sha512', 'bytes': 1000, 'written': 600,
    'seconds': 1.2345, 'rate': 99.9, 'inspected': True}

OK = checks.Finding('Options', checks.Verdict.OK, 'rbd', '')
READ = checks.Finding(checks.READ, checks.Verdict.OK, 'client.x', '')
WARNING = checks.Finding(
    'Image cache', checks.Verdict.WARNING, 'slow', 'Use ext4.')
FAILED = checks.Finding(
    'Programs', checks.Verdict.FAILED, 'no rbd', 'Install it. ' * 9)
SKIPPED = checks.Finding(
    checks.READ, checks.Verdict.SKIPPED, 'no cluster', '')


class TestOutcome(base.CommandTestCase):
    def show(self, as_json: bool = False, **changes: object) -> str:
        with self.captured() as (out, _err):
            display.show_outcome(OUTCOME | changes, as_json)
        return out.getvalue()

    def test_text(self) -> None:
        text = ('Image ID is at /there\n  source       rbd\n'
                '  verified by  sha512\n  bytes        1000\n'
                '  written      600\n  seconds      1.23\n'
                '  MiB/s        99.9\n')
        self.assertEqual(text, self.show())
        self.assertRegex(self.show(inspected=False),
                         f'^{text}Nova did not inspect the format')
        self.assertEqual('Image ID is already in the cache: /there\n',
                         self.show(source='cache'))

    def test_json(self) -> None:
        self.assertEqual(
            {'result': 'ok', **OUTCOME}, jsonutils.loads(self.show(True)))


class TestFindings(base.CommandTestCase):
    def show(self, *found: checks.Finding, as_json: bool = False,
             kind: type[io.StringIO] = io.StringIO) -> tuple[bool, str]:
        with self.captured(kind) as (out, _err):
            passed = display.show_findings(found, as_json)
        return passed, out.getvalue()

    def test_text(self) -> None:
        ok = 'ok    Options             rbd\n'
        read = 'ok    Read from Ceph      client.x\n'
        for found, passed, lines, last in (
            ((OK, READ), True, ok + read,
             'Direct downloads work on this host.'),
            ((OK, SKIPPED), True, f'{ok}-     Read from Ceph      no '
             'cluster\n', 'The checks found no error, but could not try'),
            ((WARNING, READ), True, 'WARN  Image cache         slow\n' +
             ' ' * 23 + f'-> Use ext4.\n{read}',
             'Direct downloads work on this host.'),
            ((READ, FAILED), False, f'{read}FAIL  Programs            no rbd\n'
             + ' ' * 23 + '-> ' + 'Install it. ' * 8 + 'Install it.\n',
             'Direct downloads do not work on this host: see FAIL above.'),
        ):
            shown = self.show(*found)
            self.assertEqual(passed, shown[0])
            self.assertEqual(f'{lines}\n{last}', shown[1][
                :len(lines) + 1 + len(last)])

    def test_width_of_the_terminal(self) -> None:
        self.replace(os, 'environ', new=os.environ | {'COLUMNS': '60'})
        _passed, out = self.show(FAILED, kind=base.Terminal)
        self.assertEqual('Install it. ' * 9, ''.join(
            line[26:].strip() + ' ' for line in out.splitlines()[1:-2]))
        self.assertLessEqual(max(map(len, out.splitlines()[:-1])), 60)

    def test_json(self) -> None:
        passed, out = self.show(OK, FAILED, as_json=True)
        self.assertFalse(passed)
        self.assertEqual({'result': 'failed', 'checks': [
            {'check': 'Options', 'verdict': 'ok', 'detail': 'rbd',
             'remedy': ''},
            {'check': 'Programs', 'verdict': 'failed', 'detail': 'no rbd',
             'remedy': 'Install it. ' * 9}]}, jsonutils.loads(out))
        passed, out = self.show(OK, as_json=True)
        self.assertEqual((True, 'ok'), (passed, jsonutils.loads(
            out)['result']))
