# SPDX-License-Identifier: Apache-2.0

"""What the privileged side tells about an ``rbd`` or ``ceph`` that failed.

Both programs write Ceph's log to their standard error, and that log quotes
keys, lines of keyrings and the content of key files. A list of what to hide
would have to follow every release of Ceph, so this module lists what may
pass: sentences of the programs' own, and codes for known causes.
"""

from collections.abc import Collection
import enum
import os
import re


class Cause(enum.StrEnum):
    """Why a program failed, as far as it is known.

    The unprivileged side has the words for each of them.
    """
    UNKNOWN = ''
    #: Ceph found no file to read a key from.
    NO_KEYRING = 'no-keyring'
    #: The keyring is not a file, or not a keyring.
    BAD_KEYRING = 'bad-keyring'
    #: A key is not base64, or not a key of a known type.
    BAD_KEY = 'bad-key'
    #: The same, of a key that begins like one of type 2 (AES-256).
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
#: and the program's own sentences, one a line.
Outcome = tuple[int, str, str]

#: What names a cause in the messages of Ceph 16 to 20 and of setpriv. Several
#: can be there; the first of these is the most exact one.
_SIGNS = (
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

_MOST_SENTENCES = 3
_LONGEST_SENTENCE = 400

# A sentence of a program's own is complete, and ends in one of these ways.
_OWN = re.compile(
    r"(?:rbd|ceph): (?:couldn't [a-z ]+!|unrecognised option '[a-z-]+')|"
    r'(?:(?:rbd|ceph): .+|error setting snapshot context): '
    r'\((?P<errno>\d{1,3})\) (?P<text>.+)')
# Ceph's log thread can write into the middle of a sentence. Its lines begin
# with the time.
_TIME = re.compile(r'\d{4}-\d\d-\d\d.\d\d:\d\d')
_PART_OF_A_KEY = re.compile(r'[0-9A-Za-z+/=]{16}')

_ERRNO = re.compile(r'\[errno (\d{1,3})\]')


def outcome(
    status: int, stderr: bytes, names: Collection[str], *, cut: bool = False,
) -> Outcome:
    """Tell what may be told about a program that has ended.

    :param status: its exit status
    :param stderr: what it wrote to its standard error, or the end of that
    :param names: what the caller named, which a sentence may contain
    :param cut: whether stderr is only the end
    """
    if not status:
        return 0, Cause.UNKNOWN, ''
    lines = stderr.decode('utf-8', 'replace').split('\n')
    if cut:
        # Nothing is known about the beginning of the first line.
        del lines[0]
    sentences = [line for line in lines if _is_own(line, names)]
    return (status, _find_cause(lines),
            '\n'.join(sentences[-_MOST_SENTENCES:]))


def errno_of_ceph(status: int, stderr: bytes) -> int:
    """Return the errno that ``ceph`` tells, whose exit status is often 1."""
    told = _ERRNO.search(stderr.decode('utf-8', 'replace'))
    return int(told[1]) if status and told else status


def _find_cause(lines: list[str]) -> Cause:
    for cause, sign in _SIGNS:
        if any(re.search(sign, line) for line in lines):
            return cause
    return Cause.UNKNOWN


def _is_own(line: str, names: Collection[str]) -> bool:
    own = _OWN.fullmatch(line)
    if (own is None or len(line) > _LONGEST_SENTENCE or
            not line.isprintable() or '\ufffd' in line or _TIME.search(line)):
        return False
    if own['errno'] and own['text'] != os.strerror(int(own['errno'])):
        return False
    for name in filter(None, names):
        # As a whole: not what a part of a key happens to contain.
        line = re.sub(r'(?<![\w+=])%s(?![\w+=])' % re.escape(name), '', line)
    return not _PART_OF_A_KEY.search(line)
