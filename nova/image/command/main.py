# SPDX-License-Identifier: Apache-2.0

"""``nova-image-fetch``: fetch an image by hand, or see why it goes by HTTP."""

import argparse
from collections.abc import Sequence
import importlib.metadata
import logging
import os
import signal
import sys
import types
import typing as ty
import uuid
import warnings

# Nothing else of Nova is loaded here: that takes seconds, in which Ctrl-C has
# to end in one word as well, and --help does not need it.
from nova.i18n import _

_STATUSES = """\
exit status:
  0    the image is there; with --check, no check has failed
  1    the image could not be fetched; with --check, a check has failed
  2    the command line makes no sense
  3    this host, its nova.conf or this user is not fit for it
  4    there is no such image, or none that these credentials may see
  5    Keystone or Glance do not answer, or refuse the credentials
  130  interrupted by Ctrl-C (129, 143: by SIGHUP, SIGTERM)
  141  the reader of the output has gone
"""

_USAGE = """\
nova-image-fetch [options] [--source SOURCE] [--cache | --to PATH] IMAGE_ID
       nova-image-fetch [options] --check [IMAGE_ID]"""


def _image_id(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise argparse.ArgumentTypeError(_(
            '%r is not the id of an image: see "openstack image list"')
            % text) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='nova-image-fetch', usage=_USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=_(
            'Fetch an image on a compute host as nova-compute does, by its '
            'nova.conf,\nor tell whether images can be fetched directly from '
            'Ceph on this host.\nAs root, it becomes the user of '
            'nova-compute.'),
        epilog=_STATUSES)
    parser.add_argument('image_id', metavar='IMAGE_ID', nargs='?',
                        type=_image_id, help=_('id of an image'))
    what = parser.add_mutually_exclusive_group()
    what.add_argument('--cache', action='store_true', help=_(
        'put it into the image cache of this host (the default)'))
    what.add_argument('--to', metavar='PATH', help=_(
        'write it to a new file instead; unlike for the cache, Nova does not '
        'inspect its format'))
    what.add_argument('--check', action='store_true', help=_(
        'fetch nothing; check the configuration, and say how to solve each '
        'problem'))
    parser.add_argument('--source', choices=('auto', 'rbd', 'http'), help=_(
        'auto: as nova.conf has it (the default); rbd: from Ceph or not at '
        'all; http: from Glance'))
    parser.add_argument('--json', action='store_true', help=_(
        'print the outcome as JSON'))
    parser.add_argument(
        '--config-file', metavar='PATH', action='append', default=[], help=_(
            'in place of the files that nova-compute reads; may be repeated'))
    parser.add_argument(
        '--config-dir', metavar='PATH', action='append', default=[], help=_(
            'a directory of such files; may be repeated'))
    parser.add_argument('--version', action='version',
                        version=importlib.metadata.version('nova'))
    parser.add_argument('--debug', action='store_true', help=_(
        "write Nova's log to standard error"))
    return parser


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    args = parser.parse_args(argv)
    if args.check and args.source:
        parser.error(_('--check and --source do not go together'))
    if not (args.check or args.image_id):
        parser.error(_('IMAGE_ID is missing'))
    return args


def _run(args: argparse.Namespace) -> int:
    _use_threads()
    from nova.image.command import run
    return run.run(args)


def _use_threads() -> None:
    # One image at a time needs no green threads, whatever nova.conf has for
    # the service.
    os.environ['OS_NOVA_DISABLE_EVENTLET_PATCHING'] = 'true'
    from nova import monkey_patch
    # Nova 32 and 33 warn of that mode, which was new for their services.
    logging.getLogger(monkey_patch.__name__).setLevel(logging.ERROR)
    with warnings.catch_warnings(action='ignore'):
        monkey_patch.patch()


def _end_by_signal(number: int, _frame: types.FrameType | None) -> ty.NoReturn:
    # So that what is half done is cleaned up on the way out.
    raise SystemExit(128 + number)


def _pipe_closed() -> int:
    # The interpreter would flush, and complain, once more at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE


def _attempt(args: argparse.Namespace) -> int:
    try:
        return _run(args)
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        print('nova-image-fetch: interrupted', file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as exc:
        if args.debug:
            raise
        print('nova-image-fetch: %s: %s (see --debug)' % (
            type(exc).__name__, ' '.join(str(exc).split())), file=sys.stderr)
        return 1


def main(argv: Sequence[str] | None = None) -> int:
    """The command.

    :param argv: its arguments; by default those of this process
    :returns: its exit status, see nova.image.command.errors
    """
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, _end_by_signal)
    try:
        try:
            return _attempt(_arguments(argv))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        return _pipe_closed()


if __name__ == '__main__':
    sys.exit(main())
