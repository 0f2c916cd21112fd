"""What must be written so that the API server has the wanted slices: a pure function of wanted and found.

Slices are matched by name, since ours are deterministic. Consumers read only the highest generation and only when it is
complete, so a change that takes more than one write gets a new generation in every slice.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

from scheduler.model import published, slice_reader

Slice = dict[str, Any]

TIME_TOLERANCE_S = 1.0
"""The server keeps whole seconds."""

QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m|k|M|G|T|Ki|Mi|Gi|Ti|)")
QUANTITY_FIELDS = ("value", "default", "min", "max", "step")
SCALE: dict[str, int | Fraction] = {"": 1, "m": Fraction(1, 1000)}
SCALE |= {unit: 1000**power for power, unit in enumerate("kMGT", 1)}
SCALE |= {f"{unit}i": 1024**power for power, unit in enumerate("KMGT", 1)}


@dataclass(frozen=True, slots=True)
class Plan:
    """Writes in the order in which they are to be done: creates, updates, deletes."""

    creates: tuple[Slice, ...] = ()
    updates: tuple[Slice, ...] = ()
    deletes: tuple[Slice, ...] = ()

    @property
    def empty(self) -> bool:
        return not (self.creates or self.updates or self.deletes)


def plan(
    wanted: Sequence[Slice], found: Sequence[Slice], owner: Mapping[str, Any] | None = None, floor: int = 0
) -> Plan:
    """Return the least writes that lead from found to wanted.

    Parameters
    ----------
    wanted : sequence of dict
        All slices of one pool; their generation does not matter.
    owner : mapping, optional
        Owner reference of new slices.
    floor : int
        Highest generation that this driver wrote ever; after a wipe the pool goes on above it.
    """
    names = {published.slice_name(item) for item in wanted}
    by_name = {published.slice_name(item): item for item in found}
    current = max((_generation(item) for item in found), default=0)
    fresh = [item for item in wanted if published.slice_name(item) not in by_name]
    kept = [(item, by_name[published.slice_name(item)]) for item in wanted if published.slice_name(item) in by_name]
    changed = [(new, old) for new, old in kept if not same(new, old) or _generation(old) != current]
    gone = [item for item in found if published.slice_name(item) not in names]
    if not fresh and len(changed) <= 1 and not any(_generation(item) == current for item in gone):
        return Plan(updates=tuple(_updated(new, old, current) for new, old in changed), deletes=tuple(gone))
    generation = max(current, floor) + 1
    return Plan(
        tuple(_created(item, generation, owner) for item in fresh),
        tuple(_updated(new, old, generation) for new, old in kept),
        tuple(gone),
    )


def same(new: Slice, old: Slice) -> bool:
    """Tell whether two slices say the same; generations and what the server adds to taints do not count."""
    return _content(new) == _content(old) and _times_agree(new, old)


def difference(new: Slice, old: Slice) -> str:
    """Return the place of the first difference between two slices."""
    return next(_differences(_content(new)[0], _content(old)[0], "spec"), "metadata.annotations or the time of a taint")


def _differences(new: Any, old: Any, place: str) -> Iterator[str]:
    if isinstance(new, dict) and isinstance(old, dict):
        for key in sorted(new.keys() | old.keys()):
            yield from _differences(new.get(key), old.get(key), f"{place}.{key}")
    elif isinstance(new, list) and isinstance(old, list) and len(new) == len(old):
        for i, (one, other) in enumerate(zip(new, old, strict=True)):
            yield from _differences(one, other, f"{place}[{i}]")
    elif new != old:
        yield place


def _generation(item: Slice) -> int:
    return int(item["spec"]["pool"]["generation"])


def _content(item: Slice) -> tuple[Any, ...]:
    spec = {key: value for key, value in item["spec"].items() if value}
    spec["pool"] = {key: value for key, value in spec["pool"].items() if key != "generation"}
    note = (item["metadata"].get("annotations") or {}).get(slice_reader.ANNOTATION)
    return _amounts(spec), note


def _amounts(part: Any, key: str = "") -> Any:
    """Return quantities as numbers: the server writes ``1k`` for our ``1000`` and ``80Gi`` for ``81920Mi``.

    The times of taints are left out; nothing else is called so.
    """
    if isinstance(part, dict):
        return {name: _amounts(value, name) for name, value in part.items() if name != "timeAdded"}
    if isinstance(part, list):
        return [_amounts(value, key) for value in part]
    match = QUANTITY.fullmatch(part) if key in QUANTITY_FIELDS and isinstance(part, str) else None
    return Fraction(match[1]) * SCALE[match[2]] if match else part


def _taints(item: Slice) -> dict[tuple[str, ...], str]:
    return {
        (entry["name"], taint["key"], taint.get("value", ""), taint["effect"]): taint.get("timeAdded") or ""
        for entry in item["spec"].get("devices") or ()
        for taint in entry.get("taints") or ()
    }


def _times_agree(new: Slice, old: Slice) -> bool:
    """A time that is not given agrees with every other one."""
    before = _taints(old)
    return all(not time or not before.get(key) or _near(time, before[key]) for key, time in _taints(new).items())


def _near(a: str, b: str) -> bool:
    return abs((_time(a) - _time(b)).total_seconds()) <= TIME_TOLERANCE_S


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def _created(item: Slice, generation: int, owner: Mapping[str, Any] | None) -> Slice:
    made = _with_generation(item, generation)
    if owner:
        made["metadata"]["ownerReferences"] = [dict(owner)]
    return made


def _updated(new: Slice, old: Slice, generation: int) -> Slice:
    """Return the new content under the identity of the old object; taints without a time keep the one they had."""
    made = _with_generation(new, generation)
    note = made["metadata"].get("annotations") or {}
    made["metadata"] = dict(old["metadata"]) | {"annotations": (old["metadata"].get("annotations") or {}) | note}
    before = _taints(old)
    for entry in made["spec"].get("devices") or ():
        for taint in entry.get("taints") or ():
            known = before.get((entry["name"], taint["key"], taint.get("value", ""), taint["effect"]))
            if known and not taint.get("timeAdded"):
                taint["timeAdded"] = known
    return made


def _with_generation(item: Slice, generation: int) -> Slice:
    made = copy.deepcopy(item)
    made["spec"]["pool"]["generation"] = generation
    return made
