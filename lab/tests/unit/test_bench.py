# SPDX-License-Identifier: Apache-2.0

import itertools
import pathlib
import xml.etree.ElementTree

import ddt
import fixtures
from oslo_serialization import jsonutils
import testtools

from lab.bench import chart
from lab.bench import plan
from lab.bench import report

Case = plan.Case
Check = plan.Check
Way = plan.Way


def sample(seconds, cpu_seconds=1.0, rss_growth=None):
    return report.Sample(seconds, cpu_seconds, rss_growth)


@ddt.ddt
class TestPlan(testtools.TestCase):

    @ddt.data(plan.full, plan.quick)
    def test_names_tell_the_cases_of_an_image_apart(self, make):
        named = [(case.image.name, case.name) for case in make().cases]
        self.assertEqual(len(named), len(set(named)))

    @ddt.data(plan.full, plan.quick)
    def test_every_group_is_whole_and_has_rounds(self, make):
        made = make()
        self.assertEqual(set(made.groups), set(made.rounds))
        self.assertEqual(
            len(made.cases), sum(map(len, made.groups.values())))

    @ddt.data(plan.full, plan.quick)
    def test_goals_compare_what_takes_turns(self, make):
        made = make()
        for goal in made.goals:
            cases = made.groups[goal.case.group]
            self.assertIn(goal.case, cases)
            self.assertIn(goal.baseline, cases)

    def test_five_rounds_where_others_are_compared_with(self):
        made = plan.full()
        for case in made.cases:
            if case.way in (Way.NOVA34, Way.HTTP34):
                self.assertLessEqual(5, made.rounds[case.group])

    def test_only_one_group(self):
        made = plan.full().only('sparse')
        self.assertEqual({'sparse': 5}, made.rounds)
        self.assertEqual({'sparse'}, {case.group for case in made.cases})
        self.assertEqual({'sparse'}, {goal.case.group for goal in made.goals})
        self.assertRaises(KeyError, plan.full().only, 'nothing')

    def test_images(self):
        self.assertEqual(2 * plan.GIB, plan.dense('', 2 * plan.GIB).data)
        self.assertEqual(plan.GIB, plan.sparse('', 8 * plan.GIB).data)


class TestReport(testtools.TestCase):

    def setUp(self):
        super().setUp()
        image = plan.sparse('S', 8 * plan.GIB)
        self.bare = Case('sparse', image, Way.BARE)
        self.old = Case('sparse', image, Way.NOVA34, Check.SHA256)
        self.ours = Case('sparse', image, Way.RBD, Check.SHA256)
        chosen = plan.Plan(
            [self.bare, self.old, self.ours],
            [plan.Goal(self.ours, self.bare, 0.5),
             plan.Goal(self.ours, self.old, 0.3)], {'sparse': 3})
        self.results = report.Results(chosen, {
            self.bare: [sample(4), sample(5), sample(30)],
            self.old: [sample(9), sample(10), sample(11)],
            self.ours: [sample(3, 2.0, 32 * plan.MIB),
                        sample(2, 4.0, 40 * plan.MIB), sample(8, 3.0, 0)]})

    def test_ratios_are_of_medians(self):
        self.assertEqual({'bare': 0.6, 'nova34': 0.3},
                         self.results.ratios(self.ours))

    def test_goals(self):
        self.assertEqual([(0.6, False), (0.3, True)], [
            (one.ratio, one.met) for one in self.results.outcomes()])

    def test_memory_is_the_most_and_work_the_median(self):
        self.assertEqual(40, self.results.growth(self.ours))
        self.assertEqual(3, self.results.cpu(self.ours))
        self.assertIsNone(self.results.growth(self.bare))

    def test_text(self):
        text = self.results.text()
        self.assertIn('Sparse: 8 GiB with 1 GiB of data, 3 rounds', text)
        row = next(line for line in text.splitlines()
                   if line.startswith('| direct, SHA-256'))
        self.assertEqual(
            ['direct, SHA-256', '3.00', '2.00 - 8.00', '2.67', '0.60', '0.30',
             '', '3.0', '40'],
            [cell.strip() for cell in row.strip('|').split('|')])
        self.assertIn('grow by 40 MiB at most', text)

    def test_json(self):
        known = jsonutils.loads(self.results.json())
        ours = known['cases'][2]
        self.assertEqual('sparse, direct, SHA-256', ours['name'])
        self.assertEqual(
            (3, [3, 2, 8], 3, {'bare': 0.6, 'nova34': 0.3}, 40, 3),
            tuple(ours[name] for name in (
                'rounds', 'seconds', 'median', 'ratios', 'rss_growth_mib',
                'cpu_seconds')))
        self.assertEqual([False, True],
                         [goal['met'] for goal in known['goals']])

    def test_chart(self):
        prefix = pathlib.Path(
            self.useFixture(fixtures.TempDir()).path, 'chart')
        chart.draw(self.results, prefix)
        drawing = xml.etree.ElementTree.parse(prefix.with_suffix('.svg'))
        words = set(itertools.chain.from_iterable(
            (element.text or '').split('\n')
            for element in drawing.iter()))
        self.assertLessEqual(
            {'Nova 34, rbd, SHA-256', 'straight from Ceph, SHA-256',
             'rbd export to a file, fsync'}, words)
        self.assertEqual(
            b'\x89PNG', prefix.with_suffix('.png').read_bytes()[:4])
