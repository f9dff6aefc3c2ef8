# SPDX-License-Identifier: Apache-2.0

"""Which lines of the standard error of rbd and ceph are passed on."""

import base64
import random
import struct

import nova.privsep.rbd_errors
from nova import test

rbd_errors = nova.privsep.rbd_errors

Cause = rbd_errors.Cause
RNG = random.Random(19)
NAMES = ('images', '5ca1ab1e-0000-4000-8000-00000000cafe', 'snap', 'nova')
TIME = '2026-11-27T17:43:26.198+0000 7f58c01ff6c0 -1 '
CONNECT = "rbd: couldn't connect to the cluster!"
OPEN = f'rbd: error opening image {NAMES[1]}: (2) No such file or directory'


def make_key(kind: int, length: int) -> str:
    """Return a key of one of Ceph's types, as a keyring stores it."""
    return base64.b64encode(
        struct.pack('<HIIH', kind, 1_700_000_000, 7, length) +
        RNG.randbytes(length)).decode()


KEY = make_key(1, 16)
NEW_KEY = make_key(2, 32)


class RbdErrorsTestCase(test.NoDBTestCase):
    def outcome(
        self, *lines: str, status: int = 5, cut: bool = False,
    ) -> tuple[str, list[str]]:
        """Return the cause and the error messages that pass."""
        found, cause, said = rbd_errors.outcome(
            status, '\n'.join(lines).encode('utf-8', 'surrogateescape'),
            NAMES, cut=cut)
        self.assertEqual(status, found)
        return cause, said.splitlines()

    def assert_nothing_passes(self, *lines: str) -> None:
        self.assertEqual([], self.outcome(*lines)[1], str(lines))


class TestKeys(test.NoDBTestCase):
    def test_prefixes(self) -> None:
        self.assertEqual(('AQ', 40), (KEY[:2], len(KEY)))
        self.assertEqual(('Ag', 60), (NEW_KEY[:2], len(NEW_KEY)))


