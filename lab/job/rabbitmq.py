# SPDX-License-Identifier: Apache-2.0
"""RabbitMQ, by which the parts of Nova talk to one another."""

import pathlib
import secrets

from lab import config
from lab import namespace
from lab import process

ACCOUNT = 'rabbitmq'

# The one in /usr/sbin is for root, and changes to the account by itself.
_SERVER = '/usr/lib/rabbitmq/bin/rabbitmq-server'
_USER = 'lab'


class RabbitMQ(process.LabFixture):
    """A message broker on loopback.

    It brings its own epmd, the name server of Erlang's nodes, which otherwise
    one node starts for all of the machine and nobody ends.

    :ivar directory: everything of it, owned by its account
    :ivar url: what oslo.messaging calls transport_url, with a password
    :ivar daemon: the broker
    :ivar epmd: its name server
    """

    def __init__(self, directory: pathlib.Path) -> None:
        super().__init__()
        self.directory = directory
        self._port, self._node_port, self._epmd_port = (
            process.free_port() for _ in range(3))
        self._password = secrets.token_hex(16)
        self.url = (f'rabbit://{_USER}:{self._password}'
                    f'@127.0.0.1:{self._port}/')

    def _setUp(self) -> None:
        account = namespace.account(ACCOUNT)
        self.directory.mkdir(mode=0o700)
        account.own(self.directory)
        config.write(self.directory / 'rabbitmq.conf', self._settings(),
                     0o600, owner=account.uid, group=account.gid)
        env = self._environment()
        self.epmd = self.useFixture(process.Daemon(
            'epmd', account.argv('epmd'), self.directory / 'epmd.log',
            lambda: process.listens(self._epmd_port), env=env, grace=0))
        self.daemon = self.useFixture(process.Daemon(
            'rabbitmq', process.contained(account.argv(_SERVER)),
            self.directory / 'rabbitmq.log',
            lambda: process.listens(self._port), env=env,
            cwd=self.directory, grace=0, wrapped=True))

    def _settings(self) -> str:
        return (f'listeners.tcp.1 = 127.0.0.1:{self._port}\n'
                f'default_user = {_USER}\n'
                f'default_pass = {self._password}\n'
                'log.console = true\n'
                'log.file = false\n'
                'disk_free_limit.absolute = 50MB\n')

    def _environment(self) -> dict[str, str]:
        here = self.directory
        return process.clean_environment(
            HOME=str(here),
            ERL_EPMD_ADDRESS='127.0.0.1',
            ERL_EPMD_PORT=str(self._epmd_port),
            RABBITMQ_NODENAME='rabbit@localhost',
            RABBITMQ_DIST_PORT=str(self._node_port),
            RABBITMQ_CONF_ENV_FILE=str(here / 'no-such-file'),
            RABBITMQ_CONFIG_FILE=str(here / 'rabbitmq.conf'),
            RABBITMQ_ENABLED_PLUGINS_FILE=str(here / 'enabled_plugins'),
            RABBITMQ_LOG_BASE=str(here),
            RABBITMQ_MNESIA_BASE=str(here / 'mnesia'),
            RABBITMQ_PID_FILE=str(here / 'pid'),
            RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=(
                '-kernel inet_dist_use_interface {127,0,0,1}'))
