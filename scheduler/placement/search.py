"""The default domain rule: of a few good packs, in the tightest domains and on the widest nodes, the cheapest.

It is complete in that it finds a pack whenever there is one, and bounded in how many it compares.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.model import request as requests
from scheduler.placement import bandwidth, domains, gang_price, pack, policy
from scheduler.snapshot import demand, state

BEAM = 2
"""Domains of each list that are packed and priced when they hold several nodes."""

NODE_BEAM = 64
"""Single nodes that are priced when one node can hold the whole role."""

MANNERS: tuple[pack.Manner, ...] = ("fewest", "even", "fullest")
"""Ways in which a domain is packed when all of its nodes may be used."""

WIDE_MANNERS: tuple[pack.Manner, ...] = ("fewest", "even")
"""Ways in which it is packed when only nodes with much room are used."""


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A pack with its price."""

    pack: pack.Pack
    price: gang_price.Price


def opportunity_cost(
    snapshot: state.Snapshot,
    pod: demand.Demand,
    held: domains.Capacity,
    need: int,
    gangs: policy.GangScoring,
    tiers: bandwidth.Tiers,
    within: int = 0,
) -> list[Scored]:
    """Return the packs that were compared, best first; empty when the role fits into no domain.

    Parameters
    ----------
    held : Capacity
        Of this role on this snapshot.
    need : int
        Pods of the role.
    within : int
        Only this domain and those below it.

    Notes
    -----
    Step by step:

    1. `domains.tightest` gives the domains of the finest level at which the role fits whole.
    2. They are ordered by (free GPUs of the domain, room for pods of this role, `pack.dearness`, preorder), lowest
       first, and the first `BEAM` are kept (`NODE_BEAM` where they are nodes).
    3. A node is packed in one way, and the comparison ends with nodes. A larger domain is packed by `pack.fill` in each
       of `MANNERS`.
    4. A gang of whole GPUs is as slow as the node that contributes fewest, so steps 1 to 3 are repeated without nodes
       that hold fewer than t pods, with `WIDE_MANNERS`, for t the most pods that any node holds, then t // 2, and so on
       while t is at least 2 and no domain of the level of step 1 was found. The level found may be coarser then, though
       not than a preferred level that step 1 kept.
    5. Equal packs count once. `gang_price.prices` prices all. The lowest (price, turn) wins, the turn counting packs in
       the order in which these steps make them.
    """
    packs = list(_distinct(_candidates(snapshot, pod, held, need, within)))
    if not packs:
        return []
    priced = gang_price.prices(snapshot, pod, packs, gangs, tiers)
    order = sorted(range(len(packs)), key=lambda turn: (priced[turn].total, turn))
    return [Scored(packs[turn], priced[turn]) for turn in order]


def _candidates(
    snapshot: state.Snapshot, pod: demand.Demand, held: domains.Capacity, need: int, within: int
) -> Iterator[pack.Pack]:
    """Yield the packs to compare."""
    fleet = snapshot.topology
    dear = pack.dearness(snapshot)
    vertices = _ordered(snapshot, held, need, within, dear)
    if not len(vertices):
        return
    nodes = domains.family(fleet.tree).node[vertices]
    if nodes[0] >= 0:
        for vertex, node in zip(vertices[:NODE_BEAM].tolist(), nodes.tolist(), strict=False):
            yield pack.Pack(vertex, np.array([node]), np.array([need]))
        return
    yield from _packed(snapshot, held, need, vertices, MANNERS, dear)
    level = int(fleet.tree.level[vertices[0]])
    coarsest = held.bounds.preferred if level >= held.bounds.preferred else 0
    least = int(held.pods.max()) if pod.kind is requests.RequestKind.WHOLE else 0
    while least > 1:
        wide = domains.capacity(fleet.tree, np.where(held.pods >= least, held.pods, 0), held.bounds)
        vertices = _ordered(snapshot, wide, need, within, dear)
        if len(vertices) and fleet.tree.level[vertices[0]] >= coarsest:
            yield from _packed(snapshot, wide, need, vertices, WIDE_MANNERS, dear)
            if fleet.tree.level[vertices[0]] >= level:
                return
        least //= 2


def _ordered(
    snapshot: state.Snapshot, held: domains.Capacity, need: int, within: int, dear: NDArray[np.int64]
) -> NDArray[np.intp]:
    """Return the tightest domains in the order of trying."""
    vertices = domains.tightest(snapshot.topology.tree, held, need, within)
    order = np.lexsort((dear[vertices], held.whole[vertices], snapshot.free_in[vertices]))
    return vertices[order]


def _packed(
    snapshot: state.Snapshot,
    held: domains.Capacity,
    need: int,
    vertices: NDArray[np.intp],
    manners: Sequence[pack.Manner],
    dear: NDArray[np.int64],
) -> Iterator[pack.Pack]:
    """Yield the packs of the first domains."""
    for vertex in vertices[:BEAM].tolist():
        for manner in manners:
            yield pack.fill(snapshot.topology.tree, held, vertex, need, manner, dear)


def _distinct(packs: Iterable[pack.Pack]) -> Iterator[pack.Pack]:
    """Yield packs without those that equal an earlier one."""
    seen: set[tuple[bytes, bytes]] = set()
    for one in packs:
        key = one.nodes.tobytes(), one.pods.tobytes()
        if key not in seen:
            seen.add(key)
            yield one
