# SPDX-License-Identifier: Apache-2.0

"""Downloads over HTTP, by the release and by our build."""

import hashlib
from http import server
import json
import pathlib
import sys
import threading
from typing import Any

import fixtures

from novabuild.package_tests import base
from novabuild.package_tests import calls
from novabuild import project
from released import runs
from released import selection

DATA = bytes(range(256)) * 1000
IMAGE = {
    'id': calls.IMAGE_ID, 'status': 'active', 'visibility': 'public',
    'size': len(DATA), 'disk_format': 'qcow2', 'os_hash_algo': 'sha256',
    'os_hash_value': hashlib.sha256(DATA).hexdigest(),
    'checksum': hashlib.md5(DATA).hexdigest()}
SCRIPT = pathlib.Path(__file__).with_name('calls.py')
#: Failures while the data arrives: ours raises an exception of Nova's, and
#: leaves no file.
FAILURES = ('wrong data, ', 'broken connection, ')
RAISED = ['CouldNotFetchImage', 'NovaException', 'Exception']


class Glance(server.BaseHTTPRequestHandler):
    """Serves one image; the first part of a path is the answer to give."""

    protocol_version = 'HTTP/1.1'

    def do_GET(self) -> None:
        answer, *path = self.path.strip('/').split('/')
        if 'schemas' in path:
            self._answer(200, json.dumps({
                'name': 'image', 'properties': dict.fromkeys(IMAGE, {}),
            }).encode())
        elif path[-1] != 'file':
            self._answer(200, json.dumps(IMAGE).encode())
        elif answer == 'no-data':
            self._answer(204, b'')
        elif answer.isdigit():
            self._answer(int(answer), b'no', 'text/html')
        else:
            data = {'data': DATA, 'wrong-data': DATA[::-1],
                    'broken-connection': DATA[:1000]}[answer]
            self._answer(200, data, 'application/octet-stream', len(DATA))
            self.close_connection = True

    def _answer(self, status: int, body: bytes,
                kind: str = 'application/json', length: int = 0) -> None:
        self.send_response(status)
        self.send_header('Content-Type', kind)
        self.send_header('Content-Length', str(length or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """Write no access log."""


class CallsTestCase(base.TestCase):

    def setUp(self) -> None:
        super().setUp()
        web = server.ThreadingHTTPServer(('127.0.0.1', 0), Glance)
        self.addCleanup(web.server_close)
        threading.Thread(target=web.serve_forever, daemon=True).start()
        self.addCleanup(web.shutdown)
        self.address = f'http://127.0.0.1:{web.server_port}'

    def _calls(self, folder: pathlib.Path, mode: str) -> dict[str, Any]:
        files = self.useFixture(fixtures.TempDir()).path
        printed = base.run(
            sys.executable, '-W', 'ignore', '-P', SCRIPT, files, self.address,
            cwd=pathlib.Path(files), environment={
                'PYTHONPATH': str(folder), **selection.environment(mode)})
        return json.loads(printed.splitlines()[-1])

    def _expected(self, name: str, released: dict[str, Any]) -> Any:
        """Change the result of the release to ours where they differ."""
        log = [self._line(line) for line in released['log']]
        if name.startswith(FAILURES):
            self.assertIn('OSError', released['error'])
            return RAISED, log, {}
        if name == 'Glance is down':
            # Our service requests the image before its data.
            log = [line.replace("'data'", "'get'") for line in log]
        return released['error'], log, released['files']

    @staticmethod
    def _line(line: str) -> str:
        """Return the beginning of a line, which operators search for."""
        start, separator, _rest = line.partition('Error writing to _: ')
        return start + separator if separator else line

    def test_same_results(self) -> None:
        with runs.sides(project.load(base.ROOT)) as (released, ours):
            for mode in selection.MODES:
                results = [self._calls(side.folder, mode)
                           for side in (released, ours)]
                self.assertEqual(set(results[0]), set(results[1]))
                for name, expected in results[0].items():
                    found = results[1][name]
                    log = [self._line(line) for line in found['log']
                           # The release logs nothing about a success.
                           if ' fetched by http: ' not in line]
                    if name == 'symbolic link to no directory':
                        # The release logs nothing if it cannot open the file.
                        self.assertEqual(['ERROR Error writing to _: '], log)
                        log = []
                    self.assertEqual(
                        self._expected(name, expected),
                        (found['error'], log, found['files']),
                        f'{name}, {mode}')
