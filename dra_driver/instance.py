"""One running instance of the driver, as the kubelet sees it: its two sockets, and what happens before and after."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import grpc
import structlog

from dra_driver import healthstream, plugin, prepared, recovery, registration, sockets, state

REBUILD_PAUSE_S = 5.0
REBUILD_FIRST_S = 30.0  # how long the start waits for the API server when the checkpoint was lost
STOP_S = 12.0  # for calls that are under way
LATE_S = 1.0  # for those that came meanwhile

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Hooks:
    """Who wants to know what happens."""

    prepared_claim: Callable[[prepared.Claim], None] = lambda entry: None
    call_ended: Callable[[plugin.Call], None] = lambda call: None
    event: recovery.Tell = lambda reason, message: None
    registered: Callable[[registration.Status], None] = lambda status: None


class Instance:
    """Serves the kubelet from `start` to `stop`."""

    def __init__(
        self,
        parts: state.Parts,
        own: sockets.Sockets,
        boot_id: str,
        health: healthstream.Source | None = None,
        hooks: Hooks = Hooks(),
        sweep_s: float = 600.0,
    ) -> None:
        self.state, self._own, self._sweep_s = state.State(parts), own, sweep_s
        self.recovery = recovery.Recovery(self.state, boot_id, hooks.event)
        self.plugin = plugin.Plugin(self.state, prepared_claim=hooks.prepared_claim, ended=hooks.call_ended)
        self.stream = healthstream.Stream(health) if health is not None else None
        versions = registration.DRA + (registration.HEALTH if health is not None else ())
        self.registration = registration.Registration(parts.driver, own, versions, hooks.registered)
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Bring the node into order, serve, and only then let the kubelet know; undone where a part of it fails."""
        await self.recovery.start()
        await self._rebuild(REBUILD_FIRST_S)
        self._own.plugin.parent.mkdir(parents=True, exist_ok=True)
        self._own.registration.parent.mkdir(parents=True, exist_ok=True)
        sockets.clear(self._own.plugin)
        try:
            await self._serve()
            await self.registration.start()
        except BaseException:
            await self.stop()
            raise
        log.info("serving", plugin=str(self._own.plugin), registration=str(self._own.registration))

    async def _serve(self) -> None:
        self._server = grpc.aio.server()
        self.plugin.add(self._server)
        if self.stream is not None:
            self.stream.add(self._server)
        self._server.add_insecure_port(f"unix:{self._own.plugin}")
        await self._server.start()

    async def run(self) -> None:
        """Keep the node in order, until cancelled."""
        while not await self._rebuild(self._sweep_s):
            log.warning("the checkpoint is not rebuilt yet")
        while True:
            await self.recovery.sweep()
            await asyncio.sleep(self._sweep_s)

    async def _rebuild(self, within_s: float) -> bool:
        """Try to rebuild a lost checkpoint; return whether there is nothing left to rebuild."""
        try:
            async with asyncio.timeout(within_s):
                while True:
                    try:
                        await self.recovery.rebuild()
                        return True
                    except state.UnreachableError as error:
                        log.warning("the checkpoint cannot be rebuilt yet", error=str(error))
                        await asyncio.sleep(REBUILD_PAUSE_S)
        except TimeoutError:
            return False

    async def stop(self) -> None:
        """Leave: calls under way first, since the kubelet cuts them off once the registration is gone, then that.

        New calls go to the instance that registered last, if there is one.
        """
        await self.plugin.answered(STOP_S)
        await self.registration.stop()
        if self.stream is not None:
            self.stream.end()
        if self._server is not None:
            await self._server.stop(LATE_S)
            self._server = None
            self._own.plugin.unlink(missing_ok=True)
        await self.plugin.stop()
        await self.state.parts.store.settle()
        await self.state.parts.daemons.leave()
        await asyncio.to_thread(self.state.close)
        log.info("stopped")
