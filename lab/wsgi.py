# SPDX-License-Identifier: Apache-2.0
"""WSGI applications under gunicorn."""

from collections.abc import Mapping
import pathlib
import urllib.error
import urllib.request

from lab import config
from lab import process
from lab import services

_no_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def answers(url: str) -> bool:
    """Return whether an HTTP server answers without a server error."""
    try:
        with _no_proxy.open(url, timeout=20):
            return True
    except urllib.error.HTTPError as exc:
        exc.close()
        return exc.code < 500
    except OSError:
        return False


class WsgiService(process.LabFixture):
    """One application, one worker, a few threads.

    :ivar port: its loopback port, the same after every restart
    :ivar url: its base URL, without a trailing slash
    :ivar access_log: one line per request, written when it ends
    :ivar daemon: the server process
    """

    def __init__(self, name: str, application: str,
                 venv: services.Venv, directory: pathlib.Path, *,
                 env: Mapping[str, str], probe: str = '/') -> None:
        """Describe the server; setUp() starts it.

        :param application: as ``module:callable``
        :param env: variables that the application needs
        :param probe: path that answers once the application serves
        """
        super().__init__()
        self.port = process.free_port()
        self.url = f'http://127.0.0.1:{self.port}'
        self.access_log = directory / f'{name}.access.log'
        self._probe = self.url + probe
        self._directory = directory
        self._settings = {
            'wsgi_app': application,
            'bind': f'127.0.0.1:{self.port}',
            'worker_class': 'gthread',
            'workers': 1,
            'threads': 8,
            'worker_tmp_dir': str(directory),
            'graceful_timeout': 3,
            'timeout': 120,
            'accesslog': str(self.access_log),
            'control_socket_disable': True,
        }
        self.daemon = process.Daemon(
            name, [venv.program('gunicorn')],
            directory / f'{name}.log', lambda: answers(self._probe),
            cwd=directory,
            env=process.clean_environment(HOME=str(directory), **env))

    def _setUp(self) -> None:
        # A file that gunicorn finds by itself, since Keystone takes the
        # command line for its own.
        config.write(
            self._directory / 'gunicorn.conf.py',
            ''.join(f'{name} = {value!r}\n'
                    for name, value in self._settings.items()))
        self.useFixture(self.daemon)
