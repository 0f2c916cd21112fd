"""What pods that are no gangs of ours hold: kube-scheduler's own, daemons, and devices that must not be given out.

They do not ask: they hold. Where the cluster says that two hold the same, the first keeps it here and the others have
what is left, until it is free.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from scheduler.snapshot import state


@dataclass(frozen=True, slots=True)
class Stranger:
    """One holder; `taken` is what of `wanted` could be taken, None on a node that the fleet does not have."""

    node: str
    wanted: state.Grant
    taken: state.Grant | None = None


@dataclass(slots=True, eq=False)
class Strangers:
    """All holders, in the order in which they came.

    Attributes
    ----------
    short : set of str
        Nodes on which somebody could not have all that he holds.
    """

    short: set[str] = field(default_factory=set)
    _by_holder: dict[str, Stranger] = field(default_factory=dict)
    _by_node: dict[str, dict[str, None]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._by_holder)

    def put(self, snapshot: state.Snapshot, holder: str, node: str, wanted: state.Grant) -> bool:
        """Note what a holder has; tell whether room may have appeared."""
        before = self._by_holder.get(holder)
        wanted = replace(wanted, node=0)
        if before is not None and (before.node, before.wanted) == (node, wanted):
            return False
        room = self.drop(snapshot, holder)
        self._by_node.setdefault(node, {})[holder] = None
        self._by_holder[holder] = Stranger(node, wanted)
        self._take(snapshot, holder)
        return room

    def drop(self, snapshot: state.Snapshot, holder: str) -> bool:
        """Forget a holder; tell whether room may have appeared."""
        one = self._by_holder.pop(holder, None)
        if one is None:
            return False
        if one.taken is not None:
            snapshot.release(one.taken)
        del self._by_node[one.node][holder]
        if not self._by_node[one.node]:
            del self._by_node[one.node]
        self.settle(snapshot, one.node)
        return one.taken is not None

    def taken(self, holder: str) -> state.Grant | None:
        """Return what a holder has on the snapshot now."""
        one = self._by_holder.get(holder)
        return None if one is None else one.taken

    def settle(self, snapshot: state.Snapshot, node: str) -> None:
        """Something became free on a node: those who could not have all try again."""
        if node in self.short:
            self.leave(snapshot, node)
            self.enter(snapshot, node)

    def leave(self, snapshot: state.Snapshot, node: str) -> None:
        """Give everything on a node back, to be taken again by `enter`."""
        for holder in self._by_node.get(node, ()):
            one = self._by_holder[holder]
            if one.taken is not None:
                snapshot.release(one.taken)
                self._by_holder[holder] = replace(one, taken=None)

    def enter(self, snapshot: state.Snapshot, node: str) -> None:
        """Take what is held on a node, as far as it is free."""
        self.short.discard(node)
        for holder in self._by_node.get(node, ()):
            self._take(snapshot, holder)

    def move(self, snapshot: state.Snapshot) -> None:
        """Take everything on the snapshot of another fleet; nothing of it is taken there yet."""
        self.short.clear()
        for holder, one in self._by_holder.items():
            self._by_holder[holder] = replace(one, taken=None)
            self._take(snapshot, holder)

    def grants(self) -> Iterator[state.Grant]:
        """Yield what is taken."""
        return (one.taken for one in self._by_holder.values() if one.taken is not None)

    def _take(self, snapshot: state.Snapshot, holder: str) -> None:
        one = self._by_holder[holder]
        row = snapshot.topology.row.get(one.node)
        if row is None:
            return
        up = bool(snapshot.up[row])
        if not up:
            snapshot.set_up(row, True)
        possible = _possible(snapshot, replace(one.wanted, node=row))
        snapshot.take(possible)
        if not up:
            snapshot.set_up(row, False)
        self._by_holder[holder] = replace(one, taken=possible)
        if replace(possible, node=0) != one.wanted:
            self.short.add(one.node)


def _possible(snapshot: state.Snapshot, wanted: state.Grant) -> state.Grant:
    """Return the part of a grant that is free on its node."""
    row = wanted.node
    milli = _share(snapshot, wanted)
    gpus = tuple(gpu for gpu in wanted.gpus if _free(snapshot, row, gpu, milli)) if milli else ()
    partitions = _partitions(snapshot, wanted)
    held = {*gpus, *(gpu for gpu, _ in partitions)}
    accelerators = (
        (kind, min(count, int(snapshot.accelerators_free[kind][row])))
        for kind, count in wanted.accelerators
        if kind in snapshot.accelerators_free
    )
    return replace(
        wanted,
        mask=sum(1 << gpu for gpu in held),
        milli=milli if gpus else 0,
        order=gpus if wanted.order and gpus else (),
        partitions=partitions,
        cpu_milli=max(0, min(wanted.cpu_milli, int(snapshot.cpu_free[row]))),
        memory_mib=max(0, min(wanted.memory_mib, int(snapshot.memory_free[row]))),
        nic_mask=wanted.nic_mask & int(snapshot.nic_mask[row]),
        accelerators=tuple((kind, count) for kind, count in accelerators if count),
        pods=min(wanted.pods, int(snapshot.pods_free[row])),
    )


def _share(snapshot: state.Snapshot, wanted: state.Grant) -> int:
    """Return how much of each GPU is taken: of a single one what is left of it."""
    if len(wanted.gpus) != 1 or wanted.partitions or wanted.gpus[0] >= int(snapshot.topology.gpus[wanted.node]):
        return wanted.milli
    return min(wanted.milli, int(snapshot.gpu_free[wanted.node, wanted.gpus[0]]))


def _free(snapshot: state.Snapshot, row: int, gpu: int, milli: int) -> bool:
    return gpu < int(snapshot.topology.gpus[row]) and int(snapshot.gpu_free[row, gpu]) >= milli


def _partitions(snapshot: state.Snapshot, wanted: state.Grant) -> tuple[tuple[int, int], ...]:
    """Return what is free of the partitions, each beside those before it."""
    used: dict[int, int] = {}
    found = []
    for gpu, slices in wanted.partitions:
        if gpu >= int(snapshot.topology.gpus[wanted.node]):
            continue
        before = used.get(gpu, int(snapshot.slices_used[wanted.node, gpu]))
        left = slices & ~before
        if left and (before or int(snapshot.gpu_free[wanted.node, gpu]) == state.FULL):
            used[gpu] = before | left
            found.append((gpu, left))
    return tuple(found)
