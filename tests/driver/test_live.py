"""The driver as a process on real nodes: real API server, kube-scheduler, kubelet and containers."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dra_driver import faultpoint
from scheduler.model import machines
from tests.driver import live
from tests.hardware import machine
from tests.testbed import cluster as clusters
from tests.testbed import fixtures, objects

WHOLE = "live-gpu"
GPU = f"device.attributes['{live.DRIVER}'].type == 'gpu'"
MILLI_500 = {"requests": {"milli": "500"}}
XID = f"{live.DRIVER}/xid"


def driver_on(
    home: clusters.Cluster, name: str, kind: str, folder: Path, mig_gpus: tuple[int, ...] = ()
) -> live.Driver:
    built = machines.build(kind, name)
    gpus = tuple(replace(gpu, mig_enabled=gpu.index in mig_gpus) for gpu in built.gpus)
    return live.Driver(home, home.nodes[name], replace(built, gpus=gpus), folder)


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
    found.start()
    yield found
    found.leave()


@pytest.fixture
def dgx(hgx: live.Driver, real_nodes: clusters.Cluster, tmp_path: Path) -> Iterator[live.Driver]:
    """The driver on ``real-1``, a DGX-1V."""
    found = driver_on(real_nodes, "real-1", "dgx-1v", tmp_path / "dgx")
    found.start()
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
    live.create(space, live.claim("pair", pair), objects.pod("user", ["run"], claims=["pair"]))
    live.running(space, "user")
    names = live.chosen(space, "pair")
    gpus = {gpu.name: gpu for gpu in hgx.machine.gpus}
    assert len(names) == 2 and set(names) <= set(gpus)
    assert hgx.machine.link_counts()[gpus[names[0]].index][gpus[names[1]].index] > 0
    seen = live.report(hgx.node, space, "user")
    uuids = [gpus[name].uuid for name in names]
    assert set(seen["env"]["MUSTER_DEVICES_GPU"].split(",")) == set(uuids)
    assert seen["env"]["NVIDIA_VISIBLE_DEVICES"] == "void"
    nodes = {(one["path"], one["major"], one["minor"]) for one in seen["devices"]}
    expected = {(f"/dev/nvidia{gpus[name].index}", 195, gpus[name].index) for name in names}
    assert {one for one in nodes if one[0].removeprefix("/dev/nvidia").isdigit()} == expected
    assert ("/dev/nvidiactl", 195, 255) in nodes
    status = live.wait("status.devices", lambda: live.claim_status(space, "pair").get("devices"), 15)
    assert {one["data"]["uuid"] for one in status} == set(uuids)
    assert list(hgx.node.cdi.glob(f"{live.DRIVER}-*.json")) and hgx.prepared()
    uid = live.claim_uid(space, "pair")
    live.delete(space, "user")
    live.wait("unprepared", lambda: uid not in hgx.prepared(), 20)
    assert not list(hgx.node.cdi.glob(f"*{uid}*"))


def test_a_pair_of_a_dgx_1v_has_two_links(hgx: live.Driver, dgx: live.Driver, space: fixtures.Space) -> None:
    pair = live.request(WHOLE, GPU, 2, constraint=f"{live.DRIVER}/nvlinkPair")
    live.create(space, live.claim("two", pair), objects.pod("two", ["run"], "real-1", claims=["two"]))
    live.running(space, "two")
    a, b = (int(name.removeprefix("gpu-")) for name in live.chosen(space, "two"))
    assert dgx.machine.link_counts()[a][b] == 2
    seen = live.report(dgx.node, space, "two")["env"]["MUSTER_DEVICES_GPU"].split(",")
    assert set(seen) == {dgx.machine.gpus[i].uuid for i in (a, b)}
    live.delete(space, "two")
    live.wait("unprepared", lambda: not dgx.prepared(), 20)


def test_two_pods_share_one_gpu(hgx: live.Driver, space: fixtures.Space) -> None:
    half = live.request(WHOLE, f"{GPU} && device.attributes['{live.DRIVER}'].index == 7", capacity=MILLI_500)
    live.create(space, *(live.claim(f"half-{i}", half) for i in (0, 1)))
    live.create(space, *(objects.pod(f"half-{i}", ["run"], claims=[f"half-{i}"]) for i in (0, 1)))
    live.running(space, "half-0", "half-1")
    seen = [live.report(hgx.node, space, f"half-{i}")["env"]["MUSTER_DEVICES_GPU"] for i in (0, 1)]
    assert seen == [hgx.machine.gpus[7].uuid] * 2
    live.delete(space, "half-0", "half-1")
    live.wait("unprepared", lambda: not hgx.prepared(), 20)


def test_a_kubelet_that_wiped_the_slices_has_them_back_at_once(hgx: live.Driver) -> None:
    before = {one["metadata"]["uid"] for one in hgx.slices()}
    hgx.node.restart_kubelet()
    seen = live.gaps(hgx, until=lambda found: bool(found) and not (before & {one["metadata"]["uid"] for one in found}))
    assert seen < 2.0, f"slices were back {seen:.2f} s after the wipe"
    live.wait("registration", lambda: hgx.told().count(live.REGISTERED) >= 2, 30)


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
    told = live.wait("Unhealthy", lambda: live.unhealthy(space, "firm"), 30)
    assert "XID 79" in told
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
    live.wait("Healthy", lambda: not live.unhealthy(space, "firm"), 30)
    live.delete(space, "firm")
    live.wait("unprepared", lambda: not hgx.prepared(), 30)


def test_an_upgrade_under_a_storm_fails_no_prepare(hgx: live.Driver, space: fixtures.Space) -> None:
    hgx.stop()
    hgx.start("old-uid")
    live.create(space, objects.template("one", WHOLE) | {"spec": {"spec": live.request(WHOLE, GPU)}})
    live.create(space, *(objects.pod(f"before-{i}", ["run"], template="one") for i in range(3)))
    live.running(space, *(f"before-{i}" for i in range(3)))
    live.create(space, *(objects.pod(f"storm-{i}", ["run", "1"], template="one") for i in range(12)))
    hgx.start("new-uid")
    live.wait("the storm is under way", lambda: live.phase(space, "storm-3") == "Succeeded", 60)
    hgx.stop("old-uid")
    for i in range(12):
        live.wait(f"storm-{i}", lambda i=i: live.phase(space, f"storm-{i}") == "Succeeded", 90)
    assert all(live.phase(space, f"before-{i}") == "Running" for i in range(3))
    events = space.kubectl("get", "events", "-o", "jsonpath={range .items[*]}{.reason} {.message}{'\\n'}{end}")
    assert "FailedPrepareDynamicResources" not in events, events
    space.kubectl("delete", "pods", "--all", "--wait=true", "--timeout=60s")
    live.wait("unprepared", lambda: not hgx.prepared(), 30)
    hgx.stop("new-uid")


def test_a_reboot_brings_back_what_is_prepared(hgx: live.Driver, space: fixtures.Space) -> None:
    live.create(space, live.claim("boot", live.request(WHOLE, GPU)), objects.pod("boot", ["run"], claims=["boot"]))
    live.running(space, "boot")
    uid = live.claim_uid(space, "boot")
    hgx.kill()
    for path in hgx.node.cdi.glob("*.json"):
        path.unlink()
    (hgx.root / "proc/sys/kernel/random/boot_id").write_text("11111111-2222-4333-8444-555555555555\n")
    hgx.start()
    assert uid in hgx.prepared()
    assert list(hgx.node.cdi.glob(f"*{uid}*")), "the CDI file of the claim is not back"
    live.delete(space, "boot")
    live.wait("unprepared", lambda: not hgx.prepared(), 20)


def test_a_mig_device_is_made_on_demand_and_removed(mig: live.Driver, space: fixtures.Space) -> None:
    cel = f"device.attributes['{live.DRIVER}'].type == 'mig' && device.attributes['{live.DRIVER}'].profile == '2g.20gb'"
    pod = objects.pod("slice", ["run"], "real-1", claims=["slice"])
    live.create(space, live.claim("slice", live.request(WHOLE, cel)), pod)
    assert not live.instances(mig)
    live.running(space, "slice")
    (made,) = live.instances(mig)
    seen = live.report(mig.node, space, "slice")
    assert seen["env"]["MUSTER_DEVICES_GPU"] == made
    assert [one for one in seen["devices"] if one["path"].startswith("/dev/nvidia-caps/") and one["major"] == 238]
    live.delete(space, "slice")
    live.wait("removed", lambda: not live.instances(mig), 20)


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
