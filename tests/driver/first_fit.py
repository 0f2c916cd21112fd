"""kube-scheduler's structured allocator on one node, as far as whole GPUs and partitions need it.

Pools by driver and name, slices by object name, devices in list order; the first complete answer wins. Shared counters
are summed per pool; a device is given out once.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from scheduler.model import published, quantity
from scheduler.snapshot import subsets

Entry = dict[str, Any]
Selector = Callable[[Entry], bool]

SIZES = {1: 6, 2: 8, 3: 1, 4: 5, 8: 1}
"""GPUs of a claim and how often it comes."""


@dataclass(frozen=True, slots=True)
class Request:
    """So many devices that a selector takes."""

    selects: Selector
    count: int = 1


@dataclass(slots=True)
class Allocator:
    """Devices of some slices, those in use, and what their partitions have drawn from the counters."""

    slices: Sequence[Mapping[str, Any]]
    used: set[str] = field(default_factory=set)
    devices: list[Entry] = field(init=False)
    left: dict[tuple[str, str], Fraction] = field(init=False)

    def __post_init__(self) -> None:
        kept = newest(self.slices)
        self.devices = [entry for item in kept for entry in item["spec"].get("devices") or ()]
        self.left = {
            (counters["name"], name): quantity.parse(value["value"])
            for item in kept
            for counters in item["spec"].get("sharedCounters") or ()
            for name, value in counters["counters"].items()
        }

    def allocate(self, *requests: Request) -> list[Entry] | None:
        """Return the devices of the first complete answer and keep them, or None."""
        wanted = [request.selects for request in requests for _ in range(request.count)]
        same = [i > 0 and wanted[i] is wanted[i - 1] for i in range(len(wanted))]
        return self._search(wanted, same, 0, 0)

    def release(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._draw(entry, -1)
            self.used.remove(entry["name"])

    def _search(self, wanted: Sequence[Selector], same: Sequence[bool], at: int, begin: int) -> list[Entry] | None:
        """Combinations inside a request, so the next device of one is further down the list."""
        if at == len(wanted):
            return []
        for i in range(begin if same[at] else 0, len(self.devices)):
            entry = self.devices[i]
            if entry["name"] in self.used or not wanted[at](entry) or not self._draw(entry, 1):
                continue
            self.used.add(entry["name"])
            rest = self._search(wanted, same, at + 1, i + 1)
            if rest is not None:
                return [entry, *rest]
            self.release([entry])
        return None

    def _draw(self, entry: Entry, sign: int) -> bool:
        drawn = dict(_draws(entry))
        if any(self.left[key] < sign * amount for key, amount in drawn.items()):
            return False
        for key, amount in drawn.items():
            self.left[key] -= sign * amount
        return True


def newest(slices: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the slices of the newest generation of each complete pool, in the allocator's order."""
    pools: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for item in slices:
        pools.setdefault((item["spec"]["driver"], published.pool_name(item)), []).append(item)
    found: list[Mapping[str, Any]] = []
    for key in sorted(pools):
        top = max(item["spec"]["pool"]["generation"] for item in pools[key])
        kept = [item for item in pools[key] if item["spec"]["pool"]["generation"] == top]
        if len(kept) == kept[0]["spec"]["pool"]["resourceSliceCount"]:
            found += sorted(kept, key=published.slice_name)
    return found


def by_index(slices: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the slices with the devices of each in the order of their index, as a driver without a rule lists them."""
    made = [dict(copy.deepcopy(item)) for item in slices]
    for item in made:
        item["spec"].get("devices", []).sort(key=lambda entry: entry["attributes"]["index"]["int"])
    return made


def is_gpu(entry: Entry) -> bool:
    return bool(entry["attributes"]["type"]["string"] == "gpu")


def fills(allocator: Allocator, rounds: int, seed: int) -> Iterator[tuple[int, int]]:
    """Fill with random claims until one does not fit, drain at random, again and again; yield free before and taken."""
    chance = random.Random(seed)
    free = mask([entry for entry in allocator.devices if is_gpu(entry)])
    claims: list[list[Entry]] = []
    for _ in range(rounds):
        while found := allocator.allocate(Request(is_gpu, chance.choices(list(SIZES), list(SIZES.values()))[0])):
            claims.append(found)
            yield free, mask(found)
            free &= ~mask(found)
        chance.shuffle(claims)
        for _ in range(chance.randint(1, len(claims)) if claims else 0):
            free |= mask(claims[-1])
            allocator.release(claims.pop())


def share(tables: subsets.Subsets, slices: Sequence[Mapping[str, Any]], rounds: int = 500, seed: int = 1) -> float:
    """Return how often first fit took GPUs with the widest ring that the free ones had; claims of one GPU are left out."""
    right = total = 0
    for free, taken in fills(Allocator(slices), rounds, seed):
        if (count := taken.bit_count()) > 1:
            right += bool(tables.bandwidth[taken] == tables.peak_bandwidth[count, free])
            total += 1
    return right / total


def mask(entries: Sequence[Entry]) -> int:
    return sum(1 << entry["attributes"]["index"]["int"] for entry in entries)


def _draws(entry: Entry) -> Iterator[tuple[tuple[str, str], Fraction]]:
    for part in entry.get("consumesCounters") or ():
        for name, value in part["counters"].items():
            yield (part["counterSet"], name), quantity.parse(value["value"])
