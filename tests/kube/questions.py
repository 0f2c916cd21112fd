"""Asks a running scheduler over HTTP and holds every answer against the OpenAPI document that it serves."""

import io
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import jsonschema
import orjson

DIALECT = jsonschema.Draft202012Validator
"""Of OpenAPI 3.1."""


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port


@dataclass
class Asker:
    """A client that trusts no answer.

    Attributes
    ----------
    seen : set of (path, status)
        Routes of the document that were asked, with what they said.
    """

    port: int
    document: dict[str, Any] = field(default_factory=dict)
    seen: set[tuple[str, int]] = field(default_factory=set)

    @property
    def server(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def raw(self, path: str, body: bytes | None = None, **params: str) -> tuple[int, Mapping[str, str], bytes]:
        method = "GET" if body is None else "POST"
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self.server + path, data=io.BytesIO(body or b""), params=params) as answer,
        ):
            return answer.status, answer.headers, await answer.read()

    async def ask(self, path: str, body: bytes | None = None, status: int = 200, **params: str) -> dict[str, Any]:
        """Ask, compare the status, and validate what is said."""
        if not self.document:
            self.document = orjson.loads((await self.raw("/openapi.json"))[2])
        got, headers, said = await self.raw(path, body, **params)
        answer: dict[str, Any] = orjson.loads(said)
        assert got == status, answer
        route = self.route(path)
        method = "get" if body is None else "post"
        kinds = self.document["paths"][route][method]["responses"][str(got)]["content"]
        kind = headers["Content-Type"]
        DIALECT({**kinds[kind]["schema"], "components": self.document["components"]}).validate(answer)
        self.seen.add((route, got))
        return answer

    def route(self, path: str) -> str:
        """Return the path of the document that an address belongs to."""
        parts = path.split("/")
        for route in self.document["paths"]:
            names = route.split("/")
            if len(names) == len(parts) and all(n == p or n[:1] == "{" for n, p in zip(names, parts, strict=True)):
                return str(route)
        raise AssertionError(f"{path} is not in the document")
