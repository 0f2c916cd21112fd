"""One running instance of the driver, as the kubelet sees it: its two sockets, and what happens before and after."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import structlog

from dra_driver import calls, healthstream, plugin, prepared, recovery, registration, sockets, state, troubles

MEND_S = 5.0
"""Between two tries of what could not be done: a folder that cannot be written, hardware or an API server that is silent."""
REBUILD_FIRST_S = 30.0  # how long the start waits for the API server when the checkpoint was lost
STOP_S = 12.0  # for calls that are under way, and what they began
LATE_S = 1.0  # for those that came meanwhile

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Hooks:
    """Who wants to know what happens."""

    prepared_claim: Callable[[prepared.Claim], None] = lambda entry: None
    call_ended: Callable[[plugin.Call], None] = lambda call: None
    event: troubles.Tell = lambda reason, message: None
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
        mend_s: float = MEND_S,
        versions: Sequence[str] = ("v1", "v1beta1"),
    ) -> None:
        self.state, self._own, self._sweep_s, self._mend_s = state.State(parts), own, sweep_s, mend_s
        self.recovery = recovery.Recovery(self.state, boot_id, hooks.event, hooks.prepared_claim)
        self.plugin = plugin.Plugin(self.state, prepared_claim=hooks.prepared_claim, ended=hooks.call_ended)
        self.stream = healthstream.Stream(health) if health is not None else None
        self._versions = tuple(versions)
        services = tuple(one for one in registration.DRA if one.partition(".")[0] in self._versions)
        services += registration.HEALTH if health is not None else ()
        self.registration = registration.Registration(parts.driver, own, services, hooks.registered)
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Bring the node into order, serve, and only then let the kubelet know; undone where it is cancelled.

        Folders that cannot be written now are tried again until they can.

        Raises
        ------
        SocketError
            Another process listens there.
        """
        try:
            await self._retried(self._make_folders)
            await self.recovery.start()
            await self._first_rebuild()
            await self._retried(self._listen)
        except BaseException:
            await self.stop()
            raise
        log.info("serving", plugin=str(self._own.plugin), registration=str(self._own.registration))

    async def _retried(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do something without which nothing can be served, until it is done."""
        text = "{}; the driver does not serve the kubelet until it works"
        while not await self.recovery.troubles.attempt("sockets", "NotServing", work(), text):
            await asyncio.sleep(self._mend_s)

    async def _make_folders(self) -> None:
        parts = self.state.parts
        for folder in (
            self._own.plugin.parent,
            self._own.registration.parent,
            parts.locks.folder,
            parts.daemons.folder,
        ):
            folder.mkdir(parents=True, exist_ok=True)

    async def _listen(self) -> None:
        try:
            sockets.clear(self._own.plugin)
            await self._serve()
            await self.registration.start()
        except (OSError, RuntimeError) as error:  # the latter is what gRPC makes of an error of bind
            await self.registration.stop()
            await self._close()
            raise OSError(f"{self._own.plugin}, {self._own.registration}: {error}") from error

    async def _serve(self) -> None:
        server = self._server = grpc.aio.server(interceptors=[calls.Log()])
        self.plugin.add(server, self._versions)
        if self.stream is not None:
            self.stream.add(server)
        server.add_insecure_port(f"unix:{self._own.plugin}")
        await server.start()

    async def run(self) -> None:
        """Keep the node in order, until cancelled; whatever goes wrong is told, and the next turn tries again."""
        swept = float("-inf")
        while True:
            try:
                if await self.recovery.mend() and time.monotonic() - swept >= self._sweep_s:
                    await self.recovery.sweep()
                    swept = time.monotonic()
                    log.debug("swept")
            except Exception as error:  # a defect of this driver must not end the running pods' service
                log.error("defect of the driver", exc_info=error)
                self.recovery.troubles.begin("defect", "Defect", f"{type(error).__name__}: {error}")
            await asyncio.sleep(min(self._mend_s, self._sweep_s))

    async def _first_rebuild(self) -> None:
        """Try to rebuild a lost checkpoint before the kubelet may call, while the API server does not answer."""
        try:
            async with asyncio.timeout(REBUILD_FIRST_S):
                while True:
                    try:
                        await self.recovery.rebuild()
                        return
                    except state.UnreachableError as error:
                        log.warning("the checkpoint cannot be rebuilt yet", error=str(error))
                        await asyncio.sleep(self._mend_s)
        except state.EXPECTED as error:  # the time is over, or something that waiting does not mend
            log.warning("the checkpoint is not rebuilt yet", error=str(error))

    async def _close(self) -> None:
        """End the server of the kubelet's calls."""
        if self._server is None:
            return
        await self._server.stop(LATE_S)
        self._server = None
        try:
            self._own.plugin.unlink(missing_ok=True)
        except OSError as error:  # a folder that cannot be written
            log.error("the plugin's socket stays", error=str(error))

    async def stop(self) -> None:
        """Leave: calls under way first, since the kubelet cuts them off once the registration is gone, then that.

        New calls go to the instance that registered last, if there is one. What is prepared stays. It takes `STOP_S` and a
        few seconds at most, also where calls into the hardware never return.
        """
        until = time.monotonic() + STOP_S
        await self.plugin.answered(STOP_S)
        await self.registration.stop()
        if self.stream is not None:
            self.stream.end()
        await self._close()
        await self.plugin.stop(max(LATE_S, until - time.monotonic()))
        await self.state.parts.store.settle()
        await self.state.parts.daemons.leave()
        await self.state.close()
        log.info("stopped")
