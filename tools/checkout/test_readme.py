# SPDX-License-Identifier: Apache-2.0

"""The README is what package indexes show: it must render there."""

import pathlib

from docutils import core
import fixtures
import testtools

from novabuild import project
from novabuild import whole

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Indexes allow no file to be drawn in, and show the text bare after a warning.
AS_AN_INDEX = {
    '_disable_config': True,
    'file_insertion_enabled': False,
    'raw_enabled': False,
    'report_level': 2,
    'halt_level': 2,
}


class ReadmeTestCase(testtools.TestCase):

    def test_it_renders(self):
        # It shows the usual one.
        self.useFixture(fixtures.EnvironmentVariable(project.RELEASE_VARIABLE))
        text = (ROOT / 'README.rst').read_text(encoding='utf-8')
        shown = core.publish_string(
            text, writer='html5', settings_overrides=AS_AN_INDEX).decode()
        self.assertIn(whole.names(project.load(ROOT)).wheel, shown)
