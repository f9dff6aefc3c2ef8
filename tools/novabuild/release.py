# SPDX-License-Identifier: Apache-2.0

"""Get the released Nova, and make sure that it is the one that is pinned."""

from collections.abc import Iterator
import contextlib
import hashlib
import pathlib
import subprocess
import sys
import tempfile

from novabuild import errors
from novabuild import project

LOCAL_WHEEL_SETTING = 'release-wheel'
LOCAL_WHEEL_VARIABLE = 'NOVA_RELEASE_WHEEL'
_DOWNLOAD_TIMEOUT = 600
"""Seconds. The released wheel has about 6 MB."""


@contextlib.contextmanager
def obtained(
    pin: project.Release, local: pathlib.Path | None = None,
) -> Iterator[pathlib.Path]:
    """Give the path of the pinned wheel, for as long as the block runs.

    :param local: a wheel on this machine; without it, pip downloads the wheel
        from where the user's pip configuration says
    :raises BuildError: there is no such wheel, or its SHA-256 is another
    """
    with contextlib.ExitStack() as stack:
        if local is None:
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix='nova-release-'))
            path = _download(pin, pathlib.Path(folder))
        else:
            path = local
        _verify(path, pin)
        yield path


def _download(pin: project.Release, folder: pathlib.Path) -> pathlib.Path:
    requirement = f'nova=={pin.version}'
    command = [
        sys.executable, '-m', 'pip', 'download', '--quiet', '--no-input',
        '--no-deps', '--only-binary', ':all:', '--dest', str(folder),
        requirement,
    ]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors='replace',
            timeout=_DOWNLOAD_TIMEOUT)
    except subprocess.TimeoutExpired as exc:
        raise errors.BuildError(_no_download(
            requirement, f'not there after {_DOWNLOAD_TIMEOUT} s')) from exc
    wheels = list(folder.glob('*.whl'))
    if done.returncode != 0 or len(wheels) != 1:
        raise errors.BuildError(
            _no_download(requirement, done.stdout.strip()[-2000:]))
    return wheels[0]


def _no_download(requirement: str, reason: str) -> str:
    return (
        f'pip could not download {requirement}. Check the package index in '
        f'the pip configuration, or name the released wheel in the '
        f'environment variable {LOCAL_WHEEL_VARIABLE}. pip said: {reason}')


def _verify(path: pathlib.Path, pin: project.Release) -> None:
    try:
        with path.open('rb') as wheel:
            found = hashlib.file_digest(wheel, 'sha256').hexdigest()
    except OSError as exc:
        raise errors.BuildError(
            f'Cannot read the released wheel {path}: {exc.strerror}') from exc
    if found != pin.sha256:
        raise errors.BuildError(
            f'{path.name} is not the nova {pin.version} that setup.cfg pins: '
            f'its SHA-256 is {found}, the pinned one is {pin.sha256}. Nothing '
            f'was built. Find out where this file comes from.')
