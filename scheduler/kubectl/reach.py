"""Asks the scheduler: through the API server's proxy, which needs no network path of its own, or at an address."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from scheduler.apiserver import access, client, credentials, errors

SERVICE = "muster-system/https:muster-scheduler:webhook"
"""The port on which no client certificate is asked: the API server has none to show."""

TRIES = 5
"""The proxy takes any replica; so often the leader is hoped for."""

TIMEOUT_S = 30.0

YAML = "application/yaml"

Answer = dict[str, Any]


class Unreachable(Exception):
    """There is no scheduler to ask; the message says where it was looked for and what to do."""


class Refused(Exception):
    """The scheduler does not answer this question; the message is its own. `missing` for what is not there."""

    def __init__(self, message: str, missing: bool = False) -> None:
        super().__init__(message)
        self.missing = missing


@dataclass(frozen=True, slots=True)
class Where:
    """Where to look for the scheduler, and for the API server.

    Attributes
    ----------
    server : str
        Address of the scheduler; "" for the way through the API server.
    ca : Path or None
        Certificates to trust at that address; those of the system without.
    service : str
        ``NAMESPACE/SCHEME:SERVICE:PORT``.
    """

    kubeconfig: Path | None = None
    context: str | None = None
    server: str = ""
    ca: Path | None = None
    service: str = SERVICE

    def prefix(self) -> str:
        """Return the path of the scheduler below its server.

        Raises
        ------
        KubeconfigError
            `service` is not of that form.
        """
        if self.server:
            return ""
        namespace, _, name = self.service.partition("/")
        if not namespace or not name or "/" in name:
            raise access.KubeconfigError(
                f"--service {self.service!r}: write NAMESPACE/SCHEME:SERVICE:PORT, as {SERVICE}"
            )
        return f"/api/v1/namespaces/{namespace}/services/{name}/proxy"

    async def access(self) -> access.Access:
        """Return how to reach the server that is asked.

        Raises
        ------
        KubeconfigError, CredentialError
        """
        if not self.server:
            return await access.find(self.kubeconfig, self.context)
        if not self.server.startswith(("http://", "https://")):
            raise access.KubeconfigError(f"--server {self.server!r}: write an address that begins with https://")
        authority = self.ca.read_text() if self.ca else ""
        return access.Access(self.server.rstrip("/"), credentials.Fixed(), authority)


@dataclass(frozen=True, slots=True)
class Scheduler:
    """A connection."""

    api: client.Client
    where: Where

    async def ask(self, path: str, body: bytes | None = None, **params: str) -> Answer:
        """Return an answer, the leader's where one of some tries reaches it.

        Raises
        ------
        Unreachable, Refused
        """
        answer: Answer = {}
        for _ in range(1 if self.where.server else TRIES):
            answer = await self._once(path, body, params)
            if (answer.get("by") or {}).get("leads", True):
                break
        return answer

    async def _once(self, path: str, body: bytes | None, params: Mapping[str, str]) -> Answer:
        method = "GET" if body is None else "POST"
        try:
            said = await self.api.request(method, self.where.prefix() + path, body, YAML, params)
            found = orjson.loads(said)
        except errors.ApiError as error:
            raise self._explained(error) from error
        except (TimeoutError, OSError, aiohttp.ClientError) as error:
            text = str(error) or f"no answer within {self.api.timeout_s:.0f} s"
            raise Unreachable(f"{self._place()} can't be reached: {text}; {self._remedy()}") from error
        except orjson.JSONDecodeError as error:
            raise Unreachable(f"{self._place()} answers, but not as Muster does; {self._remedy()}") from error
        if not isinstance(found, dict):
            raise Unreachable(f"{self._place()} answers, but not as Muster does; {self._remedy()}")
        return found

    def _explained(self, error: errors.ApiError) -> Unreachable | Refused:
        """Tell what the scheduler says from what the API server or a proxy says on the way to it."""
        own = isinstance(error.details, dict) and "type" in error.details
        if own and error.status != 503:
            return Refused(error.message, error.missing)
        if own:
            return Unreachable(f"{self._place()}: {error.message}")
        if error.status in (401, 403):
            allow = "ask for the right to get and create services/proxy there (docs/kubectl.md), or name --server"
            return Unreachable(f"{self._place()}: {error.message}; {allow}")
        return Unreachable(f"{self._place()}: {error.status} {error.message}; {self._remedy()}")

    def _place(self) -> str:
        return f"scheduler {self.where.server}" if self.where.server else f"scheduler {self.where.service}"

    def _remedy(self) -> str:
        if self.where.server:
            return "check --server and --ca, and that the scheduler runs"
        return "check that it runs (kubectl -n muster-system get pods), or name --service or --server"


@contextlib.asynccontextmanager
async def scheduler(where: Where) -> AsyncIterator[Scheduler]:
    """Connect."""
    async with client.Client(await where.access(), TIMEOUT_S, "kubectl-muster") as api:
        yield Scheduler(api, where)


@contextlib.asynccontextmanager
async def api_server(where: Where) -> AsyncIterator[client.Client]:
    """Connect to the API server itself."""
    async with client.Client(await access.find(where.kubeconfig, where.context), TIMEOUT_S, "kubectl-muster") as api:
        yield api


def namespace(where: Where) -> str:
    """Return the namespace of the context that is used; ``default`` where there is no kubeconfig.

    Raises
    ------
    KubeconfigError
    """
    paths = [where.kubeconfig] if where.kubeconfig else access.own_files()
    if not where.kubeconfig and not any(path.exists() for path in paths):
        return "default"
    return access.namespace(paths, where.context)
