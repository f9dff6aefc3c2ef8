# SPDX-License-Identifier: Apache-2.0
"""The results as a picture."""

import pathlib

import matplotlib
import matplotlib.axes
import matplotlib.figure

from lab.bench import plan
from lab.bench import report

# Okabe and Ito's, which colour-blind people can tell from each other.
_COLOURS = {
    plan.Way.RBD: '#0072b2', plan.Way.HTTP: '#56b4e9',
    plan.Way.BARE: '#999999', plan.Way.NOVA34: '#e69f00',
    plan.Way.HTTP34: '#d55e00',
}
_NAMES = {
    plan.Way.RBD: 'straight from Ceph', plan.Way.HTTP: 'over HTTP',
    plan.Way.BARE: 'rbd export to a file, fsync',
    plan.Way.NOVA34: 'Nova 34, rbd', plan.Way.HTTP34: 'Nova 34, HTTP',
}


def draw(results: report.Results, prefix: pathlib.Path) -> None:
    """Write a chart of the dense and the sparse image.

    :param prefix: path of the two files, without .png and .svg
    """
    figure = matplotlib.figure.Figure(figsize=(8, 6), layout='constrained')
    groups = [group for group in plan.CHARTED if group in results.plan.groups]
    for axes, group in zip(figure.subplots(len(groups), squeeze=False).flat,
                           groups):
        _draw_group(axes, results, group)
    figure.supxlabel('seconds, median; the line is from the fastest to the '
                     'slowest round', fontsize='small')
    # Text stays text, and the same figures make the same file.
    with matplotlib.rc_context({'svg.fonttype': 'none',
                                'svg.hashsalt': 'nova'}):
        figure.savefig(prefix.with_suffix('.svg'), metadata={'Date': None})
    figure.savefig(prefix.with_suffix('.png'), dpi=120)


def _draw_group(axes: matplotlib.axes.Axes, results: report.Results,
                group: str) -> None:
    cases = [case for case in results.plan.groups[group]
             if case.way in _COLOURS]
    cases.sort(key=results.median, reverse=True)
    medians = [results.median(case) for case in cases]
    rounds = [[sample.seconds for sample in results.samples[case]]
              for case in cases]
    bars = axes.barh(
        [_label(case) for case in cases], medians,
        color=[_COLOURS[case.way] for case in cases],
        xerr=[[middle - min(all_) for middle, all_ in zip(medians, rounds)],
              [max(all_) - middle for middle, all_ in zip(medians, rounds)]],
        error_kw={'elinewidth': 1, 'ecolor': '#333333'})
    axes.bar_label(bars, ['%.1f' % middle for middle in medians],
                   label_type='center', color='white', fontsize='small')
    image = cases[0].image
    axes.set_title('%s: %g GiB, %g GiB of it data' % (
        group, image.size / plan.GIB, image.data / plan.GIB), loc='left')
    axes.spines[['top', 'right']].set_visible(False)


def _label(case: plan.Case) -> str:
    name = _NAMES[case.way]
    return name if case.way == plan.Way.BARE else '%s, %s' % (
        name, case.check.value)
