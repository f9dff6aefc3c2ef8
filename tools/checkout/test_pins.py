# SPDX-License-Identifier: Apache-2.0

"""Nothing that the tests run on may float."""

import collections
from collections.abc import Iterator
import configparser
import importlib.metadata
import pathlib
import tomllib

from packaging import requirements
from packaging import utils
import testtools

from novabuild import project
from novabuild import tree

ROOT = pathlib.Path(__file__).resolve().parents[2]
# This tree's own; pip comes from virtualenv, which is pinned.
NOT_PINNED = {'lab', 'nova', 'pip'}
# Installs the newest of everything, to pin that.
UNCONSTRAINED = 'testenv:constraints'


def lines(text: str) -> list[str]:
    stripped = (line.partition(' #')[0].strip() for line in text.splitlines())
    return [line for line in stripped if line and line[0] != '#']


def named(ending: str) -> list[pathlib.Path]:
    """Give the files of this tree whose names end like that."""
    return [ROOT / path for path in tree.source(ROOT) if path.endswith(ending)]


def name(requirement: str) -> str:
    return utils.canonicalize_name(requirements.Requirement(requirement).name)


def pinned(path: pathlib.Path) -> list[str]:
    return [name(line) for line in lines(path.read_text())]


class ConstraintsTestCase(testtools.TestCase):

    def test_versions_are_exact(self):
        files = named('constraints.txt')
        self.assertIn(ROOT / 'lab/constraints.txt', files)
        for path in files:
            for line in lines(path.read_text()):
                specifier = requirements.Requirement(line).specifier
                self.assertEqual(
                    ['=='], [each.operator for each in specifier], line)
                self.assertNotIn('*', str(specifier), line)

    def test_each_is_there_once(self):
        counts = collections.Counter(pinned(ROOT / 'constraints.txt'))
        self.assertEqual(
            [], [found for found, count in counts.items() if count > 1])

    def test_all_that_is_installed(self):
        installed = {
            utils.canonicalize_name(found.metadata['Name'])
            for found in importlib.metadata.distributions()}
        self.assertIn('nova', installed)
        known = NOT_PINNED.union(pinned(ROOT / 'constraints.txt'))
        self.assertEqual(set(), installed - known)


class RequirementsTestCase(testtools.TestCase):

    def setUp(self) -> None:
        super().setUp()
        self.tox = configparser.RawConfigParser()
        self.tox.read(ROOT / 'tox.ini')

    def _deps(self, section: str, key: str = 'deps') -> Iterator[str]:
        """Give the lines of a list, those of other lists that it names too."""
        for line in lines(self.tox.get(section, key)):
            if line.startswith('{['):
                yield from self._deps(*line.strip('{[}').split(']'))
            else:
                yield line

    def _environments(self) -> list[str]:
        return [section for section in self.tox.sections()
                if self.tox.has_option(section, 'deps')]

    def test_every_environment_is_constrained(self):
        found = {
            section for section in self._environments()
            if not any(line.startswith('-c{env:TOX_CONSTRAINTS_FILE:')
                       for line in self._deps(section))}
        self.assertEqual({UNCONSTRAINED}, found)

    def test_all_that_is_asked_for(self):
        asked = {
            line for section in self._environments()
            for line in self._deps(section) if not line.startswith('-')}
        for path in named('requirements.txt'):
            asked |= set(lines(path.read_text()))
        asked |= set(project.load(ROOT).requires)
        with (ROOT / 'pyproject.toml').open('rb') as stream:
            asked |= set(tomllib.load(stream)['build-system']['requires'])
        self.assertIn('stestr', asked)
        known = NOT_PINNED.union(pinned(ROOT / 'constraints.txt'))
        self.assertEqual(
            set(), {line for line in asked if name(line) not in known})
