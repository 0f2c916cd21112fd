"""Puts together what one scrape returns; series of devices and claims that are gone are not in the next one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

import prometheus_client
import structlog
from prometheus_client import exposition, metrics_core, registry

from dra_driver import checkpoint, prepared
from dra_driver.health import watcher
from dra_driver.metrics import dcgm, otel, own, rows, tenants, users
from dra_driver.probe import interface

log = structlog.get_logger()

FRESH_S = 0.5
"""Scrapes that come closer together get one answer, so that no caller can keep the driver busy."""


class Devices(registry.Collector):
    """Writes the families of the devices from what was gathered last."""

    def __init__(self, node_name: str, driver: str) -> None:
        self._node_name, self._driver = node_name, driver
        self._seen: rows.Seen | None = None
        self._state = own.Driver(0, False, "")

    def take(self, seen: rows.Seen, state: own.Driver) -> None:
        """Use this from now on."""
        self._seen, self._state = seen, state

    def collect(self) -> Iterator[metrics_core.Metric]:
        if self._seen is None:
            return
        found, release = list(rows.rows(self._seen)), self._seen.found.driver_release
        yield from dcgm.families(found, self._node_name, self._driver, release)
        yield from otel.families(found, self._node_name, release)
        yield from own.families(found, self._node_name, self._state)


class Scrape:
    """Gathers and encodes, one scrape at a time."""

    def __init__(
        self,
        devices: Devices,
        found: Callable[[], interface.Discovered],
        watching: watcher.Watcher,
        store: checkpoint.Store,
        kubelet: users.Kubelet,
        tenants_of: tenants.Tenants,
        state: Callable[[prepared.Checkpoint], own.Driver],
        registry_: prometheus_client.CollectorRegistry,
    ) -> None:
        self._devices, self._found, self._watching, self._store = devices, found, watching, store
        self._kubelet, self._tenants, self._state, self._registry = kubelet, tenants_of, state, registry_
        self._lock = asyncio.Lock()
        self._said: dict[str, tuple[float, bytes, str]] = {}
        registry_.register(devices)

    async def text(self, accept: str) -> tuple[bytes, str]:
        """Return body and content type in the format that a caller accepts."""
        encode, kind = exposition.choose_encoder(accept)
        async with self._lock:
            at, body, _ = self._said.get(kind, (float("-inf"), b"", ""))
            if time.monotonic() - at > FRESH_S:
                await self._gather()
                body = encode(self._registry)
                self._said = {kind: (time.monotonic(), body, kind)}
        return body, kind

    def _held(self) -> prepared.Checkpoint:
        """Return what is prepared; the state of the GPUs is told also where that is not known."""
        try:
            return self._store.read()
        except (checkpoint.CheckpointError, OSError) as error:
            log.error("metrics lack claims", error=str(error))
            return prepared.Checkpoint()

    async def _gather(self) -> None:
        held = self._held()
        used = users.users(held, await self._kubelet.containers())
        pods = {(u.container.namespace, u.container.pod) for known in used.values() for u in known if u.container.pod}
        watching = self._watching
        seen = rows.Seen(
            self._found(),
            watching.readings,
            watching.known,
            watching.instances,
            watching.xids,
            used,
            self._tenants.of(pods),
            watching.gone,
            {uuid: time.monotonic() - at for uuid, at in watching.read_at.items()},
            watching.before,
        )
        self._devices.take(seen, self._state(held))
