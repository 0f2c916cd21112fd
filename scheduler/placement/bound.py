"""Places gangs of which some roles were given their places: these first, then the others on what they leave."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from scheduler.model import gang as gangs
from scheduler.model import reasons
from scheduler.placement import assigned, bandwidth, choice, devices, domains, fit, pack, placement, scoring
from scheduler.snapshot import bulk, state, tree

Others = Callable[[state.Snapshot, gangs.Gang, int], placement.Placement | reasons.Rejection]
"""Places a gang without given places on a snapshot, in a domain."""


def place(
    snapshot: state.Snapshot,
    gang: gangs.Gang,
    score: scoring.Scoring,
    tiers: bandwidth.Tiers,
    within: int,
    others: Others,
) -> placement.Placement | reasons.Rejection:
    """Place a gang, always whole."""
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
        answer = others(work, replace(gang, roles=rest, min_member=0), beside)
        if isinstance(answer, reasons.Rejection):
            return answer
        chosen |= _by_role(answer)
    found_all = [chosen[role.name] for role in gang.roles]
    grants = [grant for one in found_all for grant in one.grants]
    return assigned.broken(snapshot.topology, gang, grants) or choice.answer(snapshot, gang, found_all, score, tiers)


def _fill_places(
    work: state.Snapshot,
    gang: gangs.Gang,
    role: gangs.Role,
    score: scoring.Scoring,
    tiers: bandwidth.Tiers,
    within: int,
) -> choice.Chosen | reasons.Rejection:
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
        chosen = choice.choose_nodes(room, pod, held, count, score, tiers, vertex)
        if chosen is None:
            return assigned.no_room(room, gang, role, pod, vertex, count)
        new = choice.grants(room, pod, chosen.pack, score)
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


def _fixed(fabric_tree: tree.CompiledTree, grants: tuple[state.Grant, ...]) -> choice.Chosen:
    """Return grants in places that were given: there was nothing to compare them with."""
    nodes, pods = np.unique([grant.node for grant in grants], return_counts=True)
    return choice.Chosen(pack.Pack(domains.common(fabric_tree, int(nodes[0]), int(nodes[-1])), nodes, pods), grants)


def _beside(fabric_tree: tree.CompiledTree, required: str, node: int, within: int) -> int:
    """Return the domain of the required level that a node is in, within a domain."""
    index = fabric_tree.level_index(required) if required else None
    vertex = int(fabric_tree.ancestor[index][node]) if index is not None else within
    return max(assigned.inside(fabric_tree, vertex, within), within)


def _by_role(answer: placement.Placement) -> dict[str, choice.Chosen]:
    """Take a placement apart by roles."""
    found, first = {}, 0
    for role in answer.gang.roles:
        grants = answer.grants[first : first + role.count]
        first += role.count
        nodes, pods = np.unique([grant.node for grant in grants], return_counts=True)
        found[role.name] = choice.Chosen(pack.Pack(0, nodes, pods), grants)
    return found
