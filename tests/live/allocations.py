"""Everything that happened to the allocations of all claims of a cluster: which devices, and who wrote them.

The API server keeps with each object who wrote which field last (``managedFields``), so that an allocation says by itself
whose decision it was.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

from scheduler.apiserver import client, paths, watch
from tests.live import team as teams

OURS = "muster"
"""The field manager of Muster's writes."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a claim held from a revision on; no devices for a claim that is gone or not allocated."""

    revision: int
    claim: str
    devices: tuple[str, ...]
    writers: frozenset[str]


@dataclass(slots=True)
class Allocations:
    """The story of all claims."""

    seen: list[Given] = field(default_factory=list)

    @classmethod
    @contextlib.asynccontextmanager
    async def watching(cls, api: client.Client) -> AsyncIterator[Self]:
        """Watch until the end of the block."""
        story, listed = cls(), asyncio.Event()
        task = asyncio.create_task(story._follow(api, listed))
        try:
            async with asyncio.timeout(20):
                await listed.wait()
            yield story
            if task.done():
                task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _follow(self, api: client.Client, listed: asyncio.Event) -> None:
        async with contextlib.aclosing(watch.follow(api, paths.of(paths.RESOURCE, "resourceclaims"))) as events:
            async for event in events:
                if isinstance(event, watch.Listed):
                    assert not listed.is_set(), "the watch had a gap: the story is not whole"
                    self.seen += [given(item, True) for item in event.items]
                    listed.set()
                elif isinstance(event, watch.Changed | watch.Deleted):
                    self.seen.append(given(event.item, isinstance(event, watch.Changed)))

    @property
    def claims(self) -> set[str]:
        """Return the claims that were allocated at some time."""
        return {one.claim for one in self.seen if one.devices}

    def faults(self) -> Iterator[str]:
        """Yield what was wrong at some instant: a device in two claims, or an allocation that somebody else wrote."""
        now: dict[str, tuple[str, ...]] = {}
        for one in sorted(self.seen, key=lambda each: each.revision):
            now[one.claim] = one.devices
            if one.devices and one.writers != {OURS}:
                yield f"revision {one.revision}: {one.claim} was allocated by {', '.join(sorted(one.writers)) or 'nobody'}"
            holders: dict[str, str] = {}
            for claim, devices in now.items():
                for device in devices:
                    if device in holders:
                        yield f"revision {one.revision}: {device} is in {holders[device]} and in {claim}"
                    holders[device] = claim


def given(claim: dict[str, Any], there: bool) -> Given:
    metadata = claim["metadata"]
    devices = tuple(teams.allocated(claim)) if there else ()
    name = f"{metadata['namespace']}/{metadata['name']}"
    return Given(int(metadata["resourceVersion"]), name, devices, writers(claim))


def writers(claim: dict[str, Any]) -> frozenset[str]:
    """Return who wrote the allocation of a claim."""
    fields = claim["metadata"].get("managedFields") or ()
    return frozenset(one["manager"] for one in fields if "f:allocation" in one["fieldsV1"].get("f:status", {}))
