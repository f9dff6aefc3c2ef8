# SPDX-License-Identifier: Apache-2.0

"""Get the pinned release of Nova and verify it."""

import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile

from novabuild import errors
from novabuild import project

LOCAL_WHEEL_VARIABLE = 'NOVA_RELEASE_WHEEL'
LOCAL_SDIST_VARIABLE = 'NOVA_RELEASE_SDIST'
_DOWNLOAD_TIMEOUT = 600
"""Seconds. The archives have about 6 and 10 MB."""


def wheel(pin: project.Release, local: str | None = None) -> bytes:
    """Return the pinned wheel.

    :param local: path of a wheel on this machine; by default that in the
        environment variable NOVA_RELEASE_WHEEL, or else pip downloads the
        wheel, as configured by the user
    :raises BuildError: there is no such wheel, or its SHA-256 differs
    """
    local = local or os.environ.get(LOCAL_WHEEL_VARIABLE)
    with tempfile.TemporaryDirectory(prefix='nova-release-') as folder:
        path = pathlib.Path(local) if local else _download(
            pin, pin.sha256, '--only-binary', pathlib.Path(folder))
        _verify(path, pin, pin.sha256)
        return path.read_bytes()


def sdist(pin: project.Release) -> pathlib.Path:
    """Return the path of the pinned source archive.

    It is the file in the environment variable NOVA_RELEASE_SDIST, or else in
    the user's cache: before pip delivers a source archive it runs a part of
    its build, which takes half a minute.

    :raises BuildError: there is no such archive, or its SHA-256 differs
    """
    local = os.environ.get(LOCAL_SDIST_VARIABLE)
    if local:
        _verify(pathlib.Path(local), pin, pin.sdist_sha256)
        return pathlib.Path(local)
    home = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache')
    kept = (home.expanduser().absolute() / 'nova-build' / pin.sdist_sha256
            / f'nova-{pin.version}.tar.gz')
    if not kept.is_file() or _digest(kept) != pin.sdist_sha256:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            path = _download(pin, pin.sdist_sha256, '--no-binary',
                             pathlib.Path(folder))
            _verify(path, pin, pin.sdist_sha256)
            path.replace(kept)
    return kept


def _download(
    pin: project.Release, sha256: str, form: str, folder: pathlib.Path,
) -> pathlib.Path:
    requirements = folder / 'requirements.txt'
    # pip builds a part of a source archive, so it must check the hash first.
    requirements.write_text(
        f'nova=={pin.version} --hash=sha256:{sha256}\n', encoding='utf-8')
    command = [
        sys.executable, '-m', 'pip', 'download', '--quiet', '--no-input',
        '--no-deps', form, 'nova', '--dest', str(folder),
        '--requirement', str(requirements),
    ]
    try:
        subprocess.run(
            command, check=True, stdin=subprocess.DEVNULL, text=True,
            errors='replace', stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=_DOWNLOAD_TIMEOUT)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as exc:
        raise errors.BuildError(
            f'pip could not download nova=={pin.version}: {exc} '
            f'{exc.stdout!s} Check the package index in the configuration of '
            f'pip, or set {LOCAL_WHEEL_VARIABLE} or {LOCAL_SDIST_VARIABLE} to '
            'the path of the released archive.') from exc
    [path] = folder.glob('nova-*')
    return path


def _verify(path: pathlib.Path, pin: project.Release, sha256: str) -> None:
    found = _digest(path)
    if found != sha256:
        raise errors.BuildError(
            f'{path.name} is not the nova {pin.version} that setup.cfg pins: '
            f'its SHA-256 is {found}, the pinned one is {sha256}. Nothing was '
            'built. Find out where this file comes from.')


def _digest(path: pathlib.Path) -> str:
    try:
        with path.open('rb') as stream:
            return hashlib.file_digest(stream, 'sha256').hexdigest()
    except OSError as exc:
        raise errors.BuildError(
            f'Cannot read the released archive: {exc}') from exc
