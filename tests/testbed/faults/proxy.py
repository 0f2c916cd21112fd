"""A TLS proxy between programs and the API server, which does to requests what its rules say.

It runs in a thread of the test's process, with an event loop of its own, so that a test that blocks does not stop it.
Programs use it through a kubeconfig that differs from theirs in the server and its CA only: their credentials pass through.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp
import orjson
import yaml
from aiohttp import web

from tests.testbed import pki
from tests.testbed.faults import rules

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host", "content-length"}
BODY_LIMIT = 64 << 20
START_S = 10.0
POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Seen:
    """A request and what became of it: `status` is 0 where no answer was given, `at` is when, by the monotonic clock."""

    asked: rules.Request
    faults: tuple[rules.Fault, ...]
    status: int
    at: float


@dataclass(slots=True)
class Proxy:
    """A running proxy: give it `rules`, read `seen`, hand `kubeconfig` to programs.

    `hooks` are called with each request before it goes on; a hook may kill the program that sent it.
    """

    upstream: Path
    authority: pki.Authority
    folder: Path
    seed: int = 0
    rules: list[rules.Rule] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    hooks: list[Callable[[rules.Request], None]] = field(default_factory=list)
    kubeconfig: Path = field(init=False)
    port: int = field(init=False, default=0)
    _loop: asyncio.AbstractEventLoop = field(init=False)
    _thread: threading.Thread = field(init=False)
    _ending: asyncio.Event = field(init=False)
    _watches: dict[asyncio.Transport, rules.Request] = field(init=False, default_factory=dict)
    _failed: list[BaseException] = field(init=False, default_factory=list)

    def __enter__(self) -> Self:
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), name="fault-proxy", daemon=True)
        self._thread.start()
        if not started.wait(START_S) or self._failed:
            raise RuntimeError("the proxy did not start") from (self._failed or [None])[0]
        self.kubeconfig = self.copy_of(self.upstream)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(START_S)

    def add(self, match: rules.Match, fault: rules.Fault, times: int | None = None) -> rules.Rule:
        """Add a rule; it strikes from the next request on."""
        made = rules.Rule(match, fault, times)
        self.rules.append(made)
        return made

    def clear(self) -> None:
        self.rules.clear()

    def cut(self, *resources: str) -> None:
        """Cut the watches of some resources that run now, as a load balancer does that is restarted."""
        self._loop.call_soon_threadsafe(self._abort, resources)

    def _abort(self, resources: tuple[str, ...]) -> None:
        for transport, asked in list(self._watches.items()):
            if asked.resource in resources:
                transport.abort()

    @contextlib.contextmanager
    def streaming(self, request: web.Request, asked: rules.Request) -> Iterator[None]:
        """Count a watch among those that run."""
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client is gone")
        self._watches[transport] = asked
        try:
            yield
        finally:
            self._watches.pop(transport, None)

    def copy_of(self, config: Path) -> Path:
        """Write a kubeconfig that goes through the proxy with the credentials of another."""
        text = yaml.safe_load(config.read_text())
        for cluster in text["clusters"]:
            cluster["cluster"]["server"] = f"https://127.0.0.1:{self.port}"
            cluster["cluster"]["certificate-authority"] = str(self.authority.ca)
        made = self.folder / f"proxied-{self.port}-{config.name}"
        made.touch(mode=0o600)
        made.write_text(yaml.safe_dump(text))
        return made

    def _run(self, started: threading.Event) -> None:
        try:
            asyncio.run(self._serve(started))
        except BaseException as error:
            self._failed.append(error)
            started.set()

    async def _serve(self, started: threading.Event) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        cluster = yaml.safe_load(self.upstream.read_text())["clusters"][0]["cluster"]
        plain = cluster["server"].startswith("http:")
        trusted = True if plain else ssl.create_default_context(cafile=cluster["certificate-authority"])
        pair = self.authority.issue("fault-proxy")
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(pair.cert, pair.key)
        connector = aiohttp.TCPConnector(ssl=trusted, limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
            handler = Handler(self, session, cluster["server"], random.Random(self.seed))
            app = web.Application(client_max_size=BODY_LIMIT)
            app.router.add_route("*", "/{path:.*}", handler.handle)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
            await site.start()
            self.port = runner.addresses[0][1]
            started.set()
            await self._ending.wait()
            await runner.cleanup()
        await asyncio.sleep(0.02)  # lets the transports close before the loop does


class Handler:
    """Passes requests on, in the proxy's event loop."""

    def __init__(self, proxy: Proxy, session: aiohttp.ClientSession, server: str, draw: random.Random) -> None:
        self.proxy, self.session, self.server, self.draw = proxy, session, server, draw

    async def handle(self, request: web.Request) -> web.StreamResponse:
        asked = rules.Request.read(request.method, request.path, request.query, request.headers.get("User-Agent", ""))
        for hook in list(self.proxy.hooks):
            hook(asked)
        faults = tuple(rule.fault for rule in list(self.proxy.rules) if rule.take(asked))
        return await self._answer(request, asked, faults)

    async def _answer(
        self, request: web.Request, asked: rules.Request, faults: tuple[rules.Fault, ...]
    ) -> web.StreamResponse:
        for fault in faults:
            if isinstance(fault, rules.Delay):
                await asyncio.sleep(fault.seconds + self.draw.random() * fault.spread_s)
            elif isinstance(fault, rules.Hold):
                while not fault.opened.is_set():
                    await asyncio.sleep(POLL_S)
            elif isinstance(fault, rules.Answer):
                self._note(asked, faults, fault.status)
                headers = {} if fault.retry_after_s is None else {"Retry-After": str(fault.retry_after_s)}
                return web.json_response(rules.status(fault), status=fault.status, headers=headers)
            elif isinstance(fault, rules.Reset) and not fault.after:
                return self._cut(request, asked, faults)
        return await self._pass_on(request, asked, faults)

    async def _pass_on(
        self, request: web.Request, asked: rules.Request, faults: tuple[rules.Fault, ...]
    ) -> web.StreamResponse:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        body = await request.read()
        async with self.session.request(
            request.method, self.server + request.raw_path, data=body or None, headers=headers, allow_redirects=False
        ) as answer:
            if any(isinstance(fault, rules.Reset) for fault in faults):
                await answer.read()  # the server has done it
                return self._cut(request, asked, faults)
            passed = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP}
            response = web.StreamResponse(status=answer.status, headers=passed)
            self._note(asked, faults, answer.status)
            await response.prepare(request)
            if asked.verb == "watch" and answer.status == 200:
                await self._watch(request, asked, response, answer, faults)
            else:
                async for chunk in answer.content.iter_any():
                    await response.write(chunk)
            with contextlib.suppress(ConnectionError):
                await response.write_eof()
            return response

    async def _watch(
        self,
        request: web.Request,
        asked: rules.Request,
        response: web.StreamResponse,
        answer: aiohttp.ClientResponse,
        faults: tuple[rules.Fault, ...],
    ) -> None:
        """Pass on the lines of a watch until a fault ends it."""
        told = 0
        with contextlib.suppress(ConnectionError, aiohttp.ClientError), self.proxy.streaming(request, asked):
            if await self._ended(request, response, faults, told):
                return
            async for line in lines(answer):
                if any(isinstance(fault, rules.SkipBookmarks) for fault in faults) and kind(line) == "BOOKMARK":
                    continue
                torn = [
                    fault for fault in faults if isinstance(fault, rules.Cut) and fault.torn and told == fault.events
                ]
                if torn:
                    await response.write(line[: len(line) // 2])
                    self._close(request)
                    return
                await response.write(line)
                told += kind(line) != "BOOKMARK"
                if await self._ended(request, response, faults, told):
                    return

    async def _ended(
        self, request: web.Request, response: web.StreamResponse, faults: tuple[rules.Fault, ...], told: int
    ) -> bool:
        """Apply the faults that strike after so many events; tell whether the watch is over."""
        for fault in faults:
            match fault:
                case rules.Cut(events, torn=False) if told >= events:
                    return True
                case rules.Stall(events) if told >= events:
                    await self.proxy._ending.wait()
                    return True
                case rules.Expire(events) if told >= events:
                    gone = rules.status(rules.Answer(410, "Expired"))
                    await response.write(orjson.dumps({"type": "ERROR", "object": gone}) + b"\n")
                    return True
        return False

    def _cut(self, request: web.Request, asked: rules.Request, faults: tuple[rules.Fault, ...]) -> web.StreamResponse:
        self._note(asked, faults, 0)
        self._close(request)
        return web.Response(status=500)  # nobody reads it

    def _close(self, request: web.Request) -> None:
        if request.transport is not None:
            request.transport.abort()

    def _note(self, asked: rules.Request, faults: tuple[rules.Fault, ...], status: int) -> None:
        self.proxy.seen.append(Seen(asked, faults, status, time.monotonic()))


async def lines(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield the lines of a stream with their ends; events may be longer than a reader's buffer."""
    held = bytearray()
    async for chunk in answer.content.iter_any():
        held += chunk
        *whole, rest = bytes(held).split(b"\n")
        held = bytearray(rest)
        for line in whole:
            yield line + b"\n"
    if held:
        yield bytes(held)


def kind(line: bytes) -> str:
    """Return the type of a watch event."""
    try:
        told: dict[str, Any] = orjson.loads(line)
    except orjson.JSONDecodeError:
        return ""
    return str(told.get("type", ""))


@contextlib.contextmanager
def between(upstream: Path, authority: pki.Authority, folder: Path, seed: int = 0) -> Iterator[Proxy]:
    """Run a proxy for the time of a ``with`` block."""
    with Proxy(upstream, authority, folder, seed) as running:
        yield running
