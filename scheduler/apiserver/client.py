"""One connection pool to an API server, with bodies as bytes or as plain dicts.

The official client costs 15 MiB to import, and its typed calls decode whole objects, 1.7 s for 5,000 nodes; the callers
here read only the fields that they need, from the bytes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson

from scheduler.apiserver import access, errors

PAGE = 500  # objects for each page of a list, as kubectl and client-go ask
JSON = "application/json"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"

Observe = Callable[[str, str, int, float], None]
"""Told of each request when it has ended: method, path, HTTP status (0 where there was no answer), seconds."""


class Client:
    """Requests to one API server; use it as an async context manager.

    Every call raises `errors.ApiError` for an answer that is no success, `TimeoutError` after `timeout_s`, and
    `aiohttp.ClientError` where there was no answer.
    """

    def __init__(
        self,
        where: access.Access,
        timeout_s: float = 30.0,
        user_agent: str = "muster",
        acting_as: str = "",
    ) -> None:
        self.access, self.timeout_s = where, timeout_s
        self.user_agent, self.acting_as = user_agent, acting_as
        self.observe: Observe | None = None
        self._session: aiohttp.ClientSession | None = None

    @classmethod
    async def connect(
        cls,
        kubeconfig: Path | None = None,
        context: str | None = None,
        user_agent: str = "muster",
        acting_as: str = "",
    ) -> Self:
        """Read a kubeconfig, or the service account of the pod where none is given and one is mounted.

        `acting_as` names another user to impersonate, for questions like "may this account do that".
        """
        return cls(await access.find(kubeconfig, context), user_agent=user_agent, acting_as=acting_as)

    @property
    def server(self) -> str:
        return self.access.server

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self.access.tls(), limit=256, keepalive_timeout=60),
            timeout=aiohttp.ClientTimeout(total=None),
            headers={"User-Agent": self.user_agent},
            auto_decompress=True,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            await asyncio.sleep(0.02)  # lets the TLS transports close before the loop does

    async def _headers(self) -> dict[str, str]:
        """Return the credentials; asked anew each time, because tokens of pods are renewed every hour."""
        key = await self.access.credentials.header()
        acting = {"Impersonate-User": self.acting_as} if self.acting_as else {}
        return {"Authorization": key} | acting if key else acting

    async def open(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        content: str = JSON,
        params: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> aiohttp.ClientResponse:
        """Send one request and return the open response, its status already found to be a success."""
        assert self._session is not None, "the client is used outside its context"
        headers = await self._headers() | {"Accept": JSON}
        if body is not None:
            headers["Content-Type"] = content
        async with asyncio.timeout(timeout_s or self.timeout_s):
            response = await self._session.request(
                method,
                self.server + path,
                data=body,
                params=params,
                headers=headers,
                proxy=self.access.proxy or None,
                server_hostname=self.access.server_name or None,
            )
            if response.status >= 400:
                async with response:
                    said = await response.read()
                raise errors.from_response(response.status, response.headers, said)
        return response

    async def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        content: str = JSON,
        params: Mapping[str, str] | None = None,
    ) -> bytes:
        """Send one request and return the body of the answer."""
        began, status = time.perf_counter(), 0
        try:
            async with asyncio.timeout(self.timeout_s):
                async with await self.open(method, path, body, content, params) as response:
                    status = response.status
                    return await response.read()
        except errors.ApiError as error:
            status = error.status
            raise
        finally:
            if self.observe is not None:
                self.observe(method, path, status, time.perf_counter() - began)

    async def get(self, path: str, **params: str) -> Any:
        return orjson.loads(await self.request("GET", path, params=params))

    async def pages(self, path: str, **params: str) -> AsyncIterator[bytes]:
        """Yield the bodies of a list, page by page, all of one resource version."""
        more = {"limit": str(PAGE)} | params
        while True:
            body = await self.request("GET", path, params=more)
            yield body
            token = orjson.loads(body)["metadata"].get("continue")
            if not token:
                return
            more["continue"] = token

    async def list(self, path: str, **params: str) -> tuple[list[dict[str, Any]], str]:
        """Return all objects of a collection, and the resource version from which to watch on."""
        items: list[dict[str, Any]] = []
        version = ""
        async for body in self.pages(path, **params):
            page = orjson.loads(body)
            items += page.get("items") or []
            version = page["metadata"].get("resourceVersion", "")
        return items, version

    async def create(self, path: str, obj: Mapping[str, Any], **params: str) -> Any:
        return orjson.loads(await self.request("POST", path, orjson.dumps(obj), params=params))

    async def replace(self, path: str, obj: Mapping[str, Any], **params: str) -> Any:
        return orjson.loads(await self.request("PUT", path, orjson.dumps(obj), params=params))

    async def patch(self, path: str, change: Any, content: str = MERGE, **params: str) -> Any:
        return orjson.loads(await self.request("PATCH", path, orjson.dumps(change), content, params))

    async def apply(self, path: str, obj: Mapping[str, Any], manager: str, force: bool = True, **params: str) -> Any:
        """Server-side apply: own exactly the fields that `obj` names (JSON is YAML)."""
        more = params | {"fieldManager": manager, "force": "true" if force else "false"}
        return orjson.loads(await self.request("PATCH", path, orjson.dumps(obj), APPLY, more))

    async def delete(
        self,
        path: str,
        uid: str | None = None,
        version: str | None = None,
        grace_s: int | None = None,
        propagation: str = "",
        **params: str,
    ) -> Any:
        """Delete one object (only if it still has a given uid or version), or a collection.

        All options go into the body: the server does not read those of the URL where there is one.
        """
        wanted = {name: value for name, value in (("uid", uid), ("resourceVersion", version)) if value is not None}
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if wanted:
            options["preconditions"] = wanted
        if grace_s is not None:
            options["gracePeriodSeconds"] = grace_s
        if propagation:
            options["propagationPolicy"] = propagation
        return orjson.loads(await self.request("DELETE", path, orjson.dumps(options), params=params))
