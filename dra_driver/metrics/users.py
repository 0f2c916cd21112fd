"""Who uses a device: claims from our own checkpoint, and the pods behind them from the kubelet."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import grpc
import structlog

from dra_driver import prepared
from proto.podresources.v1 import podresources_v1_pb2 as messages
from proto.podresources.v1 import podresources_v1_pb2_grpc as services

ASK_S = 2.0
FRESH_S = 2.0
KEEP_S = 60.0  # what a kubelet said that is restarted meanwhile
MAX_ANSWER = 16 * 1024 * 1024
MAX_USERS = 64
"""Users of one device that are told apart; a GPU that more of them share has one series without names."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, order=True)
class Container:
    """A container of a pod."""

    namespace: str = ""
    pod: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True, order=True)
class Held:
    """A device as a claim holds it: names of the claim and of the device, and the share id of a shared one."""

    namespace: str
    claim: str
    pool: str
    device: str
    share_id: str = ""


@dataclass(frozen=True, slots=True, order=True)
class User:
    """A claim that holds a device, and one container that uses it; an empty container as long as none is known.

    Several shares of one device in one claim are one user, and have no share id here.
    """

    held: Held
    container: Container = Container()


Containers = Mapping[Held, Sequence[Container]]

Place = tuple[str, int, int]
"""A GPU by UUID, or a part of it by MIG profile id and first slice; (uuid, -1, -1) is the whole GPU."""


def whole(gpu_uuid: str) -> Place:
    """Return the place of a whole GPU."""
    return gpu_uuid, -1, -1


class Kubelet:
    """What the kubelet last said about the devices of its containers; asked at most every `FRESH_S`."""

    def __init__(self, socket: Path, driver: str) -> None:
        self._socket, self._driver = socket, driver
        self._found: Containers = {}
        self._asked_at = self._said_at = float("-inf")
        self._problem = ""
        self._lock = asyncio.Lock()

    async def containers(self) -> Containers:
        """Return the containers of each held device; without an answer for `KEEP_S` none."""
        async with self._lock:
            if time.monotonic() - self._asked_at >= FRESH_S:
                await self._ask()
                self._asked_at = time.monotonic()
            if time.monotonic() - self._said_at > KEEP_S:
                self._found = {}
            return self._found

    async def _ask(self) -> None:
        try:
            answer = await self._answer()
        except (grpc.aio.AioRpcError, TimeoutError, OSError) as error:
            reason = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error) or "no answer"
            self._tell(f"{self._socket}: {reason}; metrics lack the names of pods")
            return
        self._tell("")
        self._found, self._said_at = containers(answer, self._driver), time.monotonic()

    async def _answer(self) -> messages.ListPodResourcesResponse:
        if not self._socket.exists():
            raise FileNotFoundError("the kubelet's socket does not exist")
        limit = [("grpc.max_receive_message_length", MAX_ANSWER)]
        async with (
            asyncio.timeout(ASK_S),
            grpc.aio.insecure_channel(f"unix:{self._socket}", options=limit) as channel,
        ):
            stub = services.PodResourcesListerStub(channel)
            found: messages.ListPodResourcesResponse = await stub.List(messages.ListPodResourcesRequest())
            return found

    def _tell(self, problem: str) -> None:
        """Write one line for each change, not for each scrape."""
        if bool(problem) != bool(self._problem):
            if problem:
                log.warning("the kubelet does not tell which pods use devices", problem=problem)
            else:
                log.info("the kubelet tells which pods use devices")
        self._problem = problem


def containers(answer: messages.ListPodResourcesResponse, driver: str) -> Containers:
    """Return the containers of each device of ours."""
    found: dict[Held, set[Container]] = defaultdict(set)
    for pod in answer.pod_resources:
        for container in pod.containers:
            for resource in container.dynamic_resources:
                for one in resource.claim_resources:
                    if one.driver_name == driver:
                        held = Held(
                            resource.claim_namespace, resource.claim_name, one.pool_name, one.device_name, one.share_id
                        )
                        found[held].add(Container(pod.namespace, pod.name, container.name))
    return {held: sorted(used) for held, used in found.items()}


def users(checkpoint: prepared.Checkpoint, told: Containers) -> dict[Place, list[User]]:
    """Return the users of each GPU and MIG device; what the kubelet says counts only for claims that are prepared."""
    found: dict[Place, set[User]] = defaultdict(set)
    for entry in checkpoint.claims.values():
        if entry.phase is prepared.Phase.COMPLETED:
            for place, held in _places(entry):
                whole_held = replace(held, share_id="")
                known = told.get(held) or told.get(whole_held)  # older kubelets tell no share ids
                found[place] |= {User(whole_held, each) for each in known or (Container(),)}
    return {place: sorted(known) if len(known) <= MAX_USERS else [] for place, known in found.items()}


def _places(entry: prepared.Claim) -> Iterator[tuple[Place, Held]]:
    for device in entry.devices:
        if device.gpu_uuid:
            part = device.partition
            place = (device.gpu_uuid, part.profile_id, part.start) if part else whole(device.gpu_uuid)
            yield place, Held(entry.namespace, entry.name, device.pool, device.name, device.share_id)
