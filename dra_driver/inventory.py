"""The devices of the node as they were found last, refreshed beside the kubelet's calls, which never wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Self

import structlog

from dra_driver import mig
from dra_driver.probe import interface
from scheduler.model import node

log = structlog.get_logger()


class Inventory:
    """What one probe finds; a `state.Machine`."""

    def __init__(self, probe: interface.Probe, found: interface.Discovered) -> None:
        self.probe, self.found = probe, found
        self._told: list[Callable[[interface.Discovered], None]] = []

    @classmethod
    async def take(cls, probe: interface.Probe) -> Self:
        """Discover once; raises `mig.HardwareError` where the probe finds no way to the hardware."""
        return cls(probe, await asyncio.to_thread(probe.discover))

    def current(self) -> node.NodeTopology:
        """Return the devices."""
        return self.found.topology

    def tell(self, changed: Callable[[interface.Discovered], None]) -> None:
        """Call `changed` whenever something else is found."""
        self._told.append(changed)

    async def refresh(self) -> None:
        """Discover again; what a failing probe found last stays."""
        try:
            found = await asyncio.to_thread(self.probe.discover)
        except mig.HardwareError as error:
            log.error("discovery failed; the last result stays", error=str(error))
            return
        if found == self.found:
            return
        self.found = found
        log.info("the devices of the node changed", problems=found.problems)
        for changed in self._told:
            changed(found)

    async def run(self, every_s: float) -> None:
        """Refresh until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            await self.refresh()
