"""Room for a gang that does not fit: which gangs could go, which could move, and what that comes to as a plan."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from scheduler.gang import config, effects, holdings, quota
from scheduler.model import gang as gangs
from scheduler.placement import bandwidth, clearing, defragment, placement, preempt, scoring
from scheduler.snapshot import state

MOST_MOVED = 16
"""No more gangs than that move for one."""

TRIALS = 400
"""Questions whether the gang fits in one search for moves: some tenths of a second on a fleet of thousands of nodes."""

OFFER_TRIALS = 60
"""The same in one search for victims that are only told: the loop that answers kube-scheduler stands still meanwhile."""

SEARCH_REST_S = 30.0
"""A gang for which no moves were found is not searched for again before."""

SEARCHES = 2
"""Searches for moves in one pass over the queue."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What would let a waiting gang start now. Nothing of it is done.

    Attributes
    ----------
    way : str
        ``preempt``, or ``defragment``.
    gone : tuple of Holding
        Gangs that would be evicted: for good, or to be started elsewhere at once.
    moves : tuple of Move
        Where each of them would run then, in the order in which devices have to be taken; empty for ``preempt``.
    placement : Placement
        Of the gang itself.
    """

    way: config.Way
    gone: tuple[holdings.Holding, ...]
    moves: tuple[defragment.Move, ...]
    placement: placement.Placement


Eviction = Literal[effects.Eviction.PREEMPTED, effects.Eviction.RECLAIMED]


def victims(
    gang: gangs.Gang, held: holdings.Holdings, ledger: quota.Ledger
) -> Iterator[tuple[Eviction, Sequence[clearing.Running]]]:
    """Yield who may be evicted for a gang: first lower priorities, then what other tenants borrowed.

    With quotas priority counts inside a tenant only: across tenants it could undo a reclaim for ever.
    """
    lower = [
        one
        for one in held
        if one.gang.preemptible
        and one.gang.priority < gang.priority
        and (not ledger.quotas or one.gang.tenant == gang.tenant)
    ]
    if lower:
        yield effects.Eviction.PREEMPTED, [clearing.Running(one.gang, one.placement.grants) for one in lower]
    if ledger.entitled(gang):
        newest = sorted(held, key=lambda one: -one.decision)
        others = ledger.borrowed(one.gang for one in newest)
        # `preempt` takes lower priorities only; a borrower yields whatever its priority is.
        borrowed = [
            clearing.Running(replace(other, priority=gang.priority - 1), held[other.name].placement.grants)
            for other in others
            if other.tenant != gang.tenant and other.preemptible
        ]
        if borrowed:
            yield effects.Eviction.RECLAIMED, borrowed


def moves(
    snapshot: state.Snapshot,
    gang: gangs.Gang,
    score: scoring.Scoring,
    held: Iterable[holdings.Holding],
    tiers: bandwidth.Tiers,
    before: float,
) -> defragment.Defragmentation | None:
    """Find gangs to put elsewhere so that a gang fits, None where there are none.

    Parameters
    ----------
    before : float
        Only gangs that hold their devices since then or earlier are moved.

    Notes
    -----
    They are preemptible, of no higher priority, whole, and their pods are made anew by somebody.
    """
    able = [
        clearing.Running(one.gang, one.placement.grants)
        for one in held
        if one.gang.preemptible and one.gang.movable and one.gang.priority <= gang.priority and one.since <= before
    ]
    found = defragment.defragment(snapshot, gang, score, able, tiers, MOST_MOVED, TRIALS)
    return found if isinstance(found, defragment.Defragmentation) and found.moves else None


def offer(
    way: config.Way,
    gang: gangs.Gang,
    snapshot: state.Snapshot,
    score: scoring.Scoring,
    held: holdings.Holdings,
    ledger: quota.Ledger,
    tiers: bandwidth.Tiers,
    before: float,
) -> Offer | None:
    """Return what would make room for a gang in one way, None where nothing would."""
    if way == "defragment":
        found = moves(snapshot, gang, score, held, tiers, before)
        if found is None:
            return None
        return Offer(way, tuple(held[one.running.gang.name] for one in found.moves), found.moves, found.placement)
    for _, weaker in victims(gang, held, ledger):
        plan = preempt.preempt(snapshot, gang, score, weaker, tiers, OFFER_TRIALS)
        if isinstance(plan, preempt.Preemption) and plan.victims:
            return Offer(way, tuple(held[one.gang.name] for one in plan.victims), (), plan.placement)
    return None
