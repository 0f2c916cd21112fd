"""Metrics and probes as parts of a running driver."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import structlog

from dra_driver import checkpoint, config, inventory, prepared, registration
from dra_driver.health import watcher
from dra_driver.metrics import own, scrape, server, tenants, users, work
from dra_driver.publish import publisher
from scheduler.apiserver import client

log = structlog.get_logger()


class Service:
    """Knows the state of the driver; `services` are to be run beside it, none where no address is configured."""

    def __init__(
        self,
        given: config.Config,
        api: client.Client,
        found: inventory.Inventory,
        watching: watcher.Watcher,
        publishing: publisher.Publisher,
        measured: work.Work,
    ) -> None:
        self._given, self._publishing, self._found, self._watching = given, publishing, found, watching
        self._registration, self._started = registration.Status(), False
        self.services: Sequence[Callable[[], Coroutine[Any, Any, None]]] = ()
        if not given.http:
            return
        tenants_of = tenants.Tenants(api)
        scraped = scrape.Scrape(
            scrape.Devices(given.node_name, given.driver),
            lambda: replace(found.found, topology=found.published),  # a lost GPU's health is told as long as it is lost
            watching,
            checkpoint.Store(given.folder),
            users.Kubelet(given.pod_resources, given.driver),
            tenants_of,
            self._state,
            measured.registry,
        )
        ready = {
            "plugin": self._plugin,
            "registration": self._registered,
            "slices": self._slices,
            "hardware": self._hardware,
        }
        self.server = server.Server(
            *given.http_address, scraped, {"plugin": self._plugin, "session": self._session}, ready
        )
        self.services = (tenants_of.run, self.server.run)

    def registration(self, status: registration.Status) -> None:
        """Take what the kubelet said about the registration."""
        self._registration = status

    def started(self) -> None:
        """From now on the sockets must answer."""
        self._started = True

    def _state(self, held: prepared.Checkpoint) -> own.Driver:
        return own.Driver(len(held.claims), self._registration.registered is True, self._slices_problem())

    def _slices_problem(self) -> str:
        if self._publishing.problem:
            return self._publishing.problem
        return "" if self._publishing.stats.seconds else "not published yet"

    async def _slices(self) -> str:
        return self._slices_problem()

    async def _hardware(self) -> str:
        return self._found.problem

    async def _session(self) -> str:
        """A GPU driver that was unloaded or replaced under us: only a restart helps."""
        return self._watching.ended

    async def _registered(self) -> str:
        return "" if self._registration.registered else self._registration.describe()

    async def _plugin(self) -> str:
        """A start that waits for the API server is no reason to be restarted; sockets that do not answer later are."""
        own_sockets = self._given.sockets
        return await server.answers((own_sockets.plugin, own_sockets.registration)) if self._started else ""
