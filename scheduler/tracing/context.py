"""W3C trace context: reading a traceparent, and which trace a gang is in.

Every replica that sees a pod of a gang comes to the same trace and to the same root span without asking anybody: both
are made of the decision id, which all pods of a gang share.

References
----------
W3C Trace Context, level 2: ``traceparent`` is version, trace id, parent id and flags, in lower-case hexadecimal.
"""

import hashlib
import re
from dataclasses import dataclass

from scheduler.kube import workload
from scheduler.model import names

_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[ -~]{0,200})?")


@dataclass(frozen=True, slots=True)
class Parent:
    """What a traceparent says."""

    trace_id: str
    span_id: str
    sampled: bool


@dataclass(frozen=True, slots=True)
class Trace:
    """The trace of a gang.

    Attributes
    ----------
    root : str
        Id of the span that all others of the gang are below.
    parent : str
        Id of the span above the root, which whoever submitted the gang has named; "" for none.
    sampled : bool
        False where the submitter does not want spans.
    """

    decision_id: str
    trace_id: str
    root: str
    parent: str = ""
    sampled: bool = True

    def header(self, sampled: bool = True) -> str:
        """Return the traceparent for what comes below the root."""
        return f"00-{self.trace_id}-{self.root}-{'01' if sampled else '00'}"


def read(text: str) -> Parent | None:
    """Read a traceparent; None for one that is malformed, which the standard tells to ignore.

    >>> read("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").span_id
    '00f067aa0ba902b7'
    >>> read("00-00000000000000000000000000000000-00f067aa0ba902b7-01"), read("ff-x")
    (None, None)
    """
    found = _FORM.fullmatch(text)
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if version == "ff" or (version == "00" and rest) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return Parent(trace_id, span_id, bool(int(flags, 16) & 1))


def of(decision_id: str, given: str = "") -> Trace:
    """Return the trace of a gang.

    Parameters
    ----------
    given : str
        Traceparent on the pod: of the submitter, or the one that the webhook wrote.

    Notes
    -----
    The decision id itself is no trace id: a UUID has fixed bits in the half by which samplers draw.
    """
    found = read(given)
    trace_id = found.trace_id if found else _digest(decision_id, 16)
    root = _digest(f"{decision_id}/{trace_id}", 8)
    above = found.span_id if found and found.span_id != root else ""
    return Trace(decision_id, trace_id, root, above, found.sampled if found else True)


def of_gang(gang: workload.Workload) -> Trace:
    """Return the trace of a gang by its first pod, as the webhook saw it."""
    notes = gang.members[0].pod.annotations if gang.members else {}
    decision_id = notes.get(names.DECISION) or (gang.gang.decision_id if gang.gang else "") or gang.identity.key
    return of(decision_id, notes.get(names.TRACEPARENT, ""))


def _digest(text: str, size: int) -> str:
    """Return a number of so many bytes, never 0, in hexadecimal."""
    found = hashlib.blake2b(text.encode(), digest_size=size, person=b"muster-trace").hexdigest()
    return found if int(found, 16) else found[:-1] + "1"
