"""A burst of pods: all created at once, each timed from its creation until kube-scheduler has bound it."""

import asyncio
import contextlib
import math
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import psutil

from scheduler.apiserver import client, errors, watch
from scheduler.model import claim, names

PODS, GPUS = 500, 2
AT_ONCE = 32
"""Pods under creation at the same time."""

BOUND_S, CLEARED_S, ACCOUNT_S = 300.0, 240.0, 30.0
CLASSES = "/apis/resource.k8s.io/v1/deviceclasses"
NAMESPACES = "/api/v1/namespaces"
TEMPLATE = "gpus"


class Unbound(Exception):
    """Pods were left unscheduled; the message names how many and what kube-scheduler says of one."""


@dataclass(frozen=True, slots=True)
class Burst:
    """What one burst came to.

    Attributes
    ----------
    seconds : float
        From the first request to create a pod to the watch event of the last binding.
    create_s : float
        The same to the answer of the last creation.
    waits : tuple of float
        Seconds of each pod from its creation to its binding, shortest first.
    load : float
        Load average of the machine when it began: above the number of cores, others took part of the time.
    cpu_s : float
        Processor time that the watched program used meanwhile; hardly depends on what else the machine does.
    """

    seconds: float
    create_s: float
    waits: tuple[float, ...]
    load: float = 0.0
    cpu_s: float = 0.0

    @property
    def rate(self) -> float:
        """Return pods bound per second."""
        return len(self.waits) / self.seconds

    def quantile(self, share: float) -> float:
        """Return the least wait that `share` of the pods did not exceed."""
        return self.waits[max(0, math.ceil(share * len(self.waits)) - 1)]

    def as_json(self) -> dict[str, float]:
        """Return the fields that result files hold, in seconds."""
        waits = {"p50": self.quantile(0.5), "p99": self.quantile(0.99)}
        return {
            "pods": len(self.waits),
            "bound": self.seconds,
            "created": self.create_s,
            **waits,
            "load_1min": self.load,
            "cpu": self.cpu_s,
        }


@dataclass(slots=True)
class Clock:
    """Times of one burst by pod name, on one monotonic clock."""

    pods: int
    begun: dict[str, float] = field(default_factory=dict)
    bound: dict[str, float] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    created: float = 0.0
    load: float = 0.0
    cpu_s: float = 0.0

    def see(self, pod: Mapping[str, Any], now: float) -> None:
        """Note a pod as the watch shows it."""
        name = pod["metadata"]["name"]
        if pod["spec"].get("nodeName"):
            self.bound.setdefault(name, now)
        for condition in pod.get("status", {}).get("conditions", ()):
            if condition["type"] == "PodScheduled":
                self.said[name] = condition.get("message", "")

    def burst(self) -> Burst:
        """Return the sum of it; every pod is bound by now."""
        first = min(self.begun.values())
        waits = sorted(self.bound[name] - begun for name, begun in self.begun.items())
        return Burst(max(self.bound.values()) - first, self.created - first, tuple(waits), self.load, self.cpu_s)

    def left(self) -> str:
        """Say what was not bound."""
        left = [name for name in self.begun if name not in self.bound]
        reason = next((self.said[name] for name in left if self.said.get(name)), "nothing was said of them")
        return f"{len(left)} of {self.pods} pods were not bound within {BOUND_S:g} s: {reason}"


@dataclass(frozen=True, slots=True)
class Shape:
    """What the pods of a burst are: how many, with how many GPUs each, in a namespace of Muster's or not, one gang or lone."""

    pods: int = PODS
    gpus: int = GPUS
    managed: bool = False
    gang: bool = False


async def run(
    api: client.Client,
    namespace: str,
    pods: int = PODS,
    gpus: int = GPUS,
    watched: psutil.Process | None = None,
    managed: bool = False,
    gang: bool = False,
    settled: Callable[[], Awaitable[None]] | None = None,
) -> Burst:
    """Create a namespace with a burst of pods, wait until all are bound, and clear it away.

    Parameters
    ----------
    gpus : int
        GPUs that each pod claims through a claim of its own, made from a template; 0 for pods without claims.
    watched : psutil.Process, optional
        The scheduler, whose processor time is taken.
    managed : bool
        Muster's webhook is asked about the pods; they come as a user makes them, without its gate.

    settled : callable
        Called when all are bound, before they are cleared away.

    Raises
    ------
    Unbound
    """
    times = Clock(pods, load=round(os.getloadavg()[0], 2))
    try:
        await _prepare(api, namespace, gpus, managed)
        before = _processor(watched)
        await _timed(api, f"{NAMESPACES}/{namespace}/pods", times, Shape(pods, gpus, managed, gang))
        times.cpu_s = _processor(watched) - before
        if settled is not None:
            await settled()
        return times.burst()
    finally:
        await clear(api, namespace)


