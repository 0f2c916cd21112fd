"""A watch: the changes of a collection, one line of JSON each, until its time is over or its kind is not served any more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from tests.testbed.embedded import failure, objects, pages, selectors
from tests.testbed.embedded.paths import Target
from tests.testbed.embedded.store import Change, Gone, Object, Store

Event = dict[str, Any]
BOOKMARK_S = 60.0  # as kube-apiserver; and one more two seconds before the end
LAST_S = 2.0


class Watch:
    """One watch. `open` checks what was asked before the first byte is sent."""

    def __init__(self, store: Store, target: Target, params: Mapping[str, str], served: Callable[[], bool]) -> None:
        self.store, self.target, self.kind, self.served = store, target, target.kind, served
        self.matches = selectors.parse(self.kind, params.get("labelSelector", ""), params.get("fieldSelector", ""))
        self.asked = pages.version_of(params.get("resourceVersion", ""))
        if self.asked > store.version:
            text = f"Too large resource version: {self.asked}, current: {store.version}"
            raise failure.Failure(504, "Timeout", text)
        self.initial = params.get("sendInitialEvents") == "true"
        self.bookmarks = params.get("allowWatchBookmarks") in ("true", "1", "True")
        self.ends = time.monotonic() + float(params.get("timeoutSeconds") or 1800)
        self.bookmark_at = min(time.monotonic() + BOOKMARK_S, max(time.monotonic() + 0.1, self.ends - LAST_S))

    async def events(self) -> AsyncIterator[Event]:
        news = self.store.listen()
        try:
            version = self.asked
            if self.initial or not version:
                version = self.store.version
                for event in self._beginning(version):
                    yield event
            while time.monotonic() < self.ends and self.served():
                news.clear()
                try:
                    changes = self.store.since(version)
                except Gone as error:
                    yield {"type": "ERROR", "object": failure.expired(str(error)).status()}
                    return
                for change in changes:
                    version = change.version
                    if (event := self._event(change)) is not None:
                        yield event
                if self.bookmarks and time.monotonic() >= self.bookmark_at:
                    self.bookmark_at += BOOKMARK_S
                    yield self._bookmark(version)
                await self._wait(news)
        finally:
            self.store.deafen(news)

    async def _wait(self, news: asyncio.Event) -> None:
        until = min(self.ends, self.bookmark_at) if self.bookmarks else self.ends
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                await news.wait()
        except TimeoutError:
            return  # time for a bookmark, or for the end

    def _beginning(self, version: int) -> list[Event]:
        held = self.store.of(self.kind.storage)
        found = [held[key] for key in sorted(held) if self._here(key[0]) and self.matches(held[key])]
        told = [self._told("ADDED", item) for item in found]
        return told + ([self._bookmark(version, {"k8s.io/initial-events-end": "true"})] if self.initial else [])

    def _here(self, namespace: str) -> bool:
        return self.target.namespace in ("", namespace)

    def _event(self, change: Change) -> Event | None:
        """An object that begins to match is added, one that ceases to match is deleted."""
        if change.storage != self.kind.storage or not self._here(change.key[0]):
            return None
        if self.target.name and change.key[1] != self.target.name:
            return None
        was = change.before is not None and self.matches(change.before)
        fits = change.after is not None and self.matches(change.after)
        if not was and not fits:
            return None
        if fits:
            return self._told("MODIFIED" if was else "ADDED", change.last)
        assert change.before is not None
        version = change.last["metadata"]["resourceVersion"]
        last = change.last if change.after is None else change.before
        return self._told("DELETED", last | {"metadata": last["metadata"] | {"resourceVersion": version}})

    def _told(self, word: str, item: Object) -> Event:
        return {"type": word, "object": objects.shown(self.kind, item)}

    def _bookmark(self, version: int, annotations: Mapping[str, str] | None = None) -> Event:
        meta: dict[str, Any] = {"resourceVersion": str(version), "creationTimestamp": None}
        meta |= {"annotations": dict(annotations)} if annotations else {}
        return {
            "type": "BOOKMARK",
            "object": {"kind": self.kind.kind, "apiVersion": self.kind.api_version, "metadata": meta},
        }
