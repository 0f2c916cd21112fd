"""The plan writer: what it writes in how many requests, and what becomes of a plan under every fault."""

import asyncio
import copy
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scheduler.apiserver import errors
from scheduler.kube import gang_record, names, scribe
from tests.kube import writing


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[writing.Site]:
    async with writing.site(tmp_path) as found:
        yield found


async def test_a_plan_is_written_in_the_fewest_requests(site: writing.Site) -> None:
    await site.scribe().start(writing.GANG, site.plan, None)
    await site.whole()
    claims = [path for _, path in site.api.asked if "resourceclaims" in path]
    pods = [path for _, path in site.api.asked if "/pods/" in path]
    records = [method for method, path in site.api.asked if names.PLURAL in path]
    assert (len(claims), len(pods), records) == (6, 6, ["POST", "PATCH", "PATCH"])
    assert site.api.asked[0][0] == "POST", "the record comes before anything else"
    notes = (await site.home.api.get(next(path for path in claims)))["metadata"]["annotations"]
    assert (notes[names.GANG], notes[names.PLANNED_SIZE]) == ("gang-train", "3") and notes[names.PLANNED_RANK] in "012"
    record = await site.record()
    assert gang_record.read_plan(record) == site.plan
    assert {one["type"]: one["status"] for one in record["status"]["conditions"]} == {
        "Planned": "True",
        "Allocated": "True",
        "Released": "True",
    }


async def test_a_plan_that_no_object_can_hold_is_refused_before_anything_is_written(site: writing.Site) -> None:
    (first, *_), written = site.plan.pods, len(site.api.asked)
    many = tuple(replace(first, rank=rank, name=f"w-{rank}", uid=f"uid-{rank}") for rank in range(20_000))
    with pytest.raises(scribe.StartFailed, match=r"plan for 20000 pods has \d+ bytes.*make several gangs of it"):
        await site.scribe().start(writing.GANG, replace(site.plan, pods=many), None)
    assert {method for method, _ in site.api.asked[written:]} <= {"GET"}
    await site.absent()


async def test_a_pod_keeps_its_own_affinity_and_other_gates(site: writing.Site) -> None:
    path = "/api/v1/namespaces/default/pods/w-0"
    pod = await site.home.api.get(path)
    terms = [
        {"matchExpressions": [{"key": "zone", "operator": "Exists"}]},
        {"matchExpressions": [{"key": "b", "operator": "Exists"}]},
    ]
    needed = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
    await site.home.api.delete(path, grace_s=0)
    fresh = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "w-0", "annotations": pod["metadata"]["annotations"]},
    }
    spec = {key: pod["spec"][key] for key in ("containers", "resourceClaims")}
    gates = [{"name": names.GATE}, {"name": "other.example.com/gate"}]
    fresh["spec"] = spec | {"affinity": {"nodeAffinity": needed}, "schedulingGates": gates}
    await site.home.create(fresh)
    plan = await writing.planned(site.home, writing.GANG)
    await site.scribe().start(writing.GANG, plan, None)
    spec = (await site.home.pods())["w-0"]["spec"]
    assert spec["schedulingGates"] == [{"name": "other.example.com/gate"}]
    found = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    field = {"key": "metadata.name", "operator": "In", "values": [plan.pods[0].node]}
    assert found == [{**term, "matchFields": [field]} for term in terms]


@pytest.mark.parametrize("status", [409, 429, 500, 503])
async def test_every_request_refused_once_costs_only_time(site: writing.Site, status: int) -> None:
    seen = set()

    async def refuse(_: int, method: str, path: str) -> None:
        if (method, path) not in seen:
            seen.add((method, path))
            reason = "Conflict" if status == 409 else "Busy"
            raise errors.ApiError(status, reason, "a fault on purpose")

    if status == 409:
        site.api.before = lambda n, m, p: refuse(n, m, p) if not (m == "PATCH" and names.PLURAL in p) else _nothing()
    else:
        site.api.before = refuse
    await site.scribe().start(writing.GANG, site.plan, None)
    await site.whole()
    assert len(seen) >= 10


async def _nothing() -> None:
    return None


