"""Writes Events beside the real work: whoever tells one never waits, and no failure here stops anything."""

import asyncio
import collections
import time
from collections.abc import Callable

import aiohttp
import structlog

from scheduler.apiserver import client, errors, paths
from scheduler.kube import event

QUEUE = 1024
"""Events that wait to be written; further ones are dropped and counted."""

TRIES = 4
AGAIN_S = 0.5
"""Wait before the second try, doubled for each further one."""

ANSWER_S = 5.0
"""Patience with the server for one try; an Event is not worth more."""

log = structlog.get_logger()


class Recorder:
    """The queue of Events and its writer.

    Parameters
    ----------
    instance : str
        Who reports: the name of the pod, so that two replicas can be told apart.

    Attributes
    ----------
    written : int
        Writes that succeeded, of new Events and of longer series.
    dropped : Counter
        What was left out: ``queue`` (full), ``api`` (refused, or no answer in `TRIES` tries), ``gone`` (its namespace
        is). Those beyond an object's rate are in ``ledger.dropped``.
    """

    def __init__(
        self,
        api: client.Client,
        instance: str,
        ledger: event.Ledger | None = None,
        clock: Callable[[], float] = time.time,
        limit: int = QUEUE,
    ) -> None:
        self.api, self.instance, self.clock, self.limit = api, instance, clock, limit
        self.ledger = ledger or event.Ledger()
        self.written = 0
        self.dropped: collections.Counter[str] = collections.Counter()
        self._queue: dict[str, event.Told] = {}
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def tell(self, subject: event.Subject, reason: event.Reason, note: str) -> None:
        """Tell an Event about an object; returns at once."""
        told = self.ledger.tell(subject, reason, note, self.clock())
        if told is None:
            return
        if told.name not in self._queue and len(self._queue) >= self.limit:
            self._drop(told, "queue")
            return
        self._queue[told.name] = told  # a longer series takes the place of a shorter one that still waits
        self._idle.clear()
        self._wake.set()

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                name = next(iter(self._queue))
                await self._write(self._queue.pop(name))
            self._idle.set()

    async def flush(self, timeout_s: float) -> None:
        """Wait until everything told so far is written or dropped; `run` has to be running.

        Raises
        ------
        TimeoutError
            Not so soon.
        """
        async with asyncio.timeout(timeout_s):
            await self._idle.wait()

    async def _write(self, told: event.Told) -> None:
        cause = ""
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(AGAIN_S * 2 ** (attempt - 1))
            try:
                async with asyncio.timeout(ANSWER_S):
                    await self._send(told)
            except errors.ApiError as error:
                if error.missing or (error.status == 403 and "being terminated" in error.message):
                    self._drop(told, "gone")
                    return
                cause = str(error)
                if not error.passing:
                    break
            except (TimeoutError, aiohttp.ClientError) as error:
                cause = f"{type(error).__name__}: {error}"
            else:
                self.written += 1
                return
        self._drop(told, "api")
        log.warning("event not written", object=told.name, reason=told.reason.word, cause=cause)

    async def _send(self, told: event.Told) -> None:
        """Lengthen the series of an Event, or create it where it is new or the server has forgotten it."""
        place = told.subject.place
        if told.count > 1:
            try:
                path = paths.of(event.API_VERSION, "events", place, told.name)
                await self.api.patch(path, told.change())
                return
            except errors.ApiError as error:
                if not error.missing:
                    raise
        try:
            await self.api.create(paths.of(event.API_VERSION, "events", place), told.body(self.instance))
        except errors.ApiError as error:
            if not error.exists:  # an answer that was lost
                raise

    def _drop(self, told: event.Told, why: str) -> None:
        self.dropped[why] += 1
        self.ledger.forget(told)
