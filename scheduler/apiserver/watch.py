"""A list of objects and every change after it, for as long as the caller listens.

The order of `Listed`, `Changed` and `Deleted` events is the server's. After a gap (410, or a stream that ended where the
server no longer knows our version) a new `Listed` comes, and whoever keeps a cache replaces it as a whole: an object
that is not in it is gone.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from scheduler.apiserver import client, errors

QUIET_S = 300.0  # the server is asked to end a stream after this; bookmarks come about once a minute
STALL_S = 120.0  # neither an event nor a bookmark for so long: the connection is dead, although it is open
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


Event = Listed | Changed | Deleted | Interrupted


async def follow(api: client.Client, path: str, stall_s: float = STALL_S, **params: str) -> AsyncIterator[Event]:
    """Yield a list, then its changes, for ever; a kind that is not served raises `ApiError` 404 at the first list.

    Notes
    -----
    Waits between failures double from 0.1 s to 10 s, with jitter, so that many watchers do not return at one moment;
    a Retry-After of the server is kept.
    """
    failures, listed = 0, False
    while True:
        try:
            items, version = await api.list(path, **params)
            listed, failures = True, 0
            yield Listed(items, version)
            async for event in _changes(api, path, version, stall_s, params):
                failures = 0
                yield event
        except errors.ApiError as error:
            if error.missing and not listed:
                raise
            if error.expired:
                continue
            failures += 1
            wait = _wait(failures, error.retry_after_s)
            yield Interrupted(str(error), wait)
            await asyncio.sleep(wait)
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            failures += 1
            wait = _wait(failures, None)
            yield Interrupted(f"{type(error).__name__}: {error}", wait)
            await asyncio.sleep(wait)


def _wait(failures: int, asked_s: float | None) -> float:
    grown: float = min(10.0, 0.1 * 2.0 ** min(failures - 1, 7))
    return max(asked_s or 0.0, grown * random.uniform(0.5, 1.0))


async def _changes(
    api: client.Client, path: str, version: str, stall_s: float, params: dict[str, str]
) -> AsyncIterator[Event]:
    """Watch from a version on, again and again, until the server no longer knows it (raises 410)."""
    while True:
        asked = params | {
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(int(QUIET_S)),
        }
        async with await api.open("GET", path, params=asked) as response:
            async for line in _lines(response, stall_s):
                told = orjson.loads(line)
                item = told["object"]
                if told["type"] == "ERROR":
                    raise errors.from_response(int(item.get("code", 500)), {}, orjson.dumps(item))
                version = item["metadata"]["resourceVersion"]
                if told["type"] == "DELETED":
                    yield Deleted(item)
                elif told["type"] != "BOOKMARK":
                    yield Changed(item)


async def _lines(response: aiohttp.ClientResponse, stall_s: float) -> AsyncIterator[bytes]:
    """Yield whole lines; a line cut by the end of the stream is dropped, since the next watch tells it again."""
    held = bytearray()
    while True:
        async with asyncio.timeout(stall_s):
            chunk = await response.content.readany()
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