class TestMessages(RbdErrorsTestCase):
    def test_error_messages_pass(self) -> None:
        for line in (
            CONNECT, OPEN,
            "rbd: error opening pool 'images': (2) No such file or directory",
            'error setting snapshot context: (2) No such file or directory',
            'rbd: error opening image a: (1) Operation not permitted',
            'rbd: export error: (5) Input/output error',
            "rbd: unrecognised option '--log-to-file'",
            'ceph: no luck: (110) Connection timed out',
        ):
            self.assertEqual(['', [line]], list(self.outcome(line)))

    def test_names_of_the_caller_may_look_like_a_key(self) -> None:
        line = 'rbd: error opening pool %s: (2) No such file or directory'
        for name in ('glanceimagesofthefastcluster', 'a' * 255):
            _status, _cause, said = rbd_errors.outcome(
                2, (line % name).encode(), (name, ''))
            self.assertEqual(line % name, said)
            self.assert_nothing_passes(line % name)

    def test_names_of_the_caller_do_not_take_a_key_apart(self) -> None:
        line = f'rbd: error opening {KEY}: (2) No such file or directory'
        for names in (KEY[4:38], KEY[:1]), (KEY[8:9], KEY[16:24]), tuple(KEY):
            self.assertEqual((2, '', ''), rbd_errors.outcome(
                2, line.encode(), names))

    def test_all_else_is_dropped(self) -> None:
        for line in (
            '', ' ', 'rbd', 'rbd:', 'rbd: ', 'hunter2', KEY, f'key = {KEY}',
            TIME + 'auth: unable to find a keyring on /k: (2) No such file',
            TIME + 'rbd: error opening image a: (5) Input/output error',
            f"{TIME}auth: failed to decode key '{KEY}'",
            'global_init: error reading config file. parse error',
            '[errno 13] RADOS permission denied (error connecting)',
            # A file of secrets that a ceph.conf names as a key file.
            'rbd: hunter2', 'rbd: Hunter2!', 'ceph: hunter2', 'rbd:x:0:0',
            "rbd: couldn't hunter2!", "rbd: unrecognised option '--hunter2'",
            'rbd: hunter2: (2)', 'rbd: hunter2: (2) No such thing',
            'rbd: hunter2: (5) No such file or directory',
            'error setting hunter2: (2) No such file or directory',
            # More than an error message.
            ' ' + CONNECT, CONNECT + ' hunter2', OPEN + ' hunter2',
            f'hunter2 {CONNECT}', CONNECT + '\r', CONNECT + CONNECT,
        ):
            self.assert_nothing_passes(line)

    def test_success_returns_no_messages(self) -> None:
        self.assertEqual(('', []), self.outcome(CONNECT, status=0))

    def test_last_three(self) -> None:
        lines = [f'rbd: error {number}: (5) Input/output error'
                 for number in range(9)]
        self.assertEqual(lines[-3:], self.outcome(*lines)[1])

    def test_long_ones(self) -> None:
        for length, passes in ((300, True), (500, False), (10_000, False)):
            line = 'rbd: error %s: (5) Input/output error' % (
                'a b ' * (length // 4))
            self.assertEqual([line] * passes, self.outcome(line)[1])

    def test_beginning_that_was_cut_off(self) -> None:
        # The lost part may have quoted a file, so the rest must not pass.
        self.assertEqual(
            [OPEN], self.outcome(CONNECT, OPEN, cut=True)[1])
        self.assertEqual([], self.outcome(CONNECT, cut=True)[1])

    def test_what_cannot_be_printed(self) -> None:
        for part in ('\udcff', '\ufffd', '\0', '\x1b[1m', '\u202e', '\u2028',
                     '\t', '\r'):
            self.assert_nothing_passes(
                f'rbd: error opening {part}: (2) No such file or directory')


class TestInterleaved(RbdErrorsTestCase):
    """Ceph's log thread writes into the middle of an error message."""

    def test_at_every_place(self) -> None:
        for key in (KEY, NEW_KEY, '!' + KEY[1:], KEY[:20] + '!' + KEY[21:]):
            log = f"{TIME}auth: failed to decode key '{key}'"
            for sentence in (CONNECT, OPEN):
                for place in range(len(sentence) + 1):
                    before, after = sentence[:place], sentence[place:]
                    for text in (before + log + after,
                                 before + log + '\n' + after,
                                 before + '\n' + log + after):
                        self._check(key, sentence, text)

    def _check(self, key: str, sentence: str, text: str) -> None:
        cause, said = self.outcome(*text.split('\n'))
        self.assertIn(cause, (Cause.BAD_KEY, Cause.NEW_KEY))
        self.assertLessEqual(set(said), {sentence}, text)
        for place in range(len(key) - 7):
            self.assertNotIn(key[place:place + 8], ''.join(said))

    def test_secret_that_is_too_short_for_a_key(self) -> None:
        log = TIME + 'auth: error parsing file /k: bad entity name: hunter2'
        for place in range(len(OPEN) + 1):
            said = self.outcome(OPEN[:place] + log + OPEN[place:])[1]
            self.assertEqual([], said)

    def test_rest_of_a_line_alone(self) -> None:
        for key in (KEY, NEW_KEY):
            for rest in (key, key[-17:], key[3:20], f"'{key}'", f'{key}\n'):
                for sentence in (CONNECT, OPEN):
                    for place in range(len(sentence) + 1):
                        self._check_rest(sentence, place, rest)

    def _check_rest(self, sentence: str, place: int, rest: str) -> None:
        said = self.outcome(
            *(sentence[:place] + rest + sentence[place:]).split('\n'))[1]
        self.assertNotIn(rest.strip("'\n"), ''.join(said))

    def test_key_file_of_several_lines(self) -> None:
        for content in ('rbd: hunter2', f'rbd: {KEY}', f'{KEY}\nrbd: x'):
            self.assert_nothing_passes(
                f"{TIME}auth: failed to decode key '{content}", "'")


class TestCauses(RbdErrorsTestCase):
    """The lines are those of Ceph 16.2, and of setpriv."""

    def assert_cause(self, cause: Cause, *lines: str) -> None:
        self.assertEqual((cause, [CONNECT]), self.outcome(*lines, CONNECT))

    def test_no_keyring(self) -> None:
        self.assert_cause(
            Cause.NO_KEYRING,
            TIME + 'auth: unable to find a keyring on /k: (2) No such file',
            TIME + 'AuthRegistry(0x5567) no keyring found at /k, disabling',
            TIME + 'monclient(hunting): handle_auth_bad_method server allowed',
            TIME + 'monclient: authenticate NOTE: no keyring found; disabled')

    def test_keyring_is_damaged(self) -> None:
        loading = TIME + 'auth: failed to load /k: (5) Input/output error'
        for line in (
            'auth: error parsing file /k: cannot parse buffer: Malformed',
            'auth: error parsing file /k: error setting modifier for '
            f'[client.nova] type={KEY[:-2]} val==: Malformed input',
            'auth: error reading file: /k: bufferlist::read_file(/k)',
        ):
            self.assert_cause(Cause.BAD_KEYRING, TIME + line, loading,
                              TIME + 'monclient: keyring not found')

    def test_key_file_is_longer_than_what_is_kept(self) -> None:
        self.assert_cause(Cause.BAD_KEYRING, KEY, "'",
                          TIME + 'monclient: keyring not found')

    def test_key_is_damaged(self) -> None:
        for key, cause in ((KEY[:9] + '!' + KEY[10:], Cause.BAD_KEY),
                           ('x', Cause.BAD_KEY), (NEW_KEY, Cause.NEW_KEY)):
            self.assert_cause(
                cause, f"{TIME}auth: failed to decode key '{key}'",
                TIME + 'monclient: keyring not found')
            self.assert_cause(
                cause, TIME + 'auth: error parsing file /k: error setting '
                f'modifier for [client.nova] type=key val={key}: Malformed',
                TIME + 'auth: failed to load /k: (5) Input/output error')

    def test_connection(self) -> None:
        for cause, line in (
            (Cause.REFUSED, 'monclient(hunting): handle_auth_bad_method '
                            'server allowed_methods [2] but i only [2,1]'),
            (Cause.NO_ANSWER, 'monclient(hunting): authenticate timed out '
                              'after 3'),
            (Cause.NO_MONITOR, 'monclient: get_monmap_and_config cannot '
                               'identify monitors to contact'),
        ):
            self.assert_cause(cause, TIME + line)

    def test_before_anything_is_logged(self) -> None:
        for cause, line in (
            (Cause.NO_ANSWER, 'timed out'),
            (Cause.BAD_CONF, 'global_init: error reading config file. parse '
                             "error: expected '<eoi>' in line 1"),
            (Cause.BAD_CONF, 'global_init: unable to open config file from '
                             'search list /tmp'),
            (Cause.BAD_CONF, "Error initializing cluster client: Invalid('"
                             "RADOS invalid (error calling conf_read_file)')"),
            (Cause.NOT_RUN, 'setpriv: failed to execute rbd: No such file'),
            (Cause.UNKNOWN, 'something else'), (Cause.UNKNOWN, ''),
        ):
            self.assertEqual((cause, []), self.outcome(line))

    def test_fit_for_the_boundary(self) -> None:
        # Only plain strings of a known set cross the boundary.
        cause, _said = self.outcome('timed out')
        self.assertIsInstance(cause, str)
        self.assertEqual(cause, Cause(str(cause)))


class TestErrnoOfCeph(test.NoDBTestCase):
    def test_told(self) -> None:
        for status, stderr, expected in (
            (1, b'log\n[errno 5] RADOS I/O error (error connecting)', 5),
            (13, b'[errno 13] RADOS permission denied', 13),
            (1, b'timed out\n', 1), (1, b'', 1), (1, b'\xff', 1),
            (0, b'[errno 5]', 0), (1, b'[errno 99999999]', 1),
        ):
            self.assertEqual(
                expected, rbd_errors.errno_of_ceph(status, stderr))
