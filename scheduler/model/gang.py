"""The all-or-nothing set of pods that JobSets, Kueue Workloads, PodGroups and annotated pods all become."""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from scheduler.model import request


@dataclass(frozen=True, slots=True)
class TopologyConstraint:
    """Levels of the fabric that pods must, or had better, share one domain of.

    `required` and `preferred` are level names of the fabric ("" for none). A required level is a promise: all
    pods in one domain of it. A preferred level only orders the candidates.
    """

    required: str = ""
    preferred: str = ""


@dataclass(frozen=True, slots=True)
class Segment:
    """Groups of `size` consecutive ranks that must each share one domain of `level` (a tensor-parallel group)."""

    size: int
    level: str


@dataclass(frozen=True, slots=True)
class Spread:
    """At most `max_pods` pods of a role in one domain of `level`."""

    level: str
    max_pods: int


@dataclass(frozen=True, slots=True)
class Place:
    """A domain of the fleet, by name, that somebody else has chosen for `count` consecutive ranks of a role."""

    domain: str
    count: int


@dataclass(frozen=True, slots=True)
class Role:
    """A set of equal pods of a gang: same request, same constraint.

    `places` are for all pods of the role, in the order of ranks, or () where their places are ours to choose.
    """

    name: str
    count: int
    request: request.PodRequest
    constraint: TopologyConstraint = TopologyConstraint()
    segment: Segment | None = None
    spread: Spread | None = None
    places: tuple[Place, ...] = ()

    def places_of(self, indices: Iterable[int]) -> tuple[Place, ...]:
        """Return the places of some pods of the role, by their index in it."""
        if not self.places:
            return ()
        each = [place.domain for place in self.places for _ in range(place.count)]
        return in_runs(each[index] for index in indices)


def in_runs(domains: Iterable[str]) -> tuple[Place, ...]:
    """Return the places of pods whose domains are given one by one."""
    return tuple(Place(domain, len(tuple(same))) for domain, same in itertools.groupby(domains))


@dataclass(frozen=True, slots=True)
class Gang:
    """Pods that start together or not at all.

    Attributes
    ----------
    roles : tuple of Role
        In rank order: ranks run through the first role's pods, then the second's.
    min_member : int
        Pods that must be placed for the gang to start; 0 means all of them. Pods above the minimum are taken from
        the end of the rank order when room is short.
    priority : int
        Higher goes first.
    expected_s : float
        Run time that the submitter declared, for back-fill; 0 when unknown.
    decision_id : str
        Ties every record of this gang together, from the gateway to the device.
    within : str
        Name of a domain of the fleet that all pods must be in, because somebody else decided so; "" for any.
    movable : bool
        Its pods are made anew when they are deleted, so that it can be put elsewhere while it runs.

    Raises
    ------
    ValueError
        The gang contradicts itself; the message names gang, role and field.
    """

    name: str
    roles: tuple[Role, ...]
    tenant: str = "default"
    priority: int = 0
    constraint: TopologyConstraint = TopologyConstraint()
    min_member: int = 0
    preemptible: bool = True
    expected_s: float = 0.0
    decision_id: str = ""
    within: str = ""
    movable: bool = True

    def __post_init__(self) -> None:
        for problem in _problems(self):
            raise ValueError(f"gang {self.name}: {problem}")

    @property
    def size(self) -> int:
        """Return the number of pods."""
        return sum(role.count for role in self.roles)

    @property
    def gpus(self) -> int:
        """Return the number of GPUs (or MIG partitions) over all pods."""
        return sum(role.count * role.request.gpus for role in self.roles)

    @property
    def minimum(self) -> int:
        """Return how many pods must be placed for the gang to start."""
        return self.min_member or self.size

    def ranks(self) -> Iterator[tuple[int, Role, int]]:
        """Yield ``(rank, role, index within the role)`` in rank order."""
        rank = 0
        for role in self.roles:
            for index in range(role.count):
                yield rank, role, index
                rank += 1


def _problems(gang: Gang) -> Iterator[str]:
    """Yield what is wrong with a gang, one sentence each."""
    if not gang.roles or any(role.count < 1 for role in gang.roles):
        yield "every gang needs roles, each with a count of at least 1"
    if len({role.name for role in gang.roles}) != len(gang.roles):
        yield "two roles have the same name"
    if not 0 <= gang.min_member <= gang.size:
        yield f"min_member {gang.min_member} is outside 0..{gang.size}"
    if not 0 <= gang.expected_s < math.inf:
        yield f"expected_s must be a number of seconds, got {gang.expected_s}"
    for role in gang.roles:
        yield from (f"role {role.name}: {problem}" for problem in _role_problems(role))


def _role_problems(role: Role) -> Iterator[str]:
    """Yield what is wrong with a role."""
    if role.segment and (role.segment.size < 1 or role.count % role.segment.size):
        yield f"segment size must divide count {role.count}"
    if role.segment and not role.segment.level:
        yield "segment names no level"
    if role.spread and (role.spread.max_pods < 1 or not role.spread.level):
        yield "spread needs a level and max_pods of at least 1"
    if role.places and sum(place.count for place in role.places) != role.count:
        yield f"places are for {sum(place.count for place in role.places)} pods, count is {role.count}"


def single(name: str, pod: request.PodRequest, **gang_fields: object) -> Gang:
    """Return a gang of one pod, the form in which a lone pod is placed."""
    return Gang(name=name, roles=(Role("pod", 1, pod),), **gang_fields)  # type: ignore[arg-type]
