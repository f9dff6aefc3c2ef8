# SPDX-License-Identifier: Apache-2.0

"""Wheels and source archives whose bytes depend only on their content."""

import base64
import csv
from dataclasses import dataclass
import gzip
import hashlib
import io
import os
import stat
import tarfile
import time
import zipfile

_EARLIEST = 315532800
_LATEST = 4354819199
"""Seconds since 1970: the first and the last moment of the zip format."""


@dataclass(frozen=True)
class Entry:
    """One file of an archive."""

    data: bytes
    executable: bool = False

    @property
    def mode(self) -> int:
        """Permission bits, regardless of the umask of the tree's owner."""
        return 0o755 if self.executable else 0o644


Entries = dict[str, Entry]
"""Files by their paths, which have slashes and no leading one."""


def wheel(entries: Entries, dist_info: str) -> bytes:
    """Return a wheel with these files and a RECORD.

    :param dist_info: name of the ``.dist-info`` folder in ``entries``
    :raises ValueError: SOURCE_DATE_EPOCH is not a number
    """
    record = f'{dist_info}/RECORD'
    # The wheel format recommends the metadata at the end of the archive.
    names = sorted(
        entries, key=lambda name: (name.startswith(f'{dist_info}/'), name))
    content = {name: entries[name] for name in names}
    content[record] = Entry(_record(content, record))
    when = time.gmtime(_timestamp())[:6]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, 'w') as archive:
        for name, entry in content.items():
            info = zipfile.ZipInfo(name, when)
            info.create_system = 3  # Unix, which makes the mode effective
            info.external_attr = (stat.S_IFREG | entry.mode) << 16
            archive.writestr(info, entry.data, zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def sdist(entries: Entries, top: str) -> bytes:
    """Return a ``.tar.gz`` with these files in the folder ``top``.

    :raises ValueError: SOURCE_DATE_EPOCH is not a number
    """
    packed = io.BytesIO()
    with (
        gzip.GzipFile('', 'wb', 9, packed, mtime=0) as stream,
        tarfile.open(
            fileobj=stream, mode='w', format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, entry in sorted(entries.items()):
            info = tarfile.TarInfo(f'{top}/{name}')
            info.size = len(entry.data)
            info.mode = entry.mode
            info.mtime = _timestamp()
            archive.addfile(info, io.BytesIO(entry.data))
    return packed.getvalue()


def _record(content: Entries, record: str) -> bytes:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator='\n')
    for name, entry in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(entry.data).digest())
        rows.writerow((
            name, f'sha256={digest.decode().rstrip("=")}', len(entry.data)))
    rows.writerow((record, '', ''))
    return text.getvalue().encode()


def _timestamp() -> int:
    """Return SOURCE_DATE_EPOCH, or else a fixed moment.

    https://reproducible-builds.org/specs/source-date-epoch/
    """
    moment = int(os.environ.get('SOURCE_DATE_EPOCH', '0'))
    return min(max(moment, _EARLIEST), _LATEST)
