"""The extender protocol as kube-scheduler really speaks it (scheduling.md 1).

What it sends is compared with recorded requests in ``golden/``, keys and types, not values: `MUSTER_REWRITE=1` records
them anew.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from scheduler.apiserver import client
from tests.testbed import cluster as clusters
from tests.testbed import objects, ports
from tests.testbed.assumptions import world

GOLDEN = Path(__file__).parent / "golden"


@dataclass(slots=True)
class Extender:
    """A small extender: `filter` and `prioritize` may be replaced by a test; `calls` holds what came."""

    calls: list[tuple[str, dict[str, Any], dict[str, str]]] = field(default_factory=list)
    filter: Callable[[dict[str, Any]], Any] = lambda asked: {"NodeNames": asked["NodeNames"], "FailedNodes": {}}
    prioritize: Callable[[dict[str, Any]], Any] = lambda asked: [
        {"Host": name, "Score": 0} for name in asked["NodeNames"]
    ]
    status: int = 200

    async def serve(self, request: web.Request) -> web.Response:
        asked = await request.json()
        verb = request.path.strip("/")
        peer = {"connection": str(request.transport.get_extra_info("peername")[1])} if request.transport else {}
        self.calls.append((verb, asked, dict(request.headers) | peer))
        return web.json_response(getattr(self, verb)(asked), status=self.status)

    def of(self, verb: str, pod: str) -> list[dict[str, Any]]:
        return [asked for called, asked, _ in self.calls if called == verb and asked["Pod"]["metadata"]["name"] == pod]


@contextlib.asynccontextmanager
async def extended(home: clusters.Cluster, **settings: Any) -> AsyncIterator[Extender]:
    """Serve an extender and restart kube-scheduler with it; give the plain one back afterwards."""
    served, port = Extender(), ports.one()
    app = web.Application()
    for verb in ("filter", "prioritize"):
        app.router.add_post(f"/{verb}", served.serve)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    told = {
        "urlPrefix": f"http://127.0.0.1:{port}",
        "filterVerb": "filter",
        "prioritizeVerb": "prioritize",
        "weight": 13,
    }
    told |= {"nodeCacheCapable": True, "httpTimeout": "1s"} | settings
    restart(home, {"extenders": [told]})
    try:
        yield served
    finally:
        restart(home, {})
        await runner.cleanup()


def restart(home: clusters.Cluster, settings: dict[str, Any]) -> None:
    home.parts.stop("kube-scheduler")
    home.control.start_scheduler(settings)


@pytest.fixture
async def there(assumed: clusters.Cluster) -> AsyncIterator[world.World]:
    async with await client.Client.connect(assumed.kubeconfig) as api, world.World.open(assumed, api) as opened:
        yield opened


async def test_names_come_capitalised_on_one_connection_and_the_answer_decides(there: world.World) -> None:
    async with extended(there.home) as extender:
        extender.filter = lambda asked: {
            "NodeNames": [name for name in asked["NodeNames"] if name == "kw-2"],
            "FailedNodes": {name: "muster: rack full" for name in asked["NodeNames"] if name != "kw-2"},
        }
        for index in range(3):
            await there.create(objects.pod(f"w-{index}"))
            assert (await there.bound(f"w-{index}", 30))["spec"]["nodeName"] == "kw-2"
        (asked,) = extender.of("filter", "w-0")
        assert asked["Nodes"] is None and sorted(asked["NodeNames"]) == ["kw-0", "kw-1", "kw-2"]
        assert not extender.of("prioritize", "w-0"), "one feasible node is not prioritized"
        assert len({headers["connection"] for _, _, headers in extender.calls}) == 1
        compare("filter", there.minor, asked)


async def test_scores_decide_among_several_nodes(there: world.World) -> None:
    async with extended(there.home) as extender:
        extender.prioritize = lambda asked: [
            {"Host": name, "Score": 10 if name == "kw-1" else 0} for name in asked["NodeNames"]
        ]
        for index in range(3):
            await there.create(objects.pod(f"w-{index}"))
            assert (await there.bound(f"w-{index}", 30))["spec"]["nodeName"] == "kw-1"
        compare("prioritize", there.minor, extender.of("prioritize", "w-0")[0])


async def test_scores_above_ten_are_not_clamped(there: world.World) -> None:
    """Which gives room for a total order at one weight."""
    async with extended(there.home, weight=1) as extender:
        extender.prioritize = lambda asked: [
            {"Host": name, "Score": 1000 + index} for index, name in enumerate(sorted(asked["NodeNames"]))
        ]
        for index in range(3):
            await there.create(objects.pod(f"w-{index}"))
            assert (await there.bound(f"w-{index}", 30))["spec"]["nodeName"] == "kw-2"


async def test_a_reason_stands_in_the_event_word_for_word(there: world.World) -> None:
    async with extended(there.home) as extender:
        extender.filter = lambda asked: {
            "NodeNames": [],
            "FailedNodes": dict.fromkeys(asked["NodeNames"], "muster says no"),
        }
        await there.create(objects.pod("w"))

        async def told() -> bool:
            conditions = (await there.get("pods", "w"))["status"].get("conditions") or []
            return any("3 muster says no" in (one.get("message") or "") for one in conditions)

        await there.until(told)


async def test_a_pinned_pod_arrives_with_its_node_only(there: world.World) -> None:
    async with extended(there.home) as extender:
        await there.create(objects.pod("w", node="kw-1"))
        await there.bound("w", 30)
        assert extender.of("filter", "w")[0]["NodeNames"] == ["kw-1"]


@pytest.mark.parametrize("pin", ["kw-1", ""])
async def test_a_rejected_pod_keeps_its_allocation_only_if_it_is_pinned(there: world.World, pin: str) -> None:
    """PostFilter frees the claim of a pod that other nodes refuse because of it."""
    async with extended(there.home) as extender:
        extender.filter = lambda asked: {"NodeNames": [], "FailedNodes": dict.fromkeys(asked["NodeNames"], "no")}
        await there.create(objects.claim("c", "gpu.test"))
        await there.create(objects.pod("w", claims=["c"], gates=[world.GATE]))
        await there.allocate("c", "kw-1", ["gpu-6"])
        await there.ungate("w", pin)

        async def freed() -> bool:
            return await there.devices("c") == []

        if pin:
            await there.never_bound("w")
            assert await there.devices("c") == ["gpu-6"]
        else:
            await there.until(freed)


@pytest.mark.parametrize("ignorable", [True, False])
async def test_an_extender_that_fails_stops_pods_unless_it_is_ignorable(there: world.World, ignorable: bool) -> None:
    async with extended(there.home, ignorable=ignorable) as extender:
        extender.status = 500
        await there.create(objects.pod("w"))
        if ignorable:
            await there.bound("w", 30)
        else:
            await there.never_bound("w")


async def test_a_pod_with_claims_only_is_not_shown_to_an_extender_of_named_resources(there: world.World) -> None:
    resources = [{"name": "muster.dev/gpu", "ignoredByScheduler": True}]
    async with extended(there.home, managedResources=resources) as extender:
        await there.create(objects.claim("c", "gpu.test"))
        await there.create(objects.pod("w", claims=["c"]))
        await there.bound("w", 30)
        assert not extender.calls


def compare(verb: str, minor: int, asked: dict[str, Any]) -> None:
    """Compare the form of a request with the recorded one."""
    path = GOLDEN / f"extender-{verb}-1.{minor}.json"
    if os.environ.get("MUSTER_REWRITE"):
        GOLDEN.mkdir(exist_ok=True)
        path.write_text(json.dumps(asked, indent=1, sort_keys=True) + "\n")
    assert form(asked) == form(json.loads(path.read_text()))


def form(value: Any) -> Any:
    """Return the keys and types of a value; a list has the form of its first entry."""
    if isinstance(value, dict):
        loose = ("managedFields", "f:", "k:")
        return {key: form(inner) for key, inner in sorted(value.items()) if not key.startswith(loose)}
    if isinstance(value, list):
        return [form(value[0])] if value else []
    return type(value).__name__
