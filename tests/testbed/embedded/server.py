"""The HTTP side: an API server in this process, at a free port of 127.0.0.1."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson
import yaml
from aiohttp import web

from tests.testbed.embedded import controllers, failure, objects, pages, paths, store, watches

BODY = 3 << 20  # bytes, the limit of kube-apiserver for one request
APPLY = "application/apply-patch+yaml"
PATCHES = (
    APPLY,
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
)


class Server:
    """Use it as an async context manager; `url` is set from then on.

    `run` names the controllers that work beside it (see `controllers.ALL`). `store` and `objects` are open to tests that set
    up a state or look at it without HTTP.
    """

    def __init__(self, version: str = "1.37", run: frozenset[str] = controllers.ALL) -> None:
        self.version, self.url = version, ""
        self.store = store.Store()
        self.objects = objects.Objects(self.store, int(version.split(".")[1]))
        self.objects.accounts = "accounts" in run
        self.controllers = controllers.Controllers(self.objects, run)
        for name in ("default", "kube-system"):
            space = paths.Target(self.objects.served["", "v1", "namespaces"])
            self.objects.create(space, {"metadata": {"name": name}}, "embedded")
        self._watches: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self.controllers.catch_up()
        self._task = asyncio.create_task(self.controllers.run())
        self._runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=0.1)
        await self._runner.setup()
        listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        await web.SockSite(self._runner, listening).start()
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop; a controller that failed on the way raises here."""
        failed = self._task.done() and not self._task.cancelled() and self._task.exception()
        for task in (self._task, *self._watches):
            task.cancel()
        await asyncio.gather(self._task, *self._watches, return_exceptions=True)
        await self._runner.cleanup()
        if failed and error is None:
            raise failed

    def kubeconfig(self, path: Path) -> Path:
        """Write a kubeconfig for this server and return its path."""
        here = {"cluster": "embedded", "user": "embedded"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "embedded",
            "clusters": [{"name": "embedded", "cluster": {"server": self.url}}],
            "users": [{"name": "embedded", "user": {}}],
            "contexts": [{"name": "embedded", "context": here}],
        }
        path.write_text(yaml.safe_dump(config))
        return path

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            if request.path in ("/livez", "/readyz", "/healthz"):
                return web.Response(text="ok")
            if request.method == "GET":
                found = paths.discovery(request.path, self.objects.served, self.version)
                if found is not None:
                    return _json(found)
            target = paths.parse(request.path, self.objects.served)
            if request.method == "GET" and request.query.get("watch") in ("1", "true", "True"):
                return await self._watch(request, target)
            body = await self._body(request)
            status, answer = self._answer(request, target, body)
            return _json(answer, status)
        except failure.Failure as refused:
            return _json(refused.status(), refused.code)

    async def _body(self, request: web.BaseRequest) -> Any:
        if (request.content_length or 0) > BODY:
            raise failure.Failure(413, "RequestEntityTooLarge", f"Request entity too large: limit is {BODY}")
        data = await request.content.read(BODY + 1)
        while data and (more := await request.content.read(BODY + 1 - len(data))):
            data += more
        if len(data) > BODY:
            raise failure.Failure(413, "RequestEntityTooLarge", f"Request entity too large: limit is {BODY}")
        if not data:
            return None
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError as error:
            if "yaml" not in request.content_type:
                raise failure.bad_request(f"the object provided is unrecognized: {error}") from None
        try:
            return yaml.safe_load(data)
        except yaml.YAMLError as error:
            raise failure.bad_request(f"error decoding YAML: {error}") from None

    def _answer(self, request: web.BaseRequest, target: paths.Target, body: Any) -> tuple[int, Any]:
        params, act = request.query, self.objects
        manager = params.get("fieldManager") or request.headers.get("User-Agent", "unknown").partition("/")[0]
        match request.method, bool(target.name), target.sub:
            case "GET", True, "" | "status":
                return 200, act.get(target)
            case "GET", False, _:
                return 200, pages.listed(self.store, target, params)
            case "POST", False, _:
                return 201, act.create(target, body, manager, trial=params.get("dryRun") == "All")
            case "POST", True, "binding":
                return 201, act.bind(target, body or {}, manager)
            case "POST", True, "eviction":
                return 201, act.evict(target, body or {})
            case "PUT", True, "" | "status":
                there = self.store.get(target.kind.storage, target.namespace, target.name)
                return (200 if there else 201), act.replace(target, body, manager)
            case "PATCH", True, "" | "status":
                return self._patched(request, target, body, manager)
            case "DELETE", True, "":
                return 200, act.delete(target, _options(body, params))
            case "DELETE", False, _:
                return 200, self._delete_all(target, _options(body, params), params)
        raise failure.Failure(
            405, "MethodNotAllowed", "the server does not allow this method on the requested resource"
        )

    def _patched(self, request: web.BaseRequest, target: paths.Target, body: Any, manager: str) -> tuple[int, Any]:
        content = request.content_type
        if content not in PATCHES:
            text = "the body of the request was in an unknown format - accepted media types include: " + ", ".join(
                PATCHES
            )
            raise failure.Failure(415, "UnsupportedMediaType", text)
        if content != APPLY:
            return 200, self.objects.patch(target, body, content, manager)
        manager, force = request.query.get("fieldManager", ""), request.query.get("force") == "true"
        answer, new = self.objects.apply(target, body, manager, force)
        return (201 if new else 200), answer

    def _delete_all(self, target: paths.Target, options: dict[str, Any], params: Any) -> Any:
        found = pages.listed(self.store, target, {name: value for name, value in params.items() if name != "limit"})
        for item in found["items"]:
            meta = item["metadata"]
            self.objects.delete(paths.Target(target.kind, meta.get("namespace", ""), meta["name"]), options)
        return found

    async def _watch(self, request: web.BaseRequest, target: paths.Target) -> web.StreamResponse:
        kind = target.kind
        key = (kind.group, kind.version, kind.plural)
        watch = watches.Watch(self.store, target, request.query, lambda: key in self.objects.served)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        task = asyncio.current_task()
        assert task is not None
        self._watches.add(task)
        try:
            async for event in watch.events():
                await response.write(orjson.dumps(event) + b"\n")
            await response.write_eof()
        except (ConnectionError, asyncio.CancelledError):
            pass  # the listener left, or the server is closed
        finally:
            self._watches.discard(task)
        return response


def _options(body: Any, params: Any) -> dict[str, Any]:
    options = dict(body or {})
    if "gracePeriodSeconds" in params:
        options["gracePeriodSeconds"] = int(params["gracePeriodSeconds"])
    if "propagationPolicy" in params:
        options["propagationPolicy"] = params["propagationPolicy"]
    return options


def _json(answer: Any, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(answer), status=status, content_type="application/json")
