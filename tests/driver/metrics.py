"""What tests of metrics share: reading the text format, a kubelet that tells of its pods, and rows of a small machine."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from prometheus_client import parser

from proto.podresources.v1 import podresources_v1_pb2 as messages
from proto.podresources.v1 import podresources_v1_pb2_grpc as services


def samples(text: str, name: str, **labels: str) -> list[tuple[dict[str, str], float]]:
    """Return labels and value of the samples of a name that have some labels."""
    return [
        (sample.labels, sample.value)
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]


def value(text: str, name: str, **labels: str) -> float:
    """Return the value of the only sample."""
    ((_, found),) = samples(text, name, **labels)
    return found


def pod(name: str, claim: str, *devices: str, driver: str, pool: str, namespace: str = "ml", share: str = "") -> Any:
    """Return a pod with one container whose claim has devices."""
    resources = [
        messages.ClaimResource(driver_name=driver, pool_name=pool, device_name=each, share_id=share or None)
        for each in devices
    ]
    dynamic = messages.DynamicResource(claim_name=claim, claim_namespace=namespace, claim_resources=resources)
    container = messages.ContainerResources(name="main", dynamic_resources=[dynamic])
    return messages.PodResources(name=name, namespace=namespace, containers=[container])


class Lister(services.PodResourcesListerServicer):
    """Tells of `pods`; counts how often it is asked."""

    def __init__(self, pods: Iterable[Any] = ()) -> None:
        self.pods, self.asked = list(pods), 0

    async def List(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        self.asked += 1
        return messages.ListPodResourcesResponse(pod_resources=self.pods)


class _Fixed(services.PodResourcesListerServicer):
    """Tells of the same pods for ever, from a thread."""

    def __init__(self, pods: Sequence[Any]) -> None:
        self._pods = pods

    def List(self, request: Any, context: grpc.ServicerContext) -> Any:
        return messages.ListPodResourcesResponse(pod_resources=self._pods)


def threaded(socket: Path, pods: Sequence[Any]) -> grpc.Server:
    """Serve pods at a socket beside a test that has no event loop; stop what is returned."""
    server = grpc.server(futures.ThreadPoolExecutor(1))
    services.add_PodResourcesListerServicer_to_server(_Fixed(pods), server)
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    return server


@contextlib.asynccontextmanager
async def kubelet(socket: Path, lister: Lister) -> AsyncIterator[None]:
    """Serve a lister at a socket."""
    server = grpc.aio.server()
    services.add_PodResourcesListerServicer_to_server(lister, server)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)
        socket.unlink(missing_ok=True)


async def until(holds: Callable[[], Any], deadline_s: float = 5.0) -> Any:
    """Return the first true answer."""
    async with asyncio.timeout(deadline_s):
        while not (found := holds()):
            await asyncio.sleep(0.01)
    return found


@contextlib.asynccontextmanager
async def background(*works: Callable[[], Any]) -> AsyncIterator[None]:
    """Run services of the driver."""
    tasks = [asyncio.create_task(each()) for each in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
