"""What users write about a gang in annotations: read, checked, and refused with the remedy.

The webhook reads a pod's own annotations to refuse a contradiction at ``kubectl apply``; whoever puts the gang together
reads the annotations of the pod and of its owner as one mapping.
"""

import difflib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from scheduler import bad_input
from scheduler.model import names

MAX_PODS = 100_000
"""Far above any gang; keeps a slip of the keyboard from being taken for a wish."""

MAX_S = 10 * 365 * 86_400.0
"""Longest run time that anybody may declare: ten years."""

GANG_NAME_LENGTH = 58
"""``gang-<name>`` is a label value, and those have 63 characters."""

LABEL_LENGTH = 63

DECISION_LENGTH = 64

MAX_SLIPS = 8

READ = (
    names.GANG_NAME,
    names.GANG_SIZE,
    names.MIN_MEMBER,
    names.ROLE,
    names.RANK,
    names.REQUIRED_LEVEL,
    names.PREFERRED_LEVEL,
    names.SEGMENT_SIZE,
    names.SEGMENT_LEVEL,
    names.SPREAD_LEVEL,
    names.SPREAD_MAX,
    names.EXPECTED_S,
    names.PREEMPTIBLE,
    names.DECISION,
)
"""Annotations that are read; every other one under our prefix is written by Muster, or is a slip."""

