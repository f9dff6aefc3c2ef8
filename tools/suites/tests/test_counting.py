# SPDX-License-Identifier: Apache-2.0

import io
import json
import pathlib

import fixtures
import subunit
import testtools

from suites import counting


def _stream(*statuses: tuple[str, str]) -> io.BytesIO:
    """A subunit stream in which tests have these statuses."""
    stream = io.BytesIO()
    output = subunit.StreamResultToBytes(stream)
    for test_id, status in statuses:
        output.status(test_id=test_id, test_status=status)
    stream.seek(0)
    return stream


def _counts(*statuses: tuple[str, str]) -> counting.Counts:
    found = counting.results(_stream(*statuses))
    return counting.of_results(found.values())


class ResultsTestCase(testtools.TestCase):

    def test_each_status(self):
        counts = _counts(
            ('listed', 'exists'), ('a', 'success'), ('b', 'xfail'),
            ('c', 'fail'), ('d', 'uxsuccess'), ('e', 'skip'))
        self.assertEqual(counting.Counts(2, 2, 1), counts)

    def test_test_without_end_failed(self):
        counts = _counts(
            ('a', 'success'), ('killed', 'inprogress'))
        self.assertEqual(counting.Counts(1, 1, 0), counts)

    def test_nothing(self):
        self.assertEqual(counting.Counts(0, 0, 0), _counts())

    def test_worst_result_counts(self):
        self.assertEqual(counting.Counts(0, 1, 0), _counts(
            ('a', 'success'), ('a', 'fail'), ('a', 'success')))

    def test_details(self):
        stream = io.BytesIO()
        output = subunit.StreamResultToBytes(stream)
        for name, text in (('traceback', 'Traceback\nValueError: x\n'),
                           ('pythonlogging', 'DEBUG')):
            output.status(
                test_id='a', file_name=name, file_bytes=text.encode(),
                mime_type='text/plain;charset=utf8', eof=True)
        output.status(test_id='a', test_status='fail')
        stream.seek(0)
        self.assertEqual(
            'Traceback\nValueError: x', counting.results(stream)['a'].details)


class SaveTestCase(testtools.TestCase):

    def setUp(self) -> None:
        super().setUp()
        self.folder = pathlib.Path(self.useFixture(fixtures.TempDir()).path)
        self.useFixture(fixtures.EnvironmentVariable('TOX_ENV_NAME', 'py3'))

    def _saved(self, counts: counting.Counts | None, status: int) -> list[int]:
        counting.save(self.folder, 'unit', counts, status)
        saved = json.loads((self.folder / 'py3.unit.json').read_text())
        return [saved['passed'], saved['failed'], saved['skipped']]

    def test_good_run(self):
        self.assertEqual([2, 0, 1], self._saved(counting.Counts(2, 0, 1), 0))

    def test_bad_run(self):
        self.assertEqual([2, 3, 1], self._saved(counting.Counts(2, 3, 1), 1))

    def test_failure_that_no_test_had(self):
        self.assertEqual([2, 1, 0], self._saved(counting.Counts(2, 0, 0), 1))

    def test_no_record(self):
        self.assertEqual([0, 1, 0], self._saved(None, 0))

    def test_only_skips(self):
        self.assertEqual([0, 1, 5], self._saved(counting.Counts(0, 0, 5), 0))
