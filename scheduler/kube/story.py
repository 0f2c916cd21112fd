"""What a leader decided about each gang lately, for people who ask why; kept in memory, bounded."""

import datetime
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from scheduler.gang import effects, events
from scheduler.kube import life, observer, words
from scheduler.placement import placement as placements

GANGS = 2000
"""Gangs of which something is remembered; the one that nothing has happened to for longest goes first."""

EACH = 16
"""Decisions of a gang that are remembered."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that was decided, or came of it."""

    at: datetime.datetime
    what: str
    text: str
    because: str = ""


def utc() -> datetime.datetime:
    """Return the time of day."""
    return datetime.datetime.now(datetime.UTC)


@dataclass(slots=True, eq=False)
class Story(observer.Ear):
    """Listens to what is decided; a gang's past is still told for a while after its end."""

    now: Callable[[], datetime.datetime] = utc
    _told: OrderedDict[str, deque[Entry]] = field(default_factory=OrderedDict)

    def of(self, key: str) -> tuple[Entry, ...]:
        """Return what happened to a gang, oldest first."""
        return tuple(self._told.get(key, ()))

    def decided(self, event: events.Event, found: Sequence[effects.Effect], seconds: float) -> None:
        """Remember the effects of an event."""
        for effect in found:
            self._note(effect.gang.name, Entry(self.now(), type(effect).__name__, _text(effect), effect.because))

    def written(self, one: life.Life, seconds: float) -> None:
        """Remember that all pods were let go."""
        self._note(one.key, Entry(self.now(), "Released", f"all pods let go {seconds:.3f} s after the last one came"))

    def failed(self, one: life.Life, problem: str) -> None:
        """Remember that a plan could not be written."""
        self._note(one.key, Entry(self.now(), "RolledBack", problem))

    def _note(self, key: str, entry: Entry) -> None:
        past = self._told.setdefault(key, deque(maxlen=EACH))
        past.append(entry)
        self._told.move_to_end(key)
        if len(self._told) > GANGS:
            self._told.popitem(last=False)


def _text(effect: effects.Effect) -> str:
    match effect:
        case effects.Start(_, found):
            return words.placed(found)
        case effects.Refill(_, found, ranks):
            return f"{len(ranks)} more pods; now {words.placed(found)}"
        case effects.Wait(_, rejection) | effects.Reject(_, rejection):
            return str(rejection)
        case effects.Evict(_, found, reason):
            return f"{words.EVICTIONS[reason]}; it held {_held(found)}"
        case effects.Expire(_, found):
            return f"the pods did not come in time; it held {_held(found)}"
        case effects.Conflict(_, detail):
            return detail


def _held(found: placements.Placement) -> str:
    return f"{len(found.grants)} pods' devices in {found.level} {found.domain}"
