"""What the machine wants done. A shell carries these out in order; it decides nothing."""

from dataclasses import dataclass
from enum import Enum

from scheduler.model import gang as gangs
from scheduler.model import reasons
from scheduler.placement import placement


class Eviction(Enum):
    """Why a gang has to leave its devices."""

    PREEMPTED = "PreemptedByPriority"
    RECLAIMED = "QuotaReclaimed"
    NODE_FAILED = "NodeFailed"
    DEVICE_FAILED = "DeviceFailed"
    NODE_REMOVED = "NodeRemoved"
    MOVED = "MovedToMakeRoom"
    MEMBER_LOST = "MemberNotReplaceable"


@dataclass(frozen=True, slots=True)
class Start:
    """Allocate, pin and release the whole gang on exactly these devices.

    `decision` counts the machine's starts; `because` names the event that made room or asked.
    """

    gang: gangs.Gang
    placement: placement.Placement
    decision: int
    because: str


@dataclass(frozen=True, slots=True)
class Wait:
    """The gang is queued; say why. Sent when it is first refused and when the reason is news, see `news.is_news`."""

    gang: gangs.Gang
    rejection: reasons.Rejection
    because: str


@dataclass(frozen=True, slots=True)
class Reject:
    """The gang can never run here: it is not queued."""

    gang: gangs.Gang
    rejection: reasons.Rejection
    because: str


@dataclass(frozen=True, slots=True)
class Evict:
    """Stop the gang's pods. It holds nothing any more and is queued again in its old place."""

    gang: gangs.Gang
    placement: placement.Placement
    reason: Eviction
    because: str


@dataclass(frozen=True, slots=True)
class Expire:
    """A reservation was not confirmed in time: undo what was written. The gang is queued again."""

    gang: gangs.Gang
    placement: placement.Placement
    because: str


@dataclass(frozen=True, slots=True)
class Refill:
    """Some pods of a running gang get devices; the others keep theirs.

    Attributes
    ----------
    placement : Placement
        Of the whole gang.
    ranks : tuple of int
        The pods that are new.
    """

    gang: gangs.Gang
    placement: placement.Placement
    ranks: tuple[int, ...]
    decision: int
    because: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """A gang that was found running holds what somebody else holds too: it is not followed as a gang."""

    gang: gangs.Gang
    detail: str
    because: str


Effect = Start | Wait | Reject | Evict | Expire | Refill | Conflict
