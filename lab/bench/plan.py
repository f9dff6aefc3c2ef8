# SPDX-License-Identifier: Apache-2.0
"""The cases of the benchmark and their goals."""

import dataclasses
import enum
import itertools

MIB = 1 << 20
GIB = 1 << 30

#: Names of groups and of an image that need something special.
DENSE = 'dense'
SPARSE = 'sparse'
LINK = '1 Gbit/s'
SIZES = 'size'
ZEROS = 'zeros'

#: The groups that a chart shows.
CHARTED = (DENSE, SPARSE)


class Way(enum.Enum):
    """The way of a download."""
    #: ``rbd export`` to a file, then fsync.
    BARE = 'rbd export'
    #: The released Nova, by its own RBD download.
    NOVA34 = 'Nova 34, rbd'
    #: The released Nova, from the Glance API.
    HTTP34 = 'Nova 34, HTTP'
    #: This Nova, from Ceph.
    RBD = 'direct'
    #: This Nova, from the Glance API.
    HTTP = 'HTTP'
    #: Not a way: ``rbd export`` into a pipe whose bytes are thrown away.
    PIPE = 'rbd export to nowhere'
    #: Not a way: the writing alone, of bytes that are in memory.
    WRITE = 'write alone'
    #: Not a way: the hash alone, of bytes that are in memory.
    HASH = 'hash alone'


class Check(enum.Enum):
    """The verification of the bytes."""
    NONE = 'unverified'
    #: An image signature: RSA-PSS with this hash.
    SHA256 = 'SHA-256'
    #: The hash that Glance records unless told otherwise.
    SHA512 = 'SHA-512'


@dataclasses.dataclass(frozen=True)
class Image:
    """An image to measure with: random data with zeros between.

    :ivar size: in bytes, zeros included
    :ivar pieces: how many pieces of data, at equal distances
    :ivar piece: bytes of each
    :ivar disk_format: what Glance calls it
    :ivar formatted: whether it really is an image of that format, which
        contains these bytes
    """

    name: str
    size: int
    pieces: int
    piece: int
    disk_format: str = 'raw'
    formatted: bool = False

    @property
    def data(self) -> int:
        """Bytes that are not zeros."""
        return self.pieces * self.piece


def dense(name: str, size: int) -> Image:
    """All of it is data, as in compressed images."""
    return Image(name, size, 1, size, 'qcow2')