WRITTEN = (names.PLANNED_RANK, names.PLANNED_DEVICES, names.PLANNED_SIZE, names.DOMAIN, names.TENANT, names.GANG)

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
_LABEL = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?", re.ASCII)
_LEVEL = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?", re.ASCII)
_ID = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9._:]*[A-Za-z0-9])?", re.ASCII)
_WHOLE = re.compile(r"[0-9]{1,9}", re.ASCII)
_SECONDS = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the annotations say; 0, "" and None where they say nothing.

    Attributes
    ----------
    gang_size, min_member, segment_size, spread_max : int
        In pods.
    rank : int or None
        Of this pod in its gang; 0 is a rank.
    expected_s : float
        Declared run time in seconds.
    decision_id : str
        Given by whoever asked for the gang (a gateway, say) so that all records can be joined.
    """

    gang_name: str = ""
    gang_size: int = 0
    min_member: int = 0
    role: str = ""
    rank: int | None = None
    required: str = ""
    preferred: str = ""
    segment_size: int = 0
    segment_level: str = ""
    spread_level: str = ""
    spread_max: int = 0
    expected_s: float = 0.0
    preemptible: bool | None = None
    decision_id: str = ""


class Contradiction(ValueError):
    """Annotations that cannot be followed; `faults` names object, field and remedy of each."""

    def __init__(self, faults: tuple[bad_input.BadInput, ...]) -> None:
        super().__init__("; ".join(str(one) for one in faults))
        self.faults = faults


def read(annotations: Mapping[str, str], where: str, whole: bool = True) -> Wishes:
    """Read the annotations of an object.

    Parameters
    ----------
    where : str
        The object, for messages: ``pod ml/w-0``.
    whole : bool
        Whether these are all annotations there are. False for a pod alone: what it lacks its owner may say, so only
        what is wrong in itself is refused.

    Raises
    ------
    Contradiction
        A value that is none, or values that exclude each other; all of them at once.
    """
    if not any(key.startswith(names.PREFIX) for key in annotations):
        return Wishes()
    reader = _Reader(annotations, where)
    found = Wishes(
        gang_name=reader.name(names.GANG_NAME, _SUBDOMAIN, GANG_NAME_LENGTH, "a name of lower-case letters, digits, -"),
        gang_size=reader.count(names.GANG_SIZE),
        min_member=reader.count(names.MIN_MEMBER),
        role=reader.name(names.ROLE, _LABEL, LABEL_LENGTH, "a name of letters, digits, -, _ and ."),
        rank=reader.rank(),
        required=reader.level(names.REQUIRED_LEVEL),
        preferred=reader.level(names.PREFERRED_LEVEL),
        segment_size=reader.count(names.SEGMENT_SIZE),
        segment_level=reader.level(names.SEGMENT_LEVEL),
        spread_level=reader.level(names.SPREAD_LEVEL),
        spread_max=reader.count(names.SPREAD_MAX),
        expected_s=reader.seconds(),
        preemptible=reader.truth(),
        decision_id=reader.name(names.DECISION, _ID, DECISION_LENGTH, "an id of letters, digits, -, _, . and :"),
    )
    reader.faults += _contradictions(found, annotations, where)
    if whole:
        reader.faults += _absences(annotations, where)
    if reader.faults:
        raise Contradiction(tuple(reader.faults))
    return found


def unread(annotations: Mapping[str, str]) -> tuple[str, ...]:
    """Return a sentence for each annotation under our prefix that nobody reads, with the one that was perhaps meant.

    At most `MAX_SLIPS` sentences.
    """
    strange = sorted(key for key in annotations if key.startswith(names.PREFIX) and key not in (*READ, *WRITTEN))
    return tuple(f"annotation {key[:80]} is not read by Muster{_meant(key)}" for key in strange[:MAX_SLIPS])


def _meant(key: str) -> str:
    """Compare without the prefix, which all keys have in common."""
    known = [one.removeprefix(names.PREFIX) for one in READ]
    near = difflib.get_close_matches(key.removeprefix(names.PREFIX)[:80], known, 1, 0.7)
    return f"; did you mean {names.PREFIX}{near[0]}?" if near else ""


class _Reader:
    """Values of the known types, and the faults found on the way."""

    def __init__(self, annotations: Mapping[str, str], where: str) -> None:
        self.annotations, self.where = annotations, where
        self.faults: list[bad_input.BadInput] = []

    def count(self, key: str) -> int:
        """Return a number of pods from 1 on, 0 for none."""
        return self._whole(key, 1, f"a whole number from 1 to {MAX_PODS}") or 0

    def rank(self) -> int | None:
        return self._whole(names.RANK, 0, f"a whole number from 0 to {MAX_PODS - 1}")

    def name(self, key: str, form: re.Pattern[str], longest: int, words: str) -> str:
        text = self.annotations.get(key)
        if text is None:
            return ""
        if len(text) > longest or not form.fullmatch(text):
            self._fault(key, text, f"write {words}, at most {longest} characters")
            return ""
        return text

    def level(self, key: str) -> str:
        return self.name(key, _LEVEL, 253, "the name of a topology level or its node label")

    def seconds(self) -> float:
        text = self.annotations.get(names.EXPECTED_S)
        if text is None:
            return 0.0
        value = float(text) if _SECONDS.fullmatch(text) else math.inf
        if value > MAX_S:
            self._fault(names.EXPECTED_S, text, f"write seconds as a plain number from 0 to {MAX_S:.0f}")
            return 0.0
        return value

    def truth(self) -> bool | None:
        text = self.annotations.get(names.PREEMPTIBLE)
        if text not in (None, "true", "false"):
            self._fault(names.PREEMPTIBLE, text, 'write "true" or "false"')
        return None if text is None else text == "true"

    def _whole(self, key: str, least: int, words: str) -> int | None:
        text = self.annotations.get(key)
        if text is None:
            return None
        value = int(text) if _WHOLE.fullmatch(text) else -1
        if not least <= value < MAX_PODS + least:
            self._fault(key, text, f"write {words}")
            return None
        return value

    def _fault(self, key: str, text: str, remedy: str) -> None:
        self.faults.append(_fault(self.where, key, "is not what it has to be", remedy, text or "(empty)"))


def _fault(where: str, key: str, problem: str, remedy: str, text: str = "") -> bad_input.BadInput:
    return bad_input.BadInput(problem, file=where, field=f"metadata.annotations[{key}]", value=text, remedy=remedy)


def _contradictions(found: Wishes, annotations: Mapping[str, str], where: str) -> Iterator[bad_input.BadInput]:
    """Yield what excludes each other; values that were refused count as not there."""
    size = found.gang_size
    for key, pods in ((names.MIN_MEMBER, found.min_member), (names.SEGMENT_SIZE, found.segment_size)):
        if size and pods > size:
            remedy = f"write at most {size}, or raise {names.GANG_SIZE}"
            yield _fault(where, key, f"is more than {names.GANG_SIZE} {size}", remedy, annotations[key])
    if size and found.rank is not None and found.rank >= size:
        remedy = f"write a rank from 0 to {size - 1}, or raise {names.GANG_SIZE}"
        yield _fault(where, names.RANK, f"is outside a gang of {size} pods", remedy, annotations[names.RANK])


def _absences(annotations: Mapping[str, str], where: str) -> Iterator[bad_input.BadInput]:
    """Yield what says nothing without its other half."""
    pairs = (
        (names.GANG_NAME, names.GANG_SIZE),
        (names.GANG_SIZE, names.GANG_NAME),
        (names.SEGMENT_SIZE, names.SEGMENT_LEVEL),
        (names.SEGMENT_LEVEL, names.SEGMENT_SIZE),
        (names.SPREAD_MAX, names.SPREAD_LEVEL),
        (names.SPREAD_LEVEL, names.SPREAD_MAX),
    )
    for key, other in pairs:
        if key in annotations and other not in annotations:
            yield _fault(where, other, f"is missing, but {key} is there", f"add {other}, or take {key} away")
