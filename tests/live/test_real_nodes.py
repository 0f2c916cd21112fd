"""A gang on real kubelets and real containers: devices and token go round in the order of the plan."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator

import pytest

from scheduler.apiserver import client
from scheduler.model import machines, names
from tests.driver import live as driver
from tests.hardware import machine
from tests.live import site as sites
from tests.live import team as teams
from tests.live import work
from tests.testbed import cluster as clusters
from tests.testbed import fixtures, objects
from tests.testbed.fleet import presets

NOBODY = presets.Fleet("none", ())
SIZE = 4
RANK = {"fieldRef": {"fieldPath": f"metadata.annotations['{names.PLANNED_RANK}']"}}


@pytest.fixture(scope="module")
def real_site(
    kubernetes_version: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[sites.Site, dict[str, driver.Driver]]]:
    """Two real nodes, each with the driver above an HGX H100, and Muster; no controllers."""
    fixtures.require(real_nodes=True)
    with clusters.Cluster(clusters.Options(version=kubernetes_version, real_nodes=2)).start() as home:
        found = {}
        for name, node in home.nodes.items():
            folder = tmp_path_factory.mktemp(name)
            found[name] = driver.Driver(home, node, machines.build("hgx-h100", name), folder)
            found[name].start()
            home.kubectl("label", "node", name, f"{work.RACK}=rack-a", "--overwrite")
        site = sites.of(home, NOBODY)
        site.start(())
        yield site, found
        for one in found.values():
            one.close()


@pytest.fixture
async def real_team(real_site: tuple[sites.Site, dict[str, driver.Driver]]) -> AsyncIterator[teams.Team]:
    site, _ = real_site
    async with await client.Client.connect(site.home.kubeconfig) as api, teams.Team.open(site, api) as opened:
        yield opened


def ring_pod(index: int, port: int) -> teams.Obj:
    """Return a pod that gets its rank from Muster's annotation."""
    pod = objects.pod(f"w-{index}", ["ring"], template="four")
    pod["metadata"]["annotations"] = {names.GANG_NAME: "ring", names.GANG_SIZE: str(SIZE)}
    env = pod["spec"]["containers"][0]["env"]
    env += [{"name": "RING_RANK", "valueFrom": RANK}, {"name": "RING_SIZE", "value": str(SIZE)}]
    env += [{"name": "RING_PORT", "value": str(port)}]
    return pod


async def test_a_ring_sees_its_devices_and_passes_its_token_in_rank_order(
    real_team: teams.Team, real_site: tuple[sites.Site, dict[str, driver.Driver]]
) -> None:
    team, (_, drivers) = real_team, real_site
    await team.create(ring_pod(i, 29600) for i in reversed(range(SIZE)))
    await team.bound_of("ring")
    found = await team.placement("gang-ring")
    planned = found["spec"]["plan"]["pods"]
    assert {one["node"] for one in planned} == set(drivers)

    async def ended() -> bool:
        return all(one["status"].get("phase") == "Succeeded" for one in await team.pods())

    await team.until(ended, 60)
    token = []
    for one in planned:
        told = drivers[one["node"]].node.pod_log(team.name, one["name"]).splitlines()
        gpus = {gpu.name: gpu.uuid for gpu in drivers[one["node"]].machine.gpus}
        [claim] = one["claims"]
        wanted = [gpus[row["device"]] for row in claim["devices"]]
        env = json.loads(told[0])["env"]
        assert env["MUSTER_DEVICES_GPUS"].split(",") == wanted, f"{one['name']} sees other devices, or in another order"
        assert env["RING_RANK"] == str(one["rank"])
        at = {name: env[f"MUSTER_{name}"] for name in ("GANG", "RANK", "GANG_SIZE")}
        assert at == {"GANG": "gang-ring", "RANK": str(one["rank"]), "GANG_SIZE": str(SIZE)}, "through the driver"
        if one["rank"] == 0:
            token = json.loads(told[1])["ring"]
    order = [f"{one['rank']}:{one['name']}" for one in sorted(planned, key=lambda one: one["rank"])]
    assert token == order * 2, "two laps"


async def test_a_gpu_that_becomes_sick_costs_its_pod_the_place_and_the_gang_goes_on(
    real_team: teams.Team, real_site: tuple[sites.Site, dict[str, driver.Driver]]
) -> None:
    """The driver sees the XID and taints the GPU, Kubernetes evicts the pod, Muster plans its successor elsewhere."""
    team, (site, drivers) = real_team, real_site
    if not site.tainted:
        pytest.skip("no device taints before 1.36")
    gang = [running_pod(i) for i in range(2)]
    await team.create(gang)
    before = {one["metadata"]["name"]: one for one in await team.planned("gang-two", 2)}
    sick, node = (await team.devices())["w-0"], before["w-0"]["spec"]["nodeName"]
    hurt = drivers[node]
    device = sick[0].partition("/")[2]
    index = next(gpu.index for gpu in hurt.machine.gpus if gpu.name == device)
    machine.change(hurt.state, index, recovery=1)
    machine.xid(hurt.state, index, 79)
    await team.until(lambda: evicted(team, before["w-0"]), 60)
    assert f"{driver.DRIVER}/xid" in driver.taints(hurt, device)
    await team.create(gang[:1])
    after = {one["metadata"]["name"]: one for one in await team.planned("gang-two", 2)}
    assert after["w-1"]["metadata"]["uid"] == before["w-1"]["metadata"]["uid"], "a pod that ran well was moved"
    assert sick[0] not in (await team.devices())["w-0"]
    assert await team.told("Pod/w-0", "DeviceTaintManagerEviction")
    assert (await team.told("Pod/w-0", "GangPlanned")).startswith("2 pods on ")


def running_pod(index: int) -> teams.Obj:
    """Return a pod of a gang of two that runs until it is ended."""
    pod = objects.pod(f"w-{index}", ["run"], template="four")
    pod["metadata"]["annotations"] = {names.GANG_NAME: "two", names.GANG_SIZE: "2"}
    return pod


async def evicted(team: teams.Team, pod: teams.Obj) -> bool:
    """Tell whether a pod is gone, or has ended; then it is deleted, as its controller would."""
    found = await team.get("v1", "pods", pod["metadata"]["name"])
    if found and found["status"].get("phase") in ("Failed", "Succeeded"):
        await team.api.delete(team.path("v1", "pods", pod["metadata"]["name"]), grace_s=0)
    return found is None