def _processor(watched: psutil.Process | None) -> float:
    """Return the processor seconds that a program has used so far."""
    if watched is None:
        return 0.0
    used = watched.cpu_times()
    return float(used.user + used.system)


async def _timed(api: client.Client, path: str, times: Clock, shape: Shape) -> None:
    """Create the pods and return when the last is bound."""
    listening = asyncio.Event()
    watching = asyncio.create_task(_watch(api, path, times, listening))
    try:
        async with asyncio.timeout(BOUND_S):
            await listening.wait()
            await _create(api, path, times, shape)
            await watching
    except TimeoutError as error:
        raise Unbound(times.left()) from error
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _watch(api: client.Client, path: str, times: Clock, listening: asyncio.Event) -> None:
    """Note bindings until there are as many as pods."""
    async with contextlib.aclosing(watch.follow(api, path)) as events:
        async for event in events:
            now = time.monotonic()
            if isinstance(event, watch.Changed):
                times.see(event.item, now)
            elif isinstance(event, watch.Listed):
                for item in event.items:
                    times.see(item, now)
                listening.set()
            if len(times.bound) == times.pods:
                return


async def _create(api: client.Client, path: str, times: Clock, shape: Shape) -> None:
    bodies = iter([(name := f"pod-{number:04d}", orjson.dumps(_pod(name, shape))) for number in range(times.pods)])

    async def work() -> None:
        for name, body in bodies:
            times.begun[name] = time.monotonic()
            await api.request("POST", path, body)

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    times.created = time.monotonic()


async def _prepare(api: client.Client, namespace: str, gpus: int, managed: bool) -> None:
    """Make the namespace and its template, and wait for the account without which pods are refused."""
    labels = {names.MANAGED: "true"} if managed else {}
    await api.create(NAMESPACES, {"metadata": {"name": namespace, "labels": labels}})
    if gpus:
        if not await _exists(api, f"{CLASSES}/{claim.DRIVER}"):
            await api.create(CLASSES, device_class())
        await api.create(f"/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaimtemplates", template(gpus))
    async with asyncio.timeout(ACCOUNT_S):
        while not await _exists(api, f"{NAMESPACES}/{namespace}/serviceaccounts/default"):
            await asyncio.sleep(0.05)


async def clear(api: client.Client, namespace: str) -> None:
    """Delete the namespace and wait until it is gone, so that no claim of it holds a GPU any more."""
    await api.delete(f"{NAMESPACES}/{namespace}/pods", grace_s=0)
    await api.delete(f"{NAMESPACES}/{namespace}")
    async with asyncio.timeout(CLEARED_S):
        while await _exists(api, f"{NAMESPACES}/{namespace}"):
            await asyncio.sleep(0.25)


async def _exists(api: client.Client, path: str) -> bool:
    try:
        await api.get(path)
    except errors.ApiError as error:
        if error.missing:
            return False
        raise
    return True


def device_class() -> dict[str, Any]:
    """Return the class of our GPUs; NICs are devices of the same driver, so the type is asked for too."""
    wanted = f'device.driver == "{claim.DRIVER}" && device.attributes["{claim.DRIVER}"].type == "gpu"'
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceClass",
        "metadata": {"name": claim.DRIVER},
        "spec": {"selectors": [{"cel": {"expression": wanted}}]},
    }


def template(gpus: int) -> dict[str, Any]:
    """Return the template of a pod's claim."""
    wanted = {"name": "gpus", "exactly": {"deviceClassName": claim.DRIVER, "count": gpus}}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": TEMPLATE},
        "spec": {"spec": {"devices": {"requests": [wanted]}}},
    }


def _pod(name: str, shape: Shape) -> dict[str, Any]:
    resources: dict[str, Any] = {"requests": {"cpu": "1", "memory": "1Gi"}}
    spec: dict[str, Any] = {"containers": [{"name": "main", "image": "none", "resources": resources}]}
    if shape.gpus:
        resources["claims"] = [{"name": "gpus"}]
        spec["resourceClaims"] = [{"name": "gpus", "resourceClaimTemplateName": TEMPLATE}]
    metadata: dict[str, Any] = {"name": name}
    if shape.gang:
        metadata["annotations"] = {names.GANG_NAME: "burst", names.GANG_SIZE: str(shape.pods)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def spread(values: Sequence[float]) -> str:
    """Write the least and the greatest value."""
    return f"{min(values):.3g} to {max(values):.3g} in {len(values)} runs"
