"""The driver as a process on real nodes: real API server, kube-scheduler, kubelet and containers."""

from __future__ import annotations

import asyncio
import signal
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dra_driver import faultpoint
from scheduler.model import machines
from tests.driver import inside, live
from tests.hardware import machine, sysfs
from tests.testbed import cluster as clusters
from tests.testbed import fixtures, objects, process

WHOLE = "live-gpu"
GPU = f"device.attributes['{live.DRIVER}'].type == 'gpu'"
SLICE = f"device.attributes['{live.DRIVER}'].type == 'mig' && device.attributes['{live.DRIVER}'].profile == '2g.20gb'"
CUT = 208
"""Devices of a DGX A100 with all GPUs in MIG mode, NICs left out."""
SLOW_MS = 40_000
"""Of the kubelet's 45 s for a call; a test ends it before."""
MILLI_500 = {"requests": {"milli": "500"}}
XID = f"{live.DRIVER}/xid"


def driver_on(
    home: clusters.Cluster, name: str, kind: str, folder: Path, mig_gpus: tuple[int, ...] = ()
) -> live.Driver:
    """Return a driver that has the rights of its account on its node and no others."""
    built = machines.build(kind, name)
    gpus = tuple(replace(gpu, mig_enabled=gpu.index in mig_gpus) for gpu in built.gpus)
    made = live.Driver(home, home.nodes[name], replace(built, gpus=gpus), folder)
    made.kubeconfig = live.account(home, name, folder)
    return made


