# SPDX-License-Identifier: Apache-2.0

"""A request context from the credentials in nova.conf."""

import dataclasses

from keystoneauth1 import exceptions as ks_exc
from keystoneauth1 import identity
from keystoneauth1 import loading as ks_loading

import nova.conf
from nova import context as nova_context
from nova.i18n import _
from nova.image.command import errors
from nova.image.command import host

CONF = nova.conf.CONF

#: Where nova.conf of a compute host has credentials of Nova's own, the first
#: choice first. [service_user] is there since volumes cannot be detached
#: without (OSSA-2023-003).
SECTIONS = ('service_user', 'keystone_authtoken')

#: Sees images of all projects by Glance's default policy (get_image).
ALL_SEEING_ROLE = 'admin'


@dataclasses.dataclass(frozen=True)
class Login:
    """Who Glance is asked as."""
    #: The section of nova.conf that the credentials are in.
    section: str
    user: str
    project: str
    roles: tuple[str, ...]
    context: nova_context.RequestContext


def log_in() -> Login:
    """Log in to Keystone with the credentials of nova.conf.

    :raises CommandError: there are none, or they are not good
    """
    for section in SECTIONS:
        _register(section)
        if CONF[section].auth_type or CONF[section].auth_section:
            return _log_in(section)
    raise errors.CommandError(
        _('nova.conf has no credentials: set auth_type, auth_url, username, '
          'password, project_name, user_domain_name and project_domain_name '
          'in [service_user], as for nova-compute to send a service token.'),
        errors.Status.SERVICE)


def _register(section: str) -> None:
    ks_loading.register_auth_conf_options(CONF, section)
    ks_loading.register_session_conf_options(CONF, section)


def _log_in(section: str) -> Login:
    try:
        auth = ks_loading.load_auth_from_conf_options(CONF, section)
        session = ks_loading.load_session_from_conf_options(CONF, section)
        if not isinstance(auth, identity.BaseIdentityPlugin):
            raise errors.CommandError(
                _('[%s] auth_type of nova.conf does not log in to Keystone: '
                  'set it to password.') % section, errors.Status.SERVICE)
        access = auth.get_access(session)
    except ks_exc.ClientException as exc:
        raise errors.CommandError(
            _('Keystone did not accept the credentials in [%(section)s] of '
              'nova.conf, or did not answer: %(reason)s') %
            {'section': section, 'reason': host.describe(exc)},
            errors.Status.SERVICE) from exc
    return Login(
        section, access.username or '', access.project_name or '',
        tuple(sorted(access.role_names or ())), nova_context.RequestContext(
            user_id=access.user_id, user_name=access.username,
            project_id=access.project_id, project_name=access.project_name,
            user_domain_id=access.user_domain_id,
            project_domain_id=access.project_domain_id,
            roles=access.role_names, auth_token=access.auth_token,
            is_admin=False, user_auth_plugin=auth))
