"""Devices for some pods of a gang, beside those that run: replacements, and pods that were added.

The pods that run do not move, so a replacement is looked for from the tightest domain that holds them upwards, never
above what the gang, its role and its segment require.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from scheduler.model import gang as gangs
from scheduler.model import reasons
from scheduler.placement import bandwidth, choice, domains, engine, placement, plan, scoring
from scheduler.snapshot import state, topology

Kept = Mapping[int, state.Grant]
"""Grants of the pods that stay, by rank."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Missing pods of one role (and segment, where it has segments) that go into one search."""

    role: gangs.Role
    ranks: tuple[int, ...]
    mates: tuple[int, ...]
    places: tuple[gangs.Place, ...] = ()


def fill(
    snapshot: state.Snapshot,
    gang: gangs.Gang,
    kept: Kept,
    score: scoring.Scoring,
    tiers: bandwidth.Tiers = bandwidth.DEFAULT,
) -> placement.Placement | reasons.Rejection:
    """Find devices for the pods of a gang that have none.

    Parameters
    ----------
    snapshot : Snapshot
        What `kept` holds is taken in it. Unchanged in the end.
    kept : Mapping
        Empty for a gang that is placed anew.

    Returns
    -------
    Placement
        Of the whole gang, with the kept grants as they are.
    """
    if not kept:
        return engine.place(snapshot, gang, score, tiers)
    trial, found = plan.Plan(snapshot), dict(kept)
    try:
        for group in _groups(gang, kept):
            answer = _place(snapshot, gang, group, found, score, tiers)
            if isinstance(answer, reasons.Rejection):
                return replace(answer, gang=gang.name)
            for rank, grant in zip(group.ranks, answer.grants, strict=True):
                trial.take(grant)
                found[rank] = grant
    finally:
        trial.rollback()
    grants = tuple(found[rank] for rank in sorted(found))
    crowded = _crowded(snapshot.topology, gang, found)
    return crowded or located(snapshot.topology, gang, grants, score, tiers)


def located(
    fleet: topology.Topology,
    gang: gangs.Gang,
    grants: tuple[state.Grant, ...],
    score: scoring.Scoring,
    tiers: bandwidth.Tiers,
) -> placement.Placement:
    """Describe grants that were not chosen just now: their tightest domain and predicted bandwidth; no score terms."""
    nodes = [grant.node for grant in grants]
    domain = domains.common(fleet.tree, min(nodes), max(nodes))
    level = fleet.tree.levels[int(fleet.tree.level[domain])]
    return placement.Placement(
        gang, grants, fleet.tree.names[domain], level, choice.predict(fleet, grants, score, tiers)
    )


def hold_all(snapshot: state.Snapshot, grants: Sequence[state.Grant]) -> str:
    """Take all grants, also on nodes that are down, or none; say what is not free, "" when all were taken."""
    taken: list[state.Grant] = []
    for grant in grants:
        try:
            snapshot.hold(grant)
        except state.InvariantError as error:
            for held in reversed(taken):
                snapshot.release(held)
            return str(error)
        taken.append(grant)
    return ""


def _groups(gang: gangs.Gang, kept: Kept) -> Iterator[_Group]:
    """Yield what is missing, in rank order."""
    parts: dict[tuple[str, int], list[int]] = {}
    roles = {role.name: role for role in gang.roles}
    indices = {rank: index for rank, _, index in gang.ranks()}
    for rank, role, index in gang.ranks():
        segment = index // role.segment.size if role.segment else 0
        parts.setdefault((role.name, segment), []).append(rank)
    for (name, _), ranks in parts.items():
        missing = tuple(rank for rank in ranks if rank not in kept)
        if missing:
            places = roles[name].places_of(indices[rank] for rank in missing)
            yield _Group(roles[name], missing, tuple(rank for rank in ranks if rank in kept), places)


def _place(
    snapshot: state.Snapshot,
    gang: gangs.Gang,
    group: _Group,
    found: Kept,
    score: scoring.Scoring,
    tiers: bandwidth.Tiers,
) -> placement.Placement | reasons.Rejection:
    """Search from the tightest domain of those that run upwards; the refusal is that of the largest domain allowed."""
    role = gangs.Role(group.role.name, len(group.ranks), group.role.request, places=group.places)
    part = gangs.Gang(gang.name, (role,), gang.tenant, within=gang.within)
    answer: placement.Placement | reasons.Rejection | None = None
    for within in _climb(snapshot.topology, gang, group, found):
        answer = engine.place(snapshot, part, score, tiers, within)
        if isinstance(answer, placement.Placement):
            return answer
    return answer or engine.place(snapshot, part, score, tiers)


def _climb(fleet: topology.Topology, gang: gangs.Gang, group: _Group, found: Kept) -> Iterator[int]:
    """Yield domains around the pods that run, tightest first, up to the largest that every requirement allows."""
    tree = fleet.tree
    near = [found[rank].node for rank in group.mates] or [grant.node for grant in found.values()]
    required = [gang.constraint.required, group.role.constraint.required]
    if group.role.segment and group.mates:
        required.append(group.role.segment.level)
    top = max((tree.level_index(name) or 0 for name in required if name), default=0)
    vertex = domains.common(tree, min(near), max(near))
    while vertex >= 0 and int(tree.level[vertex]) >= top:
        yield vertex
        vertex = int(tree.parent[vertex])


def _crowded(fleet: topology.Topology, gang: gangs.Gang, found: Kept) -> reasons.Rejection | None:
    """Return the refusal when the pods together break a role's spread."""
    rank = 0
    for role in gang.roles:
        nodes = [found[r].node for r in range(rank, rank + role.count) if r in found]
        rank += role.count
        level = fleet.tree.level_index(role.spread.level) if role.spread else None
        if role.spread is None or level is None:
            continue
        domain = [int(fleet.tree.ancestor[level][node]) for node in nodes]
        worst = max(domain, key=domain.count)
        over = domain.count(worst) - role.spread.max_pods
        if over > 0:
            name = fleet.tree.names[worst] if worst >= 0 else ""
            return reasons.Rejection(gang.name, reasons.Reason.SPREAD, role.spread.level, name, over)
    return None
