"""The DRA driver: prepares through a real socket, publishing, the process from start to idle, and what first fit takes."""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import structlog

from dra_driver import instance, sockets
from dra_driver.publish import publisher
from scheduler.model import machines, slices
from scheduler.snapshot import subsets, wiring
from tests.bench import figure
from tests.driver import first_fit, host, kubelet, measure, objects, test_publisher
from tests.hardware import library, machine, sysfs

ROUNDS = 100
BATCHES = 20
BATCH = 32
SEEDS = range(1, 4)
READY_S = 30.0
IDLE_S = 3.0

KUBECONFIG = """apiVersion: v1
kind: Config
clusters: [{name: none, cluster: {server: "http://127.0.0.1:9"}}]
users: [{name: none, user: {}}]
contexts: [{name: none, context: {cluster: none, user: none}}]
current-context: none
"""
"""An API server that does not answer: what is measured with it is the node's part alone."""

Times = dict[str, list[float]]


class Bench:
    """Runs each experiment on first use and keeps its times, ms."""

    def __init__(self) -> None:
        self._times: Times = {}
        self._process: tuple[float, float] | None = None

    def quantile(self, name: str, share: float) -> tuple[float, str]:
        """Return a quantile of the times of one kind of call."""
        if not self._times:
            self._times = asyncio.run(calls())
        ranked = sorted(self._times[name])
        floor = sorted(self._times["durable file"])[ROUNDS // 2]
        return ranked[min(len(ranked) - 1, int(len(ranked) * share))], f"n {len(ranked)}, one durable file {floor:.2f}"

    def registered(self) -> tuple[float, str]:
        """Return the time from the start of the process until the kubelet has it, s."""
        return self._run()[0], "the command, imports and discovery of 8 GPUs included; API server unreachable"

    def resident(self) -> tuple[float, str]:
        """Return the resident memory of the process some seconds later, MiB."""
        return self._run()[1], f"{IDLE_S:g} s after registration; 8 GPUs; API server unreachable"

    def _run(self) -> tuple[float, float]:
        if self._process is None:
            self._process = asyncio.run(process())
        return self._process


async def calls() -> Times:
    """Prepare and unprepare one GPU, eight, and many shares of GPUs in one call and in as many at once."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    times: Times = {}
    with tempfile.TemporaryDirectory(prefix="muster-") as folder:
        root, topology, claims = Path(folder) / "n", host.machine(), host.Claims()
        host.lay_out(root, topology)
        running = instance.Instance(
            host.parts(root, topology, claims),
            sockets.of_instance(host.DRIVER, root / "r", root / host.PLUGINS),
            "boot",
        )
        await running.start()
        async with kubelet.Kubelet(root / "r") as node:
            await node.scan()
            times["durable file"] = _ms(measure.fsyncs(root / host.PLUGINS, ROUNDS))
            for gpus in (1, 8):
                wanted = claims.add(objects.claim(gpus, *(f"gpu-{i}" for i in range(gpus))))
                await _record(times, f"{gpus} GPU", node, [wanted], ROUNDS)
            parts = [
                claims.add(objects.claim(100 + i, objects.share(f"gpu-{i % 8}", f"s{i}", 250))) for i in range(BATCH)
            ]
            await _record(times, f"{BATCH} claims", node, parts, BATCHES)
            times[f"prepare {BATCH} calls"] = [await _at_once(node, parts) for _ in range(BATCHES)]
        await running.stop()
    return times


async def _record(times: Times, name: str, node: kubelet.Kubelet, claims: Sequence[object], rounds: int) -> None:
    prepares, unprepares = await measure.timed(node, claims, rounds)
    times[f"prepare {name}"], times[f"unprepare {name}"] = _ms(prepares), _ms(unprepares)


async def _at_once(node: kubelet.Kubelet, claims: Sequence[object]) -> float:
    """Return how long as many calls as claims take, all begun at once."""
    began = time.perf_counter()
    answers = await asyncio.gather(*(node.prepare(each) for each in claims))
    took = 1e3 * (time.perf_counter() - began)
    if failed := [a.error for answer in answers for a in answer.values() if a.error]:
        raise figure.Missing(f"prepare failed: {failed[0]}")
    await node.unprepare(*claims)
    return took


def _ms(seconds: Sequence[float]) -> list[float]:
    return [1e3 * each for each in seconds]


async def process() -> tuple[float, float]:
    """Start the command on a folder that looks like a node; return seconds to registration and idle MiB."""
    with tempfile.TemporaryDirectory(prefix="muster-") as folder:
        home = Path(folder)
        topology = machines.build("dgx-a100", "n1")
        sysfs.render(topology, home / "root")
        for name in ("registry", "plugins", "cdi"):
            (home / name).mkdir()
        (home / "kubeconfig").write_text(KUBECONFIG)
        given = {name: home / name for name in ("registry", "plugins", "cdi", "root", "kubeconfig")}
        given |= {"host-root": home / "root"}
        argv = [sys.executable, "-c", "from dra_driver import cli; cli.main()", "run", "--node-name=n1"]
        argv += [f"--{name}={value}" for name, value in given.items()]
        state = machine.render(topology, home)
        environment = os.environ | {"LD_LIBRARY_PATH": str(library.folder()), "MUSTER_NVML_STATE": str(state)}
        with (home / "log").open("wb") as log:
            began = time.monotonic()
            child = subprocess.Popen(argv, env=environment, stdout=log, stderr=log)
        try:
            return await _watched(child, home, began)
        finally:
            child.kill()
            child.wait(10)


async def _watched(child: subprocess.Popen[bytes], home: Path, began: float) -> tuple[float, float]:
    async with kubelet.Kubelet(home / "registry") as node:
        while not node.plugins:
            if child.poll() is not None or time.monotonic() - began > READY_S:
                raise figure.Missing(f"the driver did not register: {(home / 'log').read_text()[-800:]}")
            await asyncio.sleep(0.01)
            await node.scan()
        took = time.monotonic() - began
        await asyncio.sleep(IDLE_S)
        if child.poll() is not None:
            raise figure.Missing(f"the driver ended: {(home / 'log').read_text()[-800:]}")
        return took, psutil.Process(child.pid).memory_info().rss / 2**20


def published(again: bool) -> tuple[float, str]:
    """Return the time of a first publication of eight GPUs with all MIG partitions, or of one without a change, ms."""
    found = machines.build("dgx-a100", "n1")
    found = replace(found, gpus=tuple(replace(gpu, mig_enabled=True) for gpu in found.gpus))
    found = replace(found, nics=())
    times, writes = [], 0
    for _ in range(11):
        api = test_publisher.Api()
        made = test_publisher.driver(api, found)
        if again:
            asyncio.run(made.publish())
        before = len(api.writes)
        times.append(_timed(made))
        writes = len(api.writes) - before
    devices = sum(len(item["spec"].get("devices") or ()) for item in slices.encode(found))
    return sorted(times)[5], f"{devices} devices, {writes} writes, API server in memory, median of 11"


def _timed(made: publisher.Publisher) -> float:
    began = time.perf_counter()
    asyncio.run(made.publish())
    return 1e3 * (time.perf_counter() - began)


def optimal(kind: str, ours: bool) -> tuple[float, str]:
    """Return how often first fit takes the widest ring that is free, %, in our order or by index; mean of three seeds."""
    found = machines.build(kind, "n1")
    items = slices.encode(found) if ours else first_fit.by_index(slices.encode(found))
    tables = subsets.subsets(wiring.wiring(found))
    mean = sum(first_fit.share(tables, items, 500, seed) for seed in SEEDS) / len(SEEDS)
    return 100 * mean, "500 fills and drains, three seeds; claims of two GPUs and more"


def gain(kind: str) -> tuple[float, str]:
    """Return by how many points our order is better than the index."""
    ours, index = optimal(kind, ours=True)[0], optimal(kind, ours=False)[0]
    return ours - index, f"ours {ours:.1f} %, by index {index:.1f} %"


def measurements() -> Iterator[tuple[str, figure.Measurement]]:
    """Return the figures in the order of the table."""
    made = Bench()
    for call in ("prepare", "unprepare"):
        for what in ("1 GPU", "8 GPU", f"{BATCH} claims"):
            for label, share in (("p50", 0.5), ("p99", 0.99)):
                yield f"{call} {label}: {what}", lambda n=f"{call} {what}", q=share: made.quantile(n, q)
    yield f"prepare p50: {BATCH} calls", lambda: made.quantile(f"prepare {BATCH} calls", 0.5)
    yield "publish", lambda: published(again=False)
    yield "publish: no change", lambda: published(again=True)
    yield "start to registered", made.registered
    yield "resident memory idle", made.resident
    for kind in machines.KINDS:
        yield f"first fit optimal: {kind}", lambda k=kind: optimal(k, ours=True)
        yield f"first fit gain: {kind}", lambda k=kind: gain(k)
