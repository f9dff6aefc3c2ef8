# SPDX-License-Identifier: Apache-2.0
"""MariaDB, for the services that need more than SQLite."""

from collections.abc import Mapping
from collections.abc import Sequence
import pathlib
import secrets

from lab import config
from lab import namespace
from lab import process

ACCOUNT = 'mysql'


class MariaDB(process.LabFixture):
    """A database server on loopback whose data need not survive a crash.

    :ivar directory: everything of it, owned by its account
    :ivar port: where it listens
    :ivar daemon: the server
    """

    def __init__(self, directory: pathlib.Path,
                 databases: Mapping[str, Sequence[str]]) -> None:
        """Describe the server; setUp() makes it in a few seconds.

        :param databases: user name -> the databases that are theirs
        """
        super().__init__()
        self.directory = directory
        self.port = process.free_port()
        self._databases = databases
        self._passwords = {user: secrets.token_hex(16) for user in databases}

    def _setUp(self) -> None:
        self._account = namespace.account(ACCOUNT)
        self.directory.mkdir(mode=0o700)
        self._account.own(self.directory)
        conf = self._write('my.cnf', config.render(self._options()))
        process.run(self._account.argv(
            'mariadb-install-db', f'--defaults-file={conf}',
            '--skip-test-db', '--skip-name-resolve'))
        self.daemon = self.useFixture(process.Daemon(
            'mariadb', self._account.argv(
                'mariadbd', f'--defaults-file={conf}',
                f'--init-file={self._write("init.sql", self._statements())}'),
            self.directory / 'mariadb.log',
            lambda: process.listens(self.port), grace=0))

    def _write(self, name: str, text: str) -> pathlib.Path:
        return config.write(
            self.directory / name, text, 0o600,
            owner=self._account.uid, group=self._account.gid)

    def _options(self) -> config.Options:
        here = self.directory
        return {'mariadbd': {
            'datadir': here / 'data',
            'tmpdir': here,
            'socket': here / 'socket',
            'pid_file': here / 'pid',
            'bind_address': '127.0.0.1',
            'port': str(self.port),
            'skip_name_resolve': 'ON',
            'character_set_server': 'utf8mb4',
            'max_connections': '500',
            'performance_schema': 'OFF',
            'innodb_buffer_pool_size': '128M',
            'innodb_log_file_size': '64M',
            # Schema changes would spend most of their time on these.
            'innodb_flush_log_at_trx_commit': '0',
            'innodb_flush_method': 'nosync',
            'innodb_doublewrite': 'OFF',
        }}

    def _statements(self) -> str:
        """Return SQL statements that create users and databases."""
        lines = []
        for user, names in self._databases.items():
            lines.append(f"CREATE USER '{user}'@'127.0.0.1' "
                         f"IDENTIFIED BY '{self._passwords[user]}';")
            for name in names:
                lines.append(f'CREATE DATABASE {name};')
                lines.append(f"GRANT ALL ON {name}.* TO '{user}'@'127.0.0.1';")
        return '\n'.join(lines) + '\n'

    def connection(self, user: str, database: str) -> str:
        """A database's URL as SQLAlchemy wants it, with a password."""
        return (f'mysql+pymysql://{user}:{self._passwords[user]}'
                f'@127.0.0.1:{self.port}/{database}?charset=utf8mb4')
