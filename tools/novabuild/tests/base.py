# SPDX-License-Identifier: Apache-2.0

"""A small release and a small tree, to build from without a network."""

import hashlib
import pathlib

import fixtures
import testtools

from novabuild import archive
from novabuild import project

DIST_INFO = 'nova-1.2.0.dist-info'
METADATA = """\
Metadata-Version: 2.4
Name: nova
Version: 1.2.0
Summary: Cloud computing fabric controller
Classifier: Environment :: OpenStack
Requires-Python: >=3.10
Description-Content-Type: text/x-rst
License-File: LICENSE
Requires-Dist: pbr>=5.8.0

Nova
====

The r\u00e9leased text.
"""
RELEASED = {
    'nova/__init__.py': 'released = True\n',
    'nova/image/__init__.py': '',
    'nova/image/glance.py': 'released = True\n',
    'nova/image/old.py': 'released = True\n',
    'nova-1.2.0.data/data/etc/nova/api-paste.ini': '[pipeline]\n',
    f'{DIST_INFO}/METADATA': METADATA,
    f'{DIST_INFO}/WHEEL': 'Wheel-Version: 1.0\n',
    f'{DIST_INFO}/entry_points.txt': (
        '[console_scripts]\nnova-manage = nova.cmd.manage:main\n'),
    f'{DIST_INFO}/licenses/LICENSE': 'Apache\n',
    f'{DIST_INFO}/pbr.json': '{"git_version": "0", "is_release": true}',
    f'{DIST_INFO}/top_level.txt': 'nova\n',
}
PYPROJECT = """\
[project]
name = "nova"
dynamic = ["version", "dependencies"]
requires-python = ">=3.10"

[project.scripts]
nova-manage = "nova.cmd.manage:main"  # the usual one

[tool.setuptools.packages.find]
include = ["nova*"]
"""
SCRIPT = 'nova-Fetch = nova.cmd.fetch:main'
"""The script of the tree; names of scripts are case-sensitive."""
SDIST = {
    name: text for name, text in RELEASED.items() if name.startswith('nova/')
} | {
    'PKG-INFO': METADATA,
    'pyproject.toml': PYPROJECT,
}


class TestCase(testtools.TestCase):
    """Provides a tree and a release to build it from.

    They are in ``self.root``, in ``self.wheel`` and, as a source archive, in
    ``self.sdist``.
    """

    def setUp(self) -> None:
        super().setUp()
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.root = folder / 'tree'
        self.wheel = folder / 'nova-1.2.0-py3-none-any.whl'
        self.sdist = folder / 'nova-1.2.0.tar.gz'
        self.output = folder / 'output'
        self.output.mkdir()
        for name in ('SOURCE_DATE_EPOCH', 'NOVA_RELEASE',
                     'NOVA_RELEASE_SDIST'):
            self.setenv(name, None)
        self.setenv('NOVA_RELEASE_WHEEL', str(self.wheel))
        self.release(RELEASED)
        self.release_source(SDIST)
        self.write('README.rst', 'Ours \u20ac\n======\n')
        self.write('nova/image/glance.py', 'released = False\n')
        self.configure()

    def setenv(self, name: str, value: str | None) -> None:
        self.useFixture(fixtures.EnvironmentVariable(name, value))

    def project(self) -> project.Project:
        return project.load(self.root)

    def write(self, name: str, text: str) -> pathlib.Path:
        """Write a file of the tree."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding='utf-8')
        return path

    def release(self, files: dict[str, str]) -> None:
        """Write the released wheel."""
        self.wheel.write_bytes(archive.wheel(_entries(files), DIST_INFO))

    def release_source(self, files: dict[str, str]) -> None:
        """Write the released source archive."""
        self.sdist.write_bytes(archive.sdist(_entries(files), 'nova-1.2.0'))

    def configure(
        self, metadata: str = '', rest: str = '',
        sha256: str | None = None, version: str = '1.2.0+rbd.1',
        python: str = '>=3.11', script: str = SCRIPT,
    ) -> None:
        """Write a valid setup.cfg, with additional or changed lines."""
        pin = sha256 or _sha256(self.wheel)
        self.write('setup.cfg', f"""\
[metadata]
name = nova
version = {version}
description = A whole Nova
long_description = file: README.rst
{metadata}
[options]
python_requires = {python}
[options.entry_points]
console_scripts =
    {script}
[nova_release]
version = 1.2.0
sha256 = {pin}
sdist_sha256 = {_sha256(self.sdist)}
{rest}
""")


def _entries(files: dict[str, str]) -> archive.Entries:
    return {n: archive.Entry(t.encode()) for n, t in files.items()}


def _sha256(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
