# SPDX-License-Identifier: Apache-2.0

"""Reports about the standard error of rbd, ceph and setpriv."""

import base64
import random
import struct

import hypothesis
from hypothesis import strategies

import nova.privsep.rbd_errors
from nova import test
from nova.tests.unit.image import fakes

rbd_errors = nova.privsep.rbd_errors

Cause = rbd_errors.Cause
RNG = random.Random(19)
TIME = '2026-11-27T17:43:26.198+0000 7f58c01ff6c0 -1 '
CONNECT = "rbd: couldn't connect to the cluster!"
OPEN = 'rbd: error opening image 5ca1ab1e: (2) No such file or directory'
PHRASES = {
    "couldn't connect to the cluster", 'error opening image',
    'error opening pool', 'error setting snapshot context',
    'export error', 'export-diff error',
}


def make_key(kind: int, length: int) -> str:
    """Return a key of one of Ceph's types, as a keyring stores it."""
    return base64.b64encode(
        struct.pack('<HIIH', kind, 1_700_000_000, 7, length) +
        RNG.randbytes(length)).decode()


KEY = make_key(1, 16)
NEW_KEY = make_key(2, 32)

_LOADING = 'auth: failed to load /k: (5) Input/output error'
_NOT_FOUND = 'monclient: keyring not found'

#: Log lines of Ceph 16.2, without the time, and the cause for each.
LOGGED: list[tuple[Cause, list[str]]] = [
    (Cause.NO_KEYRING, [
        'auth: unable to find a keyring on /k: (2) No such file or directory',
        'AuthRegistry(0x5567) no keyring found at /k, disabling cephx',
        'monclient(hunting): handle_auth_bad_method server allowed_methods',
        'monclient: authenticate NOTE: no keyring found; disabled cephx']),
    (Cause.BAD_KEYRING, [
        'auth: error parsing file /k: cannot parse buffer: Malformed input',
        _LOADING, _NOT_FOUND]),
    (Cause.BAD_KEYRING, [
        'auth: error parsing file /k: error setting modifier for '
        f'[client.nova] type={KEY[:-2]} val==: Malformed input', _LOADING]),
    (Cause.BAD_KEYRING, [
        'auth: error reading file: /k: bufferlist::read_file(/k)']),
    (Cause.BAD_KEYRING, [_NOT_FOUND]), (Cause.BAD_KEYRING, [_LOADING]),
    *((cause, [f"auth: failed to decode key '{key}'", _NOT_FOUND])
      for cause, key in ((Cause.BAD_KEY, KEY[:9] + '!' + KEY[10:]),
                         (Cause.BAD_KEY, 'x'), (Cause.NEW_KEY, NEW_KEY))),
    *((cause, ['auth: error parsing file /k: error setting modifier for '
               f'[client.nova] type=key val={key}: Malformed input',
               _LOADING])
      for cause, key in ((Cause.BAD_KEY, KEY), (Cause.NEW_KEY, NEW_KEY))),
    (Cause.REFUSED, ['monclient(hunting): handle_auth_bad_method server '
                     'allowed_methods [2] but i only support [2,1]']),
    (Cause.NO_ANSWER, ['monclient(hunting): authenticate timed out after 3']),
    (Cause.NO_MONITOR, ['monclient: get_monmap_and_config cannot identify '
                        'monitors to contact']),
]
#: Error messages of Ceph, setpriv and timeout.
PRINTED = (
    (Cause.NO_ANSWER, 'timed out'),
    (Cause.BAD_CONF, 'global_init: error reading config file. parse error: '
                     "expected '<eoi>' in line 1"),
    (Cause.BAD_CONF,
     'global_init: unable to open config file from search list /tmp'),
    (Cause.BAD_CONF, "Error initializing cluster client: InvalidArgument('"
                     "RADOS invalid argument (error calling "
                     "conf_read_file)')"),
    # Python's errors if it cannot start setpriv.
    (Cause.NO_SETPRIV, "FileNotFoundError(2, 'No such file or directory')"),
    (Cause.NO_SETPRIV, "PermissionError(13, 'Permission denied')"),
    *((Cause.NOT_INSTALLED,
       f'setpriv: failed to execute {name}: No such file or directory')
      for name in ('rbd', 'timeout')),
    (Cause.OLD_SETPRIV,
     "setpriv: unrecognized option '--ambient-caps=+dac_read_search'"),
    (Cause.OLD_SETPRIV, "setpriv: invalid option -- 'x'"),
    (Cause.OLD_SETPRIV, 'setpriv: libcap-ng is too old for "all" caps'),
    (Cause.NOT_PERMITTED, 'setpriv: setresuid failed: Operation not '
                          'permitted'),
    (Cause.NOT_PERMITTED, 'setpriv: apply capabilities: Operation not '
                          'permitted'),
    (Cause.NOT_PERMITTED, 'setpriv: failed to execute rbd: Permission '
                          'denied'),
    (Cause.NOT_PERMITTED, "timeout: failed to run command 'setpriv': "
                          'Permission denied'),
    (Cause.NOT_RUN, 'setpriv: failed to execute rbd: Exec format error'),
    (Cause.NOT_RUN, 'timeout: fork system call failed: Resource temporarily '
                    'unavailable'),
    *((Cause.UNKNOWN, line) for line in (
        '', 'something else', 'a nova: b', 'a setpriv: failed to execute b: '
        'No such file or directory', 'timed out b', 'a timed out',
        "BlockingIOError(11, 'Resource temporarily unavailable')",
        "OSError(12, 'Cannot allocate memory')", "a PermissionError(13, 'b')",
        # The program ceph is a script.
        "PermissionError: [Errno 13] Permission denied: '/usr/lib/a.py'")),
)


