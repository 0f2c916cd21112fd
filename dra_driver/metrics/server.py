"""The HTTP side: ``/metrics``, ``/healthz`` and ``/readyz``, at an address of the node or of the pod."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import grpc
import structlog
from aiohttp import web

from dra_driver.metrics import scrape

RETRY_S = 5.0
PROBE_S = 2.0

Check = Callable[[], Awaitable[str]]
"""Returns what is wrong, or ""."""

log = structlog.get_logger()


class Server:
    """Answers at an address; `run` works until it is cancelled."""

    def __init__(
        self, host: str, port: int, scraped: scrape.Scrape, healthy: Mapping[str, Check], ready: Mapping[str, Check]
    ) -> None:
        self._host, self._port, self._scraped = host, port, scraped
        self._healthy, self._ready = healthy, ready
        self.port = 0

    async def run(self) -> None:
        """Serve; where the address is taken, as by the instance that this one replaces, try again."""
        runner = web.AppRunner(self._app(), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await self._listen(runner)
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    async def _listen(self, runner: web.AppRunner) -> None:
        while True:
            try:
                await web.TCPSite(runner, self._host, self._port).start()
            except OSError as error:
                log.error("no metrics and probes yet", host=self._host, port=self._port, error=str(error))
                await asyncio.sleep(RETRY_S)
            else:
                self.port = runner.addresses[0][1]
                log.info("metrics and probes", host=self._host, port=self.port)
                return

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=1024)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/healthz", self._is_healthy)
        app.router.add_get("/readyz", self._is_ready)
        return app

    async def _metrics(self, request: web.Request) -> web.Response:
        body, kind = await self._scraped.text(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": kind})

    async def _is_healthy(self, request: web.Request) -> web.Response:
        return await _answer(self._healthy)

    async def _is_ready(self, request: web.Request) -> web.Response:
        return await _answer(self._ready)


async def _answer(checks: Mapping[str, Check]) -> web.Response:
    """Carry out all checks and say what each found; 503 where one found something."""
    found = [(name, await check()) for name, check in checks.items()]
    lines = [f"{name}: {problem or 'ok'}\n" for name, problem in found]
    return web.Response(status=503 if any(problem for _, problem in found) else 200, text="".join(lines))


async def answers(sockets: Sequence[Path]) -> str:
    """Dial our own sockets, as the kubelet would; return which of them nobody serves."""
    for path in sockets:
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            try:
                async with asyncio.timeout(PROBE_S):
                    await channel.channel_ready()
            except TimeoutError:
                return f"{path}: no gRPC server answers within {PROBE_S:g} s"
    return ""
