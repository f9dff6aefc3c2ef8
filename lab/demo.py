# SPDX-License-Identifier: Apache-2.0
"""The program of tools/demo.sh, for a running lab.

Two images are stored in Glance, and so in Ceph. Then a compute host fetches
them, as nova-compute does on a cache miss: over HTTP, from Ceph, and once
more when they are in the cache. What it has then is compared with what was
stored.
"""

import configparser
import dataclasses
import hashlib
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import typing as ty

import glanceclient
from keystoneauth1 import session as ks_session
from oslo_serialization import jsonutils
import prettytable

from lab import errors
from lab import fetch
from lab import keeper
from lab import steps as lab_steps

MIB = 1 << 20

_DENSE = 512 * MIB
_SPARSE = 1024 * MIB
_SPARSE_PIECES = 64
_SPARSE_PIECE = 2 * MIB

# Seconds for one fetch, and for the making of one image.
_TIMEOUT = 240

_FETCHED = re.compile(
    r'INFO nova\.image\.download Image \S+ fetched by (?P<source>\w+): .*'
    r' in (?P<seconds>[\d.]+) s, (?P<rate>[\d.]+) MiB/s, '
    r'verified by (?P<verified>\w+)')


@dataclasses.dataclass(frozen=True)
class Host:
    """The compute host of the lab, as its user finds it."""

    directory: pathlib.Path

    @property
    def conf(self) -> pathlib.Path:
        """Its nova.conf, with direct downloads."""
        return self.directory / 'nova.conf'

    def without_direct_downloads(self) -> pathlib.Path:
        """A nova.conf that differs in that, and has a cache of its own."""
        path = self.directory / 'nova-http.conf'
        parser = configparser.ConfigParser(interpolation=None)
        parser.read(self.conf)
        instances = pathlib.Path(parser['DEFAULT']['instances_path'])
        other = instances / 'http'
        other.mkdir(exist_ok=True)
        shutil.chown(other, instances.stat().st_uid)
        parser['DEFAULT']['instances_path'] = str(other)
        del parser['glance']['allowed_direct_url_schemes']
        with open(path, 'w') as file:
            parser.write(file)
        return path

    def fetch(self, conf: pathlib.Path, image_id: str) -> fetch.Report:
        """Do what nova-compute does, by its user.

        :raises LabError: it failed
        """
        command = [str(self.directory / 'enter'), 'python', '-m',
                   'lab.fetch', '--config-file', str(conf),
                   '--start-privsep', '--json', image_id]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, timeout=_TIMEOUT)
        if done.returncode:
            raise errors.LabError(
                f'{shlex.join(command)}\n{done.stderr[-2000:]}')
        return fetch.Report(**jsonutils.loads(done.stdout))


@dataclasses.dataclass(frozen=True)
class Image:
    """An image, and the file it was made of."""

    name: str
    file: pathlib.Path
    disk_format: str
    sha256: str
    image_id: str


