"""A small API server behind a fault proxy: ConfigMaps only, with versions, watches and bookmarks."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from tests.testbed import kubeconfig, pki
from tests.testbed.faults import proxy

PATH = "/api/v1/namespaces/default/configmaps"


@dataclass(slots=True)
class Small:
    """Its objects by name, and every event since the start; `forgotten` is the oldest version that a watch may ask for."""

    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    events: list[tuple[int, str, dict[str, Any]]] = field(default_factory=list)
    version: int = 1
    forgotten: int = 0
    bookmarks: bool = True
    changed: threading.Condition = field(default_factory=threading.Condition)

    def put(self, name: str, value: str) -> dict[str, Any]:
        with self.changed:
            self.version += 1
            item = {"metadata": {"name": name, "resourceVersion": str(self.version)}, "data": {"value": value}}
            self.events.append((self.version, "MODIFIED" if name in self.objects else "ADDED", item))
            self.objects[name] = item
            return item

    def drop(self, name: str) -> None:
        with self.changed:
            self.version += 1
            item = self.objects.pop(name)
            item = item | {"metadata": item["metadata"] | {"resourceVersion": str(self.version)}}
            self.events.append((self.version, "DELETED", item))

    async def serve(self, request: web.Request) -> web.StreamResponse:
        if request.method == "POST":
            asked = await request.json()
            return web.json_response(self.put(asked["metadata"]["name"], asked["data"]["value"]), status=201)
        if request.query.get("watch"):
            return await self._watch(request)
        items = list(self.objects.values())
        return web.json_response({"metadata": {"resourceVersion": str(self.version)}, "items": items})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        since, told = int(request.query["resourceVersion"]), 0
        if since < self.forgotten:
            gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
            return web.json_response(gone, status=410)
        response = web.StreamResponse()
        await response.prepare(request)
        while request.transport is not None and not request.transport.is_closing():
            for version, kind, item in [event for event in self.events if event[0] > since]:
                await response.write(orjson.dumps({"type": kind, "object": item}) + b"\n")
                since = version
            told += 1
            if self.bookmarks and told % 10 == 0:
                mark = {"metadata": {"resourceVersion": str(since)}}
                await response.write(orjson.dumps({"type": "BOOKMARK", "object": mark}) + b"\n")
            await asyncio.sleep(0.01)
        return response


@pytest.fixture
def authority(tmp_path: Path) -> pki.Authority:
    return pki.Authority(tmp_path / "pki")


@pytest.fixture
def small(authority: pki.Authority, tmp_path: Path) -> Iterator[Small]:
    """A running small server; its kubeconfig is ``small.kubeconfig`` in the test's folder."""
    served, started = Small(), threading.Event()
    ending: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def run() -> None:
        ended = asyncio.Event()
        ending.append((asyncio.get_running_loop(), ended))
        pair = authority.issue("small")
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(pair.cert, pair.key)
        app = web.Application()
        app.router.add_route("*", PATH, served.serve)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        url = f"https://127.0.0.1:{runner.addresses[0][1]}"
        kubeconfig.write(tmp_path / "small.kubeconfig", url, authority.ca, "secret")
        started.set()
        await ended.wait()
        await runner.cleanup()
        await asyncio.sleep(0.02)

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    assert started.wait(10)
    yield served
    for loop, ended in ending:
        loop.call_soon_threadsafe(ended.set)
    thread.join(10)


@pytest.fixture
def between(small: Small, authority: pki.Authority, tmp_path: Path) -> Iterator[proxy.Proxy]:
    with proxy.between(tmp_path / "small.kubeconfig", authority, tmp_path) as running:
        yield running
