"""EASY back-fill: when will the head of the queue start, and who may start before it without delaying it?

Source: Lifka, "The ANL/IBM SP scheduling system" (JSSPP 1995); Mu'alem and Feitelson (TPDS 2001). There a job needs a
number of processors; here "fits" is the engine's own question about topology and devices.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scheduler.model import gang as gangs
from scheduler.placement import bandwidth, engine, placement, scoring
from scheduler.snapshot import bulk, state


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
    before_low, with_high = snapshot.copy(), None
    while low < high:
        middle = (low + high) // 2
        trial = _released(before_low, ends[low : middle + 1])
        if engine.fits(trial, head, scored, tiers):
            high, with_high = middle, trial
        else:
            low, before_low = middle + 1, trial
    if with_high is None:
        return Shadow(head, math.inf, before_low)
    return Shadow(head, ends[high][0], with_high)


@dataclass(slots=True, eq=False)
class Candidate:
    """What the engine found for the gangs of one shape, in one pass behind one head.

    Attributes
    ----------
    version : int
        Of the snapshot for which it was found; any start makes it void.
    harmless : bool or None
        Whether the head could start at its time even if the gang has not ended by then; None before that was asked.
    """

    version: int
    placement: placement.Placement
    harmless: bool | None = None


def beside(ahead: Shadow, found: placement.Placement, scored: scoring.Scoring, tiers: bandwidth.Tiers) -> bool:
    """Tell whether the head fits at its time beside `found`."""
    trial = ahead.at_start.copy()
    bulk.take_all(trial, found.grants)
    return engine.fits(trial, ahead.head, scored, tiers)


def _released(snapshot: state.Snapshot, ends: Sequence[tuple[float, Sequence[state.Grant]]]) -> state.Snapshot:
    """Return a copy in which these gangs are gone."""
    later = snapshot.copy()
    bulk.release_all(later, [grant for _, grants in ends for grant in grants])
    return later
