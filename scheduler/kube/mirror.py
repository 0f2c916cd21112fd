"""What the API server says now, kind by kind, kept by watches and projected to what is needed of it."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from scheduler.apiserver import client, errors, watch

ABSENT_S = 30.0
"""A kind that the server does not have is asked for again after this: its CRD may be installed later."""

Key = tuple[str, str]
"""Namespace and name."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind to watch.

    Attributes
    ----------
    paths : tuple of str
        Collections of the same objects in several API versions; the first that is served is watched.
    read : callable
        Projects an object; raises ValueError for one that can't be read.
    required : bool
        The server has it always: an answer of 404 is trouble and not absence.
    """

    name: str
    paths: tuple[str, ...]
    read: Callable[[dict[str, Any]], Any]
    required: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """One object is new (`before` None), different, or gone (`after` None)."""

    kind: str
    key: Key
    before: Any
    after: Any


@dataclass(slots=True, eq=False)
class Mirror:
    """All watched objects.

    Parameters
    ----------
    told : callable
        Called for every change, in the server's order per kind, on the event loop; it must not wait.
    heard : callable
        Called for every event of a watch with the name of the kind; for metrics.

    Attributes
    ----------
    unreadable : dict
        Why objects were left out, by kind and key.
    trouble : dict
        Why a kind can't be watched just now, by kind.
    served : dict
        The path that is watched, by kind; kinds that the server does not have are missing.
    """

    api: client.Client
    kinds: tuple[Kind, ...]
    told: Callable[[Change], None]
    absent_s: float = ABSENT_S
    heard: Callable[[str, watch.Event], None] = lambda *_: None
    unreadable: dict[tuple[str, Key], str] = field(default_factory=dict)
    trouble: dict[str, str] = field(default_factory=dict)
    served: dict[str, str] = field(default_factory=dict)
    _stores: dict[str, dict[Key, Any]] = field(default_factory=dict)
    _synced: set[str] = field(default_factory=set)
    _all: asyncio.Event = field(default_factory=asyncio.Event)

    def __getitem__(self, kind: str) -> Mapping[Key, Any]:
        return self._stores.setdefault(kind, {})

    @property
    def synced(self) -> bool:
        """Return whether every kind was listed once, or is not served."""
        return self._all.is_set()

    async def wait_synced(self, timeout_s: float) -> None:
        """Wait for the first lists.

        Raises
        ------
        TimeoutError
            Names the kinds that are missing, and why.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._all.wait()
        except TimeoutError:
            late = sorted({kind.name for kind in self.kinds} - self._synced)
            why = "; ".join(f"{name}: {self.trouble.get(name, 'no answer yet')}" for name in late)
            raise TimeoutError(f"not listed after {timeout_s:g} s: {why}") from None

    async def run(self) -> None:
        """Watch all kinds until cancelled."""
        async with asyncio.TaskGroup() as group:
            for kind in self.kinds:
                group.create_task(self._follow(kind), name=f"watch {kind.name}")

    async def _follow(self, kind: Kind) -> None:
        """Watch one kind in the first version that is served; ask again for one that is not.

        Objects of a kind that is served no more are dropped only when the next round finds none of its versions either: a
        definition that is replaced is missing for a moment.
        """
        rounds = 0
        while True:
            if await self._watched(kind):
                rounds = 0
                continue
            rounds += 1
            if kind.required:
                self.trouble[kind.name] = f"the server has no {kind.paths[0]}"
            else:
                if rounds > 1:
                    self._replace(kind, [])
                self._note_synced(kind)
            await asyncio.sleep(self.absent_s)

    async def _watched(self, kind: Kind) -> bool:
        """Watch in the first version that is served, until it is served no more; return False where none is."""
        for path in kind.paths:
            try:
                async for event in watch.follow(self.api, path):
                    self.served[kind.name] = path
                    self._note(kind, event)
            except errors.ApiError as error:
                if not error.missing:
                    raise
            if self.served.pop(kind.name, None):
                log.warning("a kind is not served any more in this version", kind=kind.name, path=path)
                return True
        return False

    def _note(self, kind: Kind, event: watch.Event) -> None:
        self.heard(kind.name, event)
        match event:
            case watch.Listed(items):
                self._replace(kind, items)
                self._note_synced(kind)
            case watch.Changed(item):
                self._put(kind, _key(item), item)
            case watch.Deleted(item):
                self._drop(kind, _key(item))
            case watch.Interrupted(cause, wait_s):
                self.trouble[kind.name] = cause
                level = logging.WARNING if wait_s else logging.INFO  # begun anew at once is no trouble
                log.log(level, "watch interrupted", kind=kind.name, cause=cause, again_in_s=round(wait_s, 1))
                return
        self.trouble.pop(kind.name, None)

    def _replace(self, kind: Kind, items: list[dict[str, Any]]) -> None:
        """Take a whole list: what is not in it is gone."""
        present = {_key(item): item for item in items}
        for key in [key for key in self[kind.name] if key not in present]:
            self._drop(kind, key)
        for key, item in present.items():
            self._put(kind, key, item)

    def _put(self, kind: Kind, key: Key, item: dict[str, Any]) -> None:
        try:
            after = kind.read(item)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            problem = f"{type(error).__name__}: {error}"
            log.error("object left out", kind=kind.name, object="/".join(key).lstrip("/"), problem=problem)
            self.unreadable[kind.name, key] = problem
            self._drop(kind, key, keep_problem=True)
            return
        self.unreadable.pop((kind.name, key), None)
        store = self._stores.setdefault(kind.name, {})
        before = store.get(key)
        if before != after:
            store[key] = after
            self.told(Change(kind.name, key, before, after))

    def _drop(self, kind: Kind, key: Key, keep_problem: bool = False) -> None:
        if not keep_problem:
            self.unreadable.pop((kind.name, key), None)
        before = self._stores.setdefault(kind.name, {}).pop(key, None)
        if before is not None:
            self.told(Change(kind.name, key, before, None))

    def _note_synced(self, kind: Kind) -> None:
        self._synced.add(kind.name)
        if len(self._synced) == len(self.kinds):
            self._all.set()


def raw(item: dict[str, Any]) -> dict[str, Any]:
    """Keep an object as it is, less its field managers."""
    item.get("metadata", {}).pop("managedFields", None)
    return item


def _key(item: Mapping[str, Any]) -> Key:
    metadata = item["metadata"]
    return metadata.get("namespace", ""), metadata["name"]
