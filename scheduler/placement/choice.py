"""Nodes and devices for one role by the policy's domain rule, and roles put together as an answer."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scheduler.model import gang as gangs
from scheduler.placement import bandwidth, devices, domains, fit, pack, placement, scoring, search, tas
from scheduler.snapshot import demand, state, topology

RUNNERS_UP = 3
"""Domains, or nodes, beside the chosen one that are told."""


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """Nodes and devices for one role, and what the nodes were compared with."""

    pack: pack.Pack
    grants: tuple[state.Grant, ...] = ()
    terms: placement.Terms = ()
    others: tuple[search.Scored, ...] = ()


def capacity(snapshot: state.Snapshot, pod: demand.Demand, limit: domains.Bounds) -> domains.Capacity:
    """Return how many pods of a role every node and domain can take now."""
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


def grants(
    snapshot: state.Snapshot, pod: demand.Demand, chosen: pack.Pack, score: scoring.Scoring
) -> tuple[state.Grant, ...]:
    """Return the grants of one role in rank order."""
    rules = score.policy.spec.gangs
    nodes, pods = chosen.nodes, chosen.pods
    if rules.domains in ("tas-best-fit", "tas-least-free"):
        order = tas.ranks(snapshot.topology.tree, nodes)
        nodes, pods = nodes[order], pods[order]
    return devices.grants_of_role(snapshot, pod, nodes.tolist(), pods.tolist(), rules.devices)


def answer(
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
