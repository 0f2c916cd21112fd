"""The default domain rule: of a few good packs in the tightest domains, the one that uses up least.

It is complete in that it finds a pack whenever there is one, and bounded in how many it compares.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from scheduler.placement import bandwidth, domains, gang_price, pack, policy
from scheduler.snapshot import demand, state

BEAM = 4
"""Domains that are packed and priced when they hold several nodes."""

NODE_BEAM = 64
"""Single nodes that are priced when one node can hold the whole role."""

MANNERS: tuple[pack.Manner, ...] = ("fewest", "even", "fullest")


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
    2. They are ordered by (free GPUs of the domain, room for pods of this role, `pack.dearness`, preorder), lowest first,
       and the first `BEAM` are kept (`NODE_BEAM` where they are nodes).
    3. A node is packed in one way; a larger domain by `pack.fill` in each of `MANNERS`, equal packs once.
    4. `gang_price.prices` prices all packs. The lowest (price, turn) wins, the turn counting the domains in the order of
       step 2 and the manners inside a domain in the order of `MANNERS`.
    """
    packs = list(_candidates(snapshot, held, need, within))
    if not packs:
        return []
    priced = gang_price.prices(snapshot, pod, packs, gangs, tiers)
    order = sorted(range(len(packs)), key=lambda turn: (priced[turn].total, turn))
    return [Scored(packs[turn], priced[turn]) for turn in order]


def _candidates(snapshot: state.Snapshot, held: domains.Capacity, need: int, within: int) -> Iterator[pack.Pack]:
    """Yield the packs to compare."""
    fabric_tree = snapshot.topology.tree
    vertices = domains.tightest(fabric_tree, held, need, within)
    if not len(vertices):
        return
    dear = pack.dearness(snapshot)
    order = np.lexsort((dear[vertices], held.whole[vertices], snapshot.free_in[vertices]))
    vertices = vertices[order]
    nodes = domains.family(fabric_tree).node[vertices]
    if nodes[0] >= 0:
        for vertex, node in zip(vertices[:NODE_BEAM].tolist(), nodes.tolist(), strict=False):
            yield pack.Pack(vertex, np.array([node]), np.array([need]))
        return
    for vertex in vertices[:BEAM].tolist():
        yield from _distinct([pack.fill(fabric_tree, held, vertex, need, manner, dear) for manner in MANNERS])


def _distinct(packs: Sequence[pack.Pack]) -> Iterator[pack.Pack]:
    """Yield packs without those that equal an earlier one."""
    seen: set[tuple[bytes, bytes]] = set()
    for one in packs:
        key = one.nodes.tobytes(), one.pods.tobytes()
        if key not in seen:
            seen.add(key)
            yield one
