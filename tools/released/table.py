# SPDX-License-Identifier: Apache-2.0

"""Show a comparison."""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Set

import prettytable

from released import comparison
from released import selection
from suites import counting

_COLUMNS = (
    'tests of', 'number', 'pristine passed', 'pristine failed',
    'pristine skipped', 'ours passed', 'ours failed', 'ours skipped',
    'exempt', 'regressions',
)


def table(
    compared: comparison.Comparison, groups: Mapping[str, str],
) -> prettytable.PrettyTable:
    """Return a table in Markdown, with a row for each group and one for all.

    :param groups: names of the groups, by module of tests
    """
    shown = prettytable.PrettyTable(_COLUMNS)
    shown.set_style(prettytable.TableStyle.MARKDOWN)
    shown.align = 'r'
    shown.align['tests of'] = 'l'
    members: dict[str, set[str]] = {name: set() for name in groups.values()}
    for test in compared.tests:
        name = selection.group_of(test, groups)
        members.setdefault(name, set()).add(test)
    for name, tests in members.items():
        shown.add_row([name, *_row(compared, tests)])
    shown.add_row(['all', *_row(compared, compared.tests)])
    return shown


def _row(compared: comparison.Comparison, tests: Set[str]) -> Iterator[int]:
    yield len(tests)
    for side in (compared.of_pristine, compared.of_ours):
        counts = counting.count(map(side, tests))
        # A test that did not run has not passed.
        yield counts.passed
        yield len(tests) - counts.passed - counts.skipped
        yield counts.skipped
    yield len(compared.exempt.keys() & tests)
    yield len(tests & {*compared.regressions()})


def findings(
    compared: comparison.Comparison, verbose: bool,
) -> Iterator[str]:
    """Return the lines with the details of the table's numbers."""
    for test in compared.regressions():
        result = compared.of_ours(test)
        yield (f'REGRESSION {test}: {compared.of_pristine(test).outcome} on '
               f'the release, {result.outcome} on ours: '
               f'{comparison.last_line(result)}')
        if verbose:
            yield result.details
    for problem in compared.problems():
        yield f'PROBLEM {problem}'
    for test, excuse in sorted(compared.unreliable.items()):
        yield f'Unreliable: {test} did worse on ours; {excuse}.'
    for what, tests in (
            ('Failed on both', compared.fail_on_both()),
            ('Skipped on both', compared.skipped_on_both()),
            ('Passed on ours only', compared.only_on_ours())):
        yield f'{what}: {len(tests)}' + ('' if verbose else '; -v lists them')
        for test in tests if verbose else ():
            reason = comparison.last_line(compared.of_pristine(test))
            yield f'    {test}: {reason}'
