# SPDX-License-Identifier: Apache-2.0
"""An rbd and a Glance that deliver something else than they were given."""

from http import client as http_client
from http import server as http_server
import pathlib
import shutil
import threading
import typing as ty
import urllib.parse

from lab import config
from lab import faults
from lab import process
from lab import services

RBD = pathlib.Path('/usr/bin/rbd')

# They are about one connection, or about the body before it was changed.
_NOT_PASSED_ON = frozenset((
    'connection', 'content-length', 'transfer-encoding', 'keep-alive',
    'host'))


class FaultyRbd(process.LabFixture):
    """Stands where rbd is on a compute host; ends with the real one's status.

    :ivar program: to be mounted over RBD
    """

    def __init__(self, directory: pathlib.Path) -> None:
        """:param directory: a new one, where it goes"""
        super().__init__()
        self._directory = directory
        self._fault = directory / 'fault'
        self.program = directory / 'program'

    def _setUp(self) -> None:
        self._directory.mkdir(mode=0o755)
        self.addCleanup(shutil.rmtree, self._directory, ignore_errors=True)
        real = shutil.copy(RBD, self._directory / 'rbd')
        changer = shutil.copy(faults.__file__, self._directory / 'faults.py')
        config.write(
            self.program, f'#!/bin/sh\nexec {services.PYTHON} -I {changer} '
                          f'{real} {self._fault} "$@"\n', 0o755)
        self.set('')

    def set(self, fault: str) -> None:
        """Change what is wrong with the data: see faults.FAULTS."""
        config.write(self._fault, fault)


class FaultyProxy(process.LabFixture):
    """Stands before Glance.

    The faults are those of faults.FAULTS, in a response that is complete as
    far as HTTP goes, and 'break': the connection ends before the body does.

    :ivar url: its endpoint
    :ivar fault: the name of what is wrong with the data of images; '' if
        nothing is
    """

    def __init__(self, url: str) -> None:
        """:param url: Glance's endpoint"""
        super().__init__()
        self.fault = ''
        self._upstream = urllib.parse.urlsplit(url).netloc

    def _setUp(self) -> None:
        proxy = self

        class Handler(http_server.BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'

            def do_GET(self) -> None:
                proxy._pass_on(self)

            def log_message(self, format: str, *args: ty.Any) -> None:
                """Say nothing."""

        server = http_server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.addCleanup(server.server_close)
        self.url = f'http://127.0.0.1:{server.server_port}'
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(server.shutdown)

    def _pass_on(self, request: http_server.BaseHTTPRequestHandler) -> None:
        connection = http_client.HTTPConnection(self._upstream, timeout=60)
        try:
            connection.request('GET', request.path, headers=_passed_on(
                request.headers.items()))
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        request.send_response(response.status)
        for name, value in _passed_on(response.getheaders()).items():
            request.send_header(name, value)
        broken = False
        if request.path.endswith('/file') and response.status == 200:
            broken = self.fault == 'break'
            if not broken:
                body = faults.FAULTS[self.fault](body)
        request.send_header('Content-Length', str(len(body)))
        request.end_headers()
        request.wfile.write(body[:-1000] if broken else body)
        request.close_connection = broken


def _passed_on(headers: ty.Iterable[tuple[str, str]]) -> dict[str, str]:
    return {name: value for name, value in headers
            if name.lower() not in _NOT_PASSED_ON}
