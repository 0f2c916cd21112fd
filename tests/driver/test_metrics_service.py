"""The HTTP side: metrics and probes of a running driver."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest

from dra_driver import checkpoint, config, inventory, registration
from dra_driver.health import kept, source, taints, watcher
from dra_driver.metrics import server, service, work
from dra_driver.probe import interface
from tests.driver import conftest, host, metrics
from tests.driver.metrics import background, until
from tests.driver.test_inventory import without
from tests.driver.test_publisher import Api


class Probe:
    """GPUs that do nothing."""

    def __init__(self, found: interface.Discovered) -> None:
        self.found = found

    def discover(self) -> interface.Discovered:
        return self.found

    def reading(self, gpu_uuid: str) -> interface.Reading:
        lost = all(gpu.uuid != gpu_uuid for gpu in self.found.topology.gpus)
        return interface.Reading(gpu_uuid, lost=True) if lost else interface.Reading(gpu_uuid, utilization=5)


def port(told: service.Service) -> int:
    return told.server.port


@contextlib.asynccontextmanager
async def serving(folder: Path, http: str = "127.0.0.1:0") -> AsyncIterator[tuple[service.Service, Any]]:
    """Serve a node; the publisher is real and has nothing to talk to."""
    given = config.Config(
        node_name="node-a",
        http=http,
        registry=folder / "r",
        plugins=folder / "p",
        pod_resources=folder / "kubelet.sock",
    )
    given.folder.mkdir(parents=True)
    probe = Probe(interface.Discovered(host.machine()))
    found = await inventory.Inventory.take(probe)
    faults, times = kept.Faults(folder / "faults.json", "b"), taints.Times(folder / "taints.json")
    watching = watcher.Watcher(probe, found.current(), source.Source("node-a"), times, faults)
    await watching.start()
    measured = work.Work()
    publishing = work.Publisher(Api(), "node-a", host.DRIVER, measured)
    told = service.Service(given, Api(), found, watching, publishing, measured)
    async with background(*told.services):
        if told.services:
            await until(lambda: port(told))
        yield told, publishing


async def fetched(told: service.Service, path: str, **headers: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"http://127.0.0.1:{port(told)}{path}") as answer,
    ):
        return answer.status, await answer.text()


async def test_metrics_and_probes_over_http(tmp_path: Path) -> None:
    async with serving(tmp_path) as (told, publishing):
        status, said = await fetched(told, "/metrics")
        assert status == 200
        assert len(metrics.samples(said, "DCGM_FI_DEV_GPU_UTIL")) == 8
        assert metrics.value(said, "muster_dra_registered") == metrics.value(said, "muster_dra_slices_published") == 0
        status, said = await fetched(told, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
        assert status == 200 and said.endswith("# EOF\n")
        assert await fetched(told, "/healthz") == (200, "plugin: ok\nsession: ok\n")
        told._watching._end(interface.SessionEnded("NVML: discovery: Driver Not Loaded"))
        status, said = await fetched(told, "/healthz")
        assert status == 503 and "session: NVML: discovery: Driver Not Loaded; the GPU driver was unloaded" in said
        status, said = await fetched(told, "/readyz")
        assert status == 503 and "slices: not published yet" in said and "has not registered the driver yet" in said
        told.registration(registration.Status(True))
        publishing.stats.seconds = 0.1
        assert (await fetched(told, "/readyz"))[0] == 200
        told.registration(registration.Status(False, "no such version"))
        publishing.problem = "ApiError: 403"
        status, said = await fetched(told, "/readyz")
        assert status == 503 and "refused the driver: no such version" in said and "slices: ApiError: 403" in said
        assert (await fetched(told, "/other"))[0] == 404


async def test_a_gpu_that_discovery_finds_no_more_is_told_to_have_failed(tmp_path: Path) -> None:
    async with serving(tmp_path) as (told, _):
        whole = told._found.probe.found
        told._found.tell(told._watching.found)
        told._found.probe.found = replace(whole, topology=without(whole.topology, 2))
        await told._found.refresh()
        await told._watching.poll()
        said = (await fetched(told, "/metrics"))[1]
        lost = whole.topology.gpus[2].uuid
        assert metrics.value(said, "hw_status", hw_id=lost, hw_state="failed") == 1
        assert len(metrics.samples(said, "hw_status", hw_state="ok")) == 8
        assert len(metrics.samples(said, "DCGM_FI_DEV_GPU_UTIL")) == 7


async def test_health_dials_the_drivers_own_sockets(
    tmp_path: Path, make_node: Callable[..., conftest.Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "PROBE_S", 0.3)
    async with serving(tmp_path) as (told, _):
        told.started()
        status, said = await fetched(told, "/healthz")
        assert status == 503 and "dra.sock: no gRPC server answers" in said
        one = grpc.aio.server()
        for path in (told._given.sockets.plugin, told._given.sockets.registration):
            path.parent.mkdir(parents=True, exist_ok=True)
            one.add_insecure_port(f"unix:{path}")
        await one.start()
        assert (await fetched(told, "/healthz"))[0] == 200
        await one.stop(0)


async def test_without_an_address_nothing_is_served(tmp_path: Path) -> None:
    async with serving(tmp_path, http="") as (told, _):
        assert told.services == ()


async def test_an_address_that_is_taken_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "RETRY_S", 0.05)
    other = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    taken = other.sockets[0].getsockname()[1]

    async def leave() -> None:
        await asyncio.sleep(0.2)
        other.close()
        await other.wait_closed()

    async with background(leave), serving(tmp_path, http=f"127.0.0.1:{taken}") as (told, _):
        assert (await fetched(told, "/healthz"))[0] == 200


async def test_a_checkpoint_that_cannot_be_read_does_not_hide_the_gpus(tmp_path: Path) -> None:
    async with serving(tmp_path) as (told, _):
        checkpoint.Store(told._given.folder).path.write_bytes(b"{")
        status, said = await fetched(told, "/metrics")
        assert status == 200 and len(metrics.samples(said, "DCGM_FI_DEV_GPU_UTIL")) == 8


@pytest.mark.parametrize("value", ["nine", "a:b:c", ":99999", "::1:80"])
def test_addresses_are_checked(value: str) -> None:
    with pytest.raises(ValueError, match="http"):
        config.Config(node_name="n", http=value)


@pytest.mark.parametrize(
    ("value", "address"), [(":80", ("0.0.0.0", 80)), ("[::1]:81", ("::1", 81)), ("h.example:0", ("h.example", 0))]
)
def test_addresses_are_read(value: str, address: tuple[str, int]) -> None:
    assert config.Config(node_name="n", http=value).http_address == address
