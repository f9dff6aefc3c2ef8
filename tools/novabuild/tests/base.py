# SPDX-License-Identifier: Apache-2.0

"""A small release and a small tree, to build from without a network."""

import hashlib
import pathlib
import textwrap

import fixtures
import testtools

from novabuild import archive

DIST_INFO = 'nova-1.2.0.dist-info'
METADATA = """\
Metadata-Version: 2.4
Name: nova
Version: 1.2.0
Summary: Cloud computing fabric controller
Classifier: Environment :: OpenStack
Requires-Python: >=3.11
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

[project.scripts]
nova-manage = "nova.cmd.manage:main"  # the usual one

[tool.setuptools.packages.find]
include = ["nova*"]
"""
SDIST = {
    name: text for name, text in RELEASED.items() if name.startswith('nova/')
} | {
    'PKG-INFO': METADATA,
    'pyproject.toml': PYPROJECT,
    'requirements.txt': 'pbr>=5.8.0 # Apache-2.0\n',
}


class TestCase(testtools.TestCase):
    """Has a tree and a release to build it from.

    They are in ``self.root``, in ``self.wheel`` and, as a source archive, in
    ``self.sdist``.
    """

    def setUp(self) -> None:
        super().setUp()
        folder = self.useFixture(fixtures.TempDir()).path
        self.root = pathlib.Path(folder, 'tree')
        self.wheel = pathlib.Path(folder, 'nova-1.2.0-py3-none-any.whl')
        self.sdist = pathlib.Path(folder, 'nova-1.2.0.tar.gz')
        self.output = pathlib.Path(folder, 'output')
        self.output.mkdir()
        for name in ('SOURCE_DATE_EPOCH', 'NOVA_RELEASE'):
            self.useFixture(fixtures.EnvironmentVariable(name))
        self.release(RELEASED)
        self.release_source(SDIST)
        self.write('LICENSE', 'Apache\n')
        self.write('nova/image/glance.py', 'released = False\n')
        self.configure()

    def write(self, name: str, text: str) -> pathlib.Path:
        """Write a file of the tree."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding='utf-8')
        return path

    def release(self, files: dict[str, str]) -> None:
        """Make the released wheel."""
        archive.write_wheel(
            self.wheel,
            {n: archive.Entry(t.encode()) for n, t in files.items()},
            DIST_INFO)

    def release_source(self, files: dict[str, str]) -> None:
        """Make the released source archive."""
        archive.write_sdist(
            self.sdist,
            {n: archive.Entry(t.encode()) for n, t in files.items()},
            'nova-1.2.0')

    def configure(
        self, metadata: str = '', release: str = '', rest: str = '',
        sha256: str | None = None, version: str = '1.2.0+rbd.1',
    ) -> None:
        """Write a good setup.cfg with some lines more, or changed ones."""
        if sha256 is None:
            sha256 = hashlib.sha256(self.wheel.read_bytes()).hexdigest()
        head = textwrap.dedent(f"""\
            [metadata]
            name = nova
            version = {version}
            description = A whole Nova
            license_files =
                LICENSE
            """)
        sdist_sha256 = hashlib.sha256(self.sdist.read_bytes()).hexdigest()
        pin = (f'[nova_release]\nversion = 1.2.0\nsha256 = {sha256}\n'
               f'sdist_sha256 = {sdist_sha256}\n')
        self.write('setup.cfg', f'{head}{metadata}\n{pin}{release}\n{rest}\n')
