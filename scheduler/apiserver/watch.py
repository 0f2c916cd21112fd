"""A list of objects and every change after it, for as long as the caller listens.

The order of `Listed`, `Changed` and `Deleted` events is the server's. After a gap (the server no longer knows our
version) a new `Listed` comes, and whoever keeps a cache replaces it as a whole: an object that is not in it is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from scheduler.apiserver import client, errors

QUIET_S = (
    300.0  # the server is asked to end a stream after this; it sends a bookmark every 60 s, as kube-apiserver does
)
STALL_S = 75.0  # neither an event nor a bookmark for so long: the connection is dead, although it is open
SOON_S = 5.0  # a watch that ends sooner than this and told nothing is a failure, not a time limit
TRIES = 5  # failures in a row after which the list is asked anew
LINE_LIMIT = 16 << 20  # bytes; an object in etcd is at most 1.5 MiB


@dataclass(frozen=True, slots=True)
class Listed:
    """All objects there are; replaces everything told before."""

    items: list[dict[str, Any]]
    version: str


@dataclass(frozen=True, slots=True)
class Changed:
    """One object is new or different."""

    item: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Deleted:
    """One object is gone; `item` is its last state."""

    item: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The server could not be reached or refused; the watch goes on after `wait_s`."""

    cause: str
    wait_s: float


@dataclass(frozen=True, slots=True)
class Resumed:
    """The watch is open again after an interruption; what was missed meanwhile follows."""


Event = Listed | Changed | Deleted | Interrupted | Resumed


class Stalled(Exception):
    """Nothing came through an open watch for too long."""


async def follow(api: client.Client, path: str, stall_s: float = STALL_S, **params: str) -> AsyncIterator[Event]:
    """Yield a list, then its changes, for as long as the kind is served; a list of one that is not raises `ApiError` 404.

    Notes
    -----
    After an interruption the watch goes on from the last version told, bookmarks included. Only a version that the
    server has forgotten, or `TRIES` failures in a row (a server restored from a backup never reaches our version), costs a new
    list. Waits double from 0.1 s to 10 s, with jitter, so that many watchers do not return at one moment; a Retry-After is
    kept. They grow until something is told again: a list that succeeds before each watch that fails is no success.

    A watch that stalls is begun anew at once. Not each such watch was dead: of a kind that never changes kube-apiserver
    may send no bookmark either.
    """
    version, failures, stalls = "", 0, 0
    while True:
        asked_s, began = None, time.monotonic()
        try:
            if not version:
                items, version = await api.list(path, **params)
                yield Listed(items, version)
            async with contextlib.aclosing(_changes(api, path, version, stall_s, params)) as told:
                async for reached, event in told:
                    if isinstance(event, Resumed):
                        if failures or stalls:
                            yield event
                        continue  # not a success yet: the server may end the stream at once
                    version, failures, stalls = reached, 0, 0
                    if event is not None:
                        yield event
            if time.monotonic() - began > SOON_S:
                failures = 0
                continue
            cause = "the server ended the watch at once"
        except Stalled as stalled:
            stalls += 1
            if stalls % TRIES == 0:
                version = ""
            yield Interrupted(str(stalled), 0.0)
            continue
        except errors.ApiError as error:
            if error.missing and not version:
                raise
            cause, asked_s = str(error), error.retry_after_s
            if error.expired or error.missing:
                version = ""
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            cause = f"{type(error).__name__}: {error}"
        failures += 1
        if failures % TRIES == 0:
            version = ""
        wait_s = 0.0 if failures == 1 and not version and asked_s is None else _wait(failures, asked_s)
        yield Interrupted(cause, wait_s)
        await asyncio.sleep(wait_s)


def _wait(failures: int, asked_s: float | None) -> float:
    grown: float = min(10.0, 0.1 * 2.0 ** min(failures - 1, 7))
    return max(asked_s or 0.0, grown * random.uniform(0.5, 1.0))


async def _changes(
    api: client.Client, path: str, version: str, stall_s: float, params: dict[str, str]
) -> AsyncGenerator[tuple[str, Event | None], None]:
    """Watch once from a version on: the version of each event, and the event (None for a bookmark), `Resumed` first."""
    asked = params | {
        "watch": "1",
        "resourceVersion": version,
        "allowWatchBookmarks": "true",
        "timeoutSeconds": str(int(QUIET_S)),
    }
    async with await api.open("GET", path, params=asked) as response:
        yield version, Resumed()
        async for line in _lines(response, stall_s):
            yield _read(line)


def _read(line: bytes) -> tuple[str, Event | None]:
    """Decode a line of a watch; what is no event counts as a broken connection."""
    try:
        told = orjson.loads(line)
        kind, item = told["type"], told["object"]
        if kind == "ERROR":
            raise errors.from_status(item)
        version = str(item["metadata"]["resourceVersion"])
    except (ValueError, KeyError, TypeError) as error:
        raise aiohttp.ClientPayloadError(f"not a watch event: {line[:200]!r}") from error
    if kind == "BOOKMARK":
        return version, None
    return version, Deleted(item) if kind == "DELETED" else Changed(item)


async def _lines(response: aiohttp.ClientResponse, stall_s: float) -> AsyncIterator[bytes]:
    """Yield whole lines; a line cut by the end of the stream is dropped, since the next watch tells it again."""
    held = bytearray()
    while True:
        try:
            async with asyncio.timeout(stall_s):
                chunk = await response.content.readany()
        except TimeoutError:
            raise Stalled(f"not even a bookmark came for {stall_s:g} s") from None
        if not chunk:
            return
        held += chunk
        if len(held) > LINE_LIMIT:
            raise aiohttp.ClientPayloadError(f"a watch event of more than {LINE_LIMIT} bytes")
        *whole, rest = held.split(b"\n")
        held = bytearray(rest)
        for line in whole:
            if line:
                yield bytes(line)
