"""One line of the decision log: an event, what was decided, and what state that left."""

import dataclasses
import enum
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from scheduler.gang import config, effects, events, machine
from scheduler.placement import bandwidth, placement, policy, scoring, target
from scheduler.record import fleet

VERSION = 2

KINDS: dict[str, type] = {kind.__name__: kind for kind in events.Event.__args__}

LoadFleet = Callable[[str], bytes]


@dataclass(frozen=True, slots=True)
class Scored:
    """A fleet and how it is scored; the fleet is in a file of its own, named by its digest."""

    fleet: str
    policy: dict[str, Any]
    target: target.TargetWorkload
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Head:
    """First line: how the machine began."""

    version: int
    scored: Scored
    config: config.QueueConfig
    tiers: bandwidth.Tiers
    term: str = ""


def scored(one: scoring.Scoring, name: str) -> Scored:
    """Describe a scoring whose fleet has a name."""
    return Scored(name, one.policy.model_dump(mode="json", by_alias=True), one.target, one.seed)


def compiled(one: Scored, load: LoadFleet) -> scoring.Scoring:
    """Compile a scoring anew."""
    chosen = policy.ScoringPolicy.model_validate(one.policy)
    return scoring.compile_scoring(chosen, fleet.load(load(one.fleet)), one.target, one.seed)


def head(one: machine.Machine, name: str, term: str) -> bytes:
    """Return the first line of a log."""
    return msgspec.json.encode(Head(VERSION, scored(one.scoring, name), one.config, one.tiers, term)) + b"\n"


def begin(line: bytes, load: LoadFleet) -> machine.Machine:
    """Return the machine that a first line describes.

    Raises
    ------
    ValueError
        Another version, or no first line.
    """
    told = msgspec.json.decode(line, type=Head)
    if told.version != VERSION:
        raise ValueError(f"the log is of version {told.version}, this program reads {VERSION}")
    return machine.Machine(compiled(told.scored, load), told.config, told.tiers)


def encode(
    number: int, now: float, event: events.Event, name: str, done: Sequence[effects.Effect], one: machine.Machine
) -> bytes:
    """Return the line of one event.

    Parameters
    ----------
    name : str
        Digest of the new fleet for `TopologyChanged`, "" for other events.
    """
    told: Any = event
    if isinstance(event, events.TopologyChanged):
        told = {"scoring": scored(event.scoring, name)}
    fields = {
        "number": number,
        "now": now,
        "kind": type(event).__name__,
        "event": told,
        "effects": [_effect(effect) for effect in done],
        "state": digest(one) if done else "",
    }
    return msgspec.json.encode(fields) + b"\n"


def decode(line: bytes, load: LoadFleet) -> tuple[int, float, events.Event]:
    """Return number, time and event of a line.

    Raises
    ------
    ValueError
        The line is none, or names an event that this program does not know.
    """
    raw = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    try:
        kind = msgspec.json.decode(raw["kind"], type=str)
        number = msgspec.json.decode(raw["number"], type=int)
        now = msgspec.json.decode(raw["now"], type=float)
        event = raw["event"]
    except KeyError as error:
        raise ValueError(f"the line has no field {error}") from None
    if kind not in KINDS:
        raise ValueError(f"line {number}: event {kind!r} is unknown")
    if kind == "TopologyChanged":
        told = msgspec.json.decode(event, type=dict[str, Scored])
        return number, now, events.TopologyChanged(compiled(told["scoring"], load))
    found: events.Event = msgspec.json.decode(event, type=KINDS[kind])
    return number, now, found


def digest(one: machine.Machine) -> str:
    """Return what tells two states apart: occupancy, who holds and who waits, in order."""
    found = hashlib.blake2b(digest_size=16)
    snapshot = one.snapshot
    arrays = (
        snapshot.gpu_free,
        snapshot.slices_used,
        snapshot.cpu_free,
        snapshot.memory_free,
        snapshot.pods_free,
        snapshot.nic_mask,
        snapshot.up,
        snapshot.failed_gpus,
    )
    for array in arrays:
        found.update(np.ascontiguousarray(array).data)
    found.update("\n".join(held.gang.name for held in one.held).encode())
    found.update(b"\0")
    found.update("\n".join(entry.gang.name for entry in one.queue.in_order()).encode())
    return found.hexdigest()


def _effect(effect: effects.Effect) -> dict[str, Any]:
    """Return an effect with its gang by name: the gang itself is in the event that brought it."""
    told: dict[str, Any] = {"kind": type(effect).__name__}
    for field in dataclasses.fields(effect):
        value = getattr(effect, field.name)
        if field.name == "gang":
            value = effect.gang.name
        elif isinstance(value, placement.Placement):
            value = _placement(value)
        elif isinstance(value, enum.Enum):
            value = value.value
        told[field.name] = value
    return told


def _placement(one: placement.Placement) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(one) if field.name != "gang"]
    return {name: getattr(one, name) for name in names}
