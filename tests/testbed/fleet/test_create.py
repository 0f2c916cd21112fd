"""Creating a fleet against a small API server in memory: bounds, waiting, retry, deletion."""

import asyncio
import contextlib
import copy
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from aiohttp import web

from scheduler.apiserver import client, errors
from tests.testbed.fleet import create, nodes, presets

TINY = presets.Fleet("tiny", ((presets.Rack("l40s-8", 60), presets.Rack("gb200-nvl72", 18)),))


class Server:
    """Nodes and slices in memory; makes nodes Ready `ready_s` after they were posted, and takes their taint later."""

    def __init__(self, ready_s: float | None = 0.05) -> None:
        self.ready_s = ready_s
        self.stored: dict[str, dict[str, Any]] = {}
        self.version = 0
        self.told = asyncio.Condition()
        self.log: list[dict[str, Any]] = []
        self.busy = self.busiest = 0
        self.refuse = ""
        self.tasks: set[asyncio.Task[None]] = set()

    async def post(self, request: web.Request) -> web.Response:
        self.busy += 1
        self.busiest = max(self.busiest, self.busy)
        await asyncio.sleep(0.002)
        self.busy -= 1
        item = orjson.loads(await request.read())
        name = item["metadata"]["name"]
        if name == self.refuse:
            return status(422, "Invalid", f"{name} is refused")
        path = f"{request.path}/{name}"
        if path in self.stored:
            return status(409, "AlreadyExists", f"{name} exists")
        if request.path == nodes.NODES:
            item["spec"]["taints"] = [{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]
        await self.keep(path, item)
        if request.path == nodes.NODES and self.ready_s is not None:
            task = asyncio.create_task(self.wake(path))
            self.tasks.add(task)
        return web.json_response(item, status=201)

    async def keep(self, path: str, item: dict[str, Any]) -> None:
        async with self.told:
            self.version += 1
            item = copy.deepcopy(item)
            item["metadata"]["resourceVersion"] = str(self.version)
            self.stored[path] = item
            self.log.append(item)
            self.told.notify_all()

    async def wake(self, path: str) -> None:
        """Do what kwok does, then what the node controller does."""
        assert self.ready_s is not None
        await asyncio.sleep(self.ready_s)
        item = copy.deepcopy(self.stored[path])
        item["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
        await self.keep(path, item)
        await asyncio.sleep(self.ready_s)
        item = copy.deepcopy(self.stored[path])
        del item["spec"]["taints"]
        await self.keep(path, item)

    async def get(self, request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            return await self.watch(request)
        key, value = request.query["labelSelector"].split("=")
        items = [item for path, item in self.stored.items() if path.startswith(request.path + "/")]
        items = [item for item in items if item["metadata"]["labels"].get(key) == value]
        return web.json_response({"metadata": {"resourceVersion": str(self.version)}, "items": items})

    async def watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        sent = int(request.query["resourceVersion"])
        while True:
            async with self.told:
                while len(self.log) == sent:
                    await self.told.wait()
                fresh, sent = self.log[sent:], len(self.log)
            for item in fresh:
                if item["kind"] == "Node":
                    await response.write(orjson.dumps({"type": "MODIFIED", "object": item}) + b"\n")

    async def delete(self, request: web.Request) -> web.Response:
        if self.stored.pop(request.path, None) is None:
            return status(404, "NotFound", "gone")
        return web.json_response({})


def status(code: int, reason: str, message: str) -> web.Response:
    return web.json_response({"kind": "Status", "reason": reason, "message": message}, status=code)


@contextlib.asynccontextmanager
async def serving(folder: Path, server: Server) -> AsyncIterator[client.Client]:
    """Serve, and give a client that is connected by a kubeconfig."""
    app = web.Application()
    for path in (nodes.NODES, nodes.SLICES):
        app.router.add_post(path, server.post)
        app.router.add_get(path, server.get)
        app.router.add_delete(path + "/{name}", server.delete)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    config = {
        "clusters": [{"name": "c", "cluster": {"server": f"http://{host}:{port}"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    file = folder / "kubeconfig"
    file.write_text(yaml.safe_dump(config))
    try:
        async with await client.Client.connect(file) as api:
            yield api
    finally:
        await runner.cleanup()


async def test_all_objects_are_created_and_all_nodes_are_ready_when_it_returns(tmp_path: Path) -> None:
    server, heard = Server(), []
    async with serving(tmp_path, server) as api:
        made = await create.create(api, TINY, told=lambda *said: heard.append(said), ready_s=20)
    assert made.nodes == made.slices == len(TINY) == 78
    assert len(server.stored) == 156
    assert not any("taints" in item["spec"] for path, item in server.stored.items() if path.startswith(nodes.NODES))
    assert heard[-1] == ("nodes ready", 78, 78) and ("objects created", 156, 156) in heard
    assert 8 < server.busiest <= create.AT_ONCE


async def test_a_second_call_finishes_what_is_there(tmp_path: Path) -> None:
    async with serving(tmp_path, server := Server()) as api:
        await create.create(api, TINY, ready_s=20)
        version = server.version
        await create.create(api, TINY, ready_s=20)
    assert server.version == version


async def test_without_kwok_the_wait_ends_and_names_a_node(tmp_path: Path) -> None:
    async with serving(tmp_path, Server(ready_s=None)) as api:
        with pytest.raises(create.NotReady, match=r"^78 nodes are not Ready after .* the first tiny-b00-r00-n00: its"):
            await create.create(api, TINY, ready_s=0.3)


async def test_a_tainted_node_is_not_ready(tmp_path: Path) -> None:
    server = Server(ready_s=None)
    async with serving(tmp_path, server) as api:
        with pytest.raises(create.NotReady):
            await create.create(api, TINY, ready_s=0.1)
        for path, item in list(server.stored.items()):
            if path.startswith(nodes.NODES):
                item["status"]["conditions"] = [{"type": "Ready", "status": "True"}]
                await server.keep(path, item)
        with pytest.raises(create.NotReady, match="it has the taint node"):
            await create.ready(api, TINY, deadline_s=0.3)


async def test_a_refused_object_ends_it(tmp_path: Path) -> None:
    server = Server()
    server.refuse = "tiny-b00-r01-n03"
    async with serving(tmp_path, server) as api:
        with pytest.raises(errors.ApiError, match="tiny-b00-r01-n03 is refused"):
            await create.create(api, TINY, ready_s=20)


async def test_deletion_takes_the_fleet_and_nothing_else(tmp_path: Path) -> None:
    other = presets.Fleet("other", ((presets.Rack("l40s-8", 3),),))
    async with serving(tmp_path, server := Server()) as api:
        await create.create(api, other, ready_s=20)
        await create.create(api, TINY, ready_s=20)
        assert await create.delete(api, TINY) == 156
    assert {item["metadata"]["labels"][nodes.FLEET_LABEL] for item in server.stored.values()} == {"other"}
    assert len(server.stored) == 6
