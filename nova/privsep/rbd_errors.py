# SPDX-License-Identifier: Apache-2.0

"""Reports why ``rbd`` or ``ceph`` failed, without any secret.

Both programs write Ceph's log to their standard error, and that log quotes
keys, lines of keyrings and the content of key files. A list of what to hide
would have to follow every release of Ceph, so this module lists what may be
passed on: the error messages of the programs, and codes for known causes.
"""

from collections.abc import Collection
import enum
import os
import re


class Cause(enum.StrEnum):
    """Why a program failed, as far as it is known.

    The unprivileged side has a text for each cause: nova.image.rbd.explain().
    """
    UNKNOWN = ''
    #: Ceph found neither a keyring nor a key file.
    NO_KEYRING = 'no-keyring'
    #: Ceph cannot read or parse the keyring.
    BAD_KEYRING = 'bad-keyring'
    #: A key is not valid base64, or has an unknown type.
    BAD_KEY = 'bad-key'
    #: The same, but the key begins like one of type 2 (AES-256).
    NEW_KEY = 'new-key'
    #: The monitors refuse the client: it has no key, or a wrong one.
    REFUSED = 'refused'
    #: ``mon host`` yields no address.
    NO_MONITOR = 'no-monitor'
    NO_ANSWER = 'no-answer'
    BAD_CONF = 'bad-conf'
    NOT_RUN = 'not-run'
    TOO_LONG = 'too-long'
    READER_GONE = 'reader-gone'
    #: A killed process hangs in the kernel.
    STUCK = 'stuck'
    #: The answer of ``ceph fsid`` is not an fsid.
    NO_FSID = 'no-fsid'
    #: The exported snapshot does not exist any more, or cannot be found.
    SNAPSHOT_LOST = 'snapshot-lost'


#: Exit status (an errno; negative: the signal that ended the program), cause
#: and the program's error messages, one per line.
Outcome = tuple[int, str, str]

#: Patterns for the messages of Ceph 16 to 20 and of setpriv, the most exact
#: ones first: the output can match several, and the first match counts.
_PATTERNS = (
    (Cause.NOT_RUN, r'^setpriv: '),
    (Cause.BAD_CONF, r'error reading config file|unable to open config file|'
                     r'error calling conf_read_file'),
    (Cause.NEW_KEY, r"failed to decode key 'Ag|type=key val=Ag"),
    (Cause.BAD_KEY, r"failed to decode key '|type=key val="),
    (Cause.BAD_KEYRING, r'auth: error (?:parsing|reading) file|'
                        r'auth: failed to load |monclient: keyring not found'),
    (Cause.NO_KEYRING, r'no keyring found'),
    (Cause.NO_MONITOR, r'cannot identify monitors'),
    (Cause.REFUSED, r'handle_auth_bad_method'),
    (Cause.NO_ANSWER, r'authenticate timed out|^timed out$'),
)

_MAX_MESSAGES = 3
_LONGEST_MESSAGE = 400

# A line passes only if it is a complete error message of this form.
_MESSAGE = re.compile(
    r"(?:rbd|ceph): (?:couldn't [a-z ]+!|unrecognised option '[a-z-]+')|"
    r'(?:(?:rbd|ceph): .+|error setting snapshot context): '
    r'\((?P<errno>\d{1,3})\) (?P<text>.+)')
# Ceph's log thread can write into the middle of an error message. Each line
# of the log begins with the time.
_TIME = re.compile(r'\d{4}-\d\d-\d\d.\d\d:\d\d')
_PART_OF_A_KEY = re.compile(r'[0-9A-Za-z+/=]{16}')

_ERRNO = re.compile(r'\[errno (\d{1,3})\]')


def outcome(
    status: int, stderr: bytes, names: Collection[str], *, cut: bool = False,
) -> Outcome:
    """Return what may be reported about a program that has ended.

    :param status: its exit status
    :param stderr: its standard error output, or the end of it
    :param names: names that the caller gave: error messages with them may be
        passed on
    :param cut: whether stderr is only the end of the output
    """
    if not status:
        return 0, Cause.UNKNOWN, ''
    lines = stderr.decode('utf-8', 'replace').split('\n')
    if cut:
        # The first line may be incomplete, so it cannot be checked.
        del lines[0]
    messages = [line for line in lines if _is_message(line, names)]
    return (status, _find_cause(lines),
            '\n'.join(messages[-_MAX_MESSAGES:]))


def errno_of_ceph(status: int, stderr: bytes) -> int:
    """Return the errno that ``ceph`` prints; its exit status is often 1."""
    found = _ERRNO.search(stderr.decode('utf-8', 'replace'))
    return int(found[1]) if status and found else status


def _find_cause(lines: list[str]) -> Cause:
    for cause, pattern in _PATTERNS:
        if any(re.search(pattern, line) for line in lines):
            return cause
    return Cause.UNKNOWN


def _is_message(line: str, names: Collection[str]) -> bool:
    message = _MESSAGE.fullmatch(line)
    if (message is None or len(line) > _LONGEST_MESSAGE or
            not line.isprintable() or '\ufffd' in line or _TIME.search(line)):
        return False
    number = message['errno']
    if number and message['text'] != os.strerror(int(number)):
        return False
    for name in filter(None, names):
        # Only whole words: a key can contain a name by chance.
        line = re.sub(r'(?<![\w+=])%s(?![\w+=])' % re.escape(name), '', line)
    return not _PART_OF_A_KEY.search(line)
