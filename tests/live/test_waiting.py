"""What has no room is told why, and starts by itself; strangers are kept off the devices that Muster owns."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import AsyncIterator

import pytest

from scheduler.apiserver import paths
from scheduler.model import names
from tests.kube import live
from tests.live import team as teams
from tests.live import work

TOLD_S = 1.0
"""From the creation of a gang's last pod until its placement says why it does not run."""


@contextlib.asynccontextmanager
async def cordoned(team: teams.Team, rack: str, count: int) -> AsyncIterator[list[str]]:
    """Cordon machines of a rack; yields their names, and uncordons what still is cordoned."""
    found = sorted(one["metadata"]["name"] for one in await team.nodes() if in_rack(one, rack))[:count]
    for name in found:
        await cordon(team, name, True)
    try:
        yield found
    finally:
        for name in found:
            await cordon(team, name, False)


def in_rack(node: teams.Obj, rack: str) -> bool:
    return node["metadata"]["labels"].get(work.RACK) == rack


async def cordon(team: teams.Team, name: str, shut: bool) -> None:
    await team.api.patch(paths.of("v1", "nodes", "", name), {"spec": {"unschedulable": shut}})


async def test_a_gang_without_room_reads_why_within_a_second_and_starts_when_there_is(team: teams.Team) -> None:
    async with cordoned(team, "e2e-b00-r00", 1) as [one], cordoned(team, "e2e-b00-r01", 2):
        *first, last = work.gang("train", 4, notes=work.IN_ONE_RACK)
        await team.create(first)
        await team.create([last])
        began = time.monotonic()
        found = await team.phase("gang-train", "Waiting")
        took = time.monotonic() - began
        message = found["status"]["message"]
        assert took < TOLD_S, f"told after {took:.2f} s"
        assert "e2e-b00-r00" in message, "the nearest domain"
        assert re.search(r"\b(lacks?|1 more|8 GPUs)\b", message), "what is missing"
        await team.never_bound(*(f"train-{i}" for i in range(4)), still_s=1)
        assert await team.devices() == {}
        told = await team.until(lambda: told_of(team, "Pod/train-3", "GangWaiting"))
        assert "e2e-b00-r00" in told
        await cordon(team, one, False)
        pods = await team.bound(4)
        assert await team.racks(pods.values()) == {"e2e-b00-r00"}


async def test_a_gang_that_never_fits_is_rejected(team: teams.Team) -> None:
    await team.create(work.gang("huge", 13))
    found = await team.phase("gang-huge", "Rejected")
    assert found["status"]["reason"] == "GangLargerThanCluster"
    assert "lacks 24 GPUs" in await team.until(lambda: told_of(team, "Pod/huge-0", "GangRejected"))


async def told_of(team: teams.Team, regarding: str, reason: str) -> str:
    """Return the Event of an object with a reason, "" for none."""
    return next((note for about, word, note in team.events() if (about, word) == (regarding, reason)), "")


async def test_two_gangs_that_fit_alone_run_one_after_the_other(team: teams.Team) -> None:
    await team.create([*work.gang("one", 5), *work.gang("two", 5)])
    first = await team.bound_of("one", "two")
    other = "two" if first == "one" else "one"
    found = await team.phase(f"gang-{other}", "Waiting")
    assert found["status"]["message"]
    await team.never_bound(*(f"{other}-{i}" for i in range(5)), still_s=1)
    for i in range(5):
        await team.api.delete(team.path("v1", "pods", f"{first}-{i}"), grace_s=0)
    await team.phase(f"gang-{other}", "Running")
    await team.bound(5)


async def test_a_stock_pod_never_takes_an_owned_device(team: teams.Team) -> None:
    """Without Muster it waits, in a namespace where nothing gates it; Muster gives it devices when it is back."""
    if not team.site.tainted:
        pytest.skip("no device taints before 1.36: only the gate protects the devices there")
    async with teams.Team.open(team.site, team.api, managed=False) as other:
        team.site.stop_muster()
        try:
            await other.create([work.pod("stock", "one")])
            await other.claims_of("stock")
            await other.never_bound("stock", still_s=3)
            assert await other.devices() == {}
        finally:
            team.site.start_muster()
        await other.bound(1)
        assert await writers(other) == {"muster"}


async def writers(team: teams.Team) -> set[str]:
    """Return who allocated the claims of a team."""
    claims = await team.list(paths.RESOURCE, "resourceclaims")
    fields = [one for claim in claims for one in claim["metadata"]["managedFields"]]
    return {one["manager"] for one in fields if "f:allocation" in one["fieldsV1"].get("f:status", {})}


async def test_plain_pods_go_where_the_extender_scores_best(team: teams.Team) -> None:
    """Their claims tolerate our taint, so kube-scheduler gives the devices; it packs them only because we say so."""
    if not team.site.tainted:
        pytest.skip("requests have no tolerations before 1.36")
    tolerating = [{"key": names.OWNED, "operator": "Exists", "effect": "NoSchedule"}]
    async with teams.Team.open(team.site, team.api, managed=False) as other:
        await other.apply(live.template("tolerant", 1, tolerations=tolerating))
        for i in range(4):
            await other.create([work.pod(f"p-{i}", "tolerant")])
            await other.bound(i + 1)
        nodes = {one["spec"]["nodeName"] for one in await other.pods()}
        assert len(nodes) == 1, nodes
        assert await writers(other) == {"kube-scheduler"}
        devices = [row for rows in (await other.devices()).values() for row in rows]
        assert len(set(devices)) == 4
