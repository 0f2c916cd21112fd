"""The devices of the node as they were found last, refreshed beside the kubelet's calls, which never wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent import futures
from dataclasses import replace
from typing import Self

import structlog

from dra_driver import known, mig, naming
from dra_driver.probe import interface
from scheduler.model import node

RETRY_S = 5.0  # as long as nothing was found
FIRST_S = 20.0
"""How long a start waits for the first discovery, which may hang: the kubelet is served meanwhile."""

log = structlog.get_logger()

MISSING = (
    "{} ({}) was here before and does not answer; repair it, or if it was taken out for good, delete devices.json in the"
    " driver's folder and start the driver again"
)


class Inventory:
    """What one probe finds, under the names that the devices have for good; a `state.Machine`.

    Attributes
    ----------
    found : Discovered
        What answers now.
    published : NodeTopology
        The devices with those GPUs that were found earlier, perhaps by an earlier run, and do not answer now. They stay
        in the slices, tainted, so that claims on them are evicted and explained.
    problem : str
        Why the devices are not known yet; "" once they were found.
    """

    def __init__(
        self, probe: interface.Probe, found: interface.Discovered, file: known.File, problem: str = ""
    ) -> None:
        self.probe, self._file, self.problem = probe, file, problem
        self._threads: futures.Executor | None = None
        self._asking: asyncio.Future[interface.Discovered] | None = None
        self._told: list[Callable[[node.NodeTopology], None]] = []
        self._raw = found
        self.found, self.published = (found, found.topology) if problem else self._named(found)

    @classmethod
    async def take(cls, probe: interface.Probe, file: known.File | None = None) -> Self:
        """Discover once; raises `mig.HardwareError` where the probe finds no way to the hardware."""
        raw = await asyncio.to_thread(probe.discover)
        return await cls._first(probe, raw, file or known.File())

    @classmethod
    async def _first(cls, probe: interface.Probe, raw: interface.Discovered, file: known.File) -> Self:
        made = await asyncio.to_thread(cls, probe, raw, file)
        for problem in (*made.found.problems, *made.missing()):
            log.warning("not all of the hardware is as it should be", problem=problem)
        return made

    def missing(self) -> list[str]:
        """Return a sentence for each GPU that is published and does not answer."""
        here = {gpu.uuid for gpu in self.found.topology.gpus}
        return [MISSING.format(gpu.name, gpu.uuid) for gpu in self.published.gpus if gpu.uuid not in here]

    @classmethod
    async def begin(
        cls,
        probe: interface.Probe,
        node_name: str,
        file: known.File,
        threads: futures.Executor | None = None,
        first_s: float = FIRST_S,
    ) -> Self:
        """Discover once; as long as the hardware does not answer, nothing is published.

        Parameters
        ----------
        threads : Executor or None
            For discovery now and later, which may hang.
        """
        asking = asyncio.get_running_loop().run_in_executor(threads, probe.discover)
        done, _ = await asyncio.wait((asking,), timeout=first_s)
        try:
            if not done:
                raise mig.HardwareError(
                    f"discovery: no answer for {first_s:g} s; look whether nvidia-smi answers on the node"
                )
            made = await cls._first(probe, asking.result(), file)
        except (mig.HardwareError, OSError, ValueError) as error:
            log.error("the devices of the node are not known; discovery is tried again", error=str(error))
            made = cls(probe, interface.Discovered(node.NodeTopology(node_name)), file, str(error))
        made._threads, made._asking = threads, None if done else asking
        return made

    def current(self) -> node.NodeTopology:
        """Return the devices that can be prepared.

        Raises
        ------
        HardwareError
            They were never found.
        """
        if self.problem:
            raise mig.HardwareError(self.problem)
        return self.found.topology

    def tell(self, changed: Callable[[node.NodeTopology], None]) -> None:
        """Call `changed` with what is to be published, whenever something else is found."""
        self._told.append(changed)

    async def refresh(self) -> None:
        """Discover again; what a failing probe found last stays."""
        try:
            raw = await self._discovered()
            if raw == self._raw and not self.problem:
                return
            found, published = await asyncio.to_thread(self._named, raw)
        except (mig.HardwareError, OSError, ValueError) as error:
            log.error("discovery failed; the last result stays", error=str(error))
            self.problem = self.problem and str(error)
            return
        self.problem = ""
        self._raw, self.found, self.published = raw, found, published
        log.info("the devices of the node changed", problems=found.problems, missing=self.missing())
        for changed in self._told:
            changed(self.published)

    async def _discovered(self) -> interface.Discovered:
        """Ask the probe, or wait on for what hangs since the start."""
        asking, self._asking = self._asking, None
        return await (asking or asyncio.get_running_loop().run_in_executor(self._threads, self.probe.discover))

    async def run(self, every_s: float) -> None:
        """Refresh until cancelled."""
        while True:
            await asyncio.sleep(min(every_s, RETRY_S) if self.problem else every_s)
            await self.refresh()

    def _named(self, raw: interface.Discovered) -> tuple[interface.Discovered, node.NodeTopology]:
        """Return what answers and what is published, both under the same names."""
        try:
            after = self._file.change(lambda before: naming.merged(raw.topology, before, raw.unlinked))
        except ValueError as error:
            raise mig.HardwareError(str(error)) from error
        published = after.machine or raw.topology
        here = {gpu.uuid for gpu in raw.topology.gpus}
        return replace(raw, topology=naming.present(published, here)), published
