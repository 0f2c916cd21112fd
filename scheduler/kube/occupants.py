"""What pods and claims that are of no gang of ours hold, as events for the machine.

CPU, memory and the pod slot are held by a pod, devices by a claim, each under its own name: a claim that several pods
share is held once, and one whose pod is not bound yet is held all the same.
"""

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import structlog

from scheduler.gang import events
from scheduler.kube import claim as claims
from scheduler.kube import fleet
from scheduler.kube import pod as pods
from scheduler.model import claim as rows
from scheduler.model import node as machines
from scheduler.snapshot import state

log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class Occupants:
    """What was last told of each holder, so that nothing is told twice.

    Attributes
    ----------
    pools : dict of claim UID to set of str
        Under which names a claim was told of.
    """

    told: dict[str, tuple[str, state.Grant]] = field(default_factory=dict)
    pools: dict[str, frozenset[str]] = field(default_factory=dict)

    def pod(self, pod: pods.Pod, ours: bool) -> Iterator[events.Event]:
        """Yield what changed about a pod; `ours` for a pod of a gang that the machine holds, and for one that is gone."""
        name = f"pod/{pod.uid}"
        if ours or not pod.node or pod.finished:
            return self._gone(name)
        return self._there(name, pod.node, state.Grant(0, cpu_milli=pod.cpu_milli, memory_mib=pod.memory_mib))

    def claim(self, claim: claims.Claim, ours: bool, live: fleet.Fleet) -> Iterator[events.Event]:
        """Yield what changed about a claim, pool by pool."""
        pools = {} if ours or claim.rows is None else by_pool(claim.rows)
        prefix, had = f"claim/{claim.uid}/", self.pools.pop(claim.uid, frozenset())
        for pool in sorted(had - pools.keys()):
            yield from self._gone(prefix + pool)
        if pools:
            self.pools[claim.uid] = frozenset(pools)
        for pool, part in pools.items():
            machine = live.machine(pool)
            if machine is None:
                yield from self._gone(prefix + pool)
                continue
            held = devices(machine, part)
            if held is not None:
                yield from self._there(prefix + pool, pool, held)

    def conflicts(self, closed: Mapping[tuple[str, str], state.Grant]) -> Iterator[events.Event]:
        """Yield what changed about devices (node, name) that are given out twice: what is left of them nobody gets."""
        names = {f"conflict/{node}/{name}": (node, held) for (node, name), held in closed.items()}
        yield from self._all_gone("conflict/", names)
        for holder, (node, held) in names.items():
            yield from self._there(holder, node, held)

    def taints(self, tainted: Iterable[tuple[str, str]], live: fleet.Fleet) -> Iterator[events.Event]:
        """Yield what changed about devices (node, name) that may not be given out: nobody holds them, nobody may."""
        names = {f"taint/{node}/{name}": (node, name) for node, name in tainted}
        yield from self._all_gone("taint/", names)
        for holder, (node, name) in names.items():
            machine = live.machine(node)
            held = None if machine is None else devices(machine, [rows.Allocation(machine.driver, node, name, "")])
            if held is not None:
                yield from self._there(holder, node, held)

    def _all_gone(self, prefix: str, but: Container[str]) -> Iterator[events.Event]:
        """Yield the end of all holders of a kind but some."""
        for gone in [name for name in self.told if name.startswith(prefix) and name not in but]:
            yield from self._gone(gone)

    def _there(self, holder: str, node: str, use: state.Grant) -> Iterator[events.Event]:
        if self.told.get(holder) != (node, use):
            self.told[holder] = node, use
            yield events.Occupied(holder, node, use)

    def _gone(self, holder: str) -> Iterator[events.Event]:
        if self.told.pop(holder, None) is not None:
            yield events.Vacated(holder)


def by_pool(found: Iterable[rows.Allocation]) -> dict[str, list[rows.Allocation]]:
    """Group allocated devices by pool, which is the node."""
    pools: dict[str, list[rows.Allocation]] = {}
    for row in found:
        pools.setdefault(row.pool, []).append(row)
    return pools


def devices(machine: fleet.Machine, found: Iterable[rows.Allocation]) -> state.Grant | None:
    """Return allocated devices of a machine as a grant without CPU and pod slot; None for devices that are not ours."""
    mine = [row for row in found if row.driver == machine.driver and row.pool == machine.topology.name]
    known = rows.devices(machine.topology)
    strange = [row.device for row in mine if row.device not in known]
    if strange:
        log.warning("allocated devices are not published", node=machine.topology.name, devices=strange)
    held = rows.held(machine.topology, [row for row in mine if row.device in known])
    if not (held.gpus or held.partitions or held.nic_mask or held.accelerators):
        return None
    return grant(machine.topology, held)


def grant(machine: machines.NodeTopology, held: rows.Held) -> state.Grant:
    """Return what is held as a grant without CPU, memory and pod slot."""
    kinds = sorted(machine.accelerators[index].kind for index in held.accelerators)
    return state.Grant(
        0,
        mask=held.mask,
        milli=held.milli,
        partitions=held.partitions,
        order=held.gpus,
        nic_mask=held.nic_mask,
        accelerators=tuple((kind, kinds.count(kind)) for kind in dict.fromkeys(kinds)),
        pods=0,
    )
