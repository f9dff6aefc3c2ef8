# SPDX-License-Identifier: Apache-2.0

"""Merge the metadata of the release with that of this tree."""

import email

from packaging import metadata

from novabuild import project

WHEEL = b"""\
Wheel-Version: 1.0
Generator: novabuild (1)
Root-Is-Purelib: true
Tag: py3-none-any
"""


def merged(released: bytes, ours: project.Project) -> bytes:
    """Return the METADATA of the release with the fields of this tree.

    :raises ExceptionGroup: the result is not valid core metadata
    """
    message = email.message_from_string(
        released.decode(), _class=metadata.RFC822Message,
        policy=metadata.RFC822Policy())
    for field, value in (
            ('Version', str(ours.version)), ('Summary', ours.summary),
            ('Requires-Python', ours.requires_python),
            ('Description-Content-Type', 'text/x-rst')):
        del message[field]
        message[field] = value
    message.set_payload(ours.readme)
    return _checked(bytes(message))


def own(ours: project.Project) -> bytes:
    """Return the PKG-INFO of a source archive.

    Fields that depend on the release are marked as dynamic.
    """
    message = metadata.RFC822Message()
    message['Metadata-Version'] = '2.4'
    message['Name'] = ours.name
    message['Version'] = str(ours.version)
    message['Summary'] = ours.summary
    for field in (
            'author-email', 'classifier', 'description',
            'description-content-type', 'license-expression', 'license-file',
            'project-url', 'provides-extra', 'requires-dist',
            'requires-python'):
        message['Dynamic'] = field
    return _checked(bytes(message))


def entry_points(released: str, ours: project.Project) -> bytes:
    """Return the ``entry_points.txt`` of the release with our entry points."""
    groups = project.parsed(released)
    groups.read_dict({project.SCRIPTS: ours.scripts})
    return '\n'.join(
        f'[{group}]\n' + ''.join(
            f'{name} = {value}\n'
            for name, value in sorted(groups.items(group)))
        for group in sorted(groups.sections())).encode()


def _checked(content: bytes) -> bytes:
    metadata.Metadata.from_email(content, validate=True)
    return content
