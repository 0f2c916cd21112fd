"""The alert rules fire in a real Prometheus that scrapes the real command, and only when they should."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import yaml
from prometheus_client import exposition

from dra_driver import checkpoint, claim, prepared
from scheduler.model import machines, node
from tests.driver import kubelet, live, metrics, objects
from tests.hardware import library, machine, sysfs
from tests.testbed import build, ports, process, prometheus

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # the first of them compiles Prometheus

RULES = Path(__file__).parents[2] / "deploy/driver/alerts.yaml"
NAME = "node-a"

KUBECONFIG = """apiVersion: v1
kind: Config
clusters: [{name: none, cluster: {server: "http://127.0.0.1:9"}}]
users: [{name: none, user: {}}]
contexts: [{name: none, context: {cluster: none, user: none}}]
current-context: none
"""
"""An API server that does not answer."""


@pytest.fixture(scope="module", autouse=True)
def built() -> None:
    build.binary("prometheus")


@dataclass
class Command:
    """The driver as a process above the stand-in of NVML, without an API server."""

    folder: Path
    state: Path
    port: int

    def text(self, path: str = "/metrics") -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
            return str(answer.read().decode())


@pytest.fixture
def command() -> Iterator[Command]:
    with tempfile.TemporaryDirectory(prefix="muster-") as name:
        folder, topology = Path(name), machines.build("dgx-a100", NAME)
        sysfs.render(topology, folder / "root")
        for each in ("registry", "plugins", "cdi"):
            (folder / each).mkdir()
        (folder / "kubeconfig").write_text(KUBECONFIG)
        asyncio.run(hold(folder, topology, 6, 7))
        found = Command(folder, machine.render(topology, folder), ports.free(1)[0])
        given = {each: folder / each for each in ("registry", "plugins", "cdi", "root", "kubeconfig")}
        given |= {"pod-resources": folder / "kubelet.sock"}
        given |= {"host-root": folder / "root", "health-s": 0.2, "http": f"127.0.0.1:{found.port}"}
        argv = [sys.executable, "-c", "from dra_driver import cli; cli.main()", "run", f"--node-name={NAME}"]
        argv += [f"--{each}={value}" for each, value in given.items()]
        environment = os.environ | {"LD_LIBRARY_PATH": str(library.folder()), "MUSTER_NVML_STATE": str(found.state)}
        with (folder / "log").open("wb") as log:
            child = subprocess.Popen(argv, env=environment, stdout=log, stderr=log)
        pods = [
            metrics.pod(name, f"claim-{i}", f"gpu-{i}", driver=live.DRIVER, pool=NAME)
            for i, name in ((6, "vllm-0"), (7, "train-0"))
        ]
        served = metrics.threaded(folder / "kubelet.sock", pods)
        try:
            live.wait("the driver serves", lambda: answers(found), 20)
            yield found
        finally:
            child.kill()
            child.wait(10)
            served.stop(None).wait()


async def hold(folder: Path, topology: node.NodeTopology, *gpus: int) -> None:
    """Write a checkpoint as if some GPUs were prepared already."""
    (folder / "plugins" / live.DRIVER).mkdir()
    store = checkpoint.Store(folder / "plugins" / live.DRIVER)
    for i in gpus:
        uuid = topology.gpus[i].uuid
        device = prepared.Device(prepared.Kind.GPU, "r", NAME, f"gpu-{i}", uuid, uuid)
        entry = prepared.Claim("ml", f"claim-{i}", objects.uid(i), 1, "", prepared.Phase.COMPLETED, (device,))
        await store.change(lambda found, entry=entry: found.having(entry))


def answers(command: Command) -> bool:
    try:
        return "DCGM_FI_DEV_GPU_UTIL" in command.text()
    except OSError:
        return False


@pytest.fixture
def engine() -> Iterator[tuple[prometheus_client.Gauge, int]]:
    """The use of a KV cache, as an inference engine tells it, and the port where it is scraped."""
    registry = prometheus_client.CollectorRegistry()
    cache = prometheus_client.Gauge(
        "vllm:kv_cache_usage_perc", "1 is all.", ["namespace", "pod", "model_name"], registry=registry
    )
    made, thread = exposition.start_http_server(0, "127.0.0.1", registry=registry)
    yield cache, made.server_port
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def watched(tmp_path: Path, command: Command, engine: tuple[Any, int]) -> Iterator[prometheus.Prometheus]:
    """Prometheus with our rules, which do not wait here until they fire."""
    rules = yaml.safe_load(RULES.read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule.pop("for", None)
            rule["expr"] = rule["expr"].replace("> 60", "> 3")  # seconds
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rules))
    group = process.Group(tmp_path / "logs")
    scrapes = [
        prometheus.static("driver", f"127.0.0.1:{command.port}", honor_labels=True),
        prometheus.static("engine", f"127.0.0.1:{engine[1]}", honor_labels=True),
    ]
    yield prometheus.start(group, tmp_path, scrapes, [tmp_path / "rules.yaml"])
    group.close()


def firing(running: prometheus.Prometheus, name: str) -> list[dict[str, str]]:
    return [
        alert["labels"]
        for alert in running.alerts()
        if alert["labels"]["alertname"] == name and alert["state"] == "firing"
    ]


def settled(running: prometheus.Prometheus, query: str, value: float) -> None:
    live.wait(query, lambda: running.value(query) == value, 20)


def use(command: Command, gpu: int, share: float) -> None:
    total = machines.build("dgx-a100", NAME).gpus[gpu].model.memory_mib << 20
    machine.change(command.state, gpu, memory_used=int(total * share))


def test_memory_above_70_percent(watched: prometheus.Prometheus, command: Command) -> None:
    use(command, 3, 0.69)
    use(command, 4, 0.72)
    (labels,) = live.wait("the alert", lambda: firing(watched, "MusterGpuMemoryAbove70Percent"), 20)
    assert (labels["gpu"], labels["Hostname"]) == ("4", NAME)
    use(command, 3, 0.71)
    live.wait("both alerts", lambda: len(firing(watched, "MusterGpuMemoryAbove70Percent")) == 2, 20)
    use(command, 3, 0.1)
    use(command, 4, 0.1)
    live.wait("the alerts end", lambda: not firing(watched, "MusterGpuMemoryAbove70Percent"), 20)


def test_inference_pods_are_judged_by_their_cache(
    watched: prometheus.Prometheus, command: Command, engine: tuple[prometheus_client.Gauge, int]
) -> None:
    settled(watched, 'count(DCGM_FI_DEV_FB_USED{pod!=""})', 2)
    cache = engine[0].labels("ml", "vllm-0", "llama")
    cache.set(0.5)
    settled(watched, 'vllm:kv_cache_usage_perc{pod="vllm-0"}', 0.5)
    for gpu in (6, 7):
        use(command, gpu, 0.9)
    settled(watched, "count(DCGM_FI_DEV_FB_USED > 60000)", 2)
    (labels,) = live.wait("the alert", lambda: firing(watched, "MusterGpuMemoryAbove70Percent"), 20)
    assert (labels["pod"], labels["dra_claim_name"], labels["gpu"]) == ("train-0", "claim-7", "7")
    assert not firing(watched, "MusterKvCacheAbove70Percent")
    cache.set(0.8)
    (labels,) = live.wait("the alert", lambda: firing(watched, "MusterKvCacheAbove70Percent"), 20)
    assert labels["pod"] == "vllm-0"


async def prepare(command: Command, *devices: str) -> None:
    async with kubelet.Kubelet(command.folder / "registry") as calls:
        await calls.scan()
        for number, device in enumerate(devices, 1):
            await calls.prepare(claim.Reference("ml", f"claim-{number}", claim.ClaimUid(objects.uid(number))))


def test_a_fault_of_a_gpu(watched: prometheus.Prometheus, command: Command) -> None:
    settled(watched, "count(DCGM_FI_DEV_XID_ERRORS)", 8)
    assert not firing(watched, "MusterGpuUnhealthy")
    machine.change(command.state, 5, recovery=1)
    machine.xid(command.state, 5, 79)
    live.wait("alerts", lambda: len(firing(watched, "MusterGpuUnhealthy")) == 2, 20)
    told = {(one["gpu"], one["kind"], one["value"]) for one in firing(watched, "MusterGpuUnhealthy")}
    assert told == {("5", "xid", "79"), ("5", "recovery-action", "1")}
    settled(watched, 'DCGM_FI_DEV_XID_ERRORS{gpu="5"}', 79)
    machine.change(command.state, 5, recovery=0)
    live.wait("the alerts end", lambda: not firing(watched, "MusterGpuUnhealthy"), 20)


def test_a_gpu_whose_library_hangs(watched: prometheus.Prometheus, command: Command) -> None:
    settled(watched, "count(muster_gpu_reading_age_seconds < 3)", 8)
    machine.rule(command.state, "nvmlDeviceGetTemperature", ms=8000, gpu=2, times=1)
    found = live.wait("the alert", lambda: firing(watched, "MusterGpuNotRead"), 20)
    assert "2" in {one["gpu"] for one in found}
    live.wait("the alert ends", lambda: not firing(watched, "MusterGpuNotRead"), 20)


def test_slices_that_are_not_published_and_a_kubelet_that_does_not_register(watched: prometheus.Prometheus) -> None:
    live.wait("the alert", lambda: firing(watched, "MusterSlicesNotPublished"), 20)
    live.wait("the alert", lambda: firing(watched, "MusterDriverNotRegistered"), 20)


def test_claims_that_fail(watched: prometheus.Prometheus, command: Command) -> None:
    settled(watched, 'muster_dra_claims_total{method="NodePrepareResources",result="failed"}', 0)
    for _ in range(4):
        asyncio.run(prepare(command, "gpu-0"))
    (labels,) = live.wait("the alert", lambda: firing(watched, "MusterClaimsFailing"), 20)
    assert labels["method"] == "NodePrepareResources"
    assert not firing(watched, "MusterDriverNotRegistered")