@pytest.mark.parametrize("error", [writing.Lost("cut"), TimeoutError()])
async def test_every_answer_lost_once_costs_only_time(site: writing.Site, error: Exception) -> None:
    seen = set()

    async def lose(_: int, method: str, path: str) -> None:
        if (method, path) not in seen:
            seen.add((method, path))
            raise error

    site.api.after = lose
    await site.scribe().start(writing.GANG, site.plan, None)
    await site.whole()
    assert len(seen) >= 11


@pytest.mark.parametrize("number", range(1, 9))
async def test_a_write_that_is_refused_for_good_rolls_all_back(site: writing.Site, number: int) -> None:
    """Writes 1 to 8 are the record, its status, three finalizers and three allocations, in whatever order."""

    async def refuse(turn: int, *_: object) -> None:
        if turn == number:
            raise errors.ApiError(403, "Forbidden", "a fault on purpose")

    site.api.before = refuse
    with pytest.raises(scribe.StartFailed) as failed:
        await site.scribe().start(writing.GANG, site.plan, None)
    assert failed.value.stands is None and "a fault on purpose" in str(failed.value)
    await site.absent()
    assert all(one == [] for one in (await site.finalizers()).values())


async def test_an_answer_that_never_comes_is_rolled_back_and_a_late_write_is_refused(site: writing.Site) -> None:
    """The allocation of one claim arrives after all was rolled back."""
    target = f"{site.plan.pods[1].claims[0].name}/status"
    bodies = []
    plain = site.api.replace

    async def replace(path: str, item: dict[str, Any], **more: str) -> object:
        if path.endswith(target):
            bodies.append((path, copy.deepcopy(item)))
            raise TimeoutError
        return await plain(path, item, **more)

    site.api.replace = replace  # type: ignore[method-assign]
    with pytest.raises(scribe.StartFailed):
        await site.scribe().start(writing.GANG, site.plan, None)
    await site.absent()
    path, body = bodies[0]
    with pytest.raises(errors.ApiError) as refused:
        await site.home.api.replace(path, body)
    assert refused.value.conflict
    await site.absent()


@pytest.mark.parametrize("number", range(9, 12))
async def test_a_pod_that_cannot_be_let_go_does_not_hold_the_others_back(site: writing.Site, number: int) -> None:
    stuck = []

    async def refuse(_: int, __: str, path: str) -> None:
        if path.endswith(f"/pods/w-{number - 9}"):
            stuck.append(path)
            raise errors.ApiError(403, "Forbidden", "a fault on purpose")

    site.api.before = refuse
    one = site.scribe()
    with pytest.raises(scribe.StartFailed) as failed:
        await one.start(writing.GANG, site.plan, None)
    assert failed.value.stands is site.plan and stuck
    assert len(await site.released()) == 2 and len(await site.home.claims()) == 3
    site.api.before = None
    await one.resume(site.plan, site.plan.pods)
    await site.whole()


async def test_a_gang_that_grows_and_fails_keeps_what_ran(site: writing.Site) -> None:
    two = writing.plan.Plan(site.plan.identity, site.plan.pods[:2], 6)
    one = site.scribe()
    await one.start(writing.GANG, two, None)

    async def refuse(_: int, __: str, path: str) -> None:
        if path.endswith(f"{site.plan.pods[2].claims[0].name}/status"):
            raise errors.ApiError(422, "Invalid", "a fault on purpose")

    site.api.before = refuse
    with pytest.raises(scribe.StartFailed) as failed:
        await one.start(writing.GANG, site.plan, two)
    assert failed.value.stands is two
    assert set(await site.home.claims()) == {"w-0", "w-1"}
    assert gang_record.read_plan(await site.record()) == two


async def test_what_is_said_meanwhile_does_not_take_a_plan_off_the_record(site: writing.Site) -> None:
    """What was to be said first is late on its way; the plan waits for it."""

    async def late(turn: int, *_: object) -> None:
        if turn == 1:
            await asyncio.sleep(0.3)

    site.api.before = late
    one = site.scribe()
    saying = asyncio.create_task(one.records.say(writing.GANG, gang_record.Phase.WAITING, "No", "no"))
    await asyncio.sleep(0.05)
    await one.start(writing.GANG, site.plan, None)
    await saying
    await site.whole()
    assert (await site.record())["status"]["phase"] == "Running"
