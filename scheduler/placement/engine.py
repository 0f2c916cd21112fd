"""Where a gang goes: exact devices for every pod, or the constraint that blocks it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from scheduler.model import gang as gangs
from scheduler.model import reasons
from scheduler.model import request as requests
from scheduler.placement import (
    assigned,
    bandwidth,
    devices,
    domains,
    fit,
    pack,
    placement,
    refusal,
    scoring,
    search,
    tas,
)
from scheduler.snapshot import bulk, demand, state, topology, tree

TRIES = 32
"""Domains in which a gang of several roles is tried; with one role the first is certain to hold it."""

RUNNERS_UP = 3

ROOT = 0
"""Vertex of the whole fleet."""


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """Nodes and devices for one role, and what the nodes were compared with."""

    pack: pack.Pack
    grants: tuple[state.Grant, ...] = ()
    terms: placement.Terms = ()
    others: tuple[search.Scored, ...] = ()


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
        return _place_assigned(snapshot, gang, score, tiers, within)
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
    return None if unknown is None else refusal.no_such_level(gang, unknown, known)


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


def _place_assigned(
    snapshot: state.Snapshot, gang: gangs.Gang, score: scoring.Scoring, tiers: bandwidth.Tiers, within: int
) -> placement.Placement | reasons.Rejection:
    """Place the roles whose places are given, then the others on what these leave; always the whole gang."""
    work, chosen = snapshot.copy(), {}
    for role in (one for one in gang.roles if one.places):
        found = _fill_places(work, gang, role, score, tiers, within)
        if isinstance(found, reasons.Rejection):
            return found
        chosen[role.name] = found
        bulk.take_all(work, found.grants)
    rest = tuple(role for role in gang.roles if not role.places)
    if rest:
        nodes = [grant.node for one in chosen.values() for grant in one.grants]
        beside = _beside(snapshot.topology.tree, gang.constraint.required, min(nodes), within)
        answer = _place_gang(work, replace(gang, roles=rest, min_member=0), score, tiers, beside)
        if isinstance(answer, reasons.Rejection):
            return answer
        chosen |= _by_role(answer)
    found_all = [chosen[role.name] for role in gang.roles]
    grants = [grant for one in found_all for grant in one.grants]
    return assigned.broken(snapshot.topology, gang, grants) or _answer(snapshot, gang, found_all, score, tiers)


def _fill_places(
    work: state.Snapshot,
    gang: gangs.Gang,
    role: gangs.Role,
    score: scoring.Scoring,
    tiers: bandwidth.Tiers,
    within: int,
) -> Chosen | reasons.Rejection:
    """Choose nodes and devices for a role whose places are given."""
    fabric_tree, pod = work.topology.tree, score.demand(role.request)
    where = assigned.found(fabric_tree, role, within)
    if isinstance(where, str):
        return assigned.not_there(gang, where)
    rule = score.policy.spec.gangs.devices
    if where.nodes is not None:
        lacking = np.flatnonzero(assigned.short(work, pod, where))
        if len(lacking):
            turn = int(lacking[0])
            return assigned.no_room(work, gang, role, pod, where.vertices[turn], where.counts[turn])
        given = devices.grants_of_role(work, pod, where.nodes.tolist(), where.counts, rule)
        return _fixed(fabric_tree, given)
    grants: list[state.Grant] = []
    room = work.copy()
    for vertex, count in zip(where.vertices, where.counts, strict=True):
        low, high = int(fabric_tree.first_node[vertex]), int(fabric_tree.last_node[vertex])
        counted = np.zeros(len(room.up), dtype=np.int32)
        counted[low:high] = fit.pods_that_fit(room, pod, low, high)
        held = domains.capacity(fabric_tree, counted, _inner(fabric_tree, role, vertex, count))
        chosen = choose_nodes(room, pod, held, count, score, tiers, vertex)
        if chosen is None:
            return assigned.no_room(room, gang, role, pod, vertex, count)
        new = _grants(room, pod, chosen.pack, score)
        bulk.take_all(room, new)
        grants += new
    return _fixed(fabric_tree, tuple(grants))


def _inner(fabric_tree: tree.CompiledTree, role: gangs.Role, vertex: int, count: int) -> domains.Bounds:
    """Return what of a role's constraints can be kept to inside one of its places."""
    level = int(fabric_tree.level[vertex])
    limit = domains.bounds(fabric_tree, gangs.TopologyConstraint(), role)
    segment = limit.segment > level and count % limit.segment_size == 0
    spread = limit.spread > level
    return domains.Bounds(
        preferred=limit.preferred,
        segment=limit.segment if segment else domains.NO_LEVEL,
        segment_size=limit.segment_size if segment else 1,
        spread=limit.spread if spread else domains.NO_LEVEL,
        max_pods=limit.max_pods if spread else fit.UNLIMITED,
    )


