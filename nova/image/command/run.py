# SPDX-License-Identifier: Apache-2.0

"""Runs the command, once its arguments are understood.

All of Nova that it needs is loaded here, before the configuration is read, as
in nova-compute: some of Nova looks at it while it is loaded.
"""

import argparse
import os

from nova import exception
from nova.image.command import checks
from nova.image.command import display
from nova.image.command import errors
from nova.image.command import fetch
from nova.image.command import host
from nova.image.command import login
from nova.image.command import watching


def run(args: argparse.Namespace) -> int:
    """Do what the arguments say, and tell what came of it.

    :param args: as nova.image.command.main understands them
    :returns: the exit status
    """
    # The working directory may change with the user.
    path = args.to and os.path.abspath(args.to)
    try:
        host.configure(args.config_file, args.config_dir, args.debug)
        host.become_service()
        host.prepare()
        if args.check:
            return _check(args.image_id, args.json)
        outcome = _fetch(
            args.image_id, path, args.source or 'auto', args.json)
    except errors.CommandError as exc:
        display.show_error(str(exc), exc.status, args.json)
        return exc.status
    display.show_outcome(outcome, args.json)
    return errors.Status.DONE


def _check(image_id: str | None, as_json: bool) -> int:
    fine = display.show_findings(checks.run(image_id), as_json)
    return errors.Status.DONE if fine else errors.Status.FAILED


def _fetch(
    image_id: str, path: str | None, source: str, as_json: bool,
) -> fetch.Outcome:
    fetch.choose_source(source)
    if path is not None:
        path = fetch.check_path(path)
    try:
        fetch.start_privileged_side()
    except exception.InvalidConfiguration as exc:
        raise errors.CommandError(
            host.describe(exc), errors.Status.HOST) from exc
    context = login.log_in().context
    with watching.progress(as_json) as progress:
        recorder = fetch.Recorder(progress, image_id, source)
        if path is None:
            return fetch.to_cache(context, image_id, recorder)
        return fetch.to_path(context, image_id, path, recorder)
