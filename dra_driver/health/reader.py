"""Reads GPUs beside each other, so that one whose calls hang holds up nothing but itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent import futures

import structlog

from dra_driver import mig
from dra_driver.probe import interface
from scheduler.model import device

log = structlog.get_logger()

LIMIT_S = 5.0
"""How long one round waits for a GPU; its calls go on, and the next round waits for the same ones."""

Took = Callable[[device.Gpu, interface.Reading, Sequence[mig.Instance] | None], None]


class Reader:
    """Gives each reading to `took` when it is there, with the MIG instances or None where they are not told."""

    def __init__(
        self, probe: interface.Probe, took: Took, threads: futures.Executor | None = None, limit_s: float = LIMIT_S
    ) -> None:
        """Use threads of our own where hardware that hangs must not take those of the rest of the driver."""
        self._probe, self._took, self._threads, self.limit_s = probe, took, threads, limit_s
        self._running: dict[str, asyncio.Task[None]] = {}
        self._since: dict[str, float] = {}

    async def round(self, gpus: Iterable[device.Gpu]) -> dict[str, float]:
        """Read all; return for how many seconds each GPU that has not answered yet is asked, by UUID.

        Raises
        ------
        SessionEnded
            No GPU can be read any more.
        """
        asked = {gpu.uuid: self._running.get(gpu.uuid) or self._begin(gpu) for gpu in gpus}
        if not asked:
            return {}
        done, _ = await asyncio.wait(asked.values(), timeout=self.limit_s)
        errors = [error for task in done if (error := task.exception()) is not None]
        if errors:
            raise errors[0]
        now = time.monotonic()
        return {uuid: now - self._since[uuid] for uuid, task in asked.items() if task not in done}

    def stop(self) -> None:
        """Wait for no reading any more."""
        for task in self._running.values():
            task.cancel()

    def _begin(self, gpu: device.Gpu) -> asyncio.Task[None]:
        self._since[gpu.uuid] = time.monotonic()
        task = self._running[gpu.uuid] = asyncio.create_task(self._read(gpu))
        task.add_done_callback(lambda _: self._running.pop(gpu.uuid, None))
        return task

    async def _read(self, gpu: device.Gpu) -> None:
        loop = asyncio.get_running_loop()
        try:
            seen = await loop.run_in_executor(self._threads, self._probe.reading, gpu.uuid)
        except interface.SessionEnded:
            raise
        except mig.HardwareError as error:
            seen = interface.Reading(gpu.uuid, failing={"reading": str(error)})
        made: Sequence[mig.Instance] | None = ()
        if gpu.mig_enabled and not seen.lost:
            try:
                made = tuple(await loop.run_in_executor(self._threads, self._probe.instances, gpu.uuid))
            except mig.HardwareError as error:
                log.warning("MIG instances are not known", gpu=gpu.uuid, error=str(error))
                made = None
        self._took(gpu, seen, made)
