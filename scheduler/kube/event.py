"""What users are told by Kubernetes Events: the reasons, the objects, and which telling becomes which write, pure.

The same words about the same object become one Event with a series (``events.k8s.io/v1``). An object that is talked
about too much is cut off for a while; what is left out is counted.
"""

import collections
import datetime
import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scheduler.kube import claim as claims
from scheduler.kube import names
from scheduler.kube import pod as pods

API_VERSION = "events.k8s.io/v1"
NOTE_BYTES = 1024
"""Limit of the API for ``note``."""

WINDOW_S = 1800.0
"""Words that come again after so long are a new Event; the API server forgets an Event after an hour."""

BURST, REFILL_S = 12, 20.0
"""Events of one object: so many at once, then one in so many seconds."""

REMEMBERED = 4096
"""Series, and objects with a rate, that are kept in memory; the oldest go first."""


class Reason(enum.Enum):
    """Why an Event is told: the word that users filter by, whether it is a warning, and what was being done."""

    GANG_PLANNED = ("GangPlanned", "Normal", "Planning")
    GANG_WAITING = ("GangWaiting", "Normal", "Planning")
    ROOM_OFFERED = ("RoomOffered", "Normal", "Planning")
    GANG_INCOMPLETE = ("GangIncomplete", "Warning", "Following")
    GANG_REJECTED = ("GangRejected", "Warning", "Planning")
    GANG_INVALID = ("GangInvalid", "Warning", "Reading")
    GANG_ROLLED_BACK = ("GangRolledBack", "Warning", "Writing")
    GANG_NOT_BOUND = ("GangNotBound", "Warning", "Binding")
    GANG_EVICTED = ("GangEvicted", "Warning", "Preempting")
    PODS_REPLACED = ("PodsReplaced", "Warning", "Following")
    DEVICE_CONFLICT = ("DeviceConflict", "Warning", "Verifying")
    DEVICE_NOT_OWNED = ("DeviceNotOwned", "Warning", "Verifying")

    def __init__(self, word: str, severity: str, action: str) -> None:
        self.word, self.severity, self.action = word, severity, action


@dataclass(frozen=True, slots=True)
class Subject:
    """The object that an Event is about; `namespace` "" for objects of the whole cluster."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str

    @classmethod
    def pod(cls, pod: pods.Pod) -> "Subject":
        """Return a pod as a subject."""
        return cls("v1", "Pod", pod.namespace, pod.name, pod.uid)

    @classmethod
    def claim(cls, claim: claims.Claim) -> "Subject":
        """Return a claim as a subject."""
        return cls("resource.k8s.io/v1", "ResourceClaim", claim.namespace, claim.name, claim.uid)

    @classmethod
    def owner(cls, namespace: str, owner: pods.Owner) -> "Subject":
        """Return an owner in its namespace as a subject."""
        return cls(owner.api_version, owner.kind, namespace, owner.name, owner.uid)

    @classmethod
    def placement(cls, namespace: str, name: str, uid: str) -> "Subject":
        """Return a GangPlacement as a subject."""
        return cls(names.API_VERSION, names.KIND, namespace, name, uid)

    @property
    def place(self) -> str:
        """Return the namespace of its Events."""
        return self.namespace or "default"

    @property
    def reference(self) -> dict[str, str]:
        """Return it as an object reference."""
        said = {"apiVersion": self.api_version, "kind": self.kind, "name": self.name, "uid": self.uid}
        return said | ({"namespace": self.namespace} if self.namespace else {})


@dataclass(frozen=True, slots=True)
class Told:
    """An Event with the number of times that it was told.

    Attributes
    ----------
    name : str
        Of the Event object; the same for all tellings of one series.
    first, last : float
        Seconds of the epoch.
    """

    name: str
    subject: Subject
    reason: Reason
    note: str
    first: float
    last: float
    count: int = 1

    def body(self, instance: str) -> dict[str, Any]:
        """Return the Event as it is created."""
        said = {
            "apiVersion": API_VERSION,
            "kind": "Event",
            "metadata": {"name": self.name, "namespace": self.subject.place},
            "eventTime": _time(self.first),
            "reportingController": names.MANAGER,
            "reportingInstance": instance[:128],
            "action": self.reason.action,
            "reason": self.reason.word,
            "type": self.reason.severity,
            "regarding": self.subject.reference,
            "note": self.note,
        }
        return said | (dict(self.change()) if self.count > 1 else {})

    def change(self) -> Mapping[str, Any]:
        """Return what a further telling changes."""
        return {"series": {"count": self.count, "lastObservedTime": _time(self.last)}}


class Ledger:
    """What was told, and how often."""

    def __init__(self, window_s: float = WINDOW_S, burst: int = BURST, refill_s: float = REFILL_S) -> None:
        self.window_s, self.burst, self.refill_s = window_s, burst, refill_s
        self.dropped = 0
        self._told: collections.OrderedDict[tuple[Subject, Reason, str], Told] = collections.OrderedDict()
        self._rates: collections.OrderedDict[Subject, tuple[float, float]] = collections.OrderedDict()

    def tell(self, subject: Subject, reason: Reason, note: str, now: float) -> Told | None:
        """Return the Event to write now: a new one, or one whose series has grown; None for nothing.

        A series is written when its count reaches a power of two, so a loop of equal words costs few writes.
        """
        key = (subject, reason, _cut(note))
        before = self._told.get(key)
        if before is None or now - before.last > self.window_s:
            return self._new(key, now)
        told = Told(before.name, *key, before.first, now, before.count + 1)
        self._keep(key, told)
        return told if told.count & (told.count - 1) == 0 else None

    def forget(self, told: Told) -> None:
        """Forget a series whose Event could not be written, so that the next telling starts a new one."""
        self._told.pop((told.subject, told.reason, told.note), None)

    def _new(self, key: tuple[Subject, Reason, str], now: float) -> Told | None:
        subject = key[0]
        if not self._affordable(subject, now):
            self.dropped += 1
            return None
        told = Told(_name(*key, now), *key, now, now)
        self._keep(key, told)
        return told

    def _keep(self, key: tuple[Subject, Reason, str], told: Told) -> None:
        self._told[key] = told
        self._told.move_to_end(key)
        while len(self._told) > REMEMBERED:
            self._told.popitem(last=False)

    def _affordable(self, subject: Subject, now: float) -> bool:
        """Take one token of the subject's bucket, if there is one."""
        tokens, since = self._rates.get(subject, (float(self.burst), now))
        tokens = min(float(self.burst), tokens + (now - since) / self.refill_s)
        enough = tokens >= 1.0
        self._rates[subject] = (tokens - enough, now)
        self._rates.move_to_end(subject)
        while len(self._rates) > REMEMBERED:
            self._rates.popitem(last=False)
        return enough


def _cut(note: str) -> str:
    """Shorten a note to what the API takes, at the border of a character."""
    whole = note.encode()
    return note if len(whole) <= NOTE_BYTES else whole[: NOTE_BYTES - 3].decode(errors="ignore") + "..."


def _name(subject: Subject, reason: Reason, note: str, now: float) -> str:
    """Return a name that no other Event has; objects of two kinds may share a name."""
    text = "\0".join((subject.kind, subject.uid, reason.word, note, str(now)))
    return f"{subject.name[:200].rstrip('.-')}.{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _time(now: float) -> str:
    """Return a time with microseconds, as the API writes them."""
    return datetime.datetime.fromtimestamp(now, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
