"""A placement in the terms of the API: which claim of which pod gets which devices."""

from dataclasses import dataclass

from scheduler.kube import workload
from scheduler.model import claim as claims


@dataclass(frozen=True, slots=True)
class PlannedClaim:
    """One claim with the devices that it is to get, in the order in which the container sees them."""

    name: str
    uid: str
    rows: tuple[claims.Allocation, ...]


@dataclass(frozen=True, slots=True)
class PlannedPod:
    """One member with its node."""

    rank: int
    role: str
    name: str
    uid: str
    node: str
    claims: tuple[PlannedClaim, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole gang on exact devices, ready to be written.

    Attributes
    ----------
    decision : int
        The machine's number of this start.
    domain, level : str
        The tightest domain that holds all members, and its level.
    terms : tuple of (str, int)
        Score terms in the order in which they count.
    runners_up : tuple of str
        The next best domains, one sentence each.
    """

    identity: workload.Identity
    pods: tuple[PlannedPod, ...]
    decision: int
    decision_id: str = ""
    domain: str = ""
    level: str = ""
    bandwidth_mb_s: int = 0
    terms: tuple[tuple[str, int], ...] = ()
    runners_up: tuple[str, ...] = ()
    because: str = ""
