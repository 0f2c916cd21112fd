"""Metrics of the driver on a real node: a pod with a claim gives its names to the series of its devices, and takes them."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from scheduler.model import machines
from tests.driver import live, metrics
from tests.hardware import machine
from tests.testbed import cluster as clusters
from tests.testbed import fixtures, objects, ports

CLASS = "metered-gpu"
GPU = f"device.attributes['{live.DRIVER}'].type == 'gpu' && device.attributes['{live.DRIVER}'].index < 3"
SLICE = f"device.attributes['{live.DRIVER}'].type == 'mig' && device.attributes['{live.DRIVER}'].profile == '2g.20gb'"


@dataclass
class Metered(live.Driver):
    """A driver that serves metrics and probes."""

    port: int = 0

    def argv(self, pod_uid: str = "") -> list[str]:
        socket = self.node.root / "pod-resources/kubelet.sock"
        return [*super().argv(pod_uid), f"--http=127.0.0.1:{self.port}", f"--pod-resources={socket}"]

    def fetch(self, path: str = "/metrics") -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def text(self) -> str:
        return self.fetch()[1]

    def labels(self, name: str, pod: str) -> list[dict[str, str]]:
        """Return the labels of the series of a pod."""
        key = "pod" if name.startswith("DCGM") else "k8s_pod_name"
        return [found for found, _ in metrics.samples(self.text(), name, **{key: pod})]


@pytest.fixture
def driver(real_nodes: clusters.Cluster, tmp_path: Path) -> Iterator[Metered]:
    """The driver on ``real-1``, a DGX A100 with one GPU in MIG mode."""
    for one in live.classes([CLASS]):
        real_nodes.kubectl("apply", "-f", "-", stdin=live.text(one))
    built = machines.build("dgx-a100", "real-1")
    gpus = tuple(replace(gpu, mig_enabled=gpu.index == 3) for gpu in built.gpus)
    folder, [port] = tmp_path / "d", ports.free(1)
    found = Metered(real_nodes, real_nodes.nodes["real-1"], replace(built, gpus=gpus), folder, port=port)
    found.arrive()
    live.wait("ready", lambda: found.fetch("/readyz")[0] == 200, 20)
    yield found
    found.leave()


def test_series_have_the_names_of_pod_claim_and_tenant_while_the_pod_lives(
    driver: Metered, space: fixtures.Space
) -> None:
    space.kubectl("label", "namespace", space.name, "muster.dev/tenant=blue")
    pod = objects.pod("user", ["run"], "real-1", claims=["pair"])
    live.create(space, live.claim("pair", live.request(CLASS, GPU, 2)), pod)
    live.running(space, "user")
    wanted = {gpu.uuid for gpu in driver.machine.gpus if gpu.name in live.chosen(space, "pair")}
    found = live.wait("labels", lambda: driver.labels("DCGM_FI_DEV_FB_USED", "user"), 10)
    assert {one["UUID"] for one in found} == wanted and len(wanted) == 2
    container = pod["spec"]["containers"][0]["name"]
    for one in found:
        names = (one["namespace"], one["container"], one["dra_claim_namespace"], one["dra_claim_name"])
        assert names == (space.name, container, space.name, "pair")
        assert (one["Hostname"], one["dra_pool_name"]) == ("real-1", "real-1")
    live.wait("tenant", lambda: {o.get("tenant") for o in driver.labels("DCGM_FI_DEV_FB_USED", "user")} == {"blue"}, 15)
    assert {one["hw_id"] for one in driver.labels("hw_gpu_memory_usage_bytes", "user")} == wanted
    assert metrics.value(driver.text(), "muster_dra_prepared_claims") == 1
    live.delete(space, "user")
    live.wait("unprepared", lambda: not driver.prepared(), 20)
    said = live.wait("labels go", lambda: not driver.labels("DCGM_FI_DEV_FB_USED", "user") and driver.text(), 10)
    assert space.name not in said
    assert len(metrics.samples(said, "DCGM_FI_DEV_GPU_TEMP")) == 8
    method = {"method": "NodeUnprepareResources"}
    assert metrics.value(said, "muster_dra_grpc_requests_total", code="OK", **method) >= 1
    assert metrics.value(said, "muster_dra_publish_duration_seconds_count", result="ok") >= 1


def test_a_mig_device_has_series_of_its_own_while_it_exists(driver: Metered, space: fixtures.Space) -> None:
    pod = objects.pod("slice", ["run"], "real-1", claims=["slice"])
    live.create(space, live.claim("slice", live.request(CLASS, SLICE)), pod)
    live.running(space, "slice")
    (made,) = live.instances(driver)
    (one,) = live.wait("labels", lambda: driver.labels("DCGM_FI_DEV_FB_FREE", "slice"), 10)
    assert (one["dra_mig_device_uuid"], one["GPU_I_PROFILE"], one["gpu"]) == (made, "2g.20gb", "3")
    assert one["GPU_I_ID"].isdigit()
    live.delete(space, "slice")
    live.wait(
        "series go",
        lambda: not metrics.samples(driver.text(), "DCGM_FI_DEV_FB_FREE", gpu="3", GPU_I_ID=one["GPU_I_ID"]),
        20,
    )


def test_pods_that_share_a_gpu_have_a_series_each(driver: Metered, space: fixtures.Space) -> None:
    half = live.request(CLASS, GPU.replace("< 3", "== 0"), capacity={"requests": {"milli": "500"}})
    for name in ("half-0", "half-1"):
        live.create(space, live.claim(name, half), objects.pod(name, ["run"], "real-1", claims=[name]))
    live.running(space, "half-0", "half-1")
    for name in ("half-0", "half-1"):
        (one,) = live.wait("labels", lambda name=name: driver.labels("DCGM_FI_DEV_GPU_UTIL", name), 10)
        assert (one["gpu"], one["dra_claim_name"]) == ("0", name)
    live.delete(space, "half-0", "half-1")
    live.wait("unprepared", lambda: not driver.prepared(), 20)


def test_probes_tell_a_driver_that_is_well(driver: Metered) -> None:
    assert driver.fetch("/healthz") == (200, "plugin: ok\nsession: ok\n")
    status, said = driver.fetch("/readyz")
    assert (status, said) == (200, "plugin: ok\nregistration: ok\nslices: ok\nhardware: ok\n")
    machine.change(driver.state, 0, lost=1)
    gone = driver.machine.gpus[0].uuid

    def states() -> list[tuple[str, float]]:
        """Return the states of the GPU; none while its first reading is under way."""
        return [(found["hw_state"], value) for found, value in metrics.samples(driver.text(), "hw_status", hw_id=gone)]

    lost = [("ok", 0), ("degraded", 0), ("failed", 1)]
    live.wait("failed", lambda: states() == lost or print(states()), 20)  # found by a poll, which is every 5 s
    live.wait("its slice says so", lambda: f"{live.DRIVER}/gpu-lost" in live.taints(driver, "gpu-0"), 15)
    assert states() == lost, "what is lost is still told"
    assert not metrics.samples(driver.text(), "DCGM_FI_DEV_GPU_TEMP", UUID=gone)
    machine.change(driver.state, 0, lost=0)
    live.wait(
        "it is back", lambda: states() != lost and "gpu-0" in driver.devices() and not live.taints(driver, "gpu-0"), 15
    )