def sparse(name: str, size: int) -> Image:
    """One eighth of it is data, in 128 pieces."""
    return Image(name, size, 128, size // 8 // 128)


@dataclasses.dataclass(frozen=True)
class Case:
    """Something that is done several times, and measured.

    :ivar group: cases of one group are compared with each other, and take
        turns
    :ivar warm: Ceph has the image in memory, not only on its disk
    :ivar count: how many images, at the same time or one after the other
    :ivar force_raw: for the cache, so the time includes Nova's inspection, and
        its conversion to raw if this is true; None: for a file elsewhere
    """

    group: str
    image: Image
    way: Way
    check: Check = Check.NONE
    warm: bool = False
    count: int = 1
    at_once: bool = False
    force_raw: bool | None = None

    @property
    def name(self) -> str:
        words = [self.group, self.way.value]
        if self.way not in (Way.BARE, Way.PIPE, Way.WRITE):
            words.append(self.check.value)
        if self.count > 1:
            words.append('%d %s' % (self.count, 'at once' if self.at_once
                                    else 'one by one'))
        return ', '.join(words)


@dataclasses.dataclass(frozen=True)
class Goal:
    """The most that the median of a case may be, in medians of another."""

    case: Case
    baseline: Case
    most: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """A whole run.

    :ivar rounds: of the cases of each group
    """

    cases: list[Case]
    goals: list[Goal]
    rounds: dict[str, int]
    #: Most that the memory of the process may grow by, in MiB.
    memory: int = 64

    @property
    def groups(self) -> dict[str, list[Case]]:
        """Group -> its cases, in order."""
        return {group: list(cases) for group, cases in itertools.groupby(
            self.cases, lambda case: case.group)}

    def only(self, group: str) -> 'Plan':
        """The part that is about one group.

        :raises KeyError: there is no such group
        """
        return dataclasses.replace(
            self, cases=self.groups[group],
            goals=[goal for goal in self.goals if goal.case.group == group],
            rounds={group: self.rounds[group]})


def _compared(group: str, image: Image) -> list[Case]:
    """Return a case for each way and each check."""
    return [Case(group, image, Way.BARE),
            Case(group, image, Way.NOVA34, Check.SHA256),
            Case(group, image, Way.HTTP34, Check.SHA512),
            *(Case(group, image, Way.RBD, check) for check in Check)]


def _dense_group(image: Image, rounds: int) -> Plan:
    group = DENSE
    cases = _compared(group, image)
    bare, nova34, http34, unverified, sha256, sha512 = cases
    http = Case(group, image, Way.HTTP, Check.SHA512)
    return Plan(
        [*cases, http, *_floors(group, image)],
        [Goal(sha256, bare, 0.6), Goal(sha256, nova34, 0.3),
         Goal(sha256, http34, 0.35), Goal(sha512, bare, 0.75),
         Goal(sha512, http34, 0.45), Goal(unverified, bare, 0.5),
         Goal(http, http34, 0.9)],
        {group: rounds})


def _warm_group(image: Image, rounds: int) -> Plan:
    group = 'dense, in the memory of Ceph'
    cases = [dataclasses.replace(case, group=group, warm=True)
             for case in _dense_group(image, rounds).cases
             if case.way in (Way.BARE, Way.RBD, Way.PIPE, Way.WRITE)]
    return Plan(cases, [], {group: rounds})


def _sparse_group(image: Image, rounds: int) -> Plan:
    group = SPARSE
    cases = _compared(group, image)
    bare, nova34, http34, unverified, sha256, _sha512 = cases
    return Plan(
        [*cases, *_floors(group, image)],
        [Goal(sha256, nova34, 1 / 7), Goal(sha256, http34, 1 / 7),
         Goal(unverified, bare, 0.7)],
        {group: rounds})


def _floors(group: str, image: Image) -> list[Case]:
    return [Case(group, image, Way.PIPE), Case(group, image, Way.WRITE),
            Case(group, image, Way.HASH, Check.SHA256),
            Case(group, image, Way.HASH, Check.SHA512)]


def _link_group(image: Image, rounds: int) -> Plan:
    group = LINK
    bare = Case(group, image, Way.BARE)
    sha512 = Case(group, image, Way.RBD, Check.SHA512)
    return Plan([bare, sha512], [Goal(sha512, bare, 1 / 0.95)],
                {group: rounds})


def _at_once_group(image: Image, rounds: int) -> Plan:
    group = 'four images'
    turns = Case(group, image, Way.RBD, Check.SHA512, count=4)
    at_once = dataclasses.replace(turns, at_once=True)
    return Plan([turns, at_once], [Goal(at_once, turns, 1.0)],
                {group: rounds})


def _usable_group(image: Image, force_raw: bool, rounds: int) -> Plan:
    group = 'usable, ' + ('converted to raw' if force_raw else 'qcow2')

    def case(way: Way, check: Check) -> Case:
        return Case(group, image, way, check, force_raw=force_raw)

    http34 = case(Way.HTTP34, Check.SHA512)
    nova34 = case(Way.NOVA34, Check.SHA256)
    http, sha256 = case(Way.HTTP, Check.SHA512), case(Way.RBD, Check.SHA256)
    return Plan(
        [http34, http, nova34, sha256, case(Way.RBD, Check.SHA512)],
        [Goal(http, http34, 1.0), Goal(sha256, nova34, 0.75),
         Goal(sha256, http34, 1.0)], {group: rounds})


def _scale_group(sizes: list[float], rounds: int) -> Plan:
    group = SIZES
    return Plan([Case(group, dense('%g GiB' % size, int(size * GIB)),
                      Way.RBD, Check.SHA512) for size in sizes],
                [], {group: rounds})


def _zeros_group(size: int) -> Plan:
    group = '%d GiB of zeros' % (size // GIB)
    image = Image(ZEROS, size, 1, 1)
    return Plan([Case(group, image, Way.RBD),
                 Case(group, image, Way.RBD, Check.SHA512)], [], {group: 1})


def _together(*plans: Plan) -> Plan:
    rounds: dict[str, int] = {}
    for plan in plans:
        rounds |= plan.rounds
    return Plan([case for plan in plans for case in plan.cases],
                [goal for plan in plans for goal in plan.goals], rounds)


def full() -> Plan:
    """All of it; about fifty minutes."""
    large = dense('D', 2 * GIB)
    return _together(
        _dense_group(large, 5), _warm_group(large, 5),
        _sparse_group(sparse('S', 8 * GIB), 5),
        _link_group(dense('1 GiB', GIB), 3),
        _at_once_group(dense('1 GiB', GIB), 3),
        *(_usable_group(
            dataclasses.replace(dense('Q', GIB), formatted=True), raw, 5)
          for raw in (True, False)),
        _scale_group([0.25, 0.5, 1, 2, 4, 8], 3),
        _zeros_group(50 * GIB))


def quick() -> Plan:
    """The most important part, with smaller images and no floors."""
    whole = _together(_dense_group(dense('D', 512 * MIB), 3),
                      _sparse_group(sparse('S', 2 * GIB), 2))
    floors = (Way.PIPE, Way.WRITE, Way.HASH)
    return dataclasses.replace(
        whole, cases=[case for case in whole.cases if case.way not in floors])
