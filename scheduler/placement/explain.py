"""The story of one decision: what was chosen and at what price, what came next, and why nothing tighter or else."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from scheduler.model import gang as gangs
from scheduler.model import reasons
from scheduler.placement import bandwidth, choice, domains, engine, fit, placement, scoring
from scheduler.snapshot import demand, state

MOST = 5
"""Domains told of for each level."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """One decision, told in full.

    Attributes
    ----------
    decision : Placement or Rejection
        What `engine.place` answers on the same snapshot.
    policy : str
        Name of the scoring policy.
    compared : tuple of Candidate
        The chosen domain first, then the runners-up, with their score terms.
    passed_over : tuple of Candidate
        Domains that were not compared, finest level first, each with the reason.

    Notes
    -----
    The terms of a lone pod add up to its cost in the unit of the pod rule (nano-GPU for the opportunity cost). Those of a
    gang are milli-GPU before they are weighed.
    """

    gang: str
    policy: str
    decision: placement.Placement | reasons.Rejection
    compared: tuple[placement.Candidate, ...]
    passed_over: tuple[placement.Candidate, ...]

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def explain(
    snapshot: state.Snapshot,
    gang: gangs.Gang,
    score: scoring.Scoring,
    tiers: bandwidth.Tiers = bandwidth.DEFAULT,
    most: int = MOST,
) -> Explanation:
    """Decide again, and tell why.

    Parameters
    ----------
    most : int
        Domains told of for each level; those that come nearest go first.

    Notes
    -----
    Deciding is deterministic, so the story of a past decision is this function on the snapshot of that time.
    """
    decision = engine.place(snapshot, gang, score, tiers)
    compared: tuple[placement.Candidate, ...] = ()
    if isinstance(decision, placement.Placement):
        compared = tuple(_nodes(snapshot, gang, score)) if engine.lone(gang) else _domains(decision)
    known = set(engine.levels(gang)) <= set(snapshot.topology.tree.levels)
    passed = tuple(_passed_over(snapshot, gang, score, compared, most)) if known else ()
    return Explanation(gang.name, score.policy.metadata.name, decision, compared, passed)


def _domains(decision: placement.Placement) -> tuple[placement.Candidate, ...]:
    """Return the domains that were compared for a gang."""
    return placement.Candidate(decision.domain, decision.level, decision.terms), *decision.runners_up


def _nodes(snapshot: state.Snapshot, gang: gangs.Gang, score: scoring.Scoring) -> Iterator[placement.Candidate]:
    """Yield the best nodes for a lone pod, with the terms that make up their costs."""
    fleet = snapshot.topology
    wanted = score.demand(gang.roles[0].request)
    for node in score.ranking(snapshot, wanted, 0, len(fleet.nodes), 1 + choice.RUNNERS_UP):
        yield placement.Candidate(
            fleet.nodes[node.node].name, fleet.tree.levels[-1], score.terms(snapshot, wanted, node)
        )


def _passed_over(
    snapshot: state.Snapshot,
    gang: gangs.Gang,
    score: scoring.Scoring,
    compared: Sequence[placement.Candidate],
    most: int,
) -> Iterator[placement.Candidate]:
    """Yield the domains that were not compared, level by level, the nearest first."""
    tree = snapshot.topology.tree
    wanted = [score.demand(role.request) for role in gang.roles]
    limits = [domains.bounds(tree, gang.constraint, role) for role in gang.roles]
    held = [
        domains.capacity(tree, fit.pods_that_fit(snapshot, pod), limit)
        for pod, limit in zip(wanted, limits, strict=True)
    ]
    told = {candidate.domain for candidate in compared}
    coarsest = tree.level_index(compared[0].level) if compared else max(limit.required for limit in limits)
    for level in range(len(tree.levels) - 1, (coarsest or 0) - 1, -1):
        vertices = np.flatnonzero(tree.level == level)
        nearest = np.lexsort((vertices, -held[0].whole[vertices]))
        rest = [v for v in vertices[nearest].tolist() if tree.names[v] not in told]
        for vertex in rest[:most]:
            why = _why(snapshot, gang, wanted, held, vertex)
            yield placement.Candidate(tree.names[vertex], tree.levels[level], refusal=why)


def _why(
    snapshot: state.Snapshot,
    gang: gangs.Gang,
    wanted: Sequence[demand.Demand],
    held: Sequence[domains.Capacity],
    vertex: int,
) -> str:
    """Say why a domain was not chosen: what it lacks, or that others came first."""
    for role, pod, capacity in zip(gang.roles, wanted, held, strict=True):
        room = int(capacity.whole[vertex])
        if room < role.count:
            who = f" of role {role.name}" if len(gang.roles) > 1 else ""
            return f"holds {room} of {role.count} pods{who}: {_allowances(snapshot, pod, capacity, vertex)}"
    return "holds every role, but was not among the best by the order of the domain rule"


def _allowances(snapshot: state.Snapshot, pod: demand.Demand, capacity: domains.Capacity, vertex: int) -> str:
    """Say how many pods each resource allows in a domain, and what the topology constraints leave of that."""
    tree = snapshot.topology.tree
    part = slice(int(tree.first_node[vertex]), int(tree.last_node[vertex]))
    words: list[str] = []
    for limit in fit.limits(snapshot, pod):
        pods = int(limit.pods[part].sum(dtype=np.int64))
        if limit.reason is not reasons.Reason.PODS or not words:
            words.append(f"{limit.unit} for {pods}")
    together = int(fit.pods_that_fit(snapshot, pod, part.start, part.stop).sum())
    if int(capacity.whole[vertex]) < together:
        words.append(f"segments, spread or a missing level leave {int(capacity.whole[vertex])} of {together}")
    return ", ".join(words)


def _lines(story: Explanation) -> Iterator[str]:
    """Yield the text of an explanation."""
    yield f"gang {story.gang} under policy {story.policy}"
    if isinstance(story.decision, placement.Placement):
        answer = story.decision
        pods = f"{len(answer.grants)} of {answer.gang.size} pods"
        yield f"placed: {pods} on {len(answer.nodes)} nodes of {answer.level} {answer.domain}"
        yield f"predicted bandwidth: {answer.bandwidth_mb_s} MB/s"
    else:
        yield f"refused: {story.decision}"
    for turn, candidate in enumerate(story.compared):
        terms = ", ".join(f"{name} {value}" for name, value in candidate.terms) or "first in the order of the rule"
        yield f"{'chosen' if not turn else f'runner-up {turn}'}: {candidate.level} {candidate.domain}: {terms}"
    for candidate in story.passed_over:
        yield f"passed over: {candidate.level} {candidate.domain}: {candidate.refusal}"
