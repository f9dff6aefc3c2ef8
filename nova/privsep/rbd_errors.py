# SPDX-License-Identifier: Apache-2.0

"""Reports why one of Ceph's programs failed, without any secret.

Ceph's log, on their standard error, quotes keys and damaged files. So no text
crosses the boundary, only which of the causes and phrases below it contains.
"""

import enum
import re


class Cause(enum.Enum):
    """Patterns for the output of Ceph 16-20 and setpriv; the first counts."""
    NO_SETPRIV = r'^(FileNotFound|Permission)Error\('
    NOT_INSTALLED = '^setpriv: failed to execute .*: No such file'
    OLD_SETPRIV = '^setpriv: (unrecognized|invalid|libcap-ng is too old)'
    NOT_PERMITTED = '^(setpriv|timeout): .*(not permitted|denied)'
    NOT_RUN = '^(setpriv|timeout): '
    BAD_CONF = '(reading|open) config file|error calling conf_read_file'
    NEW_KEY = "failed to decode key 'Ag|type=key val=Ag"
    BAD_KEY = "failed to decode key '|type=key val="
    NO_KEYRING = r'no keyring found|find a keyring on .*: \(13\)'
    BAD_KEYRING = ('auth: error (parsing|reading) file|auth: failed to load |'
                   'monclient: keyring not found')
    NO_MONITOR = 'cannot identify monitors'
    REFUSED = 'handle_auth_bad_method'
    NO_ANSWER = 'authenticate timed out|^timed out$'
    UNKNOWN = ''


_PHRASES = ('error opening (?:pool|image)|error setting snapshot context|'
            "couldn't connect to the cluster|export(?:-diff)? error")

#: Exit status (an errno; negative: a signal), name of the cause, phrases.
Outcome = tuple[int, str, str]


def outcome(status: int, stderr: bytes) -> Outcome:
    """Return what may be reported about a program that has ended."""
    text = stderr.decode('utf-8', 'replace') if status else ''
    cause = next(each.name for each in Cause
                 if re.search(each.value, text, re.MULTILINE))
    # ceph prints the errno, never 0; its exit status is often 1.
    found = re.search(r'\[errno ([1-9]\d{0,2})\]', text)
    phrases = ', '.join(dict.fromkeys(re.findall(_PHRASES, text)))
    return int(found[1]) if found else status, cause, phrases
