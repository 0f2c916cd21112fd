"""Gangs that wait, in order, grouped by what they ask for.

Two gangs of one shape ask for the same, so that one refusal speaks for all of them: a refused shape stays blocked until
room appears that could matter. A pass over the queue therefore touches shapes, not gangs.
"""

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterator
from dataclasses import dataclass, field

from scheduler.model import gang as gangs
from scheduler.model import reasons, request

ShapeKey = tuple[tuple[gangs.Role, ...], gangs.TopologyConstraint, int, str, str]
"""Roles, constraint, minimum and domain; the tenant where quotas tell tenants apart."""

Key = tuple[int, int]
"""Place in the queue: negated priority, then number of submission."""


@dataclass(slots=True, eq=False)
class Waiting:
    """One gang in the queue.

    Attributes
    ----------
    turn : int
        Numbers the entries ever made: tells a gang from its own earlier stay in the same place.
    said : Reason or None
        The reason that the outside was last given.
    furthest : int
        The furthest stage that it was told of, see `news.STAGE`.
    search_after : float
        Until then no moves are looked for again.
    """

    gang: gangs.Gang
    key: Key
    turn: int
    since: float
    shape: "Shape"
    said: reasons.Reason | None = None
    furthest: int = -1
    search_after: float = 0.0
    gone: bool = False


@dataclass(slots=True, eq=False)
class Shape:
    """Waiting gangs that ask for the same.

    Attributes
    ----------
    heap : list of (Key, int, Waiting)
        Lazily cleaned: entries that are `gone` are skipped.
    refusal : Rejection or None
        What the engine said last, None before it was asked.
    asked : int
        Version of the snapshot that `refusal` speaks of.
    told : tuple of (int, Rejection or None)
        What is told of a later version of the snapshot; decides nothing.
    blocked : bool
        Not to be asked again before room appears that could matter.
    whole_gpus : int
        Wholly free GPUs without which no gang of the shape can start.
    """

    key: ShapeKey
    whole_gpus: int
    heap: list[tuple[Key, int, Waiting]] = field(default_factory=list)
    count: int = 0
    refusal: reasons.Rejection | None = None
    asked: int = 0
    told: tuple[int, reasons.Rejection | None] = (-1, None)
    blocked: bool = False

    def head(self) -> Waiting | None:
        """Return the first gang of the shape."""
        while self.heap and self.heap[0][2].gone:
            heapq.heappop(self.heap)
        return self.heap[0][2] if self.heap else None

    def closed(self, free_gpus: int) -> bool:
        """Tell whether the engine would refuse the shape again, as far as that is certain without asking."""
        return self.blocked or (self.refusal is not None and self.whole_gpus > free_gpus)


@dataclass(slots=True, eq=False)
class Queue:
    """All waiting gangs, and the shapes that some of them have.

    Attributes
    ----------
    by_tenant : bool
        Gangs of two tenants are never of one shape.
    added : int
        Entries ever made.
    """

    by_tenant: bool = False
    waiting: dict[str, Waiting] = field(default_factory=dict)
    shapes: dict[ShapeKey, Shape] = field(default_factory=dict)
    added: int = 0
    _order: list[tuple[Key, int, Waiting]] = field(default_factory=list)

    def add(self, gang: gangs.Gang, number: int, now: float) -> Waiting:
        """Queue a gang in the place that its priority and number give it."""
        shape = self._shape(gang)
        self.added += 1
        entry = Waiting(gang, (-gang.priority, number), self.added, now, shape)
        self.waiting[gang.name] = entry
        insort(self._order, (entry.key, entry.turn, entry))
        self._join(entry)
        return entry

    def remove(self, name: str) -> Waiting | None:
        """Take a gang out, None when it does not wait."""
        entry = self.waiting.pop(name, None)
        if entry is not None:
            entry.gone = True
            del self._order[bisect_left(self._order, (entry.key, entry.turn))]
            entry.shape.count -= 1
            if not entry.shape.count:
                del self.shapes[entry.shape.key]
        return entry

    def unblock(self, free_gpus: int) -> None:
        """Room appeared: shapes that `free_gpus` wholly free GPUs do not still rule out may be asked again."""
        for shape in self.shapes.values():
            if shape.whole_gpus <= free_gpus:
                shape.blocked = False

    def forget(self) -> None:
        """Ask all shapes again: nothing that was said of them holds any more."""
        for shape in self.shapes.values():
            shape.blocked, shape.refusal, shape.told = False, None, (-1, None)

    def regroup(self, by_tenant: bool) -> None:
        """Tell tenants apart from now on, or no more."""
        if by_tenant != self.by_tenant:
            self.by_tenant, self.shapes = by_tenant, {}
            for _, _, entry in self._order:
                entry.shape = self._shape(entry.gang)
                self._join(entry)

    def heads(self, free_gpus: int) -> list[tuple[Key, int, Shape]]:
        """Return a heap of the shapes that are not closed, by their first gangs."""
        heap = [
            (first.key, first.turn, shape)
            for shape in self.shapes.values()
            if not shape.closed(free_gpus) and (first := shape.head()) is not None
        ]
        heapq.heapify(heap)
        return heap

    def head(self) -> Waiting | None:
        """Return the first gang of all."""
        return self._order[0][2] if self._order else None

    def in_order(self) -> Iterator[Waiting]:
        """Yield the gangs that wait now, in order; the queue may be changed meanwhile."""
        latest, place = self.added, 0
        while place < len(self._order):
            key, turn, entry = self._order[place]
            if turn <= latest:
                yield entry
            place = bisect_left(self._order, (key, turn + 1))

    def _shape(self, gang: gangs.Gang) -> Shape:
        """Return the shape of a gang, made when it is the first of it."""
        key = gang.roles, gang.constraint, gang.min_member, gang.within, gang.tenant if self.by_tenant else ""
        if key not in self.shapes:
            self.shapes[key] = Shape(key, _whole_gpus(gang))
        return self.shapes[key]

    def _join(self, entry: Waiting) -> None:
        """Put an entry in the line of its shape."""
        heapq.heappush(entry.shape.heap, (entry.key, entry.turn, entry))
        entry.shape.count += 1


def _whole_gpus(gang: gangs.Gang) -> int:
    """Return the whole GPUs that a gang can't do without."""
    if gang.minimum < gang.size:
        return 0
    whole = (role for role in gang.roles if role.request.kind is request.RequestKind.WHOLE)
    return sum(role.count * role.request.gpus for role in whole)
