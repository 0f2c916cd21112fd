"""EASY back-fill: when will the head of the queue start, and who may start before it without delaying it?

Source: Lifka, "The ANL/IBM SP scheduling system" (JSSPP 1995); Mu'alem and Feitelson (TPDS 2001). There a job needs a
number of processors; here "fits" is the engine's own question about topology and devices.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scheduler.model import gang as gangs
from scheduler.placement import bandwidth, engine, placement, scoring
from scheduler.snapshot import state


@dataclass(frozen=True, slots=True, eq=False)
class Shadow:
    """The head's reservation.

    Attributes
    ----------
    time : float
        Expected start of the head; infinite when the declared run times do not tell.
    at_start : Snapshot
        What will be free then, if nothing else starts.
    """

    head: gangs.Gang
    time: float
    at_start: state.Snapshot


def shadow(
    snapshot: state.Snapshot,
    head: gangs.Gang,
    running: Iterable[tuple[float, Sequence[state.Grant]]],
    scored: scoring.Scoring,
    tiers: bandwidth.Tiers,
) -> Shadow:
    """Find the head's expected start.

    Parameters
    ----------
    running : iterable of (float, sequence of Grant)
        Expected end and grants of every running gang; infinite for undeclared ends.

    Notes
    -----
    Gangs are released in the order of their ends until the head fits: a bisection, since more room never hurts a fit.
    """
    ends = sorted((one for one in running if one[0] < math.inf), key=lambda one: one[0])
    low, high = 0, len(ends)
    while low < high:
        middle = (low + high) // 2
        if engine.fits(_released(snapshot, ends[: middle + 1]), head, scored, tiers):
            high = middle
        else:
            low = middle + 1
    if low == len(ends):
        return Shadow(head, math.inf, _released(snapshot, ends))
    return Shadow(head, ends[low][0], _released(snapshot, ends[: low + 1]))


def harmless(
    ahead: Shadow, found: placement.Placement, end: float, scored: scoring.Scoring, tiers: bandwidth.Tiers
) -> bool:
    """Tell whether starting `found` now leaves the head's start where it is.

    Either it ends by then, or the head fits beside it at that time.
    """
    if end <= ahead.time:
        return True
    trial = ahead.at_start.copy()
    for grant in found.grants:
        trial.take(grant)
    return engine.fits(trial, ahead.head, scored, tiers)


def _released(snapshot: state.Snapshot, ends: Sequence[tuple[float, Sequence[state.Grant]]]) -> state.Snapshot:
    """Return a copy in which these gangs are gone."""
    later = snapshot.copy()
    for _, grants in ends:
        for grant in grants:
            later.release(grant)
    return later
