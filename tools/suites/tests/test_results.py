# SPDX-License-Identifier: Apache-2.0

from collections.abc import Mapping
import io

import subunit
import testtools

from suites import results


def _results(*events: Mapping[str, object]) -> dict[str, results.Result]:
    stream = io.BytesIO()
    output = subunit.StreamResultToBytes(stream)
    for event in events:
        output.status(**event)
    stream.seek(0)
    return results.read(stream)


def _ended(*statuses: tuple[str, str]) -> dict[str, results.Result]:
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
                counts, results.count(_ended(*statuses).values()))

    def test_details(self):
        found = _results(*(
            {'test_id': 'a', 'file_name': name, 'file_bytes': text.encode(),
             'mime_type': 'text/plain;charset=utf8', 'eof': True}
            for name, text in (('traceback', 'Traceback\nValueError: x\n'),
                               ('pythonlogging', 'DEBUG'))
        ), {'test_id': 'a', 'test_status': 'fail'})
        self.assertEqual('Traceback\nValueError: x', found['a'].details)
        self.assertEqual(results.NEVER_ENDED,
                         _ended(('b', 'inprogress'))['b'].details)

    def test_judge(self):
        for counts, status, failed in (
            ((2, 0, 1), 0, 0), ((2, 3, 1), 1, 3),
            # A failure that no test accounts for.
            ((2, 0, 0), 1, 1),
            # Nothing ran.
            ((0, 0, 0), 0, 1), ((0, 0, 5), 0, 1),
        ):
            found = results.Counts(*counts)
            self.assertEqual(found._replace(failed=failed),
                             results.judge(found, status))