@pytest.fixture(scope="module")
def hgx_module(real_session: clusters.Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[live.Driver]:
    """The driver on ``real-0``, an HGX H100."""
    for one in live.classes([WHOLE]):
        real_session.kubectl("apply", "-f", "-", stdin=live.text(one))
    found = driver_on(real_session, "real-0", "hgx-h100", tmp_path_factory.mktemp("hgx"))
    found.start()
    yield found
    found.close()


@pytest.fixture
def hgx(hgx_module: live.Driver, real_nodes: clusters.Cluster) -> live.Driver:
    """The driver on ``real-0``, running, whatever the test before it did."""
    if not hgx_module.running:
        hgx_module.start()
    return hgx_module


@pytest.fixture
def mig(hgx: live.Driver, real_nodes: clusters.Cluster, tmp_path: Path) -> Iterator[live.Driver]:
    """The driver on ``real-1``, a DGX A100 with one GPU in MIG mode."""
    found = driver_on(real_nodes, "real-1", "dgx-a100", tmp_path / "mig", (3,))
    found.arrive()
    yield found
    found.leave()


@pytest.fixture
def dgx(hgx: live.Driver, real_nodes: clusters.Cluster, tmp_path: Path) -> Iterator[live.Driver]:
    """The driver on ``real-1``, a DGX-1V."""
    found = driver_on(real_nodes, "real-1", "dgx-1v", tmp_path / "dgx")
    found.arrive()
    yield found
    found.leave()


def test_slices_are_seen_through_the_api(hgx: live.Driver) -> None:
    live.wait("8 GPUs in slices", lambda: len(hgx.devices()) >= 8)
    devices = hgx.devices()
    assert {gpu.name for gpu in hgx.machine.gpus} <= set(devices)
    assert {gpu.uuid for gpu in hgx.machine.gpus} <= {
        one["attributes"]["uuid"]["string"] for one in devices.values() if "uuid" in one["attributes"]
    }
    before = [(one["metadata"]["name"], one["metadata"]["resourceVersion"]) for one in hgx.slices()]
    hgx.stop()
    hgx.start()
    live.wait("health told", lambda: hgx.told().count('"event":"health"') >= 2, 10)
    assert [(one["metadata"]["name"], one["metadata"]["resourceVersion"]) for one in hgx.slices()] == before


def test_a_container_sees_its_two_gpus_and_they_are_given_back(hgx: live.Driver, space: fixtures.Space) -> None:
    pair = live.request(WHOLE, GPU, 2, constraint=f"{live.DRIVER}/nvlinkIsland")
    live.create(space, live.claim("pair", pair), live.pod(hgx, "user", "pair"))
    live.running(space, "user")
    names = live.chosen(space, "pair")
    gpus = {gpu.name: gpu for gpu in hgx.machine.gpus}
    assert len(names) == 2 and set(names) <= set(gpus)
    assert hgx.machine.link_counts()[gpus[names[0]].index][gpus[names[1]].index] > 0
    uuids = inside.check(live.report(hgx.node, space, "user"), hgx, live.claim_object(space, "pair"))
    status = live.wait("status.devices", lambda: live.claim_status(space, "pair").get("devices"), 15)
    assert [one["data"]["uuid"] for one in status] == uuids
    hooked = (hgx.root / sysfs.HOOKED).read_text()
    assert "create-symlinks" in hooked and f"--folder=/{Path(sysfs.LIBRARIES[0]).parent}" in hooked
    uid = live.claim_uid(space, "pair")
    assert list(hgx.node.cdi.glob(f"*{uid}*")) and uid in hgx.prepared()
    live.delete(space, "user")
    live.wait("unprepared", lambda: uid not in hgx.prepared(), 20)
    assert not list(hgx.node.cdi.glob(f"*{uid}*"))


def test_a_pair_of_a_dgx_1v_has_two_links(hgx: live.Driver, dgx: live.Driver, space: fixtures.Space) -> None:
    pair = live.request(WHOLE, GPU, 2, constraint=f"{live.DRIVER}/nvlinkPair")
    live.create(space, live.claim("two", pair), live.pod(dgx, "two", "two"))
    live.running(space, "two")
    a, b = (int(name.removeprefix("gpu-")) for name in live.chosen(space, "two"))
    assert dgx.machine.link_counts()[a][b] == 2
    inside.check(live.report(dgx.node, space, "two"), dgx, live.claim_object(space, "two"))
    live.delete(space, "two")
    live.wait("unprepared", lambda: not dgx.prepared(), 20)


def test_two_pods_share_one_gpu(hgx: live.Driver, space: fixtures.Space) -> None:
    half = live.request(WHOLE, f"{GPU} && device.attributes['{live.DRIVER}'].index == 7", capacity=MILLI_500)
    live.create(space, *(live.claim(f"half-{i}", half) for i in (0, 1)))
    live.create(space, *(live.pod(hgx, f"half-{i}", f"half-{i}") for i in (0, 1)))
    live.running(space, "half-0", "half-1")
    for name in ("half-0", "half-1"):
        seen = inside.check(live.report(hgx.node, space, name), hgx, live.claim_object(space, name))
        assert seen == [hgx.machine.gpus[7].uuid]
    live.delete(space, "half-0", "half-1")
    live.wait("unprepared", lambda: not hgx.prepared(), 20)


def test_a_kubelet_that_wiped_the_slices_has_them_back_at_once(hgx: live.Driver, space: fixtures.Space) -> None:
    live.create(space, live.claim("stays", live.request(WHOLE, GPU)), live.pod(hgx, "stays", "stays"))
    live.running(space, "stays")
    wiped(hgx)
    assert live.phase(space, "stays") == "Running" and live.claim_uid(space, "stays") in hgx.prepared()
    live.delete(space, "stays")
    live.wait("unprepared", lambda: not hgx.prepared(), 20)


def wiped(driver: live.Driver) -> None:
    """Restart the kubelet; the same devices are back in a complete pool within the bound."""
    before, devices = driver.slices(), driver.devices()
    assert live.complete(before)
    told = driver.told().count(live.REGISTERED)
    driver.node.restart_kubelet()
    seen = asyncio.run(live.gap(driver, before))
    print(f"slices of {len(devices)} devices were back {seen:.2f} s after the wipe")
    assert seen < 2.0, f"slices were back {seen:.2f} s after the wipe"
    assert driver.devices() == devices
    live.wait("registration", lambda: driver.told().count(live.REGISTERED) > told, 30)


def test_all_partitions_of_a_node_are_back_after_a_wipe(
    hgx: live.Driver, real_nodes: clusters.Cluster, tmp_path: Path
) -> None:
    cut = driver_on(real_nodes, "real-1", "dgx-a100", tmp_path / "cut", tuple(range(8)))
    cut.start()
    try:
        live.wait("all partitions", lambda: live.complete(cut.slices()) and len(cut.devices()) >= CUT, 20)
        wiped(cut)
    finally:
        cut.leave()


def test_killed_under_a_pod_it_goes_on(hgx: live.Driver, space: fixtures.Space) -> None:
    live.create(space, live.claim("kept", live.request(WHOLE, GPU)), objects.pod("kept", ["run"], claims=["kept"]))
    live.running(space, "kept")
    before = hgx.prepared()
    hgx.kill()
    hgx.start()
    assert hgx.prepared() == before and before
    assert live.phase(space, "kept") == "Running"
    live.create(space, live.claim("next", live.request(WHOLE, GPU)), objects.pod("next", ["run"], claims=["next"]))
    live.running(space, "next")
    assert set(live.chosen(space, "kept")).isdisjoint(live.chosen(space, "next"))
    live.delete(space, "kept", "next")
    live.wait("unprepared", lambda: not hgx.prepared(), 20)


def test_an_xid_evicts_who_does_not_tolerate_it(hgx: live.Driver, space: fixtures.Space) -> None:
    tolerant = live.request(WHOLE, GPU, tolerations=[{"operator": "Exists", "effect": "NoExecute"}])
    live.create(space, live.claim("firm", tolerant), objects.pod("firm", ["run"], claims=["firm"]))
    live.create(space, live.claim("weak", live.request(WHOLE, GPU)), objects.pod("weak", ["run"], claims=["weak"]))
    live.running(space, "firm", "weak")
    gpus = {gpu.name: gpu.index for gpu in hgx.machine.gpus}
    hit = [*live.chosen(space, "firm"), *live.chosen(space, "weak")]
    for name in hit:
        machine.change(hgx.state, gpus[name], recovery=1)
        machine.xid(hgx.state, gpus[name], 79)
    live.wait("taints", lambda: all(XID in live.taints(hgx, name) for name in hit), 10)
    live.wait("weak is evicted", lambda: live.phase(space, "weak") in ("", "Failed", "Succeeded"), 40)
    assert live.phase(space, "firm") == "Running"
    told = live.wait("Unhealthy", lambda: [m for one, m in live.health(space, "firm") if one == "Unhealthy"], 30)
    assert len(told) == 1 and "XID 79" in told[0]
    before = {name: hgx.devices()[name]["taints"] for name in hit}
    hgx.kill()
    told_before = hgx.told().count('"event":"health"')
    hgx.start()  # the event is not told again, and the taints keep their times
    live.wait("it publishes", lambda: hgx.told().count('"event":"health"') > told_before, 10)
    time.sleep(1)  # longer than the publisher settles
    assert {name: hgx.devices()[name]["taints"] for name in hit} == before
    for name in hit:
        machine.change(hgx.state, gpus[name], recovery=0)
    live.wait("taints are gone", lambda: not any(live.taints(hgx, name) for name in hit), 10)
    live.wait("Healthy", lambda: {one for one, _ in live.health(space, "firm")} == {"Healthy"}, 60)
    live.delete(space, "firm")
    live.wait("unprepared", lambda: not hgx.prepared(), 30)


def test_an_upgrade_under_a_storm_fails_no_prepare(mig: live.Driver, space: fixtures.Space) -> None:
    """A call that the old instance has when it is told to leave comes to its end; all later ones go to the new one."""
    mig.stop()
    mig.start("old")
    before = live.counted(mig)
    # A scheduler of 1.34 takes slices in any order: without this a whole GPU may be the one that is to be cut.
    uncut = f"{GPU} && device.attributes['{live.DRIVER}'].index != 3"
    live.create(space, objects.template("one", WHOLE) | {"spec": {"spec": live.request(WHOLE, uncut)}})
    live.create(space, *(objects.pod(f"before-{i}", ["run"], "real-1", template="one") for i in range(2)))
    live.running(space, "before-0", "before-1")
    machine.rule(mig.state, "nvmlDeviceCreateGpuInstanceWithPlacement", ms=SLOW_MS, times=1)
    live.create(space, live.claim("slow", live.request(WHOLE, SLICE)), live.pod(mig, "slow", "slow"))
    live.wait("a slow call", lambda: live.claim_uid(space, "slow") in mig.prepared(), 90)
    mig.start("new")
    stormed(space, 0)
    live.wait("the new one has calls", lambda: mig.calls("new", "prepare"), 30)
    leaving = mig.running.pop("old")
    leaving.terminate()
    stormed(space, 1)
    assert leaving.poll() is None and len(mig.calls("old", "prepare")) == 2, "the slow call is under way"
    machine.clear(mig.state)
    made = 2
    while leaving.poll() is None:
        stormed(space, made)
        made += 1
        assert made < 50, mig.told("old")[-2000:]
    assert leaving.returncode == 0, mig.told("old")[-3000:]
    live.create(space, objects.pod("after", ["run", "1"], "real-1", template="one"))
    for name in (*(f"storm-{i}" for i in range(made)), "after"):
        live.wait(name, lambda name=name: live.phase(space, name) == "Succeeded", 120)
    live.running(space, "slow")
    inside.check(live.report(mig.node, space, "slow"), mig, live.claim_object(space, "slow"))
    assert all(live.phase(space, name) == "Running" for name in ("before-0", "before-1"))
    old, new = mig.calls("old", "prepare"), mig.calls("new", "prepare")
    print(f"{made} pods of a storm; calls of the old instance {len(old)}, of the new one {len(new)}")
    assert len(old) == 3 and old[-1]["timestamp"] > new[0]["timestamp"], f"both had calls at one time: {old}, {new}"
    assert not [one for one in (*old, *new) if one["failed"]]
    after = live.counted(mig)
    assert after.pop("OK") - before.pop("OK", 0) >= len(old) + len(new) and after == before, "as the kubelet saw it"
    space.kubectl("delete", "pods", "--all", "--wait=true", "--timeout=60s")
    live.wait("unprepared", lambda: not mig.prepared() and not live.instances(mig), 30)
    mig.stop("new")


def stormed(space: fixtures.Space, number: int) -> None:
    """Create a pod of the storm: it wants a GPU and ends soon."""
    live.create(space, objects.pod(f"storm-{number}", ["run", "1"], "real-1", template="one"))


def test_a_reboot_brings_back_what_is_prepared(hgx: live.Driver, space: fixtures.Space) -> None:
    pod = live.pod(hgx, "boot", "boot", restartPolicy="Always")
    live.create(space, live.claim("boot", live.request(WHOLE, GPU, 2)), pod)
    live.running(space, "boot")
    before = inside.check(live.report(hgx.node, space, "boot"), hgx, live.claim_object(space, "boot"))
    hgx.kill()
    rebooted(hgx)
    hgx.start()
    assert live.claim_uid(space, "boot") in hgx.prepared()
    restarted(hgx, space, "boot")
    seen = live.report(hgx.node, space, "boot", restart=1)
    assert inside.check(seen, hgx, live.claim_object(space, "boot")) == before
    live.delete(space, "boot")
    live.wait("unprepared", lambda: not hgx.prepared(), 20)


def rebooted(driver: live.Driver) -> None:
    """Take away what does not outlive a boot: CDI files and MIG devices; the boot id is another one."""
    for path in driver.node.cdi.glob("*.json"):
        path.unlink()
    live.forget_instances(driver)
    (driver.root / "proc/sys/kernel/random/boot_id").write_text(f"{uuid.uuid4()}\n")


def restarted(driver: live.Driver, space: fixtures.Space, name: str) -> None:
    """Kill the container of a pod; the runtime makes it anew from the CDI files of now."""
    (one,) = [p for p in driver.node.processes("pod") if p.environ().get("POD_NAME") == name]
    one.kill()
    live.wait("restarted", lambda: live.restarts(space, name) == 1 and live.phase(space, name) == "Running", 60)


def test_a_reboot_makes_the_mig_devices_of_running_claims_anew(mig: live.Driver, space: fixtures.Space) -> None:
    """The first of two devices is gone by then, so that the second comes to another number, and another UUID, than before."""
    for name in ("first", "second"):
        pod = live.pod(mig, name, name, restartPolicy="Always")
        live.create(space, live.claim(name, live.request(WHOLE, SLICE)), pod)
        live.running(space, name)
    before = inside.check(live.report(mig.node, space, "second"), mig, live.claim_object(space, "second"))
    live.delete(space, "first")
    live.wait("one is left", lambda: list(live.instances(mig)) == before, 20)
    mig.kill()
    rebooted(mig)
    mig.start()
    after = list(live.instances(mig))
    restarted(mig, space, "second")
    seen = live.report(mig.node, space, "second", restart=1)
    assert inside.check(seen, mig, live.claim_object(space, "second")) == after != before
    live.delete(space, "second")
    live.wait("removed", lambda: not live.instances(mig) and not mig.prepared(), 20)


def test_a_mig_device_is_made_on_demand_and_removed(mig: live.Driver, space: fixtures.Space) -> None:
    live.create(space, live.claim("slice", live.request(WHOLE, SLICE)), live.pod(mig, "slice", "slice"))
    assert not live.instances(mig)
    live.running(space, "slice")
    claim = live.claim_object(space, "slice")
    assert inside.check(live.report(mig.node, space, "slice"), mig, claim) == list(live.instances(mig))
    live.delete(space, "slice")
    live.wait("removed", lambda: not live.instances(mig), 20)
    assert not list(mig.node.cdi.glob(f"*{claim['metadata']['uid']}*"))


def test_killed_between_two_steps_the_kubelet_brings_it_to_its_end(
    mig: live.Driver, space: fixtures.Space, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the points of `test_live_kill` under the real kubelet: an instance that no list of MIG devices shows yet."""
    mig.stop()
    monkeypatch.setenv(faultpoint.VARIABLE, "mig-gpu-instance-created")
    mig.start()
    cel = f"device.attributes['{live.DRIVER}'].type == 'mig' && device.attributes['{live.DRIVER}'].profile == '1g.10gb'"
    pod = objects.pod("slice", ["run"], "real-1", claims=["slice"])
    live.create(space, live.claim("slice", live.request(WHOLE, cel)), pod)
    live.wait("it is dead", lambda: mig.running[""].poll() == -signal.SIGKILL, 20)
    assert not live.instances(mig)
    mig.running.clear()
    monkeypatch.delenv(faultpoint.VARIABLE)
    mig.start()
    mig.node.restart_kubelet()  # it tries again at once then; else after a minute and a half
    live.running(space, "slice")
    (made,) = live.instances(mig)
    assert live.report(mig.node, space, "slice")["env"]["MUSTER_DEVICES_GPU"] == made
    live.delete(space, "slice")
    live.wait("removed", lambda: not live.instances(mig) and not mig.prepared(), 20)


def test_a_driver_that_is_idle_takes_little_memory(hgx: live.Driver) -> None:
    """With the kubelet that watches its health, and after all that the tests before this one had it do."""
    seen = max(hgx.resident() for _ in process.until(3, 0.2))
    print(f"resident memory of the driver: {seen:.1f} MiB")
    assert seen < 120


def test_the_rights_of_its_account_were_enough(hgx: live.Driver, real_nodes: clusters.Cluster) -> None:
    """All drivers of this file had them only; the last test, so that everything was asked for."""
    rights_were_enough(real_nodes)


def rights_were_enough(home: clusters.Cluster) -> None:
    assert home.control.audit is not None
    calls = list(home.control.audit.calls())
    assert {"resourceslices", "resourceclaims", "resourceclaims/status", "nodes"} <= {one.resource for one in calls}
    assert [one for one in calls if not one.allowed or one.code == 403] == []
