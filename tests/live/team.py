"""A managed namespace of one team: what its users apply, and what they and the API show of it afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self

from scheduler.apiserver import client, errors, paths
from scheduler.model import names
from tests.kube import live
from tests.live import site as sites
from tests.live import work
from tests.testbed.controllers import manifests, webhooks

Obj = dict[str, Any]

WAIT_S = 30.0
COUNTS = {1: "one", 2: "two", 4: "four", 8: "eight"}
RESOURCE_POLICY = {"propagationPolicy": "Background"}


@dataclass(frozen=True, slots=True)
class Team:
    """One namespace of a site."""

    site: sites.Site
    api: client.Client
    name: str

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, site: sites.Site, api: client.Client, managed: bool = True) -> AsyncIterator[Self]:
        """Make a namespace with templates of claims, whose pods are gated if it is managed; take it away at the end."""
        made = cls(site, api, f"team-{uuid.uuid4().hex[:6]}")
        await made.found(managed)
        try:
            yield made
        finally:
            await made.close()

    async def found(self, managed: bool = True) -> None:
        """Make the namespace, and wait until pods in it can be made and are gated."""
        labels = {names.MANAGED: "true"} if managed else {}
        space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name, "labels": labels}}
        await self.api.create(paths.of("v1", "namespaces"), space)
        await self.until(lambda: self.get("v1", "serviceaccounts", "default"))
        for count, name in COUNTS.items():
            await self.apply(live.template(name, count))
        if managed:
            probe = work.pod("probe")
            probe["metadata"]["namespace"] = self.name
            await webhooks.answer(self.api, probe, ("spec", "schedulingGates"))

    async def close(self) -> None:
        """Delete everything, and the namespace, whose own end takes some seconds that nobody has to wait for."""
        await self.empty()
        await self.api.delete(paths.of("v1", "namespaces", "", self.name))

    # What users do.

    async def apply(self, *items: Obj) -> list[Obj]:
        """Apply objects into this namespace."""
        placed = [one | {"metadata": {**one["metadata"], "namespace": self.name}} for one in items]
        return await manifests.apply(self.api, placed)

    async def create(self, items: Iterable[Obj]) -> None:
        for one in items:
            await self.api.create(self.path("v1", "pods"), one)

    async def delete(self, api_version: str, plural: str, name: str) -> None:
        await self.api.delete(self.path(api_version, plural, name), **RESOURCE_POLICY)

    async def empty(self) -> None:
        """Delete all pods, however they came, and wait until they and their claims are gone."""
        for api_version, plural in ((work.JOBSET, "jobsets"), (work.LWS, "leaderworkersets"), (work.BATCH, "jobs")):
            with contextlib.suppress(errors.ApiError):  # a controller that this site does not have
                await self.api.delete(self.path(api_version, plural), **RESOURCE_POLICY)
        await self.api.delete(self.path("v1", "pods"), grace_s=0)

        await self.until(self.nothing)

    async def nothing(self) -> bool:
        """Tell whether no pod, no claim and no gang is left."""
        kinds = (("v1", "pods"), (paths.RESOURCE, "resourceclaims"), (names.API_VERSION, names.PLURAL))
        return not any([await self.list(*kind) for kind in kinds])

    def kubectl(self, *args: str) -> str:
        return self.site.home.kubectl("-n", self.name, *args)

    # What they see.

    def path(self, api_version: str, plural: str, name: str = "", sub: str = "") -> str:
        return paths.of(api_version, plural, self.name, name, sub)

    async def get(self, api_version: str, plural: str, name: str) -> Any:
        """Return an object, None where there is none."""
        try:
            return await self.api.get(self.path(api_version, plural, name))
        except errors.ApiError as error:
            if error.missing:
                return None
            raise

    async def list(self, api_version: str, plural: str) -> list[Obj]:
        return (await self.api.list(self.path(api_version, plural)))[0]

    async def pods(self) -> list[Obj]:
        return await self.list("v1", "pods")

    async def placement(self, name: str) -> Any:
        return await self.get(names.API_VERSION, names.PLURAL, name)

    async def phase(self, name: str, *wanted: str, within_s: float = WAIT_S) -> Any:
        """Wait until a gang's placement is in a phase, and return it."""

        async def ask() -> Any:
            found = await self.placement(name)
            return found if found and found.get("status", {}).get("phase") in wanted else None

        return await self.until(ask, within_s)

    async def bound(self, count: int, within_s: float = WAIT_S) -> dict[str, Obj]:
        """Wait until the namespace has so many pods that live, all bound, and return them by name."""

        async def ask() -> Any:
            found = [one for one in await self.pods() if alive(one)]
            return found if len(found) == count and all(one["spec"].get("nodeName") for one in found) else None

        return {one["metadata"]["name"]: one for one in await self.until(ask, within_s)}

    async def bound_of(self, *gangs: str, within_s: float = WAIT_S) -> str:
        """Wait until all pods of one of some gangs of plain pods are bound, and return its name."""

        async def ask() -> str:
            found = await self.pods()
            for gang in gangs:
                mine = [one for one in found if one["metadata"]["annotations"].get(names.GANG_NAME) == gang]
                if mine and all(one["spec"].get("nodeName") for one in mine):
                    return gang
            return ""

        return str(await self.until(ask, within_s))

    async def claims_of(self, pod: str) -> list[Obj]:
        """Wait until the claims of a pod exist, and return them."""

        async def ask() -> list[Obj]:
            found = await self.list(paths.RESOURCE, "resourceclaims")
            return [one for one in found if one["metadata"]["ownerReferences"][0]["name"] == pod]

        claims: list[Obj] = await self.until(ask)
        return claims

    async def devices(self) -> dict[str, list[str]]:
        """Return ``pool/device`` of every allocated claim by the pod that owns it."""
        given = {}
        for one in await self.list(paths.RESOURCE, "resourceclaims"):
            if rows := allocated(one):
                given[one["metadata"]["ownerReferences"][0]["name"]] = rows
        return given

    async def planned(self, name: str, count: int) -> list[Obj]:
        """Wait until a gang runs with so many pods, each where the plan has it and with exactly the planned devices.

        Returns its pods in rank order.
        """
        order = (await self.until(lambda: self._whole(name, count)))["spec"]["plan"]["pods"]
        assert [one["rank"] for one in order] == list(range(count))
        pods = {one["metadata"]["name"]: one for one in await self.pods()}
        devices = await self.devices()
        for one in order:
            assert pods[one["name"]]["metadata"]["uid"] == one["uid"]
            assert pods[one["name"]]["spec"]["nodeName"] == one["node"]
            [claim] = one["claims"]
            assert devices[one["name"]] == [
                f"{row.get('pool', one['node'])}/{row['device']}" for row in claim["devices"]
            ]
        return [pods[one["name"]] for one in order]

    async def _whole(self, name: str, count: int) -> Any:
        """Return a placement that runs with so many pods, all of which are bound; None while there is none."""
        found = await self.placement(name)
        if not found or found.get("status", {}).get("phase") != "Running":
            return None
        placed = {one["uid"] for one in (found["spec"].get("plan") or {}).get("pods", ())}
        bound = {one["metadata"]["uid"] for one in await self.pods() if one["spec"].get("nodeName")}
        return found if len(placed) == count and placed <= bound else None

    async def racks(self, pods: Iterable[Obj]) -> set[str]:
        """Return the racks on whose machines pods run."""
        return await self.labels(pods, work.RACK)

    async def labels(self, pods: Iterable[Obj], key: str) -> set[str]:
        """Return what a label says on the machines on which pods run; a machine without it fails."""
        found = {one["metadata"]["name"]: one for one in await self.nodes()}
        return {found[one["spec"]["nodeName"]]["metadata"]["labels"][key] for one in pods}

    async def nodes(self) -> list[Obj]:
        return (await self.api.list("/api/v1/nodes"))[0]

    def events(self) -> list[tuple[str, str, str]]:
        """Return object, reason and message of each Event, as ``kubectl events`` shows them."""
        listed = json.loads(self.kubectl("get", "events.events.k8s.io", "-o", "json"))["items"]
        return [
            (f"{one['regarding']['kind']}/{one['regarding']['name']}", one["reason"], one["note"]) for one in listed
        ]

    async def told(self, regarding: str, reason: str, note: str = "") -> str:
        """Wait for the Event of an object with a reason, and a note that holds some words; returns the whole note."""

        async def ask() -> str:
            for one in await self.list("events.k8s.io/v1", "events"):
                about = f"{one['regarding']['kind']}/{one['regarding']['name']}"
                if (about, one["reason"]) == (regarding, reason) and note in one["note"]:
                    return str(one["note"])
            return ""

        return str(await self.until(ask))

    async def until(self, ask: Callable[[], Awaitable[Any]], within_s: float = WAIT_S) -> Any:
        """Ask until the answer is true, and return it."""
        began, answer = time.monotonic(), None
        while time.monotonic() - began < within_s:
            if answer := await ask():
                return answer
            await asyncio.sleep(0.05)
        raise AssertionError(
            f"not within {within_s:g} s; the last answer was {str(answer)[:500]}; {await self.story()}"
        )

    async def never_bound(self, *pods: str, still_s: float = 2.0) -> None:
        """Watch for a while that pods get no node; a bind takes a tenth of a second."""
        end = time.monotonic() + still_s
        while time.monotonic() < end:
            for one in await self.pods():
                assert one["metadata"]["name"] not in pods or not one["spec"].get("nodeName"), one["metadata"]["name"]
            await asyncio.sleep(0.1)

    async def story(self) -> str:
        """Return a line for each pod and placement, for a failure."""
        told = [f"{one['metadata']['name']}: {state(one)}" for one in await self.pods()]
        for one in await self.list(names.API_VERSION, names.PLURAL):
            told.append(f"{one['metadata']['name']}: {json.dumps(one.get('status'))}")
        return "; ".join(told)[:2000]


def alive(pod: Obj) -> bool:
    """Tell whether a pod has not ended and is not being deleted."""
    return "deletionTimestamp" not in pod["metadata"] and pod.get("status", {}).get("phase") not in (
        "Succeeded",
        "Failed",
    )


def allocated(claim: Obj) -> list[str]:
    """Return ``pool/device`` of a claim's allocation, in its order."""
    allocation = (claim.get("status") or {}).get("allocation") or {"devices": {"results": []}}
    return [f"{row['pool']}/{row['device']}" for row in allocation["devices"]["results"]]


def state(pod: Obj) -> str:
    gates = [one["name"] for one in pod["spec"].get("schedulingGates") or ()]
    going = " going" if "deletionTimestamp" in pod["metadata"] else ""
    return f"{pod['status'].get('phase')}{going} on {pod['spec'].get('nodeName', '-')} gates {gates}"
