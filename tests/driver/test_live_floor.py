"""The live tests again, on the oldest Kubernetes that is supported, and what its lack of device taints changes.

Partitions are alpha there and turned on, so that MIG devices can be shown; taints and the kubelet's health status stay off,
as they are by default. Shares are turned on and never published, since the scheduler of that version goes wrong over them:
every claim still finds a free GPU, and two pods share one through one claim.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.driver import live
from tests.driver.test_live import (  # noqa: F401  collected here too, with the fixtures of this file
    GPU,
    WHOLE,
    dgx,
    driver_on,
    rights_were_enough,
    test_a_container_sees_its_two_gpus_and_they_are_given_back,
    test_a_kubelet_that_wiped_the_slices_has_them_back_at_once,
    test_a_mig_device_is_made_on_demand_and_removed,
    test_a_pair_of_a_dgx_1v_has_two_links,
    test_a_reboot_brings_back_what_is_prepared,
    test_a_reboot_makes_the_mig_devices_of_running_claims_anew,
    test_an_upgrade_under_a_storm_fails_no_prepare,
    test_killed_under_a_pod_it_goes_on,
    test_slices_are_seen_through_the_api,
)
from tests.hardware import machine
from tests.testbed import cluster as clusters
from tests.testbed import fixtures, objects, versions

pytestmark = [pytest.mark.slow, pytest.mark.testbed]

GATES = ("DRAPartitionableDevices", "DRAConsumableCapacity")


@pytest.fixture(scope="module")
def floor() -> Iterator[clusters.Cluster]:
    fixtures.require(real_nodes=True)
    made = clusters.Cluster(clusters.Options(version=versions.FLOOR, real_nodes=2, audited=fixtures.AUDITED))
    made.control.version = replace(made.kubernetes, gates=made.kubernetes.gates + GATES)
    with made.start() as home:
        yield home


@pytest.fixture
def real_nodes(floor: clusters.Cluster) -> clusters.Cluster:
    return floor


@pytest.fixture(scope="module")
def hgx_module(floor: clusters.Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[live.Driver]:
    """The driver on ``real-0``, an HGX H100."""
    for one in live.classes([WHOLE]):
        floor.kubectl("apply", "-f", "-", stdin=live.text(one))
    found = driver_on(floor, "real-0", "hgx-h100", tmp_path_factory.mktemp("hgx"))
    found.start()
    yield found
    found.close()


@pytest.fixture
def hgx(hgx_module: live.Driver, real_nodes: clusters.Cluster) -> live.Driver:
    """The driver on ``real-0``, running; `real_nodes` tells the namespace fixture which cluster it is."""
    if not hgx_module.running:
        hgx_module.start()
    return hgx_module


@pytest.fixture
def mig(hgx: live.Driver, floor: clusters.Cluster, tmp_path: Path) -> Iterator[live.Driver]:
    """The driver on ``real-1``, a DGX A100 with one GPU in MIG mode."""
    found = driver_on(floor, "real-1", "dgx-a100", tmp_path / "mig", (3,))
    found.arrive()
    yield found
    found.leave()


def test_two_pods_share_the_gpu_of_one_claim(hgx: live.Driver, space: fixtures.Space) -> None:
    sharing = {"strategy": "TimeSlicing", "timeSlicingConfig": {"interval": "Default"}}
    parameters = {"apiVersion": f"{live.DRIVER}/v1alpha1", "kind": "GpuConfig", "sharing": sharing}
    spec = live.request(WHOLE, GPU)
    spec["devices"]["config"] = [{"opaque": {"driver": live.DRIVER, "parameters": parameters}}]
    names = ("first", "second")
    live.create(space, live.claim("both", spec), *(objects.pod(name, ["run"], claims=["both"]) for name in names))
    live.running(space, *names)
    (chosen,) = live.chosen(space, "both")
    seen = {live.report(hgx.node, space, name)["env"]["MUSTER_DEVICES_GPU"] for name in names}
    assert seen == {next(gpu.uuid for gpu in hgx.machine.gpus if gpu.name == chosen)}
    live.delete(space, "first")
    assert live.claim_uid(space, "both") in hgx.prepared(), "the other pod still has it"
    live.delete(space, "second")
    live.wait("unprepared", lambda: not hgx.prepared(), 20)


def test_without_taints_a_bad_gpu_is_left_out_and_who_has_it_stays(
    hgx: live.Driver, real_nodes: clusters.Cluster, space: fixtures.Space
) -> None:
    """Nothing evicts a pod here; but nobody new gets the GPU, and the log says why."""
    one = live.request(WHOLE, GPU)
    live.create(space, live.claim("has", one), objects.pod("has", ["run"], claims=["has"]))
    live.running(space, "has")
    (name,) = live.chosen(space, "has")
    index = {gpu.name: gpu.index for gpu in hgx.machine.gpus}[name]
    spare = next(gpu for gpu in hgx.machine.gpus if gpu.name != name)
    for gpu in (index, spare.index):
        machine.change(hgx.state, gpu, recovery=1)
        machine.xid(hgx.state, gpu, 79)
    live.wait("both are left out", lambda: not {name, spare.name} & set(hgx.devices()), 30)
    assert len([one for one in hgx.devices() if one.startswith("gpu-")]) == len(hgx.machine.gpus) - 2
    wanted = live.request(WHOLE, f"{GPU} && device.attributes['{live.DRIVER}'].index == {spare.index}")
    live.create(space, live.claim("asks", wanted), objects.pod("asks", ["run"], claims=["asks"]))
    live.wait("it is refused", lambda: "cannot allocate all claims" in events(space, "asks"), 20)
    assert (live.phase(space, "has"), live.phase(space, "asks")) == ("Running", "Pending")
    assert f'"{name}":["{live.DRIVER}/recovery-action","{live.DRIVER}/xid"]' in hgx.told()
    hgx.kill()
    hgx.start()  # the fault is remembered, so the GPU does not come back with the driver
    assert live.phase(space, "has") == "Running" and not {name, spare.name} & set(hgx.devices())
    for gpu in (index, spare.index):
        machine.change(hgx.state, gpu, recovery=0)
    live.running(space, "asks")
    assert name in hgx.devices()
    live.delete(space, "has", "asks")
    live.wait("unprepared", lambda: not hgx.prepared(), 20)


def events(space: fixtures.Space, pod: str) -> str:
    selector = f"--field-selector=involvedObject.name={pod}"
    return space.kubectl("get", "events", selector, "-o", "jsonpath={range .items[*]}{.message}{'\\n'}{end}")


def test_the_rights_of_its_account_are_enough_here_too(hgx: live.Driver, floor: clusters.Cluster) -> None:
    rights_were_enough(floor)
