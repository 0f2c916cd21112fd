"""Where a gang goes: exact devices for every pod, or the constraint that blocks it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from scheduler.model import gang as gangs
from scheduler.model import reasons
from scheduler.model import request as requests
from scheduler.placement import (
    assigned,
    bandwidth,
    bound,
    choice,
    devices,
    domains,
    fit,
    gang_price,
    placement,
    refusal,
    scoring,
)
from scheduler.snapshot import bulk, demand, state, topology

TRIES = 32
"""Domains in which a gang of several roles is tried; with one role the first is certain to hold it."""

ROOT = 0
"""Vertex of the whole fleet."""


def prepare(score: scoring.Scoring) -> None:
    """Compute what depends on the fleet alone, which else the first gang would wait for: 20 ms for 500 nodes."""
    gang_price.worth(score.topology)
    bandwidth.rates(score.topology, score.policy.spec.gangs.devices)
    domains.family(score.topology.tree)


def place(
    snapshot: state.Snapshot,
    gang: gangs.Gang,
    score: scoring.Scoring,
    tiers: bandwidth.Tiers = bandwidth.DEFAULT,
    within: int = ROOT,
) -> placement.Placement | reasons.Rejection:
    """Find devices for all pods of a gang, or say why there are none.

    Parameters
    ----------
    score : Scoring
        The policy, compiled for the fleet of `snapshot`.
    tiers : Tiers
        Oversubscription of the network, for predicted bandwidth.
    within : int
        Vertex of the domain to which the search is confined, and of which a rejection speaks.

    Returns
    -------
    Placement
        The grants can be taken in rank order. Nothing has been taken: `snapshot` is unchanged to the byte.
    Rejection
        For gangs of one role it is proof that no placement exists. For several roles that were not refused from counts
        it says `SEARCH_LIMIT`.

    Notes
    -----
    A lone pod without constraints goes where the pod rule says. One role: capacities of all domains, then the domain
    rule. Several roles: domains that hold each role and their sum, tightest first; in each, the roles one after the
    other, hardest first, on a copy of the snapshot.

    With a minimum below its size, a gang that does not fit whole gets as many pods as fit, dropped from the end of the
    rank order.
    """
    nameless = _no_such_level(snapshot.topology, gang)
    if nameless is not None:
        return nameless
    within = _confined(snapshot.topology, gang, within)
    if within < 0:
        return assigned.not_there(gang, gang.within)
    if any(role.places for role in gang.roles):
        return _place_bound(snapshot, gang, score, tiers, within)
    if lone(gang):
        return _place_pod(snapshot, gang, score, within)
    return _place_gang(snapshot, gang, score, tiers, within)


def never(gang: gangs.Gang, score: scoring.Scoring) -> reasons.Rejection | None:
    """Return the permanent refusal of a gang that even the empty fleet provably can't hold, None for every other.

    Notes
    -----
    What `place` says of such a gang on any snapshot. It is kept by gang and fleet: microseconds when asked again.
    """
    return _no_such_level(score.topology, gang) or refusal.never(score.topology, gang)


def _confined(fleet: topology.Topology, gang: gangs.Gang, within: int) -> int:
    """Return the vertex to search below: that of the gang's own domain where it lies in `within`, -1 for none."""
    if not gang.within:
        return within
    return assigned.inside(fleet.tree, assigned.vertices(fleet.tree).get(gang.within, -1), within)


def _no_such_level(fleet: topology.Topology, gang: gangs.Gang) -> reasons.Rejection | None:
    """Return the refusal of a gang that names a level which the fleet does not have."""
    known = fleet.tree.levels
    unknown = next((name for name in levels(gang) if name not in known), None)
    return None if unknown is None else refusal.no_such_level(gang, unknown, _fields(gang, unknown), known)


def _fields(gang: gangs.Gang, level: str) -> list[str]:
    """Return the fields in which a gang names a level."""
    constraints = [gang.constraint, *(role.constraint for role in gang.roles)]
    named = {
        "required level": [one.required for one in constraints],
        "preferred level": [one.preferred for one in constraints],
        "segment level": [role.segment.level for role in gang.roles if role.segment],
        "spread level": [role.spread.level for role in gang.roles if role.spread],
    }
    return [field for field, found in named.items() if level in found]


def lone(gang: gangs.Gang) -> bool:
    """Tell whether a gang is one pod that may go to any node: then the pod rule places it."""
    role = gang.roles[0]
    bound = gang.constraint.required or role.constraint.required or role.segment or role.spread or role.places
    return gang.size == 1 and not bound


def levels(gang: gangs.Gang) -> list[str]:
    """Return the levels that a gang names."""
    constraints = [gang.constraint, *(role.constraint for role in gang.roles)]
    names = [name for one in constraints for name in (one.required, one.preferred)]
    names += [part.level for role in gang.roles for part in (role.segment, role.spread) if part]
    return [name for name in names if name]


