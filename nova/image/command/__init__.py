# SPDX-License-Identifier: Apache-2.0

"""``nova-image-fetch``: downloads an image, or checks why Nova uses HTTP."""

import argparse
import enum
import importlib.metadata
import logging
import os
import signal
import sys
import uuid
import warnings

from oslo_serialization import jsonutils

# --help and Ctrl-C work at once: _run() loads the rest of Nova, in seconds.
from nova.i18n import _

_DESCRIPTION = _("""\
Download an image on a compute host as nova-compute does, with its nova.conf,
or check whether this host can download images directly from Ceph. If started
as root, the command becomes the user of nova-compute.""")

_STATUSES = """\
exit status:
  0    success; with --check: no check failed
  1    the download failed; with --check: a check failed
  2    the command line is invalid
  3    the command cannot run on this host, with this nova.conf or user
  4    the image does not exist, or the credentials give no access to it
  5    Keystone or Glance does not answer, or refuses the credentials
  130  interrupted with Ctrl-C (129, 143: by SIGHUP, SIGTERM)
  141  the reader of the output closed it
"""


class Status(enum.IntEnum):
    """Exit statuses; the man page and --help describe them."""
    DONE = 0
    FAILED = 1
    USAGE = 2
    HOST = 3
    IMAGE = 4
    SERVICE = 5
    INTERRUPTED = 130
    PIPE_CLOSED = 141


class CommandError(Exception):
    """Ends the command with a message in one line and an exit status."""

    def __init__(self, message: str, status: Status = Status.FAILED) -> None:
        super().__init__(one_line(message))
        self.status = status


def one_line(text: str) -> str:
    """Reduce all white space to single spaces."""
    return ' '.join(text.split())


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='nova-image-fetch', description=_DESCRIPTION, epilog=_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('image_id', metavar='IMAGE_ID', nargs='?', type=uuid.UUID, help=_(
        'ID of an image: see "openstack image list"'))
    action = parser.add_mutually_exclusive_group()
    action.add_argument('--cache', action='store_true', help=_(
        'download to the image cache of this host (default)'))
    action.add_argument('--to', metavar='PATH', type=os.path.abspath, help=_(
        'download to a new file, whose format Nova does not inspect'))
    action.add_argument('--check', action='store_true', help=_(
        'download nothing; check the host, and say how to solve problems'))
    add('--source', choices=('auto', 'rbd', 'http'), help=_(
        'auto: the sources that nova.conf enables (default); rbd: only Ceph; '
        'http: Glance'))
    add('--json', action='store_true', help=_('print the result as JSON'))
    add('--config-file', metavar='PATH', action='append', default=[], help=_(
        'replace the files that nova-compute reads; may be repeated'))
    add('--config-dir', metavar='PATH', action='append', default=[], help=_(
        'read the files in this directory; may be repeated'))
    add('--version', action='version',
        version=importlib.metadata.version('nova'))
    add('--debug', action='store_true', help=_(
        "write Nova's log to standard error"))
    args = parser.parse_args(argv)
    if args.check and args.source:
        parser.error(_('--source has no effect with --check'))
    if args.image_id:
        args.image_id = str(args.image_id)
    elif not args.check:
        parser.error(_('IMAGE_ID is missing'))
    return args


def _run(args: argparse.Namespace) -> int:
    # One download does not need green threads, unlike some services.
    os.environ['OS_NOVA_DISABLE_EVENTLET_PATCHING'] = 'true'
    # Without a handler, Python writes warnings to standard error.
    logging.getLogger().addHandler(logging.NullHandler())
    from nova import monkey_patch
    # Nova 32 and 33 warn that this mode is experimental.
    with warnings.catch_warnings(action='ignore'):
        monkey_patch.patch()
    # nova-compute, too, loads these before it reads the configuration, which
    # some of them use.
    from nova.image.command import checks
    from nova.image.command import fetch
    from nova.image.command import host
    try:
        host.configure(args.config_file, args.config_dir, args.debug)
        host.become_service()
        host.prepare()
        result = (
            checks.run(args.image_id, quiet=args.json) if args.check else
            fetch.run(args.image_id, args.to, args.source, quiet=args.json))
        status = Status.DONE if result['result'] == 'ok' else Status.FAILED
    except CommandError as exc:
        status = exc.status
        result = {'result': 'failed', 'error': str(exc), 'status': status}
        if not args.json:
            print(f'nova-image-fetch: {exc}', file=sys.stderr)
    if args.json:
        print(jsonutils.dumps(result, indent=2))
    return status


def main(argv: list[str] | None = None) -> int:
    """Run the command.

    :param argv: its arguments; by default those of this process
    :returns: the exit status
    """
    for number in (signal.SIGHUP, signal.SIGTERM):
        # In place of the default action, so that the download cleans up.
        signal.signal(number, lambda number, _frame: sys.exit(128 + number))
    debug = False
    try:
        try:
            args = _parse(argv)
            debug = args.debug
            return _run(args)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes the stream again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Status.PIPE_CLOSED
    except KeyboardInterrupt:
        print('nova-image-fetch: interrupted', file=sys.stderr)
        return Status.INTERRUPTED
    except Exception as exc:
        if debug:
            raise
        print(f'nova-image-fetch: {type(exc).__name__}: '
              f'{one_line(str(exc))} (see --debug)', file=sys.stderr)
        return Status.FAILED
