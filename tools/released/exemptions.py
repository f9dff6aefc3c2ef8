# SPDX-License-Identifier: Apache-2.0

"""Released tests that are known to fail on our build, and why."""

import pathlib
import re

from suites import loading

FILE = pathlib.Path(__file__).with_name('exempt.txt')
_SECTION = re.compile(r'\[([\d. ]+)\]')
_LINE = re.compile(r'(?P<test>\S+)\s+#\s*(?P<reason>\S.*)')


def of(release: str, text: str | None = None) -> dict[str, str]:
    """Return the reasons of a release's exemptions, by test ID.

    :param text: exemptions, by default those in exempt.txt
    :raises SuiteError: a line has no reason, or a test is listed twice
    """
    if text is None:
        text = FILE.read_text(encoding='utf-8')
    found: dict[str, str] = {}
    applies = True
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith('#'):
            continue
        if section := _SECTION.fullmatch(line):
            applies = release in section[1].split()
            continue
        match = _LINE.fullmatch(line)
        if match is None or (applies and match['test'] in found):
            raise loading.SuiteError(
                f'{FILE.name}, line {number}: expected "TEST_ID  # REASON", '
                f'each test once, not: {line}')
        if applies:
            found[match['test']] = match['reason']
    return found