def _place_pod(
    snapshot: state.Snapshot, gang: gangs.Gang, score: scoring.Scoring, within: int
) -> placement.Placement | reasons.Rejection:
    """Place a gang of one pod by the pod rule."""
    wanted = score.demand(gang.roles[0].request)
    fabric_tree = snapshot.topology.tree
    choice = score.choose(snapshot, wanted, int(fabric_tree.first_node[within]), int(fabric_tree.last_node[within]))
    if choice is None:
        return refusal.refuse(snapshot, gang, [wanted], within)
    rule = score.policy.spec.gangs.devices
    grants = tuple(devices.grants(snapshot, wanted, choice.node, 1, rule, choice.gpu))
    fleet = snapshot.topology
    mb_s = 0
    if wanted.kind is requests.RequestKind.WHOLE and wanted.gpus > 1:
        mb_s = fleet.shapes[int(fleet.shape[choice.node])].bandwidth(grants[0].mask)
    cost = (("cost", choice.cost),)  # `explain` takes it apart
    return placement.Placement(gang, grants, fleet.nodes[choice.node].name, fleet.tree.levels[-1], mb_s, cost)


def _place_bound(
    snapshot: state.Snapshot, gang: gangs.Gang, score: scoring.Scoring, tiers: bandwidth.Tiers, within: int
) -> placement.Placement | reasons.Rejection:
    """Place a gang of which some roles were given their places."""

    def others(work: state.Snapshot, rest: gangs.Gang, beside: int) -> placement.Placement | reasons.Rejection:
        return _place_gang(work, rest, score, tiers, beside)

    return bound.place(snapshot, gang, score, tiers, within, others)


def _place_gang(
    snapshot: state.Snapshot, gang: gangs.Gang, score: scoring.Scoring, tiers: bandwidth.Tiers, within: int
) -> placement.Placement | reasons.Rejection:
    """Place a gang whole, or else as much of it as its minimum allows."""
    wanted = [score.demand(role.request) for role in gang.roles]
    counts = [role.count for role in gang.roles]
    chosen = _choose(snapshot, gang, wanted, counts, score, tiers, within)
    if chosen is None and gang.minimum < gang.size:
        chosen = _most(snapshot, gang, wanted, score, tiers, within)
    if chosen is None:
        return refusal.refuse(snapshot, gang, wanted, within)
    return choice.answer(snapshot, gang, chosen, score, tiers)


def fits(
    snapshot: state.Snapshot, gang: gangs.Gang, score: scoring.Scoring, tiers: bandwidth.Tiers, within: int = ROOT
) -> bool:
    """Tell whether at least the minimum of a gang has a placement in a domain, without choosing devices for one role.

    Notes
    -----
    For gangs of one role that is a matter of counts, and true on every snapshot with more room.
    """
    within = _confined(snapshot.topology, gang, within)
    if within < 0:
        return False
    if any(role.places for role in gang.roles):
        return isinstance(_place_bound(snapshot, gang, score, tiers, within), placement.Placement)
    wanted = [score.demand(role.request) for role in gang.roles]
    counts = refusal.smallest(gang)
    if sum(count > 0 for count in counts) > 1:
        return _choose_roles(snapshot, gang, wanted, counts, score, tiers, within) is not None
    row = next(row for row, count in enumerate(counts) if count)
    low, high = snapshot.topology.tree.first_node[within], snapshot.topology.tree.last_node[within]
    counted = np.zeros(len(snapshot.up), dtype=np.int32)
    counted[low:high] = fit.pods_that_fit(snapshot, wanted[row], int(low), int(high))
    limit = domains.bounds(snapshot.topology.tree, gang.constraint, gang.roles[row])
    held = domains.capacity(snapshot.topology.tree, counted, limit)
    return bool(len(domains.tightest(snapshot.topology.tree, held, counts[row], within)))


def _most(
    snapshot: state.Snapshot,
    gang: gangs.Gang,
    wanted: Sequence[demand.Demand],
    score: scoring.Scoring,
    tiers: bandwidth.Tiers,
    within: int,
) -> list[choice.Chosen] | None:
    """Find the largest part of a gang that fits, by bisection: what fits for more pods fits for fewer."""
    trials = [counts for counts in refusal.parts(gang) if gang.minimum <= sum(counts) < gang.size]
    best = None
    while trials:
        middle = len(trials) // 2
        found = _choose(snapshot, gang, wanted, trials[middle], score, tiers, within)
        if found is None:
            trials = trials[:middle]
        else:
            best, trials = found, trials[middle + 1 :]
    return best