def outcome(*lines: str, status: int = 5) -> rbd_errors.Outcome:
    return rbd_errors.outcome(
        status, '\n'.join(lines).encode('utf-8', 'surrogateescape'))


class TestKeys(test.NoDBTestCase):
    def test_prefixes(self) -> None:
        self.assertEqual(('AQ', 40), (KEY[:2], len(KEY)))
        self.assertEqual(('Ag', 60), (NEW_KEY[:2], len(NEW_KEY)))


class TestOutcome(test.NoDBTestCase):
    def test_causes(self) -> None:
        for cause, lines in LOGGED:
            self.assertEqual(
                (5, cause.name, "couldn't connect to the cluster"),
                outcome(*(TIME + line for line in lines), CONNECT), str(lines))
        for cause, line in PRINTED:
            self.assertEqual((5, cause.name, ''), outcome(line), line)
            self.assertEqual((5, cause.name, ''), outcome('x', line, 'x'))
        self.assertEqual(
            set(Cause), {cause for cause, _lines in [*LOGGED, *PRINTED]})

    def test_phrases(self) -> None:
        for phrases, *lines in (
            ("couldn't connect to the cluster", CONNECT),
            ('error opening image', OPEN),
            ('error opening image',
             'rbd: error opening image a: (1) Operation not permitted', OPEN),
            ('error opening pool',
             "rbd: error opening pool 'images': (2) No such file"),
            ('error setting snapshot context',
             'error setting snapshot context: (2) No such file or directory'),
            ('export error', 'rbd: export error: (5) Input/output error'),
            ('export-diff error, error opening image',
             'rbd: export-diff error: (5) Input/output error', OPEN),
            ('', "rbd: unrecognised option '--log-to-file'"),
        ):
            self.assertEqual((5, 'UNKNOWN', phrases), outcome(*lines),
                             str(lines))

    def test_success(self) -> None:
        for text in (CONNECT, 'timed out', '[errno 5]', ''):
            self.assertEqual((0, 'UNKNOWN', ''), outcome(text, status=0))

    def test_errno_of_ceph(self) -> None:
        for status, text, expected in (
            (1, 'log\n[errno 5] RADOS I/O error (error connecting)', 5),
            (13, '[errno 13] RADOS permission denied', 13),
            (1, 'timed out', 1), (-9, '', -9), (1, '[errno 99999999]', 1),
            # The name of a pool must not make a failure a success.
            (2, "rbd: error opening pool '[errno 0]': (2) No such file", 2),
            (2, '[errno 00]', 2), (2, '[errno \u0660]', 2),
        ):
            self.assertEqual(expected, outcome(text, status=status)[0], text)

    def test_log_in_the_middle_of_a_message(self) -> None:
        """Ceph's log thread writes at any time."""
        for key, cause in ((KEY, 'BAD_KEY'), (NEW_KEY, 'NEW_KEY'),
                           (KEY[:20] + '!' + KEY[21:], 'BAD_KEY')):
            log = f"{TIME}auth: failed to decode key '{key}'"
            for place in range(len(OPEN) + 1):
                before, after = OPEN[:place], OPEN[place:]
                for middle in (log, log + '\n', '\n' + log):
                    _status, found, phrases = outcome(before + middle + after)
                    self.assertEqual(cause, found)
                    self.assertIn(phrases, ('', 'error opening image'))


class TestNothingElsePasses(test.NoDBTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.useFixture(fakes.NoHypothesisFolder())

    @hypothesis.settings(
        max_examples=300, deadline=None, database=None, derandomize=True)
    @hypothesis.given(
        strategies.integers(-64, 255).filter(bool),
        strategies.lists(strategies.one_of(
            strategies.sampled_from([
                KEY, NEW_KEY, f'key = {KEY}', f"'{KEY[:20]}", CONNECT, OPEN,
                'hunter2', 'rbd: hunter2: (2) No such file or directory',
                'error opening image hunter2', 'export error hunter2', '\n',
                'rbd:x:0:0', '[errno ', '0]', '5]', '\r', '\0', '\x1b[1m',
                TIME, *(line for _cause, line in PRINTED),
                *(line for _cause, lines in LOGGED for line in lines)]),
            strategies.text(max_size=20)).map(
                lambda text: text.encode('utf-8', 'surrogatepass'))
            | strategies.binary(max_size=20)))
    def test_any_text(self, status: int, parts: list[bytes]) -> None:
        found, cause, phrases = rbd_errors.outcome(status, b''.join(parts))
        self.assertTrue(found)
        self.assertIsInstance(found, int)
        self.assertTrue(found == status or 0 < found < 1000)
        self.assertIn(cause, Cause.__members__)
        said = phrases.split(', ') if phrases else []
        self.assertLessEqual(set(said), PHRASES)
        self.assertEqual(len(said), len(set(said)))
