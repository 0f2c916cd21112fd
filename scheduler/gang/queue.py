"""Gangs that wait, in order, grouped by what they ask for.

Two gangs of one shape ask for the same, so that one refusal speaks for all of them: a refused shape stays blocked until
room appears that could matter. A pass over the queue therefore touches shapes, not gangs.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

from scheduler.model import gang as gangs
from scheduler.model import reasons, request

ShapeKey = tuple[tuple[gangs.Role, ...], gangs.TopologyConstraint, int]
Key = tuple[int, int]
"""Place in the queue: negated priority, then number of submission."""


@dataclass(slots=True, eq=False)
class Waiting:
    """One gang in the queue.

    `said` is the reason that the outside was last given.
    """

    gang: gangs.Gang
    key: Key
    since: float
    shape: "Shape"
    said: reasons.Reason | None = None
    gone: bool = False


@dataclass(slots=True, eq=False)
class Shape:
    """Waiting gangs that ask for the same.

    Attributes
    ----------
    heap : list of (Key, int, Waiting)
        Lazily cleaned: entries that are `gone` are skipped. The number tells an entry from a gone one of the same key.
    refusal : Rejection or None
        Why the shape is blocked, None while it is not.
    asked : int
        Version of the snapshot that `refusal` speaks of.
    whole_gpus : int
        Wholly free GPUs without which no gang of the shape can start: the test that keeps it blocked for nothing.
    """

    heap: list[tuple[Key, int, Waiting]] = field(default_factory=list)
    refusal: reasons.Rejection | None = None
    asked: int = 0
    whole_gpus: int = 0

    def head(self) -> Waiting | None:
        """Return the first gang of the shape."""
        while self.heap and self.heap[0][2].gone:
            heapq.heappop(self.heap)
        return self.heap[0][2] if self.heap else None


@dataclass(slots=True, eq=False)
class Queue:
    """All waiting gangs; `added` counts the entries ever made."""

    waiting: dict[str, Waiting] = field(default_factory=dict)
    shapes: dict[ShapeKey, Shape] = field(default_factory=dict)
    added: int = 0

    def add(self, gang: gangs.Gang, number: int, now: float) -> Waiting:
        """Queue a gang in the place that its priority and number give it."""
        key = gang.roles, gang.constraint, gang.min_member
        shape = self.shapes.get(key)
        if shape is None:
            shape = self.shapes[key] = Shape(whole_gpus=_whole_gpus(gang))
        entry = Waiting(gang, (-gang.priority, number), now, shape)
        self.added += 1
        heapq.heappush(shape.heap, (entry.key, self.added, entry))
        self.waiting[gang.name] = entry
        return entry

    def remove(self, name: str) -> Waiting | None:
        """Take a gang out, None when it does not wait."""
        entry = self.waiting.pop(name, None)
        if entry is not None:
            entry.gone = True
        return entry

    def unblock(self, free_gpus: int) -> None:
        """Room appeared: forget the refusals of shapes that `free_gpus` wholly free GPUs do not still rule out."""
        for shape in self.shapes.values():
            if shape.refusal is not None and shape.whole_gpus <= free_gpus:
                shape.refusal = None

    def next(self) -> Waiting | None:
        """Return the first gang whose shape is not blocked."""
        heads = (shape.head() for shape in self.shapes.values() if shape.refusal is None)
        return min((head for head in heads if head), key=lambda entry: entry.key, default=None)

    def head(self) -> Waiting | None:
        """Return the first gang of all."""
        heads = (shape.head() for shape in self.shapes.values())
        return min((head for head in heads if head), key=lambda entry: entry.key, default=None)

    def in_order(self) -> Iterator[Waiting]:
        """Yield all gangs in order; the queue may be changed meanwhile."""
        yield from sorted(self.waiting.values(), key=lambda entry: entry.key)


def _whole_gpus(gang: gangs.Gang) -> int:
    """Return the whole GPUs that a gang can't do without."""
    if gang.minimum < gang.size:
        return 0
    whole = (role for role in gang.roles if role.request.kind is request.RequestKind.WHOLE)
    return sum(role.count * role.request.gpus for role in whole)