def _write_random(path: pathlib.Path, size: int, pieces: int,
                  piece: int) -> None:
    """Make a file of random pieces, at equal distances, holes between."""
    with open(path, 'wb') as file:
        for number in range(pieces):
            file.seek(number * (size // pieces))
            for _part in range(0, piece, MIB):
                file.write(os.urandom(min(piece, MIB)))
        file.truncate(size)


def _make_dense(path: pathlib.Path) -> None:
    raw = path.with_suffix('.raw')
    _write_random(raw, _DENSE, _DENSE // MIB, MIB)
    subprocess.run(['qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', raw,
                    path], check=True, timeout=_TIMEOUT)
    raw.unlink()


def _make_sparse(path: pathlib.Path) -> None:
    _write_random(path, _SPARSE, _SPARSE_PIECES, _SPARSE_PIECE)


def _lab_directory() -> pathlib.Path:
    state = keeper.Home(keeper.home()).state
    if not state.exists():
        raise errors.LabError(
            'No lab is up. Start one: python -P -m lab up')
    return pathlib.Path(jsonutils.loads(state.read_text())['directory'])


def _openrc(path: pathlib.Path) -> dict[str, str]:
    pairs = (word.partition('=') for word in shlex.split(path.read_text())
             if word != 'export')
    return {name: value for name, _equals, value in pairs}


def _glance(lab: pathlib.Path) -> ty.Any:
    env = _openrc(lab / 'openrc-demo')
    return glanceclient.Client(
        '2', session=ks_session.Session(auth=fetch.authentication(env)),
        interface='public', region_name=env['OS_REGION_NAME'])


def _store(client: ty.Any, path: pathlib.Path, disk_format: str) -> Image:
    with open(path, 'rb') as file:
        digest = hashlib.file_digest(file, 'sha256').hexdigest()
        image = client.images.create(
            name=path.name, disk_format=disk_format, container_format='bare')
        file.seek(0)
        client.images.upload(image.id, file,
                             image_size=path.stat().st_size)
    return Image(path.name, path, disk_format, digest, image.id)


def _row(image: Image, report: fetch.Report) -> list[str]:
    """A row of the table.

    :raises LabError: the file in the cache is not the one stored
    """
    if (report.sha256, report.size) != (
            image.sha256, image.file.stat().st_size):
        raise errors.LabError(
            f'{report.path} is not the image that was stored: its SHA-256 '
            f'is {report.sha256}, not {image.sha256}')
    found = [match for line in report.log if (match := _FETCHED.match(line))]
    common = [f'{report.allocated / MIB:.0f} of {report.size / MIB:.0f} MiB',
              'same']
    if not found:
        _check_hit(report)
        return [image.name, 'cache hit', '-', f'{report.seconds:.2f}', '-',
                *common]
    [match] = found
    return [image.name, match['source'], match['verified'], match['seconds'],
            match['rate'], *common]


def _check_hit(report: fetch.Report) -> None:
    if any('Attempting to export' in line for line in report.log):
        raise errors.LabError('An image in the cache was exported again.')


def _expect(row: list[str], source: str) -> list[str]:
    if row[1] != source:
        raise errors.LabError(
            f'{row[0]} came by {row[1]}, where it should by {source}')
    return row


def _rows(steps: lab_steps.Steps, host: Host, image: Image) -> list[list[str]]:
    ways = (('over HTTP', 'http', host.without_direct_downloads()),
            ('from Ceph', 'rbd', host.conf),
            ('again', 'cache hit', host.conf))
    rows = []
    for words, source, conf in ways:
        with steps.step(f'Fetching {image.name} {words}'):
            report = host.fetch(conf, image.image_id)
        rows.append(_expect(_row(image, report), source))
    return rows


def _table(rows: list[list[str]]) -> prettytable.PrettyTable:
    table = prettytable.PrettyTable(
        ['image', 'source', 'verified by', 'seconds', 'MiB/s',
         'bytes on disk', 'content'])
    for numbers in ('seconds', 'MiB/s', 'bytes on disk'):
        table.align[numbers] = 'r'
    table.add_rows(rows)
    return table


def run() -> None:
    """Show it all.

    :raises LabError: something is not as it should be
    """
    lab = _lab_directory()
    host = Host(lab / 'compute')
    steps = lab_steps.Steps()
    client = _glance(lab)
    rows = []
    with tempfile.TemporaryDirectory(prefix='nova-demo-') as directory:
        for name, make, disk_format in (
                ('dense.qcow2', _make_dense, 'qcow2'),
                ('sparse.raw', _make_sparse, 'raw')):
            path = pathlib.Path(directory, name)
            with steps.step(f'Making {name}'):
                make(path)
            with steps.step(f'Storing {name} in Glance'):
                image = _store(client, path, disk_format)
            rows += _rows(steps, host, image)
            path.unlink()
    print(f'\n{_table(rows)}')


def main() -> int:
    try:
        run()
    except (errors.LabError, subprocess.SubprocessError) as error:
        print(f'\n{error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
