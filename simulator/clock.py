"""Virtual time: a heap of what happens next, in a total order.

After SimPy's core: time, then rank, then order of insertion. The clock never falls.
"""

import heapq
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Rank(IntEnum):
    """What goes first among things that happen at the same moment: room appears before it is asked for."""

    FINISH = 0
    REPAIR = 1
    FAILURE = 2
    SUBMIT = 3
    TICK = 4


@dataclass(slots=True, eq=False)
class Clock(Generic[Item]):
    """Things to come, earliest first; `now` is the time of the last one taken."""

    now: float = 0.0
    _heap: list[tuple[float, int, int, Item]] = field(default_factory=list)
    _added: int = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, time: float, rank: Rank, item: Item) -> None:
        """Schedule `item`.

        Raises
        ------
        ValueError
            `time` is past, or no number.
        """
        if not time >= self.now:
            raise ValueError(f"cannot schedule at {time}, it is {self.now} already")
        self._added += 1
        heapq.heappush(self._heap, (time, int(rank), self._added, item))

    def peek(self) -> tuple[float, int]:
        """Return time and rank of what comes next; infinity when nothing does."""
        return self._heap[0][:2] if self._heap else (float("inf"), 0)

    def take(self) -> Item:
        """Advance to the next thing and return it.

        Raises
        ------
        IndexError
            Nothing is scheduled.
        """
        time, _, _, item = heapq.heappop(self._heap)
        self.now = time
        return item
