"""Decide again from a log, and compare byte for byte."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from scheduler.gang import effects, events
from scheduler.record import journal, line


class LogError(ValueError):
    """The folder holds no such log, or the log can't be read; the message names file and remedy."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first line that came out otherwise."""

    number: int
    written: str
    decided: str


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay found.

    Attributes
    ----------
    events, starts, refusals, evictions : int
    difference : Difference or None
        None when every line came out as it was written.
    """

    term: str
    events: int
    starts: int
    refusals: int
    evictions: int
    difference: Difference | None = None


def replay(folder: Path, term: str = "", step: Callable[[int], None] = lambda _: None) -> Replayed:
    """Feed a log's events to a new machine and compare what it decides with what was written.

    Parameters
    ----------
    term : str
        Which log; the newest when empty.
    step : callable
        Called with the number of every line.

    Raises
    ------
    LogError
    """
    known = journal.terms(folder) if folder.is_dir() else []
    if not known or (term and term not in known):
        have = f"it has {', '.join(known)}" if known else "it has no decision log"
        raise LogError(f"{folder}: {f'no log {term}; ' if term else ''}{have}; give the scheduler's --audit-folder")
    chosen = term or known[-1]
    found = journal.lines(folder, chosen)
    counts = {effects.Start: 0, effects.Wait: 0, effects.Reject: 0, effects.Evict: 0}
    number = 0

    def load(name: str) -> bytes:
        try:
            return journal.fleet_path(folder, name).read_bytes()
        except OSError as error:
            raise LogError(f"{folder}: fleet {name} of log {chosen}: {error}") from error

    def told(difference: Difference | None) -> Replayed:
        refusals = counts[effects.Wait] + counts[effects.Reject]
        return Replayed(chosen, number, counts[effects.Start], refusals, counts[effects.Evict], difference)

    try:
        core = line.begin(next(found, b""), load)
        for written in found:
            number, now, event = line.decode(written, load)
            name = _fleet_name(written) if isinstance(event, events.TopologyChanged) else ""
            done = core.handle(event, now)
            decided = line.encode(number, now, event, name, done, core)
            for effect in done:
                if type(effect) in counts:
                    counts[type(effect)] += 1
            if decided != written:
                return told(Difference(number, written.decode().rstrip(), decided.decode().rstrip()))
            step(number)
    except (msgspec.MsgspecError, ValueError) as error:
        raise LogError(f"{folder}: log {chosen}, line {number + 2}: {error}") from error
    return told(None)


def _fleet_name(written: bytes) -> str:
    raw = msgspec.json.decode(written, type=dict[str, msgspec.Raw])
    return msgspec.json.decode(raw["event"], type=dict[str, line.Scored])["scoring"].fleet
