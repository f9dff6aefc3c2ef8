# SPDX-License-Identifier: Apache-2.0

"""Prints results."""

from collections.abc import Iterable
import dataclasses
import shutil
import sys
import textwrap
from typing import Any

from oslo_serialization import jsonutils

from nova.i18n import _
from nova.image import command
from nova.image.command import checks

_LABELS = {
    checks.Verdict.OK: 'ok', checks.Verdict.WARNING: 'WARN',
    checks.Verdict.FAILED: 'FAIL', checks.Verdict.SKIPPED: '-'}


def _show_json(result: str, **fields: Any) -> None:
    print(jsonutils.dumps({'result': result, **fields}, indent=2))


def show_error(error: command.CommandError, as_json: bool) -> None:
    if as_json:
        _show_json('failed', error=str(error), status=int(error.status))
    else:
        print(f'nova-image-fetch: {error}', file=sys.stderr)


def show_outcome(outcome: dict[str, Any], as_json: bool) -> None:
    """Print the outcome of a download; see progress.Reporter."""
    if as_json:
        _show_json('ok', **outcome)
    elif outcome['source'] == 'cache':
        print(_('Image %(image_id)s is already in the cache: %(path)s') %
              outcome)
    else:
        print(_('Image %(image_id)s is at %(path)s\n'
                '  source       %(source)s\n'
                '  verified by  %(verified_by)s\n'
                '  bytes        %(bytes)d\n'
                '  written      %(written)d\n'
                '  seconds      %(seconds).2f\n'
                '  MiB/s        %(rate).1f') % outcome)
        if not outcome['inspected']:
            print(_('Nova did not inspect the format of the image: it can '
                    'differ from what Glance says, and refer to other '
                    'files.'))


def show_findings(found: Iterable[checks.Finding], as_json: bool) -> bool:
    """Print each finding as soon as it is there.

    :returns: whether no check failed
    """
    seen = []
    for finding in found:
        seen.append(finding)
        if not as_json:
            _show_finding(finding)
    failed = any(each.verdict is checks.Verdict.FAILED for each in seen)
    if as_json:
        _show_json('failed' if failed else 'ok',
                   checks=[dataclasses.asdict(each) for each in seen])
    elif failed:
        print(_('\nDirect downloads do not work on this host: see FAIL '
                'above.'))
    elif any(each.check == checks.READ and
             each.verdict is checks.Verdict.OK for each in seen):
        print(_('\nDirect downloads work on this host.'))
    else:
        print(_('\nThe checks found no error, but could not try an image: '
                'name one that is in Ceph.'))
    return not failed


def _show_finding(finding: checks.Finding) -> None:
    start = f'{_LABELS[finding.verdict]:4}  {finding.check:18}  '
    width = (shutil.get_terminal_size().columns if sys.stdout.isatty()
             else sys.maxsize)
    for text in filter(None, (finding.detail, finding.remedy)):
        print(textwrap.fill(
            text, width, initial_indent=start,
            subsequent_indent=' ' * len(start), break_long_words=False,
            break_on_hyphens=False), flush=True)
        start = ' ' * (len(start) - 3) + '-> '
