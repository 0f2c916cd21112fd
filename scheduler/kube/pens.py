"""The requests of one leader: so many at a time, asked again while the server is busy, and none after its term.

Why a leader that was paused can't write half a plan when it comes back:

1. Every write first asks `leads`, which looks at this process's own clock. What is still sent after a pause are the
   writes, at most `FLIGHT`, that had asked before it.
2. Such a write is of a record, a claim or a pod. A claim is allocated only after the answer that its plan is on record,
   or that the claim itself bears our stamp (a lone pod), so whoever leads next finds it. Before it decides, it stamps
   every such claim without its devices and every gated pod of a plan with its own term (`recover`); a stamp makes a
   new version, and the late write, which carries the version that was read before, is refused. What is said of a gang,
   and the end of its record, carry a version too.
3. A late mark of an eviction is carried out by whoever leads then, and a pod is deleted only after all of its gang bear
   marks, so that a late deletion is one that the new leader makes as well (ADR 0008).
4. A leader that reads a stamp of a later term, or a record with a plan of one, stops (`Fenced`): so even one that
   reads and writes after the pause, with a clock that is wrong, does not get past step 2.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from scheduler.apiserver import client, errors

TERM = "muster.dev/term"
"""Annotation of claims and pods of an unfinished plan: the term of the last leader that looked at it."""

FLIGHT = 32
"""Requests at the same time; each has a connection, and TLS costs both ends milliseconds for every new one."""

TRIES = 6
"""Times that an object is read again because it changed meanwhile."""

PATIENCE_S = 20.0
FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 2.0

UNANSWERED = (TimeoutError, OSError, aiohttp.ClientError)
"""The request may have been done or not."""


class Fenced(Exception):
    """This process does not lead any more."""


class Refused(Exception):
    """The objects are not as the plan needs them."""


def always() -> bool:
    """Tell that this process leads; there is no election."""
    return True


@dataclass(slots=True, eq=False)
class Pen:
    """Asks and writes for one leader.

    Attributes
    ----------
    leads : callable
        Whether the term lasts; asked before each write.
    patience_s : float
        A request is not asked again after this time.
    fenced : callable
        Called for each write that is refused because the term has ended.
    """

    api: client.Client
    epoch: int
    leads: Callable[[], bool] = always
    patience_s: float = PATIENCE_S
    fenced: Callable[[], None] = lambda: None
    _gate: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(FLIGHT))

    async def get(self, path: str) -> Any:
        return await self._ask(lambda: self.api.get(path))

    async def listed(self, path: str) -> list[Any]:
        found, _ = await self._ask(lambda: self.api.list(path))
        return list(found)

    async def create(self, path: str, item: Mapping[str, Any]) -> Any:
        return await self._write(lambda: self.api.create(path, item))

    async def replace(self, path: str, item: Mapping[str, Any]) -> Any:
        """Replace an object of a known version; asked twice because an answer was lost, this is a conflict."""
        return await self._write(lambda: self.api.replace(path, item))

    async def patch(self, path: str, change: Any, content: str = client.MERGE) -> Any:
        return await self._write(lambda: self.api.patch(path, change, content))

    async def apply(self, path: str, item: Mapping[str, Any], manager: str) -> Any:
        return await self._write(lambda: self.api.apply(path, item, manager))

    async def delete(self, path: str, uid: str | None = None, version: str | None = None) -> None:
        await self._write(lambda: self.api.delete(path, uid=uid, version=version))

    async def all(self, jobs: Iterable[Awaitable[None]]) -> None:
        """Do all at the same time; the first error is raised when all have ended."""
        results = await asyncio.gather(*jobs, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def check(self, item: Mapping[str, Any]) -> None:
        """Stop where a later leader has left its stamp.

        Raises
        ------
        Fenced
        """
        stamp = (item["metadata"].get("annotations") or {}).get(TERM) or "0"
        self.compare(int(stamp) if stamp.isdecimal() else 0)

    def compare(self, epoch: int) -> None:
        """Stop at the work of a later leader.

        Raises
        ------
        Fenced
        """
        if epoch > self.epoch:
            self.fenced()
            raise Fenced(f"the leader of term {epoch} has taken over from that of term {self.epoch}")

    def same(self, path: str, item: Mapping[str, Any], uid: str) -> None:
        """Stop where a later leader was, or where an object is not the one that was planned with.

        Raises
        ------
        Fenced, Refused
        """
        self.check(item)
        if item["metadata"]["uid"] != uid or "deletionTimestamp" in item["metadata"]:
            raise Refused(f"{path.rpartition('namespaces/')[2]} is another one by now, or is being deleted")

    async def _write(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        async def once() -> Any:
            if not self.leads():
                self.fenced()
                raise Fenced(f"the term {self.epoch} of this process has ended")
            return await ask()

        return await self._ask(once)

    async def _ask(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Ask until there is an answer that will not change, or patience ends."""
        loop = asyncio.get_running_loop()
        end, wait = loop.time() + self.patience_s, FIRST_WAIT_S
        while True:
            try:
                async with self._gate:
                    return await ask()
            except errors.ApiError as error:
                pause = max(error.retry_after_s or 0.0, wait)
                if not error.passing or loop.time() + pause > end:
                    raise
            except UNANSWERED:
                pause = wait
                if loop.time() + pause > end:
                    raise
            await asyncio.sleep(pause * random.uniform(0.75, 1.0))
            wait = min(2 * wait, LONGEST_WAIT_S)
