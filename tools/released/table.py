# SPDX-License-Identifier: Apache-2.0

"""Show a comparison."""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence

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
    """Give a table in Markdown, with a row for each group and one for all.

    :param groups: the names of the groups, by the modules of tests in them
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


def _row(
    compared: comparison.Comparison, tests: Iterable[str],
) -> Iterator[int]:
    names = list(tests)
    yield len(names)
    for side in (compared.of_pristine, compared.of_ours):
        counts = counting.of_results(side(test) for test in names)
        # What did not run has not passed.
        yield counts.passed
        yield len(names) - counts.passed - counts.skipped
        yield counts.skipped
    yield len(compared.exempt.keys() & names)
    yield len(set(compared.regressions()) & set(names))


def findings(
    compared: comparison.Comparison, verbose: bool,
) -> Iterator[str]:
    """Give the lines that say what the table has only numbers of."""
    for test in compared.regressions():
        pristine = compared.of_pristine(test).outcome.value
        result = compared.of_ours(test)
        yield (f'REGRESSION {test}: {pristine} on the release, '
               f'{result.outcome.value} on ours: '
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
        yield from _listed(compared, what, tests, verbose)


def _listed(
    compared: comparison.Comparison, what: str, tests: Sequence[str],
    verbose: bool,
) -> Iterator[str]:
    yield f'{what}: {len(tests)}' + ('' if verbose else '; -v lists them')
    if not verbose:
        return
    for test in tests:
        reason = comparison.last_line(compared.of_pristine(test))
        yield f'    {test}: {reason}'
