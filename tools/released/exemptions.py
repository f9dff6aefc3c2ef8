# SPDX-License-Identifier: Apache-2.0

"""Released tests that are known to fail on our build, and why."""

import configparser
import pathlib

from novabuild import project
from suites import loading

FILE = pathlib.Path(__file__).with_name('exempt.ini')


def of(release: str, text: str | None = None) -> dict[str, str]:
    """Return the reasons of a release's exemptions, by test ID.

    :param text: exemptions, by default those in exempt.ini
    :raises SuiteError: a line has no reason, or a test is listed twice
    """
    found: dict[str, str] = {}
    try:
        parser = project.parsed(text or FILE.read_text(encoding='utf-8'))
    except configparser.Error as exc:
        raise loading.SuiteError(f'{FILE.name}: {exc}') from exc
    for section in parser.sections():
        if section == 'all' or release in section.split():
            for test, reason in parser.items(section):
                if test in found or not reason:
                    raise loading.SuiteError(
                        f'{FILE.name}: {test} needs one reason.')
                found[test] = reason
    return found
