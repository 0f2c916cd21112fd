"""Claims as the API server has them, and what the driver tells it about them and about the node."""

from __future__ import annotations

import asyncio
import datetime
import zlib
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

import aiohttp
import orjson
import structlog

from dra_driver import cdi, claim, mig, prepared, state
from scheduler.apiserver import client, errors
from scheduler.model import node

GROUP = "/apis/resource.k8s.io/v1"
GET_S = 10.0  # of the kubelet's 45 s for a whole call
WRITERS = 4  # of the status of claims: one that is not answered holds up no more than its part
PAUSE_S = 2.0  # after a first failure; it doubles with each further one
MAX_PAUSE_S = 120.0
UNAUTHORIZED = 401  # passes with the next token
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


def merged(body: dict[str, Any], current: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what to apply, with the times of conditions that hold already; None where the claim says all of it."""
    had = {_key(row): row for row in (current.get("status") or {}).get("devices") or ()}
    rows = [_lasting(row, had.get(_key(row))) for row in body["status"]["devices"]]
    if all(had.get(_key(row)) == row for row in rows):
        return None
    return {**body, "status": {"devices": rows}}


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in ("driver", "pool", "device", "shareID"))


def _lasting(row: dict[str, Any], had: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a row with the time since when its conditions hold."""
    since = {(one["type"], one["status"]): one["lastTransitionTime"] for one in (had or {}).get("conditions") or ()}
    conditions = [
        {**one, "lastTransitionTime": since.get((one["type"], one["status"]), one["lastTransitionTime"])}
        for one in row["conditions"]
    ]
    return {**row, "conditions": conditions}


class StatusWriter:
    """Applies the status of claims in the background; a pod does not wait for it.

    A write that fails is tried again after others, for as long as the claim is prepared.
    """

    def __init__(self, api: client.Client, driver: str, machine: state.Machine, pause_s: float = PAUSE_S) -> None:
        self._api, self._driver, self._machine, self._pause_s = api, driver, machine, pause_s
        # A claim has its writer, so that an older status never overtakes a younger one.
        self._queues: list[asyncio.Queue[prepared.Claim]] = [asyncio.Queue() for _ in range(WRITERS)]
        self._told: dict[str, prepared.Claim] = {}
        self._failures: dict[str, int] = {}

    def tell(self, entry: prepared.Claim) -> None:
        """Write the status of a claim soon, unless it is written already."""
        if self._told.get(entry.uid) != entry:
            self._told[entry.uid] = entry
            self._put(entry)

    def _put(self, entry: prepared.Claim) -> None:
        self._queues[zlib.crc32(entry.uid.encode()) % WRITERS].put_nowait(entry)

    def forget(self, uid: str) -> None:
        """Drop a claim that is not prepared any more."""
        self._told.pop(uid, None)
        self._failures.pop(uid, None)

    def keep(self, prepared_now: Collection[str]) -> None:
        """Drop all claims but some, by UID; what is left to write of the others is not written."""
        for uid in self._told.keys() - set(prepared_now):
            self.forget(uid)

    async def run(self) -> None:
        """Write until cancelled."""
        async with asyncio.TaskGroup() as group:
            for queue in self._queues:
                group.create_task(self._work(queue))

    async def _work(self, queue: asyncio.Queue[prepared.Claim]) -> None:
        while True:
            entry = await queue.get()
            if self._told.get(entry.uid) != entry:
                continue  # it was unprepared, or told anew, meanwhile
            try:
                await self._write(entry)
            except claim.ClaimError as gone:
                log.debug("the status of a claim is not needed", claim=str(entry.reference), why=str(gone))
            except (state.UnreachableError, mig.HardwareError) as error:
                self._try_again(entry, error)
            else:
                self._failures.pop(entry.uid, None)

    def _try_again(self, entry: prepared.Claim, error: Exception) -> None:
        failures = self._failures[entry.uid] = self._failures.get(entry.uid, 0) + 1
        pause = min(MAX_PAUSE_S, self._pause_s * 2 ** min(failures - 1, 16))
        log.error(
            "the status of a claim is not written yet", claim=str(entry.reference), error=str(error), pause_s=pause
        )
        asyncio.get_running_loop().call_later(pause, self._put, entry)

    async def _write(self, entry: prepared.Claim) -> None:
        """Write what the claim does not say yet; raises `ClaimError` where it is gone, or another."""
        machine, target = self._machine.current(), path(entry.reference)
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        current = await asked(str(entry.reference), self._api.get(target))
        if current["metadata"]["uid"] != entry.uid:
            raise claim.ClaimError(f"{entry.reference}: the claim was deleted and created again")
        body = merged(status(entry, self._driver, machine, now), current)
        if body is not None:
            manager = f"{self._driver}-{machine.name}"[:128]
            await asked(str(entry.reference), self._api.apply(f"{target}/status", body, manager))


class NodeEvents:
    """Events about the node, written in the background, in order; they wait while the API server is away."""

    def __init__(
        self,
        api: client.Client,
        driver: str,
        node_name: str,
        node_uid: Callable[[], str] = lambda: "",
        pause_s: float = PAUSE_S,
    ) -> None:
        self._api, self._driver, self._node_name, self._node_uid = api, driver, node_name, node_uid
        self._pause_s = pause_s
        self._queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue(maxsize=256)

    def tell(self, reason: str, message: str) -> None:
        """Write a warning soon; when too many wait, the log has it alone."""
        log.warning("event", reason=reason, message=message)
        self._put(reason, message, "Warning")

    def note(self, reason: str, message: str) -> None:
        """Write what is no trouble soon, as `tell`."""
        log.info("event", reason=reason, message=message)
        self._put(reason, message, "Normal")

    def _put(self, reason: str, message: str, kind: str) -> None:
        if not self._queue.full():
            self._queue.put_nowait(self._event(reason, message, kind))

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            event, pause = await self._queue.get(), self._pause_s
            while not await self._settled(event):
                await asyncio.sleep(pause)
                pause = min(MAX_PAUSE_S, 2 * pause)

    async def _settled(self, event: dict[str, Any]) -> bool:
        """Write an event; return whether that, or its refusal for good, is the end of it."""
        reason = event["reason"]
        try:
            await asked(f"event {reason}", self._api.create("/api/v1/namespaces/default/events", event))
        except (claim.ClaimError, state.UnreachableError) as error:
            cause = error.__cause__
            if isinstance(cause, errors.ApiError) and not cause.passing and cause.status != UNAUTHORIZED:
                log.error("an event is refused", reason=reason, error=str(error))
                return True
            log.warning("an event is not written yet", reason=reason, error=str(error))
            return False
        return True

    def _event(self, reason: str, message: str, kind: str) -> dict[str, Any]:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{self._node_name}.", "namespace": "default"},
            "involvedObject": {"kind": "Node", "name": self._node_name, "uid": self._node_uid() or self._node_name},
            "reason": reason,
            "message": message[:1024],
            "type": kind,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
            "source": {"component": self._driver, "host": self._node_name},
        }
