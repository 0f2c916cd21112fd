"""Victims: the cheapest set of whole gangs to evict so that a gang of higher priority fits."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from scheduler.model import gang as gangs
from scheduler.model import reasons
from scheduler.placement import bandwidth, clearing, engine, placement, scoring
from scheduler.snapshot import state


@dataclass(frozen=True, slots=True)
class Preemption:
    """A gang's placement once its victims are gone.

    Attributes
    ----------
    victims : tuple of Running
        Whole gangs, all of lower priority; none can be spared. Empty when the gang fits as it is.
    placement : Placement
        Valid after all grants of the victims have been released.
    cost : int
        Sum of the victims' costs.
    """

    victims: tuple[clearing.Running, ...]
    placement: placement.Placement
    cost: int


def preempt(
    snapshot: state.Snapshot,
    gang: gangs.Gang,
    score: scoring.Scoring,
    running: Sequence[clearing.Running],
    tiers: bandwidth.Tiers = bandwidth.DEFAULT,
    trials: int = clearing.NO_LIMIT,
) -> Preemption | reasons.Rejection:
    """Choose victims for a gang.

    Parameters
    ----------
    running : sequence of Running
        What holds the devices of `snapshot`. Gangs that are not preemptible, or not of lower priority, are left alone.
    trials : int
        After asking so many times whether the gang fits, the cheapest victims so far are returned, though some could be
        spared; or a rejection where none were found yet.

    Returns
    -------
    Preemption
        A plan: nothing is released, `snapshot` is unchanged to the byte.
    Rejection
        The gang does not fit even without all possible victims.

    Notes
    -----
    Domain by domain (`clearing.candidates`), the cheapest clearing wins; ties go to fewer victims, then to the domain
    that was tried first. It is the optimum where a domain has at most `clearing.EXACT` possible victims, and minimal
    everywhere.
    """
    answer = engine.place(snapshot, gang, score, tiers)
    if isinstance(answer, placement.Placement):
        return Preemption((), answer, 0)
    if answer.permanent:
        return answer
    weaker = [one for one in running if one.gang.preemptible and one.gang.priority < gang.priority]
    weaker.sort(key=lambda one: (one.price, one.gang.priority, one.gang.name))
    emptied = clearing.without(snapshot, weaker)
    if not weaker or not engine.fits(emptied, gang, score, tiers):
        return replace(answer, detail=_also(answer.detail, len(weaker)))
    movable = clearing.pool(weaker)
    best: tuple[clearing.Running, ...] | None = None
    ceiling = sum(one.price for one in weaker) + 1
    budget = clearing.Budget(trials)
    victims = tuple(weaker)
    try:
        for domain in clearing.candidates(snapshot, emptied, gang, score):
            fits = budget.counting(partial(engine.fits, gang=gang, score=score, tiers=tiers, within=domain))
            found = clearing.clear(snapshot, movable, domain, fits, ceiling)
            if found is not None:
                best = victims = found
                ceiling = sum(one.price for one in found)
        # Confined to one domain the victims are all needed; with the whole fleet to choose from, perhaps not.
        anywhere = budget.counting(partial(engine.fits, gang=gang, score=score, tiers=tiers))
        victims = clearing.prune(snapshot, victims, anywhere)
    except clearing.Spent:
        if best is None:
            return replace(answer, detail=_also(answer.detail, len(weaker), "was not found to help in time"))
    final = engine.place(clearing.without(snapshot, victims), gang, score, tiers)
    if not isinstance(final, placement.Placement):
        raise state.InvariantError(f"gang {gang.name} fits without its victims by counts, but has no placement")
    return Preemption(victims, final, sum(one.price for one in victims))


def _also(detail: str, count: int, word: str = "would not help") -> str:
    """Say that eviction would not help either."""
    words = f"evicting all {count} gangs of lower priority {word}" if count else "no gang of lower priority"
    return f"{detail}; {words}" if detail else words