def _choose(
    snapshot: state.Snapshot,
    gang: gangs.Gang,
    wanted: Sequence[demand.Demand],
    counts: Sequence[int],
    score: scoring.Scoring,
    tiers: bandwidth.Tiers,
    within: int,
) -> list[choice.Chosen] | None:
    """Choose nodes for `counts` pods of each role; roles without pods are left out."""
    filled = [row for row, count in enumerate(counts) if count]
    if len(filled) == 1:
        role, pod = gang.roles[filled[0]], wanted[filled[0]]
        held = choice.capacity(snapshot, pod, domains.bounds(snapshot.topology.tree, gang.constraint, role))
        only = choice.choose_nodes(snapshot, pod, held, counts[filled[0]], score, tiers, within)
        return None if only is None else [replace(only, grants=choice.grants(snapshot, pod, only.pack, score))]
    return _choose_roles(snapshot, gang, wanted, counts, score, tiers, within)


def _choose_roles(
    snapshot: state.Snapshot,
    gang: gangs.Gang,
    wanted: Sequence[demand.Demand],
    counts: Sequence[int],
    score: scoring.Scoring,
    tiers: bandwidth.Tiers,
    within: int,
) -> list[choice.Chosen] | None:
    """Choose nodes for several roles: domain by domain, hardest role first, then in the opposite order."""
    fleet = snapshot.topology
    limits = [domains.bounds(fleet.tree, gangs.TopologyConstraint(), role) for role in gang.roles]
    filled = [row for row, count in enumerate(counts) if count]
    held = {row: choice.capacity(snapshot, wanted[row], limits[row]) for row in filled}
    candidates = _common_domains(snapshot, gang, wanted, counts, held, score, within)
    hardest = sorted(filled, key=lambda row: (-wanted[row].gpus, -wanted[row].cpu_milli, row))
    for domain in candidates[:TRIES]:
        for order in (hardest, hardest[::-1]):
            found = _fill_roles(snapshot.copy(), domain, order, wanted, counts, limits, score, tiers)
            if found is not None:
                return [found[row] for row in filled]
    return None


def _fill_roles(
    work: state.Snapshot,
    domain: int,
    order: Sequence[int],
    wanted: Sequence[demand.Demand],
    counts: Sequence[int],
    limits: Sequence[domains.Bounds],
    score: scoring.Scoring,
    tiers: bandwidth.Tiers,
) -> dict[int, choice.Chosen] | None:
    """Place the roles in a domain one after the other, each on what the ones before it leave of `work`."""
    fabric_tree = work.topology.tree
    low, high = int(fabric_tree.first_node[domain]), int(fabric_tree.last_node[domain])
    found: dict[int, choice.Chosen] = {}
    for row in order:
        counted = np.zeros(len(work.up), dtype=np.int32)
        counted[low:high] = fit.pods_that_fit(work, wanted[row], low, high)
        held = domains.capacity(fabric_tree, counted, limits[row])
        chosen = choice.choose_nodes(work, wanted[row], held, counts[row], score, tiers, domain)
        if chosen is None:
            return None
        found[row] = replace(chosen, grants=choice.grants(work, wanted[row], chosen.pack, score))
        if row != order[-1]:
            bulk.take_all(work, found[row].grants)
    return found


def _common_domains(
    snapshot: state.Snapshot,
    gang: gangs.Gang,
    wanted: Sequence[demand.Demand],
    counts: Sequence[int],
    held: dict[int, domains.Capacity],
    score: scoring.Scoring,
    within: int,
) -> list[int]:
    """Return the domains that hold every role alone and whose sums hold them all, in the order of trying."""
    fabric_tree = snapshot.topology.tree
    limit = domains.bounds(fabric_tree, gang.constraint, gangs.Role("", 1, requests.PodRequest()))
    nodes = np.minimum(fabric_tree.first_node, len(snapshot.up) - 1)
    able = (fabric_tree.level >= limit.required) & (fabric_tree.ancestor[limit.required][nodes] >= 0)
    able[:within] = able[fabric_tree.end[within] :] = False
    for row, capacity in held.items():
        able &= capacity.whole >= counts[row]
    for _, _, free, need in refusal.sums(snapshot, wanted, counts):
        able &= free >= need
    vertices = np.flatnonzero(able)
    if score.policy.spec.gangs.domains == "first-fit":
        return [int(vertex) for vertex in vertices[fabric_tree.level[vertices] == limit.required]]
    if score.policy.spec.gangs.domains != "opportunity-cost":
        level = max(limit.required, limit.preferred, 0)
        vertices = vertices[fabric_tree.level[vertices] <= level]
    first = next(iter(held.values()))
    keys = (vertices, first.whole[vertices], snapshot.free_in[vertices], -fabric_tree.level[vertices])
    return [int(vertex) for vertex in vertices[np.lexsort(keys)]]
