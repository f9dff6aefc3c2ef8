# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping
import io
import json
import pathlib

import fixtures
import subunit
import testtools

from suites import counting


def _results(*events: Mapping[str, object]) -> dict[str, counting.Result]:
    stream = io.BytesIO()
    output = subunit.StreamResultToBytes(stream)
    for event in events:
        output.status(**event)
    stream.seek(0)
    return counting.results(stream)


def _ended(*statuses: tuple[str, str]) -> dict[str, counting.Result]:
    return _results(*({'test_id': test, 'test_status': status}
                      for test, status in statuses))


class ResultsTestCase(testtools.TestCase):

    def test_counts(self):
        for statuses, counts in (
            ([], (0, 0, 0)),
            ([('listed', 'exists'), ('a', 'success'), ('b', 'xfail'),
              ('c', 'fail'), ('d', 'uxsuccess'), ('e', 'skip')], (2, 2, 1)),
            ([('a', 'success'), ('killed', 'inprogress')], (1, 1, 0)),
            ([('a', 'success'), ('a', 'fail'), ('a', 'success')], (0, 1, 0)),
        ):
            self.assertEqual(
                counts, counting.count(_ended(*statuses).values()))

    def test_details(self):
        found = _results(*(
            {'test_id': 'a', 'file_name': name, 'file_bytes': text.encode(),
             'mime_type': 'text/plain;charset=utf8', 'eof': True}
            for name, text in (('traceback', 'Traceback\nValueError: x\n'),
                               ('pythonlogging', 'DEBUG'))
        ), {'test_id': 'a', 'test_status': 'fail'})
        self.assertEqual('Traceback\nValueError: x', found['a'].details)
        self.assertEqual(counting.NEVER_ENDED,
                         _ended(('b', 'inprogress'))['b'].details)

    def test_save(self):
        folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        for name, value in (('NOVA_TEST_COUNTS', str(folder)),
                            ('TOX_ENV_NAME', 'py3')):
            self.useFixture(fixtures.EnvironmentVariable(name, value))
        for counts, status, expected in (
            (counting.Counts(2, 0, 1), 0, [2, 0, 1]),
            (counting.Counts(2, 3, 1), 1, [2, 3, 1]),
            # A failure that no test accounts for.
            (counting.Counts(2, 0, 0), 1, [2, 1, 0]),
            # Nothing ran.
            (None, 0, [0, 1, 0]),
            (counting.Counts(0, 0, 5), 0, [0, 1, 5]),
        ):
            counting.save('unit', counts, status)
            saved = json.loads((folder / 'py3.unit.json').read_text())
            self.assertEqual(expected, list(saved.values()))
