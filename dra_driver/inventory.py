"""The devices of the node as they were found last, refreshed beside the kubelet's calls, which never wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import Self

import structlog

from dra_driver import mig
from dra_driver.probe import interface
from scheduler.model import node

RETRY_S = 5.0  # as long as nothing was found

log = structlog.get_logger()


class Inventory:
    """What one probe finds; a `state.Machine`.

    Attributes
    ----------
    published : NodeTopology
        The devices with those GPUs that were found earlier and do not answer now. They stay in the slices, tainted, so
        that claims on them are evicted and explained, and no other device takes their name.
    problem : str
        Why the devices are not known yet; "" once they were found.
    """

    def __init__(self, probe: interface.Probe, found: interface.Discovered, problem: str = "") -> None:
        self.probe, self.found, self.published, self.problem = probe, found, found.topology, problem
        self._told: list[Callable[[node.NodeTopology], None]] = []

    @classmethod
    async def take(cls, probe: interface.Probe) -> Self:
        """Discover once; raises `mig.HardwareError` where the probe finds no way to the hardware."""
        return cls(probe, await asyncio.to_thread(probe.discover))

    @classmethod
    async def begin(cls, probe: interface.Probe, node_name: str) -> Self:
        """Discover once; as long as the hardware does not answer, nothing is published."""
        try:
            return await cls.take(probe)
        except (mig.HardwareError, OSError, ValueError) as error:
            log.error("the devices of the node are not known; discovery is tried again", error=str(error))
            return cls(probe, interface.Discovered(node.NodeTopology(node_name)), str(error))

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
            found = await asyncio.to_thread(self.probe.discover)
        except (mig.HardwareError, OSError, ValueError) as error:
            log.error("discovery failed; the last result stays", error=str(error))
            self.problem = self.problem and str(error)
            return
        self.problem = ""
        if found == self.found:
            return
        self.found, self.published = found, kept(self.published, found.topology)
        log.info("the devices of the node changed", problems=found.problems)
        for changed in self._told:
            changed(self.published)

    async def run(self, every_s: float) -> None:
        """Refresh until cancelled."""
        while True:
            await asyncio.sleep(min(every_s, RETRY_S) if self.problem else every_s)
            await self.refresh()


def kept(before: node.NodeTopology, now: node.NodeTopology) -> node.NodeTopology:
    """Return a node as it is now, with the GPUs that it had before in their old places, those too that are gone."""
    here = {gpu.uuid: gpu for gpu in now.gpus}
    gone = {gpu.uuid for gpu in before.gpus} - here.keys()
    if not gone:
        return now
    merged = [here.pop(gpu.uuid, gpu) for gpu in before.gpus] + list(here.values())
    index = {gpu.uuid: i for i, gpu in enumerate(merged)}
    links = [*_links(now, index), *_links(before, index, gone)]
    return replace(
        now,
        machine=before.machine,
        gpus=tuple(replace(gpu, index=i) for i, gpu in enumerate(merged)),
        nvlinks=tuple(sorted(links, key=lambda link: (link.a, link.b))),
        nvswitches=max(before.nvswitches, now.nvswitches),
    )


def _links(machine: node.NodeTopology, index: Mapping[str, int], among: Collection[str] = ()) -> Iterator[node.NvLink]:
    """Yield the NVLinks under new indices; with `among` only those of these GPUs."""
    uuids = [gpu.uuid for gpu in machine.gpus]
    for link in machine.nvlinks:
        ends = uuids[link.a], uuids[link.b]
        if not among or set(ends) & set(among):
            a, b = sorted(index[uuid] for uuid in ends)
            yield replace(link, a=a, b=b)
