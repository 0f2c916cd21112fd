"""Claims as the API server has them, and what the driver tells it about them and about the node."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import aiohttp
import orjson
import structlog

from dra_driver import cdi, claim, prepared, state
from scheduler.apiserver import client, errors
from scheduler.model import node

GROUP = "/apis/resource.k8s.io/v1"
GET_S = 10.0  # of the kubelet's 45 s for a whole call
TRIES = 5
PAUSE_S = 2.0
MAX_DATA = 10 * 1024  # bytes of status.devices[].data

log = structlog.get_logger()


def path(reference: claim.Reference) -> str:
    """Return the path of a claim."""
    return f"{GROUP}/namespaces/{reference.namespace}/resourceclaims/{reference.name}"


async def asked(what: str, request: Awaitable[Any]) -> Any:
    """Return an answer of the API server; whatever keeps it from answering is one kind of error.

    Raises
    ------
    ClaimError
        The object does not exist.
    UnreachableError
    """
    try:
        async with asyncio.timeout(GET_S):
            return await request
    except errors.ApiError as error:
        if error.missing:
            raise claim.ClaimError(f"{what}: the API server has no such object") from error
        raise state.UnreachableError(f"{what}: {error}") from error
    except TimeoutError as error:
        raise state.UnreachableError(f"{what}: the API server did not answer within {GET_S:.0f} s") from error
    except (aiohttp.ClientError, OSError) as error:
        raise state.UnreachableError(f"{what}: the API server cannot be reached: {error}") from error


class ApiClaims:
    """Reads claims; a `state.Claims`."""

    def __init__(self, api: client.Client) -> None:
        self._api = api

    async def get(self, reference: claim.Reference) -> state.Object:
        found: state.Object = await asked(str(reference), self._api.get(path(reference)))
        return found

    async def allocated(self) -> list[state.Object]:
        items, _ = await asked("list of claims", self._api.list(f"{GROUP}/resourceclaims"))
        return [
            obj
            for obj in items
            if (obj.get("status") or {}).get("allocation") and (obj.get("status") or {}).get("reservedFor")
        ]

    async def of_pod(self, namespace: str, pod: str) -> frozenset[str]:
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}"
        try:
            found = await asked(f"pod {namespace}/{pod}", self._api.get(path))
        except claim.ClaimError:
            return frozenset()
        try:
            named = (found.get("spec") or {}).get("resourceClaims") or []
            made = found.get("status") or {}
            extended = [made["extendedResourceClaimStatus"]] if made.get("extendedResourceClaimStatus") else []
            rows = [*named, *(made.get("resourceClaimStatuses") or []), *extended]
            return frozenset(row["resourceClaimName"] for row in rows if row.get("resourceClaimName"))
        except (KeyError, TypeError, AttributeError) as error:
            raise state.UnreachableError(f"pod {namespace}/{pod}: not as the API has it: {error!r}") from error


def status(entry: prepared.Claim, driver: str, machine: node.NodeTopology, now: str) -> dict[str, Any]:
    """Return what a claim's status says about our devices, to be applied."""
    rows = []
    for held, ids in zip(entry.devices, cdi.ids(entry, driver), strict=True):
        row: dict[str, Any] = {"driver": driver, "pool": held.pool, "device": held.name}
        if held.share_id:
            row["shareID"] = held.share_id
        row["conditions"] = [
            {
                "type": "Prepared",
                "status": "True",
                "reason": "Prepared",
                "message": f"prepared on node {machine.name}",
                "lastTransitionTime": now,
            }
        ]
        data = _data(held, machine) | {"cdiDevices": ids}
        if len(orjson.dumps(data)) <= MAX_DATA:
            row["data"] = data
        rows.append(row)
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        # With its UID the status of a claim of the same name is never written by mistake.
        "metadata": {"namespace": entry.namespace, "name": entry.name, "uid": entry.uid},
        "status": {"devices": rows},
    }


