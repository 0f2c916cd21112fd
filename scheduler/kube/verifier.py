"""Looks after who holds what: devices that are given out twice, and devices of ours that anybody may take.

It reads allocated claims only, as `occupancy` does, so that it can't share a mistake of the plans. What is given out twice
is told as a warning on the claims and their pods, and nothing more of such a device is given out until it ends.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

import structlog

from scheduler.gang import events
from scheduler.kube import claim as claims
from scheduler.kube import event, occupancy, occupants, ownership, world
from scheduler.model import claim as rows
from scheduler.model import device
from scheduler.snapshot import state

Tell = Callable[[event.Subject, event.Reason, str], None]

NODES_TOLD = 8
"""Nodes with devices that are not owned get an Event, so many of them; the log has the number of all."""

REMEDY = (
    "apply deploy/scheduler/ownership.yaml, or have the driver publish the taint; "
    "docs/ownership.md says what protects devices on servers without device taints"
)

log = structlog.get_logger()


def silent(subject: event.Subject, reason: event.Reason, text: str) -> None:
    """Tell nobody: what a replica that stands by does."""


@dataclass(slots=True, eq=False)
class Verifier:
    """What was found and told.

    Parameters
    ----------
    tell : callable
        Writes an Event.
    owned : bool
        The administrator says that all devices of ours carry the ownership taint.

    Attributes
    ----------
    standing : dict of pool to conflicts
        What is given out twice now.
    found : int
        Conflicts since the start, each counted once while it lasts.
    unowned : dict of node to devices
        Devices of ours without the taint.
    """

    known: world.World
    tell: Tell = silent
    owned: bool = True
    standing: dict[str, tuple[occupancy.Conflict, ...]] = field(default_factory=dict)
    found: int = 0
    unowned: dict[str, tuple[str, ...]] = field(default_factory=dict)
    _owned: ownership.Owned = field(default_factory=ownership.Owned)

    def devices(self, told: occupants.Occupants) -> Iterator[events.Event]:
        """Yield what closes devices that are given out twice since the last call, and opens those that no longer are."""
        pools, self.known.moved_pools = self.known.moved_pools, set()
        if not pools:
            return
        changed = [pool for pool in sorted(pools) if self._pool(pool)]
        if not changed:
            return
        twice = (one for pool in sorted(self.standing) for one in self.standing[pool])
        yield from told.conflicts(_closed(twice, self.known))

    def taints(self) -> None:
        """Look at the published devices again if any has changed, and tell which of ours are not owned."""
        if not self.owned or not self.known.devices_changed:
            return
        self.known.devices_changed = False
        before, self.unowned = self.unowned, self._owned.missing(self.known)
        fresh = [node for node in self.unowned if node not in before]
        if fresh:
            log.warning("devices without the ownership taint", nodes=len(self.unowned), first=fresh[0], remedy=REMEDY)
        for node in fresh[:NODES_TOLD] if not before else ():
            own = self.unowned[node]
            text = (
                f"{len(own)} devices ({own[0]}, ...) lack the taint {ownership.TAINT}: any pod may take them; {REMEDY}"
            )
            self.tell(event.Subject("v1", "Node", "", node, node), event.Reason.DEVICE_NOT_OWNED, text)

    def recount(self) -> None:
        """Compare all claims again at the next call of `devices`: their machines may be known only now."""
        self.known.moved_pools.update(self.known.on_pool)

    def _pool(self, pool: str) -> bool:
        """Compare the claims of one pool with each other, tell what is new, and return whether anything changed."""
        before = self.standing.pop(pool, ())
        held = self.known.on_pool.get(pool, {})
        now = tuple(occupancy.conflicts((_within(one, pool) for one in held.values()), self.known.live))
        if now:
            self.standing[pool] = now
        for one in now:
            if one not in before:
                self._told(one, held.values())
        for one in before:
            if one not in now:
                log.info("a device is no longer given out twice", device=one.device, claims=one.claims)
        return now != before

    def _told(self, one: occupancy.Conflict, held: Iterable[claims.Claim]) -> None:
        self.found += 1
        log.error("a device is given out twice", device=one.device, claims=one.claims, why=one.why)
        text = f"device {one.device} is given out twice, to {', '.join(one.claims)}: {one.why}; {CURE}"
        for claim in held:
            if claim.key in one.claims:
                self.tell(event.Subject.claim(claim), event.Reason.DEVICE_CONFLICT, text)
                for pod in self._users(claim):
                    self.tell(pod, event.Reason.DEVICE_CONFLICT, text)

    def _users(self, claim: claims.Claim) -> Iterator[event.Subject]:
        """Yield the pods of a claim: its owner, or those that it is reserved for."""
        for key in self.known.gangs.users(claim):
            pod = self.known.pod(key)
            if pod is not None and not pod.gone:
                yield event.Subject.pod(pod)


CURE = "delete one of the pods; the driver serves only the claim that was prepared first"


def _within(one: claims.Claim, pool: str) -> claims.Claim:
    """Return a claim with the devices of one pool only."""
    return replace(one, rows=tuple(row for row in one.rows or () if row.pool == pool))


def _closed(found: Iterable[occupancy.Conflict], known: world.World) -> dict[tuple[str, str], state.Grant]:
    """Return what is kept from new plans by node and device name: all that is left of the device.

    Accelerators are only counted, and one that is given out twice counts twice already.
    """
    closed = {}
    for one in found:
        node, _, name = one.device.partition("/")[2].rpartition("/")
        machine = known.live.machine(node)
        own = machine.devices().get(name) if machine else None
        match own:
            case device.Gpu(mig_enabled=True, index=index):
                slices = 0
                for part in rows.partitions_of(own):
                    slices |= part.slices
                closed[node, name] = state.Grant(0, 1 << index, partitions=((index, slices),), pods=0)
            case device.Gpu(index=index):
                closed[node, name] = state.Grant(0, 1 << index, milli=device.WHOLE_GPU_MILLI, pods=0)
            case rows.Partition(gpu=gpu):
                closed[node, name] = state.Grant(0, 1 << gpu.index, partitions=((gpu.index, own.slices),), pods=0)
            case device.Nic(index=index):
                closed[node, name] = state.Grant(0, nic_mask=1 << index, pods=0)
    return closed
