"""What the machine is told. Everything that happens outside reaches it as one of these, and nothing else does."""

from dataclasses import dataclass

from scheduler.gang import config
from scheduler.model import gang as gangs
from scheduler.placement import scoring
from scheduler.snapshot import state


@dataclass(frozen=True, slots=True)
class GangSubmitted:
    """A gang asks for room."""

    gang: gangs.Gang


@dataclass(frozen=True, slots=True)
class GangCancelled:
    """Nobody wants the gang any more, whatever state it is in."""

    name: str


@dataclass(frozen=True, slots=True)
class GangFinished:
    """All pods of a running gang ended."""

    name: str


@dataclass(frozen=True, slots=True)
class Bound:
    """The shell carried out a `Start`: the reservation became a running gang."""

    name: str


@dataclass(frozen=True, slots=True)
class BindFailed:
    """The shell could not carry out a `Start`; none of its writes remain."""

    name: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Adopted:
    """A gang has its devices already: it was found running, or its plan was found written.

    Attributes
    ----------
    grants : tuple of Grant
        By rank, rows of the fleet that the machine has now.
    confirmed : bool
        False for a plan whose writes are not all known to be done.
    holders : tuple of str
        Under these names it was counted as `Occupied` until now; what they hold passes on to the gang, and to nobody else.
    crippled : bool
        Whether it is what is left of a gang of which pods lost their devices: it gets others for them or leaves whole.
    """

    gang: gangs.Gang
    grants: tuple[state.Grant, ...]
    confirmed: bool = True
    holders: tuple[str, ...] = ()
    crippled: bool = False


@dataclass(frozen=True, slots=True)
class GangChanged:
    """A gang asks for other pods than before: fewer, more, or some in the place of others that are gone.

    Attributes
    ----------
    gang : Gang
        As it is now.
    stays : tuple of int
        For each rank of a running gang the rank that the same pod had before, -1 for a pod that needs devices; longer or
        shorter than the gang is a fault of the shell. Not read for a gang that waits.
    """

    gang: gangs.Gang
    stays: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Occupied:
    """Somebody who is no gang of ours holds something on a node.

    Attributes
    ----------
    holder : str
        Its name; what it held before is forgotten.
    use : Grant
        What it holds; the row in it is not read.
    """

    holder: str
    node: str
    use: state.Grant


@dataclass(frozen=True, slots=True)
class Vacated:
    """A holder that is no gang of ours is gone."""

    holder: str


@dataclass(frozen=True, slots=True)
class NodeCordoned:
    """Nothing new on this node; what runs there stays."""

    node: str


@dataclass(frozen=True, slots=True)
class NodeUncordoned:
    """The node takes pods again."""

    node: str


@dataclass(frozen=True, slots=True)
class NodeFailed:
    """The node is gone with everything on it."""

    node: str


@dataclass(frozen=True, slots=True)
class NodeRepaired:
    """A failed node is back, empty."""

    node: str


@dataclass(frozen=True, slots=True)
class DeviceFailed:
    """One GPU is unusable; gangs that hold part of it are evicted."""

    node: str
    gpu: int


@dataclass(frozen=True, slots=True)
class DeviceRepaired:
    """The GPU is usable again."""

    node: str
    gpu: int


@dataclass(frozen=True, slots=True)
class TopologyChanged:
    """The fleet itself changed. Gangs keep their devices by node name; what is gone is replaced, or the gang evicted."""

    scoring: scoring.Scoring


@dataclass(frozen=True, slots=True)
class QuotasChanged:
    """Tenants have other quotas from now on; what runs is not touched."""

    quotas: tuple[config.Quota, ...]


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed: reservations expire by it."""


Event = (
    GangSubmitted
    | GangCancelled
    | GangFinished
    | Bound
    | BindFailed
    | Adopted
    | GangChanged
    | Occupied
    | Vacated
    | NodeCordoned
    | NodeUncordoned
    | NodeFailed
    | NodeRepaired
    | DeviceFailed
    | DeviceRepaired
    | TopologyChanged
    | QuotasChanged
    | Tick
)


def describe(event: Event) -> str:
    """Name an event in a few words, for the `because` of effects."""
    match event:
        case GangSubmitted(gang):
            return f"submitted {gang.name}"
        case GangFinished(name):
            return f"finished {name}"
        case GangCancelled(name):
            return f"cancelled {name}"
        case Bound(name):
            return f"bound {name}"
        case BindFailed(name):
            return f"bind failed {name}"
        case Adopted(gang):
            return f"found {gang.name}"
        case GangChanged(gang):
            return f"changed {gang.name}"
        case Occupied(holder, node):
            return f"{holder} holds devices of {node}"
        case Vacated(holder):
            return f"{holder} is gone"
        case DeviceFailed(node, gpu):
            return f"GPU {gpu} of {node} failed"
        case DeviceRepaired(node, gpu):
            return f"GPU {gpu} of {node} repaired"
        case NodeCordoned(node):
            return f"{node} cordoned"
        case NodeUncordoned(node):
            return f"{node} uncordoned"
        case NodeFailed(node):
            return f"{node} failed"
        case NodeRepaired(node):
            return f"{node} repaired"
        case TopologyChanged():
            return "topology changed"
        case QuotasChanged():
            return "quotas changed"
        case _:
            return "time"
