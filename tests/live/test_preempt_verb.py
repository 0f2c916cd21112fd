"""kube-scheduler's own preemption beside Muster: it asks, and may have a whole gang or none of it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from scheduler.apiserver import paths
from tests.live import team as teams
from tests.live import work

HOSTNAME = "kubernetes.io/hostname"


@contextlib.asynccontextmanager
async def urgent(team: teams.Team) -> AsyncIterator[str]:
    """Make a priority class that outranks everything; yields its name."""
    path, name = paths.of("scheduling.k8s.io/v1", "priorityclasses"), f"{team.name}-urgent"
    await team.api.create(path, {"metadata": {"name": name}, "value": 1_000_000})
    try:
        yield name
    finally:
        await team.api.delete(f"{path}/{name}")


async def filling(team: teams.Team, name: str, node: str, priority: str) -> teams.Obj:
    """Return a pod without claims that needs all the CPU of a node but half of one."""
    found = await team.api.get(paths.of("v1", "nodes", "", node))
    cpu = int(found["status"]["allocatable"]["cpu"]) * 1000 - 500
    made = work.pod(name, priorityClassName=priority, nodeSelector={HOSTNAME: found["metadata"]["labels"][HOSTNAME]})
    del made["spec"]["resourceClaims"]
    made["spec"]["containers"][0]["resources"] = {"requests": {"cpu": f"{cpu}m"}}
    return made


async def test_kube_scheduler_evicts_no_part_of_a_gang_but_may_evict_a_whole_one(team: teams.Team) -> None:
    await team.create([*work.gang("pair", 2), *work.gang("alone", 1)])
    nodes = {name: pod["spec"]["nodeName"] for name, pod in (await team.bound(3)).items()}
    assert len(set(nodes.values())) == 3
    async with urgent(team) as priority, teams.Team.open(team.site, team.api, managed=False) as other:
        await other.create([await filling(other, "refused", nodes["pair-0"], priority)])
        await other.never_bound("refused", still_s=4)
        left = {one["metadata"]["name"] for one in await team.pods() if teams.alive(one)}
        assert left == {"pair-0", "pair-1", "alone-0"}
        await other.create([await filling(other, "served", nodes["alone-0"], priority)])

        async def served() -> bool:
            found = {one["metadata"]["name"]: one["spec"].get("nodeName") for one in await other.pods()}
            return found["served"] == nodes["alone-0"] and not found["refused"]

        await other.until(served)
        left = {one["metadata"]["name"] for one in await team.pods() if teams.alive(one)}
        assert left == {"pair-0", "pair-1"}
