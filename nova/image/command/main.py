# SPDX-License-Identifier: Apache-2.0

"""``nova-image-fetch``: downloads an image, or checks why Nova uses HTTP."""

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

# --help and Ctrl-C work at once: _run() loads the rest of Nova, in seconds.
from nova.i18n import _
from nova.image import command

_USAGE = """\
nova-image-fetch [options] [--source SOURCE] [--cache | --to PATH] IMAGE_ID
       nova-image-fetch [options] --check [IMAGE_ID]"""

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


def _image_id(text: str) -> str:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise argparse.ArgumentTypeError(
            _('%r is not an image ID: see "openstack image list"') % text)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='nova-image-fetch', usage=_USAGE, description=_DESCRIPTION,
        epilog=_STATUSES, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('image_id', metavar='IMAGE_ID', nargs='?', type=_image_id,
        help=_('ID of an image'))
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
    if not (args.check or args.image_id):
        parser.error(_('IMAGE_ID is missing'))
    return args


def _run(args: argparse.Namespace) -> int:
    _use_threads()
    # nova-compute, too, loads these before it reads the configuration, which
    # some of them use.
    from nova.image.command import checks
    from nova.image.command import display
    from nova.image.command import fetch
    from nova.image.command import host
    from nova.image.command import progress
    try:
        host.configure(args.config_file, args.config_dir, args.debug)
        host.become_service()
        host.prepare()
        if args.check:
            passed = display.show_findings(
                checks.Checks(args.image_id).run(), args.json)
            return command.Status.DONE if passed else command.Status.FAILED
        with progress.Reporter(
                args.image_id, args.source, args.json) as reporter:
            fetch.run(args.image_id, args.to, args.source, reporter)
    except command.CommandError as exc:
        display.show_error(exc, args.json)
        return exc.status
    display.show_outcome(reporter.outcome, args.json)
    return command.Status.DONE


def _use_threads() -> None:
    # One download does not need green threads, unlike some services.
    os.environ['OS_NOVA_DISABLE_EVENTLET_PATCHING'] = 'true'
    from nova import monkey_patch
    # Nova 32 and 33 warn that this mode is experimental.
    logging.getLogger(monkey_patch.__name__).setLevel(logging.ERROR)
    with warnings.catch_warnings(action='ignore'):
        monkey_patch.patch()


def _exit(number: int, _frame: types.FrameType | None) -> ty.NoReturn:
    # In place of the default action, so that the download cleans up.
    raise SystemExit(128 + number)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    :param argv: its arguments; by default those of this process
    :returns: the exit status
    """
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, _exit)
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
        return command.Status.PIPE_CLOSED
    except KeyboardInterrupt:
        print('nova-image-fetch: interrupted', file=sys.stderr)
        return command.Status.INTERRUPTED
    except Exception as exc:
        if debug:
            raise
        print(f'nova-image-fetch: {type(exc).__name__}: '
              f'{command.describe(exc)} (see --debug)', file=sys.stderr)
        return command.Status.FAILED


if __name__ == '__main__':
    sys.exit(main())
