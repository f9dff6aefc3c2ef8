# SPDX-License-Identifier: Apache-2.0
"""The Python environment in which the OpenStack services run.

It is made from the distribution's Python, because glance_store needs the
distribution's own rbd and rados modules, and from nothing else of it. It is
kept between runs, named after what went into it.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import fcntl
import hashlib
import os
import pathlib
import shutil
import time
import typing as ty

from oslo_log import log as logging

from lab import errors
from lab import process

LOG = logging.getLogger(__name__)

CONSTRAINTS = pathlib.Path(__file__).with_name('constraints.txt')
PYTHON = pathlib.Path('/usr/bin/python3')

# Seconds; packages may have to come over a slow line.
_INSTALL_TIMEOUT = 1800

_FIND_CEPH = """
import rados
import rbd
print(rados.__file__)
print(rbd.__file__)
"""


@dataclasses.dataclass(frozen=True)
class Content:
    """The content of an environment.

    :ivar constraints: requirements files with exact versions of all packages
    :ivar modules: modules that must be importable, besides those of Ceph
    """

    constraints: tuple[pathlib.Path, ...]
    modules: tuple[str, ...]

    def fingerprint(self, python: str) -> str:
        """Return a hash of the content and of the version of Python."""
        text = b''.join(path.read_bytes() for path in self.constraints)
        return hashlib.sha256(text + python.encode()).hexdigest()[:16]


# Content of the environment of the cloud's services.
BASIC = Content((CONSTRAINTS,), ('barbican', 'glance', 'gunicorn', 'keystone'))


@dataclasses.dataclass(frozen=True)
class Venv:
    """A virtual environment."""

    path: pathlib.Path

    def program(self, name: str) -> pathlib.Path:
        """The path of one of its commands."""
        return self.path / 'bin' / name


@dataclasses.dataclass(frozen=True)
class ServiceVenv(Venv):
    """A virtual environment that holds the services."""

    content: Content = BASIC

    @property
    def _marker(self) -> pathlib.Path:
        return self.path / 'complete'

    def usable(self) -> bool:
        """Return whether the environment is complete and works."""
        if not self._marker.exists():
            return False
        try:
            self._try_imports()
        except (errors.LabError, OSError):
            return False
        return True

    def _try_imports(self) -> None:
        modules = ', '.join(('rados', 'rbd', *self.content.modules))
        process.run([self.program('python'), '-I', '-c', f'import {modules}'])

    def build(self) -> None:
        """Create it again, in place of an existing one.

        :raises LabError: when a package can't be installed
        """
        LOG.info('Installing the services into %s, for this and later runs',
                 self.path)
        shutil.rmtree(self.path, ignore_errors=True)
        process.run(
            process.contained([PYTHON, '-m', 'venv', self.path]), timeout=300)
        wanted = [f'--requirement={path}' for path in self.content.constraints]
        process.run(
            process.contained([
                self.program('python'), '-m', 'pip', 'install', '--no-deps',
                '--progress-bar', 'off', *wanted]),
            timeout=_INSTALL_TIMEOUT, env=_pip_environment())
        process.run([self.program('python'), '-m', 'pip', 'check'],
                    env=_pip_environment())
        self._add_ceph_modules()
        self._try_imports()
        # A venv can't be moved, so this file is what says that it is whole.
        self._marker.touch()

    def _add_ceph_modules(self) -> None:
        link_ceph_modules(
            next(self.path.glob('lib/python3*/site-packages')))


def link_ceph_modules(directory: pathlib.Path) -> None:
    """Make the distribution's rbd and rados modules, and no others, appear.

    They serve the distribution's Python, and others of the same version.
    """
    found = process.run([PYTHON, '-I', '-c', _FIND_CEPH])
    for module in map(pathlib.Path, found.splitlines()):
        (directory / module.name).symlink_to(module)


def _pip_environment() -> dict[str, str]:
    """The caller's environment as far as it tells pip where to look.

    A caller inside tox or a venv has settings of its own for what pip is to
    install and where; none of them is meant for this venv.
    """
    foreign = {'PIP_CONSTRAINT', 'PIP_REQUIREMENT', 'PIP_TARGET', 'PIP_PREFIX',
               'PIP_ROOT', 'PIP_USER', 'PIP_REQUIRE_VIRTUALENV', 'VIRTUAL_ENV'}
    kept = {name: value for name, value in os.environ.items()
            if name not in foreign and not name.startswith('PYTHON')}
    return kept | {'PIP_DISABLE_PIP_VERSION_CHECK': '1', 'PIP_NO_INPUT': '1'}


def cache_directory() -> pathlib.Path:
    """Return the folder of environments: $NOVA_LAB_CACHE, or a cache."""
    if chosen := os.environ.get('NOVA_LAB_CACHE'):
        return pathlib.Path(chosen).absolute()
    home = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return pathlib.Path(home).expanduser().absolute() / 'nova-lab'


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    with open(path, 'w') as lock:
        while not _try_lock(lock):
            process.go_on()
            time.sleep(0.2)
        yield


def _try_lock(lock: ty.IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def service_venv(content: Content = BASIC) -> ServiceVenv:
    """The environment for the services, built now if need be.

    The first call takes about a minute, later ones a second.

    :param content: what it holds
    :raises LabError: when it can't be built
    """
    if not PYTHON.exists():
        raise errors.LabError(
            f'{PYTHON} is missing: install the Debian packages python3 and '
            f'python3-venv; the full list is in bindep.txt.')
    try:
        process.run([PYTHON, '-I', '-c', _FIND_CEPH + 'import ensurepip'])
    except errors.LabError as exc:
        raise errors.LabError(
            f'{PYTHON} lacks a module: install the Debian packages '
            f'python3-rados, python3-rbd and python3-venv; the full list is '
            f'in bindep.txt.\n{exc}') from exc
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    fingerprint = content.fingerprint(process.run([PYTHON, '-VV']))
    venv = ServiceVenv(cache / fingerprint, content)
    with _locked(cache / f'{fingerprint}.lock'):
        if not venv.usable():
            venv.build()
    return venv
