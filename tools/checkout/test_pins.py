# SPDX-License-Identifier: Apache-2.0

"""The tests run with exact versions of everything."""

import collections
from collections.abc import Iterable
from collections.abc import Iterator
import configparser
import importlib.metadata
import pathlib
import tomllib

from packaging import requirements
from packaging import utils
import testtools

from novabuild import tree

ROOT = pathlib.Path(__file__).resolve().parents[2]
# This tree's own; pip comes with the environment, from virtualenv, which is
# pinned.
NOT_PINNED = {'lab', 'nova', 'pip'}
# Installs the newest version of everything, to pin that.
UNCONSTRAINED = 'testenv:constraints'


def lines(text: str) -> list[str]:
    stripped = (line.partition(' #')[0].strip() for line in text.splitlines())
    return [line for line in stripped if line and line[0] != '#']


def listed(ending: str) -> dict[str, list[str]]:
    """Return the lines of the files whose names end like that."""
    return {path: lines(entry.data.decode())
            for path, entry in tree.source(ROOT).items()
            if path.endswith(ending)}


def names(listed: Iterable[str]) -> list[str]:
    return [utils.canonicalize_name(requirements.Requirement(line).name)
            for line in listed]


class PinsTestCase(testtools.TestCase):

    def setUp(self) -> None:
        super().setUp()
        self.constraints = listed('constraints.txt')
        self.pinned = names(self.constraints['constraints.txt'])
        self.known = NOT_PINNED.union(self.pinned)
        self.tox = configparser.RawConfigParser()
        self.tox.read(ROOT / 'tox.ini')

    def test_versions_are_exact(self):
        self.assertIn('lab/constraints.txt', self.constraints)
        for line in sum(self.constraints.values(), []):
            specifier = requirements.Requirement(line).specifier
            self.assertEqual(
                ['=='], [each.operator for each in specifier], line)
            self.assertNotIn('*', str(specifier), line)

    def test_each_is_there_once(self):
        counts = collections.Counter(self.pinned)
        self.assertEqual({1}, set(counts.values()), str(counts))

    def test_installed_packages(self):
        installed = {
            utils.canonicalize_name(found.metadata['Name'])
            for found in importlib.metadata.distributions()}
        self.assertIn('nova', installed)
        self.assertEqual(set(), installed - self.known)

    def _deps(self, section: str, key: str = 'deps') -> Iterator[str]:
        """Return the lines of a list, with those of lists it refers to."""
        for line in lines(self.tox.get(section, key, fallback='')):
            if line.startswith('{['):
                yield from self._deps(*line.strip('{[}').split(']'))
            else:
                yield line

    def test_every_environment_is_constrained(self):
        self.assertEqual({UNCONSTRAINED}, {
            section for section in self.tox.sections()
            if self.tox.has_option(section, 'deps') and
            not any(line.startswith('-c{env:TOX_CONSTRAINTS_FILE:')
                    for line in self._deps(section))})

    def test_required_packages(self):
        required = [line for section in self.tox.sections()
                    for line in self._deps(section) if line[0] != '-']
        for content in listed('requirements.txt').values():
            required += content
        with (ROOT / 'pyproject.toml').open('rb') as stream:
            required += tomllib.load(stream)['build-system']['requires']
        self.assertIn('stestr', required)
        self.assertEqual(set(), set(names(required)) - self.known)
