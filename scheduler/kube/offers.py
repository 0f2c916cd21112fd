"""When to look for what would let waiting gangs start, so that looking never holds the loop up for long."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from scheduler.gang import machine, room

LOOKED = 16
"""Gangs at the head of the queue for which it is looked; the others come nearer first."""

GAP_S = 0.5
"""At most one search in this time."""

SHARE = 10.0
"""And none before so many times what the last one took: some tenths of a second on a large fleet."""

AGAIN_S = 30.0
"""A gang's offer is looked at again after this, if the fleet has changed."""


@dataclass(slots=True, eq=False)
class Offers:
    """What was looked for.

    Attributes
    ----------
    standing : dict of gang to Offer
        Offers that hold, as far as was looked.
    """

    clock: Callable[[], float] = time.perf_counter
    standing: dict[str, room.Offer] = field(default_factory=dict)
    _asked: dict[str, tuple[int, float]] = field(default_factory=dict)
    _free_at: float = -math.inf

    def due(self, core: machine.Machine) -> float:
        """Return when the next search is due; infinite for never."""
        return max(self._free_at, min((at for _, at in self._waiting(core)), default=math.inf))

    def turn(self, core: machine.Machine, now: float) -> Iterator[tuple[str, room.Offer | None]]:
        """Yield what came of a search, if one was due: None for an offer that does not hold any more."""
        for name in [name for name in self._asked if name not in core.queue.waiting]:
            del self._asked[name]
            self.standing.pop(name, None)
        name = next((name for name, at in self._waiting(core) if at <= now), "")
        if not name or now < self._free_at:
            return
        self._asked[name] = core.snapshot.version, now
        began = self.clock()
        found = core.offer(name, now)
        self._free_at = now + max(GAP_S, SHARE * (self.clock() - began))
        before = self.standing.pop(name, None)
        if found is not None:
            self.standing[name] = found
        if found is not None or before is not None:
            yield name, found

    def _waiting(self, core: machine.Machine) -> Iterator[tuple[str, float]]:
        """Yield the first waiting gangs with the time from which they may be looked at."""
        if not core.config.offers:
            return
        for _, entry in zip(range(LOOKED), core.queue.in_order(), strict=False):
            asked, at = self._asked.get(entry.gang.name, (-1, -math.inf))
            if asked != core.snapshot.version:
                yield entry.gang.name, at + AGAIN_S
