# SPDX-License-Identifier: Apache-2.0

"""Downloads images over HTTP in many ways, and prints what happens.

test_calls runs this with the released Nova and with our build, so it uses only
interfaces that both have.
"""

from collections.abc import Callable
import hashlib
import json
import logging
import os
import pathlib
import re
import subprocess
import sys

IMAGE_ID = '5b1b8a3e-0f0c-4e0e-9a53-6a1f0a6d3c11'

_readers: list[subprocess.Popen[bytes]] = []


class Log(logging.Handler):
    """Collects the messages of the image service."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f'{record.levelname} {record.getMessage()}')


def _write(path: pathlib.Path, mode: int = 0o644) -> None:
    path.write_bytes(b'an old file' * 100_000)
    path.chmod(mode)


def _link(path: pathlib.Path, target: str, exists: bool) -> None:
    path.symlink_to(target)
    if exists:
        _write(path.with_name(target), 0o604)


def _hard_link(path: pathlib.Path) -> None:
    _write(path.with_name('other'))
    path.hardlink_to(path.with_name('other'))


def _fifo(path: pathlib.Path) -> None:
    os.mkfifo(path)
    # eventlet would not switch to a thread that reads.
    _readers.append(subprocess.Popen(['cp', path, path.with_name('read')]))


#: Name of a call -> what comes before it. The destination is a file 'image'.
DESTINATIONS: dict[str, Callable[[pathlib.Path], object]] = {
    'new file': lambda path: None,
    'existing file': _write,
    'existing file, mode 0600': lambda path: _write(path, 0o600),
    'existing file, mode 0400': lambda path: _write(path, 0o400),
    'symbolic link': lambda path: _link(path, 'target', True),
    'symbolic link to no file': lambda path: _link(path, 'target', False),
    'symbolic link to no directory': lambda path: _link(
        path, 'no/target', False),
    'hard link': _hard_link,
    'directory': lambda path: path.mkdir(),
    'FIFO': _fifo,
    'device': lambda path: path.symlink_to('/dev/null'),
}
#: Answers of Glance.
ANSWERS = (
    'no data', 'wrong data', 'broken connection',
    *map(str, (400, 401, 403, 404, 409, 410, 500, 503)))


def _state(path: pathlib.Path) -> object:
    if path.is_symlink():
        return ['link', os.readlink(path)]
    if path.is_file():
        status = path.stat()
        return [hashlib.sha256(path.read_bytes()).hexdigest()[:8],
                status.st_size, oct(status.st_mode), status.st_nlink]
    return oct(path.stat().st_mode)


def _call(download: Callable[[str], object], folder: pathlib.Path,
          prepare: Callable[[pathlib.Path], object]) -> dict[str, object]:
    log = Log()
    logger = logging.getLogger('nova.image')
    logger.addHandler(log)
    logger.setLevel(logging.INFO)
    folder.mkdir()
    prepare(folder / 'image')
    error: list[str] = []
    try:
        download(str(folder / 'image'))
    except Exception as exc:
        error = [each.__name__ for each in type(exc).__mro__[:-2]]
    logger.removeHandler(log)
    for reader in _readers:
        reader.wait(10)
    variable = r'\d+\.\d+ (s|MiB/s)|127.0.0.1:\d+|/\S*/image|[\d,]{4,}'
    return {
        'error': error,
        'log': [re.sub(variable, '_', line.partition('\n')[0])
                for line in log.lines],
        'files': {each.name: _state(each)
                  for each in sorted(folder.iterdir())}}


def main(folder: pathlib.Path, address: str) -> None:
    """Make all calls, and print the results as JSON.

    :param address: of Glance; the path in a URL selects the answer
    """
    from nova import monkey_patch
    monkey_patch.patch()
    import nova.conf
    from nova import context as nova_context
    from nova.image import glance

    conf = nova.conf.CONF
    conf([], project='nova', default_config_files=[])
    conf.set_override('num_retries', 1, 'glance')
    context = nova_context.RequestContext('user', 'project', auth_token='t')
    os.umask(0o022)
    found: dict[str, object] = {}

    def call(name: str, prepare: Callable[[pathlib.Path], object],
             url: str) -> None:
        conf.set_override('api_servers', [url], 'glance')
        found[name] = _call(lambda path: glance.API().download(
            context, IMAGE_ID, dest_path=path), folder / str(len(found)),
            prepare)

    for name, prepare in DESTINATIONS.items():
        call(name, prepare, f'{address}/data')
    for answer in ANSWERS:
        for name in ('new file', 'existing file'):
            call(f'{answer}, {name}', DESTINATIONS[name],
                 f'{address}/{answer.replace(" ", "-")}')
    call('Glance is down', DESTINATIONS['new file'], 'http://127.0.0.1:1')
    print(json.dumps(found))


if __name__ == '__main__':
    main(pathlib.Path(sys.argv[1]), sys.argv[2])
