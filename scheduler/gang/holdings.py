"""The gangs that hold devices, reserved or running, found by name, by node and by expiry."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from scheduler.model import gang as gangs
from scheduler.placement import placement
from scheduler.snapshot import state, topology


@dataclass(frozen=True, slots=True, eq=False)
class Holding:
    """One gang with its devices.

    Attributes
    ----------
    number : int
        Its place among the submissions, kept for the case that it is queued again.
    decision : int
        Number of the start that gave it the devices.
    expires : float
        When an unconfirmed reservation falls; infinite once confirmed.
    crippled : bool
        Whether pods of it have lost their devices and got no others yet.
    """

    gang: gangs.Gang
    placement: placement.Placement
    number: int
    decision: int
    since: float
    expires: float = math.inf
    crippled: bool = False

    @property
    def expected_end(self) -> float:
        """Return when the gang ends by its own declaration; infinite without one."""
        return self.since + self.gang.expected_s if self.gang.expected_s > 0 else math.inf


@dataclass(slots=True, eq=False)
class Holdings:
    """All holdings, in the order in which they started."""

    _by_name: dict[str, Holding] = field(default_factory=dict)
    _by_node: dict[int, dict[str, None]] = field(default_factory=dict)
    _expiring: set[str] = field(default_factory=set)

    def __iter__(self) -> Iterator[Holding]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def __getitem__(self, name: str) -> Holding:
        return self._by_name[name]

    def add(self, one: Holding) -> None:
        """Add a gang that took its devices."""
        name = one.gang.name
        self._by_name[name] = one
        for node in one.placement.nodes:
            self._by_node.setdefault(node, {})[name] = None
        if one.expires < math.inf:
            self._expiring.add(name)

    def remove(self, name: str) -> Holding:
        """Take a gang out."""
        one = self._by_name.pop(name)
        for node in one.placement.nodes:
            self._by_node[node].pop(name, None)
        self._expiring.discard(name)
        return one

    def confirm(self, name: str) -> None:
        """Turn a reservation into a running gang."""
        if name in self._expiring:
            self._expiring.discard(name)
            self._by_name[name] = replace(self._by_name[name], expires=math.inf)

    def due(self, now: float) -> list[Holding]:
        """Return the reservations that have expired, oldest start first."""
        found = [self._by_name[name] for name in self._expiring if self._by_name[name].expires <= now]
        return sorted(found, key=lambda one: one.decision)

    def next_expiry(self) -> float:
        """Return the earliest expiry, infinite without any."""
        return min((self._by_name[name].expires for name in self._expiring), default=math.inf)

    def on_node(self, node: int) -> list[Holding]:
        """Return the gangs with a pod on a node, oldest start first."""
        return sorted((self._by_name[name] for name in self._by_node.get(node, ())), key=lambda one: one.decision)

    def on_gpu(self, node: int, gpu: int) -> list[Holding]:
        """Return the gangs that hold part of a GPU, oldest start first."""
        return [
            one
            for one in self.on_node(node)
            if any(grant.node == node and grant.mask >> gpu & 1 for grant in one.placement.grants)
        ]

    def replace(self, one: Holding, moved: placement.Placement) -> None:
        """Put a moved placement in the place of the old one."""
        for node in one.placement.nodes:
            self._by_node[node].pop(one.gang.name, None)
        self._by_name[one.gang.name] = replace(one, placement=moved)
        for node in moved.nodes:
            self._by_node.setdefault(node, {})[one.gang.name] = None


def left(one: Holding, before: topology.Topology, after: topology.Topology) -> dict[int, state.Grant]:
    """Return what a gang holds that another topology still has, by rank, with the rows of that topology."""
    found = {}
    for rank, grant in enumerate(one.placement.grants):
        row = after.row.get(before.nodes[grant.node].name)
        if row is not None and not grant.mask & ~int(after.all_gpus[row]):
            found[rank] = replace(grant, node=row)
    return found
