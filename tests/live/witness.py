"""An independent observer of the API: everything that happened to pods, claims and nodes, in the order in which it did.

It reads the watches with code of its own, and nothing that Muster says of itself. Pods, claims and nodes come on watches of
their own, but their resource versions are revisions of one store, so that the story can be told again event by event and
every instant of it be judged.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp

from scheduler.apiserver import client
from tests.live import instant

KINDS = {
    instant.POD: "/api/v1/pods",
    instant.CLAIM: "/apis/resource.k8s.io/v1/resourceclaims",
    instant.NODE: "/api/v1/nodes",
}
LISTED_S = 20.0
CAUGHT_UP_S = 20.0
LINE_LIMIT = 16 << 20


@dataclass(slots=True)
class Witness:
    """Everything that was seen of a namespace, and of the nodes.

    Attributes
    ----------
    sizes : mapping of str to int
        Pods of the gangs whose pods do not say it: JobSets and Jobs by name.
    heard : dict of kind to revision
        How far each watch has come.
    """

    namespace: str
    sizes: Mapping[str, int] = field(default_factory=dict)
    seen: list[instant.Seen] = field(default_factory=list)
    heard: dict[str, int] = field(default_factory=dict)

    @classmethod
    @contextlib.asynccontextmanager
    async def watching(
        cls, api: client.Client, namespace: str, sizes: Mapping[str, int] | None = None
    ) -> AsyncIterator[Self]:
        """Watch until the end of the block; `api` lends its address and credentials only."""
        witness = cls(namespace, {} if sizes is None else sizes)
        key = await api.access.credentials.header()
        headers = {"Authorization": key} if key else {}
        async with aiohttp.ClientSession(
            api.server,
            connector=aiohttp.TCPConnector(ssl=api.access.tls()),
            timeout=aiohttp.ClientTimeout(total=None),
            headers=headers,
            read_bufsize=LINE_LIMIT,
        ) as session:
            tasks = [asyncio.create_task(witness._follow(session, kind, path)) for kind, path in KINDS.items()]
            try:
                await witness._until(tasks, lambda: len(witness.heard) == len(KINDS), LISTED_S)
                yield witness
                await witness._caught_up(session, tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, session: aiohttp.ClientSession, kind: str, path: str) -> None:
        """List, then watch from that version on; a watch that ends leaves a gap, and a story with a gap is worth nothing."""
        async with session.get(path) as answer:
            answer.raise_for_status()
            listed = await answer.json()
        version = listed["metadata"]["resourceVersion"]
        for item in listed["items"]:
            self._note(kind, "ADDED", item)
        self.heard[kind] = int(version)
        asked = {"watch": "1", "resourceVersion": version, "timeoutSeconds": "3600", "allowWatchBookmarks": "true"}
        async with session.get(path, params=asked) as answer:
            answer.raise_for_status()
            async for line in answer.content:
                told = json.loads(line)
                assert told["type"] != "ERROR", told
                self._note(kind, told["type"], told["object"])
        raise AssertionError(f"the watch of {path} ended: the story is not whole")

    def _note(self, kind: str, word: str, item: dict[str, Any]) -> None:
        revision = int(item["metadata"]["resourceVersion"])
        self.heard[kind] = max(revision, self.heard.get(kind, 0))
        if word != "BOOKMARK" and item["metadata"].get("namespace", self.namespace) == self.namespace:
            self.seen.append(instant.Seen(revision, kind, word != "DELETED", item))

    async def _caught_up(self, session: aiohttp.ClientSession, tasks: list[asyncio.Task[None]]) -> None:
        """Wait until everything that has happened so far was heard."""
        newest = {}
        for kind, path in KINDS.items():
            async with session.get(path) as answer:
                listed = await answer.json()
            newest[kind] = max((int(one["metadata"]["resourceVersion"]) for one in listed["items"]), default=0)
        await self._until(tasks, lambda: all(self.heard[kind] >= newest[kind] for kind in newest), CAUGHT_UP_S)

    async def _until(self, tasks: list[asyncio.Task[None]], ask: Callable[[], bool], within_s: float) -> None:
        async with asyncio.timeout(within_s):
            while not ask():
                for task in tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.01)
        for task in tasks:
            if task.done():
                task.result()

    def faults(self) -> Iterator[str]:
        """Yield what was wrong at some instant."""
        now = instant.Instant(self.sizes)
        for one in sorted(self.seen, key=lambda each: each.revision):
            now.hear(one)
            yield from now.faults(one.revision)