def _fixed(fabric_tree: tree.CompiledTree, grants: tuple[state.Grant, ...]) -> Chosen:
    """Return grants in places that were given: there was nothing to compare them with."""
    nodes, pods = np.unique([grant.node for grant in grants], return_counts=True)
    return Chosen(pack.Pack(domains.common(fabric_tree, int(nodes[0]), int(nodes[-1])), nodes, pods), grants)


def _beside(fabric_tree: tree.CompiledTree, required: str, node: int, within: int) -> int:
    """Return the domain of the required level that a node is in, within a domain."""
    index = fabric_tree.level_index(required) if required else None
    vertex = int(fabric_tree.ancestor[index][node]) if index is not None else within
    return max(assigned.inside(fabric_tree, vertex, within), within)


def _by_role(answer: placement.Placement) -> dict[str, Chosen]:
    """Take a placement apart by roles."""
    found, first = {}, 0
    for role in answer.gang.roles:
        grants = answer.grants[first : first + role.count]
        first += role.count
        nodes, pods = np.unique([grant.node for grant in grants], return_counts=True)
        found[role.name] = Chosen(pack.Pack(0, nodes, pods), grants)
    return found


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
    return _answer(snapshot, gang, chosen, score, tiers)


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
        return isinstance(_place_assigned(snapshot, gang, score, tiers, within), placement.Placement)
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
) -> list[Chosen] | None:
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
) -> list[Chosen] | None:
    """Choose nodes for `counts` pods of each role; roles without pods are left out."""
    filled = [row for row, count in enumerate(counts) if count]
    if len(filled) == 1:
        role, pod = gang.roles[filled[0]], wanted[filled[0]]
        held = _capacity(snapshot, pod, domains.bounds(snapshot.topology.tree, gang.constraint, role))
        only = choose_nodes(snapshot, pod, held, counts[filled[0]], score, tiers, within)
        return None if only is None else [replace(only, grants=_grants(snapshot, pod, only.pack, score))]
    return _choose_roles(snapshot, gang, wanted, counts, score, tiers, within)


def _capacity(snapshot: state.Snapshot, pod: demand.Demand, limit: domains.Bounds) -> domains.Capacity:
    return domains.capacity(snapshot.topology.tree, fit.pods_that_fit(snapshot, pod), limit)


def choose_nodes(
    snapshot: state.Snapshot,
    pod: demand.Demand,
    held: domains.Capacity,
    need: int,
    score: scoring.Scoring,
    tiers: bandwidth.Tiers,
    within: int = 0,
) -> Chosen | None:
    """Choose nodes for the pods of one role by the policy's domain rule.

    Returns
    -------
    Chosen or None
        None exactly when ``held`` has no domain for them.
    """
    fabric_tree = snapshot.topology.tree
    rules = score.policy.spec.gangs
    found: pack.Pack | None
    match rules.domains:
        case "opportunity-cost":
            ranked = search.opportunity_cost(snapshot, pod, held, need, rules, tiers, within)
            return Chosen(ranked[0].pack, (), ranked[0].price.terms, tuple(ranked[1:])) if ranked else None
        case "tas-best-fit" | "tas-least-free":
            found = tas.choose(fabric_tree, held, need, rules.domains == "tas-least-free", within)
        case "first-fit":
            found = _first_fit(snapshot, held, need, within)
    return None if found is None else Chosen(found)


def _first_fit(snapshot: state.Snapshot, held: domains.Capacity, need: int, within: int) -> pack.Pack | None:
    """Fill the nodes in their order inside the first domain of the required level that holds all pods."""
    fabric_tree = snapshot.topology.tree
    end = int(fabric_tree.end[within])
    level = max(held.bounds.required, int(fabric_tree.level[within]))
    able = np.flatnonzero((held.whole[within:end] >= need) & (fabric_tree.level[within:end] == level))
    if not len(able):
        return None
    return pack.fill(fabric_tree, held, int(able[0]) + within, need, "in-order", np.zeros_like(held.room))


