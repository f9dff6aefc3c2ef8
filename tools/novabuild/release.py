# SPDX-License-Identifier: Apache-2.0

"""Get the released Nova, and make sure that it is the one that is pinned."""

from collections.abc import Iterator
import contextlib
from dataclasses import dataclass
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile

from packaging import version

from novabuild import errors
from novabuild import project

LOCAL_WHEEL_SETTING = 'release-wheel'
LOCAL_WHEEL_VARIABLE = 'NOVA_RELEASE_WHEEL'
LOCAL_SDIST_VARIABLE = 'NOVA_RELEASE_SDIST'
_DOWNLOAD_TIMEOUT = 600
"""Seconds. The released archives have about 6 and 10 MB."""


@dataclass(frozen=True)
class _Archive:
    """One of the two forms that a release is published in."""

    noun: str
    version: version.Version
    sha256: str
    pip_option: str
    requirement: str
    """A line of a requirements file."""
    pattern: str
    variable: str


def _wheel(pin: project.Release) -> _Archive:
    return _Archive(
        'wheel', pin.version, pin.sha256, '--only-binary',
        f'nova=={pin.version}', '*.whl', LOCAL_WHEEL_VARIABLE)


def _source(pin: project.Release) -> _Archive:
    # pip builds what it downloads here, so it has to check it before.
    return _Archive(
        'source archive', pin.version, pin.sdist_sha256, '--no-binary',
        f'nova=={pin.version} --hash=sha256:{pin.sdist_sha256}', '*.tar.gz',
        LOCAL_SDIST_VARIABLE)


@contextlib.contextmanager
def obtained(
    pin: project.Release, local: pathlib.Path | None = None,
) -> Iterator[pathlib.Path]:
    """Give the path of the pinned wheel, for as long as the block runs.

    :param local: a wheel on this machine; without it, pip downloads the wheel
        from where the user's pip configuration says
    :raises BuildError: there is no such wheel, or its SHA-256 is another
    """
    wheel = _wheel(pin)
    with contextlib.ExitStack() as stack:
        if local is None:
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix='nova-release-'))
            path = _download(wheel, pathlib.Path(folder))
        else:
            path = local
        _verify(path, wheel)
        yield path


def sdist(
    pin: project.Release, local: pathlib.Path | None = None,
) -> pathlib.Path:
    """Give the path of the pinned source archive.

    pip downloads none without a part of its build, which takes half a minute.
    So it stays in the user's cache.

    :param local: a source archive on this machine, to use in its place
    :raises BuildError: there is no such archive, or its SHA-256 is another
    """
    source = _source(pin)
    if local is not None:
        _verify(local, source)
        return local
    kept = _cache() / pin.sdist_sha256 / f'nova-{pin.version}.tar.gz'
    if not kept.is_file() or _digest(kept, source) != source.sha256:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            path = _download(source, pathlib.Path(folder))
            _verify(path, source)
            path.replace(kept)
    return kept


def _cache() -> pathlib.Path:
    home = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return pathlib.Path(home).expanduser().absolute() / 'nova-build'


def _download(wanted: _Archive, folder: pathlib.Path) -> pathlib.Path:
    requirements = folder / 'requirements.txt'
    requirements.write_text(f'{wanted.requirement}\n', encoding='utf-8')
    command = [
        sys.executable, '-m', 'pip', 'download', '--quiet', '--no-input',
        '--no-deps', wanted.pip_option, 'nova', '--dest', str(folder),
        '--requirement', str(requirements),
    ]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors='replace',
            timeout=_DOWNLOAD_TIMEOUT)
    except subprocess.TimeoutExpired as exc:
        raise errors.BuildError(_no_download(
            wanted, f'not there after {_DOWNLOAD_TIMEOUT} s')) from exc
    found = list(folder.glob(wanted.pattern))
    if done.returncode != 0 or len(found) != 1:
        raise errors.BuildError(
            _no_download(wanted, done.stdout.strip()[-2000:]))
    return found[0]


def _no_download(wanted: _Archive, reason: str) -> str:
    return (
        f'pip could not download the {wanted.noun} of nova=={wanted.version}. '
        f'Check the package index in the pip configuration, or name the '
        f'released {wanted.noun} in the environment variable '
        f'{wanted.variable}. pip said: {reason}')


def _verify(path: pathlib.Path, wanted: _Archive) -> None:
    found = _digest(path, wanted)
    if found != wanted.sha256:
        raise errors.BuildError(
            f'{path.name} is not the nova {wanted.version} that setup.cfg '
            f'pins: its SHA-256 is {found}, the pinned one is '
            f'{wanted.sha256}. Nothing was built. Find out where this file '
            'comes from.')


def _digest(path: pathlib.Path, wanted: _Archive) -> str:
    try:
        with path.open('rb') as archive:
            return hashlib.file_digest(archive, 'sha256').hexdigest()
    except OSError as exc:
        raise errors.BuildError(
            f'Cannot read the released {wanted.noun} {path}: {exc.strerror}'
        ) from exc
