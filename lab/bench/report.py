# SPDX-License-Identifier: Apache-2.0
"""Reports the measurements, as text and as JSON."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import os
import platform
import statistics
import typing as ty

from oslo_serialization import jsonutils
import prettytable

from lab.bench import plan

#: Name of a baseline of ratios -> its way.
BASELINES = {'bare': plan.Way.BARE, 'nova34': plan.Way.NOVA34,
             'http': plan.Way.HTTP34}


@dataclasses.dataclass(frozen=True)
class Sample:
    """One measurement.

    :ivar seconds: by the clock
    :ivar cpu_seconds: of the compute host's processes, rbd among them
    :ivar rss_growth: of Nova's process, in bytes; None: it did nothing
    """

    seconds: float
    cpu_seconds: float
    rss_growth: int | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A goal, and what was reached."""

    goal: plan.Goal
    ratio: float

    @property
    def met(self) -> bool:
        return self.ratio <= self.goal.most


class Results:
    """The measurements of a plan.

    Times are medians over the rounds, and ratios those of medians.
    """

    def __init__(self, chosen: plan.Plan, samples: Mapping[
            plan.Case, Sequence[Sample]]) -> None:
        self.plan = chosen
        self.samples = samples

    def median(self, case: plan.Case) -> float:
        """Seconds."""
        return statistics.median(
            sample.seconds for sample in self.samples[case])

    def ratios(self, case: plan.Case) -> dict[str, float]:
        """Baseline -> the median of the case, in medians of the baseline.

        A baseline has the same group and image.
        """
        return {name: self.median(case) / self.median(other)
                for name, way in BASELINES.items()
                for other in self.plan.groups[case.group]
                if other.way == way and other.image == case.image}

    def outcomes(self) -> list[Outcome]:
        """Return the results of the goals."""
        return [Outcome(goal, self.median(goal.case) /
                        self.median(goal.baseline))
                for goal in self.plan.goals]

    def growth(self, case: plan.Case) -> float | None:
        """MiB that the memory of the process grew by, at most."""
        known = [sample.rss_growth for sample in self.samples[case]
                 if sample.rss_growth is not None]
        return max(known) / plan.MIB if known else None

    def cpu(self, case: plan.Case) -> float:
        """Processor seconds on the compute host, the median."""
        return statistics.median(
            sample.cpu_seconds for sample in self.samples[case])

    def text(self) -> str:
        """Tables for a terminal."""
        return '\n\n'.join(filter(None, [
            *(self._group_table(group) for group in self.plan.groups),
            self._goal_table(), self._memory_line()]))

    def _group_table(self, group: str) -> str:
        table = prettytable.PrettyTable([
            'case', 'seconds', 'from - to', 'GiB/s', *(
                'x ' + name for name in BASELINES), 'CPU s', 'MiB more'])
        table.align = 'r'
        table.align['case'] = 'l'
        for case in self.plan.groups[group]:
            seconds = [sample.seconds for sample in self.samples[case]]
            ratios, growth = self.ratios(case), self.growth(case)
            table.add_row([
                _name(case), '%.2f' % self.median(case),
                '%.2f - %.2f' % (min(seconds), max(seconds)),
                '%.2f' % (case.count * case.image.size / plan.GIB /
                          self.median(case)),
                *('%.2f' % ratios[name] if name in ratios else ''
                  for name in BASELINES),
                '%.1f' % self.cpu(case),
                '' if growth is None else '%.0f' % growth])
        return '%s: %s, %d rounds\n%s' % (
            group[:1].upper() + group[1:], self._images(group),
            self.plan.rounds[group], table)

    def _images(self, group: str) -> str:
        images = {case.image for case in self.plan.groups[group]}
        if len(images) > 1:
            return 'images of random data'
        [image] = images
        return '%g GiB with %s of data' % (
            image.size / plan.GIB, '%g GiB' % (image.data / plan.GIB)
            if image.data >= plan.MIB else '%d byte' % image.data)

    def _goal_table(self) -> str:
        if not self.plan.goals:
            return ''
        table = prettytable.PrettyTable(
            ['goal', 'compared with', 'at most', 'measured', 'met'])
        table.align = 'r'
        table.align['goal'] = table.align['compared with'] = 'l'
        for one in self.outcomes():
            table.add_row([one.goal.case.name, _name(one.goal.baseline),
                           '%.2f' % one.goal.most, '%.2f' % one.ratio,
                           'yes' if one.met else 'no'])
        return str(table)

    def _memory_line(self) -> str:
        grown = [growth for case in self.samples
                 if case.way in (plan.Way.RBD, plan.Way.HTTP)
                 and (growth := self.growth(case)) is not None]
        if not grown:
            return ''
        return ('One download makes the process grow by %.0f MiB at most; '
                'the goal is %d MiB.' % (max(grown), self.plan.memory))

    def json(self) -> str:
        """All of it, for programs."""
        return jsonutils.dumps({
            'machine': {'processors': os.cpu_count(),
                        'architecture': platform.machine(),
                        'kernel': platform.release()},
            'cases': [self._case(case) for case in self.samples],
            'goals': [{'case': one.goal.case.name,
                       'baseline': one.goal.baseline.name,
                       'most': one.goal.most, 'ratio': round(one.ratio, 3),
                       'met': one.met} for one in self.outcomes()],
        }, indent=2) + '\n'

    def _case(self, case: plan.Case) -> dict[str, ty.Any]:
        growth = self.growth(case)
        return {
            'name': case.name,
            'group': case.group,
            'way': case.way.value,
            'check': case.check.value,
            'image': {'bytes': case.image.size, 'data': case.image.data,
                      'disk_format': case.image.disk_format},
            'rounds': len(self.samples[case]),
            'seconds': [sample.seconds for sample in self.samples[case]],
            'median': round(self.median(case), 3),
            'ratios': {name: round(ratio, 3)
                       for name, ratio in self.ratios(case).items()},
            'rss_growth_mib': None if growth is None else round(growth, 1),
            'cpu_seconds': self.cpu(case),
        }


def _name(case: plan.Case) -> str:
    """The name of a case within its group."""
    name = case.name.removeprefix(case.group + ', ')
    return ('%s, %s' % (case.image.name, name)
            if case.group == plan.SIZES else name)
