# SPDX-License-Identifier: Apache-2.0

"""What checks find."""

from collections.abc import Callable
import dataclasses
import enum

from oslo_config import cfg

from nova.i18n import _
from nova.image.command import host
from nova.image.command import login
from nova.image import metadata
from nova.image.rbd import location as rbd_location


class Verdict(enum.StrEnum):
    """What came of a check."""
    OK = 'ok'
    #: It works, but not for every image, or not as well as it could.
    WARNING = 'warning'
    FAILED = 'failed'
    #: It could not be made, or there is nothing to check.
    SKIPPED = 'skipped'


@dataclasses.dataclass(frozen=True)
class Finding:
    """What came of one check, as --json shows it."""
    #: Its name; '' until make() gives it one.
    check: str
    verdict: Verdict
    #: What was seen.
    detail: str
    #: What to do about it; '' if there is nothing to do.
    remedy: str = ''


class CheckFailed(Exception):
    """A check has failed.

    :param detail: what was seen
    :param remedy: what to do about it
    """

    def __init__(self, detail: str, remedy: str) -> None:
        super().__init__(detail)
        self.remedy = remedy


@dataclasses.dataclass
class Known:
    """What earlier checks have found out, for later ones."""
    #: The image to try; None: a recent one in Ceph.
    image_id: str | None
    #: Whether privileged calls can be made.
    privileged: bool = False
    #: Whether rbd runs.
    programs: bool = False
    #: number of a configured cluster -> the fsid in its ceph.conf, or ''
    fsids: dict[int, str] = dataclasses.field(default_factory=dict)
    #: number of a configured cluster -> what rbd runs as there, for people
    rights: dict[int, str] = dataclasses.field(default_factory=dict)
    #: The fsids of clusters that answer.
    answering: set[str] = dataclasses.field(default_factory=set)
    logged_in: login.Login | None = None
    #: The image that is tried.
    image: metadata.ImageMeta | None = None
    #: Its rbd locations.
    urls: list[str] = dataclasses.field(default_factory=list)
    #: The first of them that may be used.
    url: str = ''
    location: rbd_location.Location | None = None


def ok(detail: str) -> Finding:
    return Finding('', Verdict.OK, detail)


def warning(detail: str, remedy: str) -> Finding:
    return Finding('', Verdict.WARNING, detail, remedy)


def skipped(reason: str) -> Finding:
    return Finding('', Verdict.SKIPPED, reason)


def make(name: str, check: Callable[[], Finding]) -> Finding:
    """Make a check; whatever it raises is a finding, too."""
    try:
        return dataclasses.replace(check(), check=name)
    except CheckFailed as exc:
        return Finding(name, Verdict.FAILED, str(exc), exc.remedy)
    except cfg.Error as exc:
        return Finding(name, Verdict.FAILED, host.describe(exc),
                       _('Correct nova.conf.'))
    except Exception as exc:
        # A check that cannot be made is not one that went well.
        return Finding(
            name, Verdict.FAILED,
            '%s: %s' % (type(exc).__name__, host.describe(exc)),
            _('This was not foreseen: run --check with --debug.'))
