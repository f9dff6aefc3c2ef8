# SPDX-License-Identifier: Apache-2.0
"""Configuration files, from plain dictionaries."""

from collections.abc import Mapping
import os
import pathlib

Value = str | float | bool | pathlib.Path | list[str] | tuple[str, ...]
Options = Mapping[str, Mapping[str, Value | None]]


def merge(*layers: Options) -> dict[str, dict[str, Value | None]]:
    """Lay options over one another, the last one on top.

    An option set to None is left out of the file.
    """
    merged: dict[str, dict[str, Value | None]] = {}
    for layer in layers:
        for section, options in layer.items():
            merged.setdefault(section, {}).update(options)
    return merged


def _text(value: Value) -> str:
    if isinstance(value, bool):
        return 'true' if value else 'false'
    if isinstance(value, (list, tuple)):
        return ','.join(value)
    return str(value)


def render(options: Options) -> str:
    """The text of an INI file as oslo.config and Ceph read it."""
    lines = []
    for section, values in options.items():
        lines.append(f'[{section}]')
        lines += [f'{name} = {_text(value)}'
                  for name, value in values.items() if value is not None]
        lines.append('')
    return '\n'.join(lines)


def write(path: pathlib.Path, text: str, mode: int = 0o644, *,
          owner: int = -1, group: int = -1) -> pathlib.Path:
    """Put a whole file in place, with its final mode from the start.

    :param owner: a user's id; -1: the caller's own
    :param group: a group's id; -1: the caller's own
    """
    fresh = path.with_name(f'.{path.name}.new')
    descriptor = os.open(
        fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, 'w', encoding='utf-8') as stream:
        os.fchown(descriptor, owner, group)
        os.fchmod(descriptor, mode)
        stream.write(text)
    os.replace(fresh, path)
    return path
