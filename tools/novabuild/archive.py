# SPDX-License-Identifier: Apache-2.0

"""Wheels and source archives whose bytes depend on their content only."""

import base64
from collections.abc import Iterator
import contextlib
import csv
from dataclasses import dataclass
import gzip
import hashlib
import io
import os
import pathlib
import stat
import tarfile
import tempfile
import time
import zipfile

from novabuild import errors

_EARLIEST = 315532800
"""1980-01-01 00:00:00 UTC, the first moment that a zip archive can tell."""
_LATEST = 4354819199
"""2107-12-31 23:59:59 UTC, the last one."""


@dataclass(frozen=True)
class Entry:
    """One file of an archive."""

    data: bytes
    executable: bool = False

    @property
    def mode(self) -> int:
        """Permission bits, whatever umask the file was made under."""
        return 0o755 if self.executable else 0o644


def write_wheel(
    path: pathlib.Path, entries: dict[str, Entry], dist_info: str,
) -> None:
    """Write a wheel, its RECORD included.

    :param dist_info: the name of the ``.dist-info`` folder in ``entries``
    """
    record = f'{dist_info}/RECORD'
    # The wheel format asks for the metadata at the end of the archive.
    names = sorted(
        entries, key=lambda name: (name.startswith(f'{dist_info}/'), name))
    content = [(name, entries[name]) for name in names]
    content.append((record, Entry(_record(content, record))))
    when = time.gmtime(_timestamp())[:6]
    with replacing(path) as unfinished:
        with zipfile.ZipFile(unfinished, 'w') as wheel:
            for name, entry in content:
                info = zipfile.ZipInfo(name, when)
                info.create_system = 3  # Unix, so that the mode counts
                info.external_attr = (stat.S_IFREG | entry.mode) << 16
                wheel.writestr(info, entry.data, zipfile.ZIP_DEFLATED)


def write_sdist(
    path: pathlib.Path, entries: dict[str, Entry], top: str,
) -> None:
    """Write a ``.tar.gz`` with all entries in the folder ``top``."""
    with (
        replacing(path) as unfinished,
        unfinished.open('wb') as raw,
        gzip.GzipFile('', 'wb', 9, raw, mtime=0) as packed,
        tarfile.open(
            fileobj=packed, mode='w', format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, entry in sorted(entries.items()):
            info = tarfile.TarInfo(f'{top}/{name}')
            info.size = len(entry.data)
            info.mode = entry.mode
            info.mtime = _timestamp()
            tar.addfile(info, io.BytesIO(entry.data))


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Give a path to write to, put at ``path`` only when all went well."""
    with tempfile.TemporaryDirectory(
            prefix='.unfinished-', dir=path.parent) as folder:
        unfinished = pathlib.Path(folder, path.name)
        yield unfinished
        unfinished.replace(path)


def _record(content: list[tuple[str, Entry]], record: str) -> bytes:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator='\n')
    for name, entry in content:
        digest = base64.urlsafe_b64encode(hashlib.sha256(entry.data).digest())
        rows.writerow((
            name, f'sha256={digest.decode().rstrip("=")}', len(entry.data)))
    rows.writerow((record, '', ''))
    return text.getvalue().encode()


def _timestamp() -> int:
    """Seconds since the epoch: SOURCE_DATE_EPOCH, or a fixed moment.

    https://reproducible-builds.org/specs/source-date-epoch/
    """
    text = os.environ.get('SOURCE_DATE_EPOCH', '0')
    try:
        moment = int(text)
    except ValueError as exc:
        raise errors.BuildError(
            f'SOURCE_DATE_EPOCH must be a number of seconds since 1970, not '
            f'"{text}". Correct or unset it.') from exc
    if moment > _LATEST:
        raise errors.BuildError(
            f'SOURCE_DATE_EPOCH is {moment}, after the year 2107, and a wheel '
            'cannot tell that. Correct or unset it.')
    return max(moment, _EARLIEST)
