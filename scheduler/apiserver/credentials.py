"""Who a client says it is: a fixed header, a token in a file that is renewed, or what a program hands out."""

from __future__ import annotations

import asyncio
import datetime
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import orjson

REREAD_S = 60.0  # the kubelet renews tokens of pods long before they end
MAX_TOKEN = 64 * 1024
PROGRAM_S = 60.0
LEEWAY_S = 10.0  # before its end a credential is asked anew
VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")


class CredentialError(aiohttp.ClientError):
    """There is no credential; the message names the file or the program, and what is wrong with it.

    Callers treat it as a server that cannot be reached: both may pass.
    """


class Credentials(Protocol):
    """Gives the value of the header ``Authorization``."""

    async def header(self) -> str:
        """Return it, or "" to send none; raises `CredentialError`."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """A header that never changes."""

    value: str = ""

    async def header(self) -> str:
        return self.value


@dataclass(slots=True)
class TokenFile:
    """A bearer token in a file, read again after `REREAD_S`; a file that is gone meanwhile leaves the last one."""

    path: Path
    _token: str = ""
    _read_at: float = float("-inf")

    async def header(self) -> str:
        if time.monotonic() - self._read_at >= REREAD_S:
            self._read()
        return f"Bearer {self._token}"

    def _read(self) -> None:
        try:
            with self.path.open("rb") as file:
                found = file.read(MAX_TOKEN + 1).decode().strip()
            if not found or len(found) > MAX_TOKEN:
                raise CredentialError(f"token file {self.path}: empty, or longer than {MAX_TOKEN} bytes")
        except (OSError, UnicodeDecodeError, CredentialError) as error:
            if not self._token:
                raise CredentialError(f"token file {self.path} cannot be used: {error}") from error
            return
        self._token, self._read_at = found, time.monotonic()


@dataclass(frozen=True, slots=True)
class Given:
    """What a program gave: a token, or a client certificate with its key (PEM), until a time (seconds since 1970)."""

    token: str = ""
    certificate: str = ""
    key: str = ""
    until_s: float = float("inf")


@dataclass(slots=True)
class Program:
    """A credential plugin as kubeconfigs name it under ``exec``; run again when what it gave has ended.

    A certificate is taken once, when the connection is set up; tokens are renewed.
    """

    argv: Sequence[str]
    version: str
    variables: Mapping[str, str] = field(default_factory=dict)
    _given: Given | None = None

    async def header(self) -> str:
        token = (await self.given()).token
        return f"Bearer {token}" if token else ""

    async def given(self) -> Given:
        """Return what holds now."""
        if self._given is None or (self._given.token and time.time() > self._given.until_s - LEEWAY_S):
            self._given = given(await self._run(), self.version, self.argv[0])
        return self._given

    async def _run(self) -> bytes:
        info = {"apiVersion": self.version, "kind": "ExecCredential", "spec": {"interactive": False}}
        environment = os.environ | dict(self.variables) | {"KUBERNETES_EXEC_INFO": orjson.dumps(info).decode()}
        pipe = asyncio.subprocess.PIPE
        try:
            child = await asyncio.create_subprocess_exec(*self.argv, env=environment, stdout=pipe, stderr=pipe)
        except OSError as error:
            raise CredentialError(f"exec plugin {self.argv[0]} cannot be run: {error.strerror}") from error
        try:
            async with asyncio.timeout(PROGRAM_S):
                said, complained = await child.communicate()
        except TimeoutError as error:
            child.kill()
            await child.wait()
            raise CredentialError(f"exec plugin {self.argv[0]} gave nothing within {PROGRAM_S:.0f} s") from error
        if child.returncode:
            text = complained[-500:].decode(errors="replace").strip()
            raise CredentialError(f"exec plugin {self.argv[0]} ended with {child.returncode}: {text}")
        return said


def given(said: bytes, version: str, name: str) -> Given:
    """Read the ``ExecCredential`` that a program printed."""
    try:
        found: Any = orjson.loads(said)
        status = found["status"]
        if found["apiVersion"] != version:
            raise CredentialError(f"exec plugin {name}: apiVersion is {found['apiVersion']!r}, not {version!r}")
        result = Given(
            str(status.get("token") or ""),
            str(status.get("clientCertificateData") or ""),
            str(status.get("clientKeyData") or ""),
            _seconds(status.get("expirationTimestamp")),
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise CredentialError(f"exec plugin {name}: what it printed is no ExecCredential with a status") from error
    if not (result.token or (result.certificate and result.key)):
        raise CredentialError(f"exec plugin {name}: status has neither a token nor a certificate with its key")
    return result


def _seconds(stamp: str | None) -> float:
    return datetime.datetime.fromisoformat(stamp).timestamp() if stamp else float("inf")