def _choose_roles(
    snapshot: state.Snapshot,
    gang: gangs.Gang,
    wanted: Sequence[demand.Demand],
    counts: Sequence[int],
    score: scoring.Scoring,
    tiers: bandwidth.Tiers,
    within: int,
) -> list[Chosen] | None:
    """Choose nodes for several roles: domain by domain, hardest role first, then in the opposite order."""
    fleet = snapshot.topology
    limits = [domains.bounds(fleet.tree, gangs.TopologyConstraint(), role) for role in gang.roles]
    filled = [row for row, count in enumerate(counts) if count]
    held = {row: _capacity(snapshot, wanted[row], limits[row]) for row in filled}
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
) -> dict[int, Chosen] | None:
    """Place the roles in a domain one after the other, each on what the ones before it leave of `work`."""
    fabric_tree = work.topology.tree
    low, high = int(fabric_tree.first_node[domain]), int(fabric_tree.last_node[domain])
    found: dict[int, Chosen] = {}
    for row in order:
        counted = np.zeros(len(work.up), dtype=np.int32)
        counted[low:high] = fit.pods_that_fit(work, wanted[row], low, high)
        held = domains.capacity(fabric_tree, counted, limits[row])
        chosen = choose_nodes(work, wanted[row], held, counts[row], score, tiers, domain)
        if chosen is None:
            return None
        found[row] = replace(chosen, grants=_grants(work, wanted[row], chosen.pack, score))
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


def _grants(
    snapshot: state.Snapshot, pod: demand.Demand, chosen: pack.Pack, score: scoring.Scoring
) -> tuple[state.Grant, ...]:
    """Return the grants of one role in rank order."""
    rules = score.policy.spec.gangs
    nodes, pods = chosen.nodes, chosen.pods
    if rules.domains in ("tas-best-fit", "tas-least-free"):
        order = tas.ranks(snapshot.topology.tree, nodes)
        nodes, pods = nodes[order], pods[order]
    return devices.grants_of_role(snapshot, pod, nodes.tolist(), pods.tolist(), rules.devices)


def _answer(
    snapshot: state.Snapshot,
    gang: gangs.Gang,
    chosen: Sequence[Chosen],
    score: scoring.Scoring,
    tiers: bandwidth.Tiers,
) -> placement.Placement:
    """Put the roles together in rank order."""
    fleet = snapshot.topology
    grants = tuple(grant for one in chosen for grant in one.grants)
    nodes = [grant.node for grant in grants]
    domain = domains.common(fleet.tree, min(nodes), max(nodes))
    return placement.Placement(
        gang=gang,
        grants=grants,
        domain=fleet.tree.names[domain],
        level=fleet.tree.levels[int(fleet.tree.level[domain])],
        bandwidth_mb_s=predict(fleet, grants, score, tiers),
        terms=_sum_terms(chosen),
        runners_up=_runners_up(fleet, chosen[0]),
    )


def _sum_terms(chosen: Sequence[Chosen]) -> placement.Terms:
    """Add the score terms of all roles, by name."""
    sums: dict[str, int] = {}
    for one in chosen:
        for name, value in one.terms:
            sums[name] = sums.get(name, 0) + value
    return tuple(sums.items())


def predict(
    fleet: topology.Topology, grants: Sequence[state.Grant], score: scoring.Scoring, tiers: bandwidth.Tiers
) -> int:
    """Predict the bandwidth of the collective over the whole GPUs of some grants, MB/s; 0 with shares or partitions."""
    if any(grant.mask and grant.milli != state.FULL for grant in grants):
        return 0
    masks: dict[int, int] = {}
    for grant in grants:
        masks[grant.node] = masks.get(grant.node, 0) | grant.mask
    nodes = np.array(sorted(masks), dtype=np.int64)
    used = np.array([masks[node] for node in sorted(masks)], dtype=np.int64)
    start = np.zeros(1, dtype=np.int64)
    return int(bandwidth.predict(fleet, score.policy.spec.gangs.devices, tiers, nodes, used, start)[0])


def _runners_up(fleet: topology.Topology, chosen: Chosen) -> tuple[placement.Candidate, ...]:
    """Return the next best domains, the best pack of each."""
    best: dict[int, placement.Terms] = {}
    for other in chosen.others:
        if other.pack.domain != chosen.pack.domain:
            best.setdefault(other.pack.domain, other.price.terms)
    names, levels = fleet.tree.names, fleet.tree.levels
    return tuple(
        placement.Candidate(names[domain], levels[int(fleet.tree.level[domain])], terms)
        for domain, terms in list(best.items())[:RUNNERS_UP]
    )
