# SPDX-License-Identifier: Apache-2.0
"""The lab's command line: python -m lab up|status|down"""

import argparse
import signal
import sys
import types
import typing as ty

from lab import errors
from lab import keeper


def _terminated(number: int, frame: types.FrameType | None) -> ty.NoReturn:
    raise SystemExit(128 + number)


def _up() -> int:
    signal.signal(signal.SIGTERM, _terminated)
    print(keeper.up())
    return 0


def _status() -> int:
    code, text = keeper.status()
    print(text)
    return code


def _down() -> int:
    print(keeper.down())
    return 0


_COMMANDS = {
    'up': (_up, 'start a lab in the background; ends with 1 if one is up'),
    'status': (_status, 'tell what runs and how to use it; ends with 0 if '
                        'all is up, 1 if something is not, 3 if no lab is'),
    'down': (_down, 'end the lab and remove all of it'),
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog='python -m lab',
        description='A small cloud on loopback: real Ceph, Keystone and '
                    'Glance, and a host with the compute service\'s '
                    'configuration. Needs root and the Debian packages of '
                    'bindep.txt.',
        epilog='It lives in $NOVA_LAB_DIR (default: a directory in /tmp); '
               'the services\' packages are kept in $NOVA_LAB_CACHE '
               '(default: ~/.cache/nova-lab).')
    commands = parser.add_subparsers(dest='command', required=True)
    for name, (_, text) in _COMMANDS.items():
        commands.add_parser(name, help=text, description=text)
    command, _ = _COMMANDS[parser.parse_args(argv).command]
    try:
        return command()
    except errors.LabError as exc:
        print(exc, file=sys.stderr)
    except KeyboardInterrupt:
        print('Stopped; nothing is left.', file=sys.stderr)
        return 130
    return 1


if __name__ == '__main__':
    sys.exit(main())
