"""An independent observer of the API: everything that happened to pods and claims of a namespace, in the order in which it did.

Pods and claims come on two watches, but their resource versions are revisions of one store, so that the story can be told
again event by event and every instant of it be judged.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

from scheduler.apiserver import client, paths, watch
from scheduler.model import names
from tests.live import team as teams

POD, CLAIM = "pod", "claim"


@dataclass(frozen=True, slots=True)
class Seen:
    """One object as it was from a revision on; `there` is False for its end."""

    revision: int
    kind: str
    there: bool
    item: dict[str, Any]


@dataclass(slots=True)
class Witness:
    """Everything that was seen."""

    seen: list[Seen] = field(default_factory=list)

    @classmethod
    @contextlib.asynccontextmanager
    async def watching(cls, api: client.Client, namespace: str) -> AsyncIterator[Self]:
        """Watch until the end of the block."""
        witness, listed = cls(), [asyncio.Event(), asyncio.Event()]
        kinds = (
            (POD, paths.of("v1", "pods", namespace)),
            (CLAIM, paths.of(paths.RESOURCE, "resourceclaims", namespace)),
        )
        tasks = [
            asyncio.create_task(witness._follow(api, kind, path, heard))
            for (kind, path), heard in zip(kinds, listed, strict=True)
        ]
        try:
            async with asyncio.timeout(20):
                await asyncio.gather(*(heard.wait() for heard in listed))
            yield witness
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, api: client.Client, kind: str, path: str, heard: asyncio.Event) -> None:
        async with contextlib.aclosing(watch.follow(api, path)) as events:
            async for event in events:
                if isinstance(event, watch.Listed):
                    assert not heard.is_set(), "the watch had a gap: the story is not whole"
                    self.seen += [self._of(kind, True, item) for item in event.items]
                    heard.set()
                elif isinstance(event, watch.Changed | watch.Deleted):
                    self.seen.append(self._of(kind, isinstance(event, watch.Changed), event.item))

    def _of(self, kind: str, there: bool, item: dict[str, Any]) -> Seen:
        return Seen(int(item["metadata"]["resourceVersion"]), kind, there, item)

    def faults(self) -> Iterator[str]:
        """Yield what was wrong at some instant.

        A gang has a member with a node while another has no devices, or a device is in two claims. A gang of which a
        pod was deleted is over.
        """
        told = Told()
        for one in sorted(self.seen, key=lambda each: each.revision):
            told.hear(one)
            yield from told.faults(one.revision)


@dataclass(slots=True)
class Told:
    """The state at one instant of the story."""

    bound: dict[str, set[str]] = field(default_factory=dict)
    members: dict[str, set[str]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    over: set[str] = field(default_factory=set)
    devices: dict[str, tuple[str, list[str]]] = field(default_factory=dict)

    def hear(self, one: Seen) -> None:
        if one.kind == POD:
            self._pod(one)
        elif one.there and (rows := teams.allocated(one.item)):
            self.devices[one.item["metadata"]["uid"]] = one.item["metadata"]["ownerReferences"][0]["uid"], rows
        else:
            self.devices.pop(one.item["metadata"]["uid"], None)

    def _pod(self, one: Seen) -> None:
        metadata = one.item["metadata"]
        gang = metadata["annotations"][names.GANG_NAME]
        self.sizes[gang] = int(metadata["annotations"][names.GANG_SIZE])
        self.members.setdefault(gang, set()).add(metadata["uid"])
        if not one.there or "deletionTimestamp" in metadata:
            self.over.add(gang)
        elif one.item["spec"].get("nodeName"):
            self.bound.setdefault(gang, set()).add(metadata["uid"])

    def faults(self, revision: int) -> Iterator[str]:
        owners = {owner for owner, _ in self.devices.values()}
        for gang in self.bound.keys() - self.over:
            lacking = self.sizes[gang] - len(self.members[gang] & owners)
            if lacking:
                yield f"revision {revision}: {len(self.bound[gang])} pods of {gang} have nodes, {lacking} have no devices"
        given = [row for _, rows in self.devices.values() for row in rows]
        if len(given) != len(set(given)):
            twice = sorted({row for row in given if given.count(row) > 1})
            yield f"revision {revision}: in two claims: {', '.join(twice[:4])}"