def _data(held: prepared.Device, machine: node.NodeTopology) -> dict[str, Any]:
    """Return facts about a device for people and for other programs."""
    found: dict[str, Any] = {"kind": held.kind.value}
    for name, value in (("uuid", held.uuid), ("pciBusID", held.pci_bus_id)):
        if value:
            found[name] = value
    if held.partition is not None:
        place = held.partition
        found |= {"parentUUID": held.gpu_uuid, "profile": place.profile}
        found["placement"] = {"start": place.start, "size": place.size}
    elif held.gpu_uuid:
        found["nvlinkPeers"] = _peers(held.gpu_uuid, machine)
    if held.share_id:
        found["milli"] = held.milli
    return found


def _peers(gpu_uuid: str, machine: node.NodeTopology) -> dict[str, int]:
    """Return the number of NVLinks to each other GPU."""
    mine = next((gpu.index for gpu in machine.gpus if gpu.uuid == gpu_uuid), -1)
    found = {}
    for link in machine.nvlinks:
        if mine in (link.a, link.b):
            found[machine.gpus[link.b if link.a == mine else link.a].name] = link.links
    return found


class StatusWriter:
    """Applies the status of claims in the background; a pod does not wait for it."""

    def __init__(self, api: client.Client, driver: str, machine: state.Machine, pause_s: float = PAUSE_S) -> None:
        self._api, self._driver, self._machine, self._pause_s = api, driver, machine, pause_s
        self._queue: asyncio.Queue[prepared.Claim] = asyncio.Queue()
        self._told: dict[str, prepared.Claim] = {}

    def tell(self, entry: prepared.Claim) -> None:
        """Write the status of a claim soon, unless it is written already."""
        if self._told.get(entry.uid) != entry:
            self._told[entry.uid] = entry
            self._queue.put_nowait(entry)

    def forget(self, uid: str) -> None:
        """Drop a claim that is not prepared any more."""
        self._told.pop(uid, None)

    def keep(self, prepared_now: Collection[str]) -> None:
        """Drop all claims but some, by UID; what is left to write of the others is not written."""
        for uid in self._told.keys() - set(prepared_now):
            self.forget(uid)

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            entry = await self._queue.get()
            if self._told.get(entry.uid) == entry:  # else it was unprepared, or told anew, meanwhile
                await self._write(entry)

    async def _write(self, entry: prepared.Claim) -> None:
        """Try some times; a claim that is gone, or changed, needs no status."""
        machine = self._machine.current()
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        body = status(entry, self._driver, machine, now)
        manager = f"{self._driver}-{machine.name}"[:128]
        target = f"{path(entry.reference)}/status"
        for turn in range(TRIES):
            try:
                await asked(str(entry.reference), self._api.apply(target, body, manager))
            except claim.ClaimError:
                return
            except state.UnreachableError as error:
                if turn == TRIES - 1:
                    log.error("the status of a claim is not written", claim=str(entry.reference), error=str(error))
                    self.forget(entry.uid)
                    return
                await asyncio.sleep(self._pause_s * 2**turn)
            else:
                return


class NodeEvents:
    """Events about the node, written in the background."""

    def __init__(
        self, api: client.Client, driver: str, node_name: str, node_uid: Callable[[], str] = lambda: ""
    ) -> None:
        self._api, self._driver, self._node_name, self._node_uid = api, driver, node_name, node_uid
        self._queue: asyncio.Queue[tuple[str, str]] = asyncio.Queue(maxsize=256)

    def tell(self, reason: str, message: str) -> None:
        """Write a warning soon; when too many wait, the log has it alone."""
        log.warning("event", reason=reason, message=message)
        if not self._queue.full():
            self._queue.put_nowait((reason, message))

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            reason, message = await self._queue.get()
            try:
                await asked(
                    f"event {reason}",
                    self._api.create("/api/v1/namespaces/default/events", self._event(reason, message)),
                )
            except (claim.ClaimError, state.UnreachableError) as error:
                log.error("an event is not written", reason=reason, error=str(error))

    def _event(self, reason: str, message: str) -> dict[str, Any]:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{self._node_name}.", "namespace": "default"},
            "involvedObject": {"kind": "Node", "name": self._node_name, "uid": self._node_uid() or self._node_name},
            "reason": reason,
            "message": message[:1024],
            "type": "Warning",
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
            "source": {"component": self._driver, "host": self._node_name},
        }
