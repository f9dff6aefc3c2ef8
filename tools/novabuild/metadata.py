# SPDX-License-Identifier: Apache-2.0

"""Merge the release's metadata with that of this tree."""

import email
import email.message

from packaging import metadata

from novabuild import errors
from novabuild import project

GENERATOR = 'novabuild (1)'


def wheel_file() -> bytes:
    """Give the content of the ``WHEEL`` file."""
    return (
        f'Wheel-Version: 1.0\nGenerator: {GENERATOR}\n'
        'Root-Is-Purelib: true\nTag: py3-none-any\n').encode()


def merged(released: bytes, ours: project.Project) -> bytes:
    """Give the release's METADATA with the fields of this tree in it.

    :raises BuildError: the outcome is not valid core metadata
    """
    policy = metadata.RFC822Policy()
    message = email.message_from_string(
        released.decode(), _class=metadata.RFC822Message, policy=policy)
    _set(message, 'Version', str(ours.version))
    _set(message, 'Summary', ours.summary)
    _append(message, 'Classifier', ours.classifiers)
    _append(message, 'Project-URL', ours.project_urls)
    _append(message, 'License-File', ours.license_files)
    _append(message, 'Requires-Dist', ours.requires)
    if ours.requires_python:
        _set(message, 'Requires-Python', ours.requires_python)
    if ours.readme is not None:
        _set(message, 'Description-Content-Type', 'text/x-rst')
        message.set_payload(_readme(ours))
    return _checked(bytes(message))


def own(ours: project.Project) -> bytes:
    """Give the PKG-INFO of a source archive.

    What comes from the release is marked as dynamic: it is known only once
    the release is at hand.
    """
    message = metadata.RFC822Message()
    message['Metadata-Version'] = '2.4'
    message['Name'] = ours.name
    message['Version'] = str(ours.version)
    message['Summary'] = ours.summary
    for field in (
            'Author-Email', 'Classifier', 'Description',
            'Description-Content-Type', 'License-Expression', 'License-File',
            'Project-URL', 'Provides-Extra', 'Requires-Dist',
            'Requires-Python'):
        message['Dynamic'] = field.lower()
    return _checked(bytes(message))


def entry_points(
    released: str, ours: dict[str, dict[str, str]],
) -> bytes:
    """Merge two sets of entry points; of two with one name, ours counts."""
    groups = project.parse_entry_points(released)
    for group, points in ours.items():
        groups[group] = groups.get(group, {}) | points
    return '\n'.join(
        _group(name, points) for name, points in sorted(groups.items())
    ).encode()


def _group(name: str, points: dict[str, str]) -> str:
    lines = (f'{point} = {value}\n' for point, value in sorted(points.items()))
    return f'[{name}]\n{"".join(lines)}'


def _set(message: email.message.Message, field: str, value: str) -> None:
    if field in message:
        message.replace_header(field, value)
    else:
        message[field] = value


def _append(
    message: email.message.Message, field: str, values: tuple[str, ...],
) -> None:
    present = message.get_all(field, [])
    for value in values:
        if value not in present:
            message[field] = value


def _readme(ours: project.Project) -> str:
    assert ours.readme is not None
    path = ours.root / ours.readme
    try:
        return path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as exc:
        raise errors.BuildError(
            f'Cannot read {path}, which setup.cfg names as the long '
            f'description: {exc}') from exc


def _checked(content: bytes) -> bytes:
    try:
        metadata.Metadata.from_email(content, validate=True)
    except ExceptionGroup as group:
        reasons = '; '.join(str(exc) for exc in group.exceptions)
        raise errors.BuildError(
            f'The metadata is not valid: {reasons}. Correct setup.cfg.'
        ) from group
    return content
