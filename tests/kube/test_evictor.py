"""An eviction that stops half way is finished by whoever leads next; one of an old leader spoils nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from scheduler.apiserver import client, paths
from scheduler.kube import evictor, names, pens
from scheduler.kube import pod as pods
from tests.kube import live, writing

MEMBERS = ("w-0", "w-1", "w-2")
REASON = "PreemptedByPriority"


class Stopped(Exception):
    """The process ends here."""


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[live.Cluster]:
    """A gang of plain pods that runs, and no scheduler any more."""
    async with live.cluster(tmp_path) as found:
        await found.create(*(live.pod(name, "train", 3) for name in MEMBERS))
        await found.start()
        await found.bound(*MEMBERS)
        await found.stop()
        yield found


async def members(home: live.Cluster) -> list[pods.Pod]:
    return [pods.read(one) for _, one in sorted((await home.pods()).items())]


async def evicts(home: live.Cluster, stop: int = 0, leads: Any = pens.always) -> list[tuple[str, str]]:
    """Evict the gang as a leader that ends before a write of a number, and return what it wrote."""
    async with await writing.Touched.connect(home.kubeconfig) as api:

        async def end(number: int, *_: str) -> None:
            if number >= stop > 0:
                raise Stopped

        api.before = end
        one = evictor.Evictor(pens.Pen(api, 1, leads))
        with contextlib.suppress(Stopped, pens.Fenced):
            await one.evict(await members(home), REASON)
        return [(method, path) for method, path in api.asked if method in writing.WRITES]


async def gone(home: live.Cluster) -> bool:
    return not await home.pods() and not await home.claims() and await home.placement("gang-train") is None


async def test_all_pods_are_marked_before_one_is_deleted(home: live.Cluster) -> None:
    written = await evicts(home)
    assert [method for method, _ in written] == ["PATCH"] * 3 + ["DELETE"] * 3
    await home.start()
    await home.until(lambda: gone(home))


@pytest.mark.parametrize("stop", range(2, 7))
async def test_the_next_leader_finishes_what_was_begun(home: live.Cluster, stop: int) -> None:
    await evicts(home, stop)
    await home.start()
    await home.until(lambda: gone(home))
    await home.create(*(live.pod(name, "train", 3) for name in MEMBERS))
    await home.bound(*MEMBERS)


async def test_pods_that_came_anew_are_not_evicted_with_the_rest(home: live.Cluster) -> None:
    await evicts(home, 5)
    left = await home.until(lambda: one_less(home))
    [lost] = set(MEMBERS) - set(left)
    await home.create(live.pod(lost, "train", 3))
    await home.start()
    await home.until(lambda: only(home, lost))
    await home.create(*(live.pod(name, "train", 3) for name in left))
    await home.bound(*MEMBERS)


async def one_less(home: live.Cluster) -> dict[str, Any] | None:
    found = await home.pods()
    return found if len(found) == 2 else None


async def only(home: live.Cluster, name: str) -> bool:
    return set(await home.pods()) == {name}


async def test_a_lone_pod_that_was_marked_only_is_deleted(tmp_path: Path) -> None:
    async with live.cluster(tmp_path) as home:
        await home.create(live.pod("alone"))
        await home.start()
        await home.bound("alone")
        await home.stop()
        await evicts(home, 2)
        await home.start()
        await home.until(lambda: gone(home))


async def test_an_eviction_that_was_decided_before_its_term_ended_writes_nothing(home: live.Cluster) -> None:
    assert await evicts(home, leads=lambda: False) == []


async def test_a_mark_that_comes_late_takes_the_whole_gang(home: live.Cluster) -> None:
    await home.start()
    await home.until(lambda: running(home))
    await evicts(home, 2)
    await home.until(lambda: gone(home))


async def running(home: live.Cluster) -> bool:
    assert home.scheduler and home.scheduler.shell
    return "default/gang-train" in home.scheduler.shell.machine.held


async def test_marks_of_others_are_left_alone(home: live.Cluster) -> None:
    condition = {
        "type": names.DISRUPTED,
        "status": "True",
        "reason": "PreemptionByScheduler",
        "message": "default-scheduler: preempting to accommodate a higher priority pod",
    }
    path = paths.of("v1", "pods", "default", "w-0", "status")
    await home.api.patch(path, {"status": {"conditions": [condition]}}, client.STRATEGIC)
    await home.start()
    await home.until(lambda: running(home))
    assert home.scheduler and home.scheduler.shell
    [found] = home.scheduler.shell.followed.values()
    assert not found.workload.evicted and found.plan is not None


async def test_a_refusal_does_not_end_an_eviction(home: live.Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a gang must not stay because the API server was busy for longer than a request is asked again."""
    monkeypatch.setattr(evictor, "AGAIN_S", (0.01, 0.01))
    refused = 0
    async with await writing.Touched.connect(home.kubeconfig) as api:

        async def lose(_: int, method: str, path: str) -> None:
            nonlocal refused
            if method == "DELETE" and path.endswith("w-1") and refused < 3:
                refused += 1
                raise writing.Lost

        api.before = lose
        async with asyncio.timeout(20):
            await evictor.Evictor(pens.Pen(api, 1, patience_s=0.0)).evict(await members(home), REASON)
    assert refused == 3
    await home.start()
    await home.until(lambda: gone(home))
