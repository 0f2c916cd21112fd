"""Who leads: one Lease, taken by whoever finds it expired, renewed well before that, given back at the end.

The rules are client-go's leader election: a candidate measures how long the holder's record has not changed on its own
clock, so clocks need not agree. The official Python client has an election too; it runs in threads and does not tell the
number of transitions, by which plans are fenced here.
"""

import asyncio
import datetime
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import structlog

from scheduler.apiserver import client, errors, paths

LEASE_S = 15
RENEW_S = 10.0
"""A leader that could not renew for so long stops leading: five seconds before anybody else may begin."""

RETRY_S = 2.0

log = structlog.get_logger()


class Lost(Exception):
    """This process leads no more."""


@dataclass(slots=True, eq=False)
class Lease:
    """A candidate for one Lease.

    Parameters
    ----------
    identity : str
        Of this process; unique.

    Attributes
    ----------
    epoch : int
        Transitions of the Lease when this process began to lead: greater than that of every leader before.
    until : float
        Nothing may be written after this time of `clock`, unless the Lease is renewed before.
    """

    api: client.Client
    namespace: str
    name: str
    identity: str
    lease_s: int = LEASE_S
    renew_s: float = RENEW_S
    retry_s: float = RETRY_S
    clock: Callable[[], float] = time.monotonic
    epoch: int = 0
    until: float = 0.0
    holder: str = ""
    _record: tuple[Any, ...] = ()
    _seen: float = field(default=0.0)
    _version: str = ""

    async def acquire(self) -> int:
        """Wait until this process leads, and return its epoch."""
        while True:
            try:
                before = self.clock()
                if await self._try():
                    self.until = before + self.renew_s
                    log.info("leading", lease=f"{self.namespace}/{self.name}", epoch=self.epoch)
                    return self.epoch
            except (errors.ApiError, TimeoutError, OSError, aiohttp.ClientError) as error:
                log.warning("lease not read", lease=f"{self.namespace}/{self.name}", problem=str(error))
            await asyncio.sleep(self.retry_s)

    def held(self) -> bool:
        """Return whether this process may write: by its own clock, which goes on while it is stopped."""
        return self.clock() < self.until

    async def keep(self) -> None:
        """Renew for ever.

        Raises
        ------
        Lost
            Somebody else holds it, or it could not be renewed in time.
        """
        renewed = self.clock()
        while True:
            await asyncio.sleep(self.retry_s)
            if self.clock() - renewed > self.renew_s:
                raise Lost(f"not renewed for {self.renew_s:g} s")
            try:
                async with asyncio.timeout(max(0.1, self.renew_s - (self.clock() - renewed))):
                    before = self.clock()
                    if not await self._try():
                        raise Lost(f"{self.holder} holds the lease")
                    renewed, self.until = before, before + self.renew_s
            except (errors.ApiError, TimeoutError, OSError, aiohttp.ClientError) as error:
                log.warning("lease not renewed", problem=f"{type(error).__name__}: {error}")

    async def release(self) -> None:
        """Let the next one lead at once."""
        self.until = 0.0
        if self.holder == self.identity:
            body = self._body(self.epoch, held=False)
            await self.api.replace(self._path(), body)
            self.holder = ""

    async def _try(self, again: bool = False) -> bool:
        """Read the Lease; take or renew it where that is allowed.

        A conflict of a leader's renewal may be with itself: where an answer is lost, the HTTP client asks once more. Then
        the Lease says who holds it.
        """
        try:
            found = await self.api.get(self._path())
        except errors.ApiError as error:
            if not error.missing:
                raise
            return await self._create()
        spec = found.get("spec") or {}
        self.holder, self._version = spec.get("holderIdentity") or "", found["metadata"]["resourceVersion"]
        record = self.holder, spec.get("renewTime"), spec.get("leaseTransitions")
        if record != self._record:
            self._record, self._seen = record, self.clock()
        transitions = int(spec.get("leaseTransitions") or 0)
        mine = self.holder == self.identity and self.epoch == transitions
        expired = self.clock() - self._seen > float(spec.get("leaseDurationSeconds") or self.lease_s)
        if not (mine or expired or not self.holder):
            return False
        if await self._write(transitions if mine else transitions + 1):
            return True
        return mine and not again and await self._try(again=True)

    async def _create(self) -> bool:
        try:
            found = await self.api.create(paths.of("coordination.k8s.io/v1", "leases", self.namespace), self._body(1))
        except errors.ApiError as error:
            if error.exists:
                return False
            raise
        self.epoch, self.holder, self._version = 1, self.identity, found["metadata"]["resourceVersion"]
        return True

    async def _write(self, epoch: int) -> bool:
        try:
            found = await self.api.replace(self._path(), self._body(epoch))
        except errors.ApiError as error:
            if error.conflict:
                return False
            raise
        self.epoch, self.holder, self._version = epoch, self.identity, found["metadata"]["resourceVersion"]
        return True

    def _body(self, epoch: int, held: bool = True) -> dict[str, Any]:
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        metadata: dict[str, Any] = {"name": self.name, "namespace": self.namespace}
        if self._version:
            metadata["resourceVersion"] = self._version
        spec: dict[str, Any] = {
            "holderIdentity": self.identity if held else "",
            "leaseDurationSeconds": self.lease_s,
            "renewTime": now,
            "leaseTransitions": epoch,
        }
        if held:
            spec["acquireTime"] = now
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}

    def _path(self) -> str:
        return paths.of("coordination.k8s.io/v1", "leases", self.namespace, self.name)
