# SPDX-License-Identifier: Apache-2.0

"""What the operator gets in the end: a summary, the findings, an error."""

from collections.abc import Iterable
import dataclasses
import shutil
import sys
import textwrap
import typing as ty

from oslo_serialization import jsonutils

from nova.i18n import _
from nova.image.command import checks
from nova.image.command import fetch
from nova.image.command import findings
from nova.image.command import watching

_NAME_WIDTH = 18

_WORDS = {
    findings.Verdict.OK: 'ok',
    findings.Verdict.WARNING: 'WARN',
    findings.Verdict.FAILED: 'FAIL',
    findings.Verdict.SKIPPED: '-',
}


def show_json(document: dict[str, ty.Any]) -> None:
    """Print one JSON object."""
    print(jsonutils.dumps(document, indent=2), flush=True)


def show_error(message: str, status: int, as_json: bool) -> None:
    """Say why there is nothing to show."""
    if as_json:
        show_json({'result': 'failed', 'error': message,
                   'status': int(status)})
    else:
        watching.complain(f'nova-image-fetch: {message}')


def show_outcome(outcome: fetch.Outcome, as_json: bool) -> None:
    """Print what came of a fetch."""
    if as_json:
        show_json({'result': 'ok', **dataclasses.asdict(outcome)})
        return
    if outcome.source == 'cache':
        print(_('Image %(image)s is in the cache already: %(path)s') % {
            'image': outcome.image_id, 'path': outcome.path}, flush=True)
        return
    print(_('Image %(image)s is at %(path)s\n'
            '  source       %(source)s\n'
            '  verified by  %(verified_by)s\n'
            '  bytes        %(bytes)d\n'
            '  written      %(written)d\n'
            '  seconds      %(seconds).2f\n'
            '  MiB/s        %(rate).1f') % {
        'image': outcome.image_id, **dataclasses.asdict(outcome)}, flush=True)
    if not outcome.inspected:
        print(_('The format of the image was not inspected: the image can '
                'have another format than Glance says, and refer to other '
                'files.'), flush=True)


def show_findings(
    found: Iterable[findings.Finding], as_json: bool,
) -> bool:
    """Print findings while they are made.

    :returns: whether none of them has failed
    """
    seen = []
    for finding in found:
        seen.append(finding)
        if not as_json:
            print(_line(finding), flush=True)
    failed = [one for one in seen if one.verdict is findings.Verdict.FAILED]
    if as_json:
        show_json({
            'result': 'failed' if failed else 'ok',
            'checks': [dataclasses.asdict(one) for one in seen]})
    elif failed:
        print(_('\nDirect downloads do not work on this host: see FAIL '
                'above.'), flush=True)
    elif any(one.check == checks.READ and
             one.verdict is findings.Verdict.OK for one in seen):
        print(_('\nDirect downloads work on this host.'), flush=True)
    else:
        print(_('\nNothing is wrong, but no image was tried: name one that '
                'is in Ceph.'), flush=True)
    return not failed


def _line(finding: findings.Finding) -> str:
    begin = '%-4s  %-*s  ' % (
        _WORDS[finding.verdict], _NAME_WIDTH, finding.check)
    lines = [_wrapped(begin, finding.detail)]
    if finding.remedy:
        arrow = ' ' * (len(begin) - 3) + '-> '
        lines.append(_wrapped(arrow, finding.remedy))
    return '\n'.join(lines)


def _wrapped(begin: str, text: str) -> str:
    """Put text behind its begin, as wide as the terminal if it is one."""
    if not sys.stdout.isatty():
        return begin + text
    return textwrap.fill(
        text, shutil.get_terminal_size().columns, initial_indent=begin,
        subsequent_indent=' ' * len(begin), break_long_words=False,
        break_on_hyphens=False)
