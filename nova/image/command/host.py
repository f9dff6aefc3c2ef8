# SPDX-License-Identifier: Apache-2.0

"""Gives this process the configuration, user and privileges of nova-compute.

Otherwise its results could differ from those of nova-compute.
"""

import contextlib
import fcntl
import os
import pwd
import shlex
import termios
import typing as ty

from keystoneauth1 import exceptions as ks_exc
from keystoneauth1 import loading as ks_loading
from oslo_config import cfg
from oslo_log import log as logging
from oslo_privsep import priv_context

import nova.conf
from nova import context as nova_context
from nova.i18n import _
from nova.image import command
from nova.image import compat
from nova import objects
from nova import utils

CONF = nova.conf.CONF
Status = command.Status

#: oslo.config derives the default files from this name: Debian and Ubuntu
#: have a nova-compute.conf beside the nova.conf.
_SERVICE = 'nova-compute'

#: Sections of nova.conf with credentials, in order of preference. Compute
#: hosts need [service_user] to detach volumes (OSSA-2023-003).
CREDENTIALS = ('service_user', 'keystone_authtoken')


def configure(files: list[str], directories: list[str], debug: bool) -> None:
    """Read the configuration of nova-compute.

    :param files: configuration files, in place of the default ones
    :param directories: directories with such files
    :param debug: write Nova's log, DEBUG included, to standard error
    :raises CommandError: a file cannot be read, or a value is invalid
    """
    argv = [_SERVICE, *(f'--config-file={path}' for path in files),
            *(f'--config-dir={path}' for path in directories)]
    try:
        compat.read_configuration(argv, _SERVICE)
        # oslo.config validates a value when it is read; all options of these
        # sections apply to images.
        for group in ('glance', 'libvirt', 'image_cache'):
            dict(CONF[group])
    except cfg.Error as exc:
        raise command.CommandError(
            _('The configuration cannot be used: %s') % exc,
            Status.HOST) from exc
    if not config_files():
        raise command.CommandError(
            _('There is no nova.conf: use --config-file.'), Status.HOST)
    if debug:
        # The log of nova-compute is not for this process.
        for option in ('log_file', 'log_dir', 'log_config_append',
                       'use_syslog', 'use_journal'):
            CONF.set_override(option, None)
        CONF.set_override('debug', True)
        CONF.set_override('use_stderr', True)
        logging.setup(CONF, 'nova')


def config_files() -> list[str]:
    return [*(CONF.config_file or ()), *(CONF.config_dir or ())]


def become_service() -> None:
    """Change from root to the user of nova-compute; other users stay.

    That user owns ``instances_path``.

    :raises CommandError: the owner is not a user of this host
    """
    owner = 0
    for path in (CONF.state_path, CONF.instances_path):
        with contextlib.suppress(OSError):
            owner = os.stat(path).st_uid
    if os.geteuid() or not owner:
        return
    try:
        entry = pwd.getpwuid(owner)
    except KeyError as exc:
        raise command.CommandError(
            _('%(path)s belongs to the user ID %(uid)d, which does not exist '
              'on this host, and must belong to the user of nova-compute.') %
            {'path': CONF.instances_path, 'uid': owner}, Status.HOST) from exc
    os.initgroups(entry.pw_name, entry.pw_gid)
    os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
    os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    os.environ.update(
        HOME=entry.pw_dir, USER=entry.pw_name, LOGNAME=entry.pw_name)
    # The user may have no access to the working directory of root.
    os.chdir('/')


def user_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def prepare() -> None:
    """Do the part of nova-compute's start that downloads need."""
    # Without a controlling terminal, as in nova-compute, sudo fails instead of
    # asking for a password. If a session leader gives the terminal up, its
    # whole session gets SIGHUP.
    if os.getsid(0) != os.getpid():
        with contextlib.suppress(OSError), open('/dev/tty') as terminal:
            fcntl.ioctl(terminal, termios.TIOCNOTTY)
    priv_context.init(root_helper=shlex.split(utils.get_root_helper()))
    objects.register_all()


def log_in() -> tuple[str, nova_context.RequestContext]:
    """Log in to Keystone with the credentials in nova.conf.

    :returns: the section of the credentials, and a context with a token
    :raises CommandError: there are none, or Keystone refuses them
    """
    for section in CREDENTIALS:
        ks_loading.register_auth_conf_options(CONF, section)
        ks_loading.register_session_conf_options(CONF, section)
        if CONF[section].auth_type or CONF[section].auth_section:
            break
    else:
        raise command.CommandError(
            _('nova.conf contains no credentials: set auth_type and the '
              'options that it requires in [service_user].'), Status.SERVICE)
    try:
        auth: ty.Any = ks_loading.load_auth_from_conf_options(CONF, section)
        access = auth.get_access(
            ks_loading.load_session_from_conf_options(CONF, section))
    except ks_exc.ClientException as exc:
        raise command.CommandError(
            _('Keystone refused the credentials in [%(section)s] of '
              'nova.conf, or did not answer: %(reason)s') %
            {'section': section, 'reason': exc}, Status.SERVICE) from exc
    return section, nova_context.RequestContext(
        user_id=access.user_id, user_name=access.username,
        project_id=access.project_id, project_name=access.project_name,
        roles=sorted(access.role_names or ()), auth_token=access.auth_token,
        is_admin=False, user_auth_plugin=auth)
