# SPDX-License-Identifier: Apache-2.0

"""Makes this process what nova-compute is on this host.

The same configuration files, the same user, the same way to privileges.
Otherwise what the command sees says little about what nova-compute will see.
"""

from collections.abc import Sequence
import contextlib
import fcntl
import logging as py_logging
import os
import pwd
import shlex
import termios

from oslo_config import cfg
from oslo_log import log as logging
from oslo_privsep import priv_context

import nova.conf
from nova.i18n import _
from nova.image.command import errors
from nova.image import compat
from nova import objects
from nova import utils

CONF = nova.conf.CONF

#: Its name decides which configuration files are looked for: Debian and
#: Ubuntu have a nova-compute.conf beside the nova.conf.
_SERVICE = 'nova-compute'

#: Sections of nova.conf that are about images.
_GROUPS = ('glance', 'libvirt', 'image_cache')


def configure(
    files: Sequence[str], directories: Sequence[str], debug: bool,
) -> None:
    """Read the configuration of nova-compute.

    :param files: in place of those that nova-compute would find
    :param directories: the same, of directories with such files
    :param debug: write Nova's log, DEBUG included, to standard error
    :raises CommandError: they cannot be read or make no sense
    """
    argv = [_SERVICE]
    for path in files:
        argv += ['--config-file', path]
    for path in directories:
        argv += ['--config-dir', path]
    try:
        compat.read_configuration(argv, _SERVICE)
        _look_at_all_values()
    except cfg.Error as exc:
        raise errors.CommandError(
            _('The configuration cannot be used: %s') % describe(exc),
            errors.Status.HOST) from exc
    if not (CONF.config_file or CONF.config_dir):
        raise errors.CommandError(
            _('There is no nova.conf where nova-compute looks for one. Name '
              'it by --config-file.'), errors.Status.HOST)
    _set_up_log(debug)


def _look_at_all_values() -> None:
    """Have oslo.config complain of a value now, not in the middle."""
    for group in _GROUPS:
        for name in CONF[group]:
            CONF[group][name]


def describe(error: Exception) -> str:
    """Say in one line what an error is, whatever its text looks like."""
    return plain(str(error)) or type(error).__name__


def plain(said: str) -> str:
    """Return a message as one line."""
    return ' '.join(said.split())


def config_files() -> list[str]:
    """Return the paths of what the configuration was read from."""
    return [*(CONF.config_file or ()), *(CONF.config_dir or ())]


def _set_up_log(debug: bool) -> None:
    if not debug:
        # What is of interest is told by the command itself. Without any
        # handler Python would write warnings to standard error.
        py_logging.getLogger().handlers[:] = [py_logging.NullHandler()]
        return
    # nova-compute's own log is not for this process to write to.
    for option in ('log_file', 'log_dir', 'log_config_append'):
        CONF.set_override(option, None)
    for option in ('use_syslog', 'use_journal'):
        CONF.set_override(option, False)
    for option in ('debug', 'use_stderr'):
        CONF.set_override(option, True)
    logging.setup(CONF, 'nova')


def become_service() -> None:
    """Give up being root for being nova-compute's user.

    That is the owner of ``instances_path``. Other users stay who they are.

    :raises CommandError: the owner is no user of this host
    """
    if os.geteuid() != 0:
        return
    owner = _owner()
    if not owner:
        return
    try:
        entry = pwd.getpwuid(owner)
    except KeyError as exc:
        raise errors.CommandError(
            _('%(path)s belongs to the user %(uid)d, who is not known on this '
              'host. It has to belong to the user of nova-compute.') %
            {'path': CONF.instances_path, 'uid': owner},
            errors.Status.HOST) from exc
    os.initgroups(entry.pw_name, entry.pw_gid)
    os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
    os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    os.environ.update(
        HOME=entry.pw_dir, USER=entry.pw_name, LOGNAME=entry.pw_name)
    # Whatever directory root was in, its service may not be able to enter.
    os.chdir('/')


def _owner() -> int:
    for path in (CONF.instances_path, CONF.state_path):
        try:
            return os.stat(path).st_uid
        except OSError:
            continue
    return 0


def user_name() -> str:
    """Return the name of the user that this process is now."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def prepare() -> None:
    """Do what the start of nova-compute does, as far as images need it."""
    _leave_terminal()
    priv_context.init(root_helper=shlex.split(utils.get_root_helper()))
    objects.register_all()


def _leave_terminal() -> None:
    """Have no controlling terminal, as a service has none.

    Where sudo would ask for a password it fails instead, as it does for
    nova-compute. Ctrl-C still comes: it goes by the process group.
    """
    # For a session's first process, all others would be hung up.
    if os.getsid(0) == os.getpid():
        return
    with contextlib.suppress(OSError):
        fd = os.open('/dev/tty', os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, termios.TIOCNOTTY)
        finally:
            os.close(fd)
