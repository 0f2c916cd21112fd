"""Moves: whole gangs to put elsewhere so that a domain of the wanted size opens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from scheduler.model import gang as gangs
from scheduler.model import reasons
from scheduler.placement import bandwidth, clearing, engine, placement, scoring
from scheduler.snapshot import bulk, state


@dataclass(frozen=True, slots=True)
class Move:
    """One gang from its old devices to new ones."""

    running: clearing.Running
    placement: placement.Placement


@dataclass(frozen=True, slots=True)
class Defragmentation:
    """A gang's placement once some gangs have moved.

    Attributes
    ----------
    moves : tuple of Move
        To be carried out together: all old grants are released before the new ones are taken, `placement` first, then
        the moves in this order.
    cost : int
        Sum of the moved gangs' costs.
    """

    moves: tuple[Move, ...]
    placement: placement.Placement
    cost: int


def defragment(
    snapshot: state.Snapshot,
    gang: gangs.Gang,
    score: scoring.Scoring,
    running: Sequence[clearing.Running],
    tiers: bandwidth.Tiers = bandwidth.DEFAULT,
    most: int = clearing.NO_LIMIT,
    trials: int = clearing.NO_LIMIT,
) -> Defragmentation | reasons.Rejection:
    """Find gangs to move so that a gang fits, whatever its priority.

    Parameters
    ----------
    running : sequence of Running
        What holds the devices of `snapshot`. Only preemptible gangs are moved.
    most : int
        Plans that move more gangs are not worth it.
    trials : int
        After asking so many times whether the gang fits, the best plan so far is returned: what bounds the time.

    Returns
    -------
    Defragmentation
        A plan: nothing is moved, `snapshot` is unchanged to the byte.
    Rejection
        Why the gang does not fit; its detail tells that no moves were found.

    Notes
    -----
    Domain by domain: the cheapest clearing, the gang into the room, then the moved gangs one after the other, largest
    first, wherever the engine puts them. The cheapest domain in which all of them find a place wins.
    """
    answer = engine.place(snapshot, gang, score, tiers)
    if isinstance(answer, placement.Placement):
        return Defragmentation((), answer, 0)
    movable = [one for one in running if one.gang.preemptible]
    movable.sort(key=lambda one: (one.price, one.gang.name))
    if answer.permanent or not movable:
        return answer
    emptied = clearing.without(snapshot, movable)
    pool = clearing.pool(movable)
    best: Defragmentation | None = None
    ceiling = sum(one.price for one in movable) + 1
    budget = clearing.Budget(trials)
    for domain in clearing.candidates(snapshot, emptied, gang, score):
        fits = budget.counting(partial(engine.fits, gang=gang, score=score, tiers=tiers, within=domain))
        try:
            gone = clearing.clear(snapshot, pool, domain, fits, ceiling)
        except clearing.Spent:
            break
        found = None if gone is None or len(gone) > most else _resettle(snapshot, gone, gang, score, tiers, domain)
        if found is not None:
            best, ceiling = found, found.cost
    detail = f"{answer.detail}; " if answer.detail else ""
    return best or replace(answer, detail=detail + "no moves of running gangs were found that would help")


def _resettle(
    snapshot: state.Snapshot,
    gone: Sequence[clearing.Running],
    gang: gangs.Gang,
    score: scoring.Scoring,
    tiers: bandwidth.Tiers,
    domain: int,
) -> Defragmentation | None:
    """Place the gang in a cleared domain and the gangs that had to go elsewhere; None when one finds no place."""
    room = clearing.without(snapshot, gone)
    wanted = engine.place(room, gang, score, tiers, domain)
    if not isinstance(wanted, placement.Placement):
        return None
    bulk.take_all(room, wanted.grants)
    moves = []
    for one in sorted(gone, key=lambda moved: (-moved.gang.gpus, moved.gang.name)):
        elsewhere = engine.place(room, one.gang, score, tiers)
        if not isinstance(elsewhere, placement.Placement) or len(elsewhere.grants) < len(one.grants):
            return None
        bulk.take_all(room, elsewhere.grants)
        moves.append(Move(one, elsewhere))
    return Defragmentation(tuple(moves), wanted, sum(move.running.price for move in moves))
