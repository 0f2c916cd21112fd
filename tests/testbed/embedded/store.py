"""All objects, one version counter, and the log of changes that watches and pages read.

Stored objects are never changed in place: a write puts a new one there, so that the log can keep the old.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]
Key = tuple[str, str]  # namespace ("" where there is none) and name
FIRST = 1000  # older versions are forgotten from the beginning, as on a server that has been compacted


@dataclass(frozen=True, slots=True)
class Change:
    """`before` is None for a new object, `after` None for one that is gone; `last` is what a watch tells."""

    version: int
    storage: str
    key: Key
    before: Object | None
    after: Object | None
    last: Object


class Gone(Exception):
    """The version asked for is older than the oldest that is kept."""


class Store:
    """Collections by storage name, each by namespace and name."""

    def __init__(self) -> None:
        self.version = FIRST
        self.floor = FIRST  # changes up to this version are forgotten
        self.objects: dict[str, dict[Key, Object]] = {}
        self.log: list[Change] = []
        self._news: set[asyncio.Event] = set()

    def get(self, storage: str, namespace: str, name: str) -> Object | None:
        return self.objects.get(storage, {}).get((namespace, name))

    def of(self, storage: str) -> dict[Key, Object]:
        return self.objects.get(storage, {})

    def put(self, storage: str, obj: Object) -> Object:
        """Store a new object or a new state of one; the store owns `obj` from then on."""
        key = (obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
        held = self.objects.setdefault(storage, {})
        self._advance(obj)
        self._tell(Change(self.version, storage, key, held.get(key), obj, obj))
        held[key] = obj
        return obj

    def remove(self, storage: str, obj: Object) -> Object:
        """Take an object away; `obj` is its last state, and gets a version of its own."""
        key = (obj["metadata"].get("namespace", ""), obj["metadata"]["name"])
        before = self.objects[storage].pop(key)
        self._advance(obj)
        self._tell(Change(self.version, storage, key, before, None, obj))
        return obj

    def _advance(self, obj: Object) -> None:
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)

    def _tell(self, change: Change) -> None:
        self.log.append(change)
        for one in self._news:
            one.set()

    def compact(self, keep: int = 0) -> None:
        """Forget all but the last `keep` changes: watches and pages from before them get 410."""
        cut = len(self.log) - keep
        if cut > 0:
            self.floor = self.log[cut - 1].version
            del self.log[:cut]

    def since(self, version: int) -> list[Change]:
        """Return the changes after a version."""
        if version < self.floor:
            raise Gone(f"too old resource version: {version} ({self.floor})")
        low, high = 0, len(self.log)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self.log[middle].version <= version else (low, middle)
        return self.log[low:]

    def at(self, storage: str, version: int) -> dict[Key, Object]:
        """Return a collection as it was at a version, by undoing what came after."""
        found = dict(self.of(storage))
        for change in reversed(self.since(version)):
            if change.storage == storage:
                if change.before is None:
                    found.pop(change.key, None)
                else:
                    found[change.key] = change.before
        return found

    def listen(self) -> asyncio.Event:
        """Return an event that is set at each change, until `deafen`."""
        news = asyncio.Event()
        self._news.add(news)
        return news

    def deafen(self, news: asyncio.Event) -> None:
        self._news.discard(news)
