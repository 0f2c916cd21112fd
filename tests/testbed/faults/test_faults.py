"""Each fault strikes, and our client gets over it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from scheduler.apiserver import client, errors, watch
from tests.testbed import process
from tests.testbed.faults import conftest, processes, proxy, rules

WATCHES = rules.Match(verbs=("watch",))
ENOUGH_S = 15.0


async def follower(api: client.Client, seen: dict[str, str], told: list[watch.Event], stall_s: float) -> None:
    """Keep a cache as any user of a watch does."""
    async for event in watch.follow(api, conftest.PATH, stall_s):
        told.append(event)
        match event:
            case watch.Listed(items):
                seen.clear()
                seen.update({one["metadata"]["name"]: one["data"]["value"] for one in items})
            case watch.Changed(item):
                seen[item["metadata"]["name"]] = item["data"]["value"]
            case watch.Deleted(item):
                seen.pop(item["metadata"]["name"], None)


async def converges(
    small: conftest.Small, config: Path, act: Callable[[], None] = lambda: None, stall_s: float = 0.5
) -> list[watch.Event]:
    """Change objects while a follower listens; return what it was told once it knows the truth."""
    seen: dict[str, str] = {}
    told: list[watch.Event] = []
    for index in range(5):
        small.put(f"c{index}", "old")
    async with await client.Client.connect(config) as api:
        listening = asyncio.create_task(follower(api, seen, told, stall_s))
        try:
            await asyncio.sleep(0.1)
            for index in range(20):
                small.put(f"c{index % 8}", str(index))
                await asyncio.sleep(0.01)
            small.drop("c1")
            act()
            small.put("last", "one")
            async with asyncio.timeout(ENOUGH_S):
                while seen != {name: item["data"]["value"] for name, item in small.objects.items()}:
                    assert not listening.done(), listening.exception()
                    await asyncio.sleep(0.02)
        finally:
            listening.cancel()
            await asyncio.wait([listening])
    return told


def lists(told: list[watch.Event]) -> int:
    return sum(isinstance(event, watch.Listed) for event in told)


async def test_without_faults_one_list_is_enough(small: conftest.Small, between: proxy.Proxy) -> None:
    told = await converges(small, between.kubeconfig, stall_s=5)
    assert lists(told) == 1 and not [event for event in told if isinstance(event, watch.Interrupted)]


@pytest.mark.parametrize(
    ("fault", "most_lists"),
    [
        (rules.Cut(2), 1),
        (rules.Cut(2, torn=True), 1),
        (rules.Stall(3), 1),
        (rules.SkipBookmarks(), 1),
        (rules.Expire(2), 9),
        (rules.Answer(500), 3),
        (rules.Answer(429, retry_after_s=1), 3),
        (rules.Answer(410), 9),
        (rules.Reset(), 3),
        (rules.Delay(0.2, 0.1), 1),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else "",
)
async def test_a_follower_learns_the_truth_through(
    small: conftest.Small, between: proxy.Proxy, fault: rules.Fault, most_lists: int
) -> None:
    rule = between.add(WATCHES, fault, times=8)
    told = await converges(small, between.kubeconfig)
    assert rule.applied, "the fault never struck"
    assert 1 <= lists(told) <= most_lists + 1


async def test_a_server_that_forgets_costs_one_list(small: conftest.Small, between: proxy.Proxy) -> None:
    between.add(WATCHES, rules.Cut(10), times=1)

    def forget() -> None:
        small.forgotten = small.version

    told = await converges(small, between.kubeconfig, forget)
    assert lists(told) <= 2


async def test_a_server_that_ends_every_watch_is_not_asked_all_the_time(
    small: conftest.Small, between: proxy.Proxy
) -> None:
    between.add(WATCHES, rules.Cut(0))
    seen: dict[str, str] = {}
    async with await client.Client.connect(between.kubeconfig) as api:
        listening = asyncio.create_task(follower(api, seen, [], 5))
        await asyncio.sleep(2)
        listening.cancel()
        await asyncio.wait([listening])
    assert 2 <= len([one for one in between.seen if one.asked.verb == "watch"]) <= 12


@pytest.mark.parametrize("fault", [rules.Answer(410), rules.Answer(500), rules.Expire(0), rules.Reset()])
async def test_failing_watches_are_asked_ever_more_rarely(
    small: conftest.Small, between: proxy.Proxy, fault: rules.Fault
) -> None:
    between.add(WATCHES, fault)
    told: list[watch.Event] = []
    async with await client.Client.connect(between.kubeconfig) as api:
        listening = asyncio.create_task(follower(api, {}, told, 5))
        await asyncio.sleep(2.5)
        listening.cancel()
        await asyncio.wait([listening])
    waits = [event.wait_s for event in told if isinstance(event, watch.Interrupted)]
    assert 3 <= len(waits) <= 9 and waits[-1] > 0.4
    assert lists(told) <= len(waits) + 1


async def test_watches_that_run_are_cut_when_the_test_says(small: conftest.Small, between: proxy.Proxy) -> None:
    told = await converges(small, between.kubeconfig, lambda: between.cut("configmaps"), stall_s=5)
    assert len([one for one in between.seen if one.asked.verb == "watch"]) == 2
    assert lists(told) == 1


async def test_a_stalled_watch_is_named(small: conftest.Small, between: proxy.Proxy) -> None:
    between.add(WATCHES, rules.Stall(3), times=1)
    told = await converges(small, between.kubeconfig)
    [stall] = [event for event in told if isinstance(event, watch.Interrupted)]
    assert stall == watch.Interrupted("not even a bookmark came for 0.5 s", 0.0)
    assert lists(told) == 1 and told[told.index(stall) + 1] == watch.Resumed()


async def test_watches_that_all_stall_cost_a_list_now_and_then(small: conftest.Small, between: proxy.Proxy) -> None:
    """A middlebox lets no watch through: what the follower knows is as old as a few stalls, not for ever."""
    between.add(WATCHES, rules.Stall(0))
    told = await converges(small, between.kubeconfig, stall_s=0.2)
    assert lists(told) == 2


async def test_a_lost_acknowledgement_leaves_the_write_done(small: conftest.Small, between: proxy.Proxy) -> None:
    between.add(rules.Match(verbs=("create",)), rules.Reset(after=True), times=1)
    async with await client.Client.connect(between.kubeconfig) as api:
        with pytest.raises(aiohttp.ClientError):
            await api.create(conftest.PATH, {"metadata": {"name": "done"}, "data": {"value": "yes"}})
    assert "done" in small.objects
    assert [one.status for one in between.seen] == [0]


async def test_a_reset_before_leaves_it_undone(small: conftest.Small, between: proxy.Proxy) -> None:
    between.add(rules.Match(verbs=("create",)), rules.Reset(), times=1)
    async with await client.Client.connect(between.kubeconfig) as api:
        with pytest.raises(aiohttp.ClientError):
            await api.create(conftest.PATH, {"metadata": {"name": "undone"}, "data": {"value": "no"}})
    assert "undone" not in small.objects


async def test_an_answer_in_the_servers_place_is_a_status(small: conftest.Small, between: proxy.Proxy) -> None:
    between.add(rules.Match(verbs=("create",), resource="configmaps"), rules.Answer(429, retry_after_s=3), times=1)
    async with await client.Client.connect(between.kubeconfig) as api:
        with pytest.raises(errors.ApiError) as refused:
            await api.create(conftest.PATH, {"metadata": {"name": "x"}, "data": {"value": ""}})
        assert refused.value.status == 429 and refused.value.retry_after_s == 3 and refused.value.passing
        await api.create(conftest.PATH, {"metadata": {"name": "x"}, "data": {"value": ""}})
    assert [one.status for one in between.seen] == [429, 201]


async def test_the_first_ones_may_pass(small: conftest.Small, between: proxy.Proxy) -> None:
    rule = between.add(rules.Match(verbs=("list",), skip=2), rules.Answer(500), times=1)
    statuses = []
    async with await client.Client.connect(between.kubeconfig) as api:
        for _ in range(4):
            try:
                await api.list(conftest.PATH)
                statuses.append(200)
            except errors.ApiError as error:
                statuses.append(error.status)
    assert statuses == [200, 200, 500, 200] and rule.met == 4


@pytest.mark.parametrize(
    ("method", "path", "query", "expected"),
    [
        ("GET", "/api/v1/nodes", {}, ("list", "", "nodes", "", "", "")),
        ("GET", "/api/v1/nodes", {"watch": "1"}, ("watch", "", "nodes", "", "", "")),
        ("PUT", "/apis/a.b/v1/namespaces/n/cs/x/status", {}, ("update", "a.b", "cs", "status", "n", "x")),
        ("GET", "/api/v1/namespaces/n", {}, ("get", "", "namespaces", "", "", "n")),
        ("DELETE", "/api/v1/namespaces/n/pods", {}, ("deletecollection", "", "pods", "", "n", "")),
        ("GET", "/version", {}, ("list", "", "", "", "", "")),
    ],
)
def test_requests_are_read_in_the_words_of_rbac(method: str, path: str, query: Any, expected: Any) -> None:
    asked = rules.Request.read(method, path, query)
    found = (asked.verb, asked.group, asked.resource, asked.subresource, asked.namespace, asked.name)
    assert found == expected


@pytest.fixture
def talker(tmp_path: Path) -> Any:
    """A program that writes a line every 20 ms."""
    group = process.Group(tmp_path)
    program = "import time,itertools\nfor n in itertools.count(): print('line', n, flush=True); time.sleep(0.02)"
    yield group.start("talker", [sys.executable, "-c", program])
    group.close()


def test_a_program_is_killed_at_a_line_of_its_log(talker: process.Process) -> None:
    line = processes.at_log_line(talker, r"line \d*7$", processes.kill, 10)
    assert line.endswith("7") and not talker.running
    with pytest.raises(process.Failed, match="ended before"):
        processes.at_log_line(talker, "never", processes.kill, 10)


def test_a_stopped_program_goes_on_later(talker: process.Process) -> None:
    processes.stop_for(talker, 0.6)
    time.sleep(0.1)
    before = talker.log.stat().st_size
    time.sleep(0.3)
    assert talker.log.stat().st_size == before
    time.sleep(0.6)
    assert talker.log.stat().st_size > before


async def test_a_program_is_killed_at_a_call_before_the_server_sees_it(
    small: conftest.Small, between: proxy.Proxy, talker: process.Process
) -> None:
    """The hook runs before the request goes on."""
    create = rules.Match(verbs=("create",))
    between.hooks.append(processes.AtCall(create, lambda: processes.kill(talker), number=2))
    async with await client.Client.connect(between.kubeconfig) as api:
        for index in range(2):
            assert talker.running
            await api.create(conftest.PATH, {"metadata": {"name": f"x{index}"}, "data": {"value": ""}})
    assert not talker.running


async def test_a_held_request_reaches_the_server_when_it_is_let_on(small: conftest.Small, between: proxy.Proxy) -> None:
    held = rules.Hold()
    between.add(rules.Match(verbs=("create",), skip=1), held)
    async with await client.Client.connect(between.kubeconfig) as api:
        bodies = [{"metadata": {"name": f"x{index}"}, "data": {"value": ""}} for index in range(2)]
        await api.create(conftest.PATH, bodies[0])
        waiting = asyncio.create_task(api.create(conftest.PATH, bodies[1]))
        done, _ = await asyncio.wait([waiting], timeout=0.2)
        assert not done and "x1" not in small.objects
        held.opened.set()
        await waiting
    assert "x1" in small.objects


def test_our_programs_kill_themselves_at_a_named_point() -> None:
    program = (
        "from dra_driver import faultpoint\nfor _ in range(3): faultpoint.reach('here'); print('past', flush=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=processes.at_point("here", 2), capture_output=True, text=True, check=False
    )
    assert done.returncode == -9 and done.stdout == "past\n"
