"""Follows the hardware's events and polls every GPU, and tells what is wrong to the slices and to the health stream.

A fault that only an event tells lasts until the GPU was reset. A reset is seen as the end of a recovery action, or as the
return of a lost GPU; where a GPU or its driver has no recovery actions, an operator says that it was reset (`clearing`).
Such faults are in a file with the boot's identity, so that a restart of the driver keeps them and a reboot does not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures

import structlog

from dra_driver import healthstream, mig
from dra_driver.health import clearing, kept, model, places, reader, source, taints
from dra_driver.probe import interface
from scheduler.model import device, node

log = structlog.get_logger()

POLL_S = 5.0
WAIT_S = 1.0  # for events; a driver that stops waits for the thread so long

Health = Mapping[str, model.Health]
Taints = Mapping[str, Sequence[Mapping[str, str]]]
Listener = Callable[[node.NodeTopology, Taints], None]


class Watcher:
    """Health of the GPUs of one node; `run` works until it is cancelled.

    Attributes
    ----------
    known, readings, instances, xids : dict
        By GPU UUID: the health, the last reading, the MIG instances, the last XID of a GPU that had one in this boot.
    before : dict
        The last reading before that one which tells of NVLinks.
    read_at : dict
        When each GPU was read last, by the monotonic clock: a call that hangs leaves old readings.
    gone : dict
        GPUs that were found earlier and are not now, by UUID.
    ended : str
        Why this process reaches no GPU any more; "" as long as it does.
    """

    def __init__(
        self,
        probe: interface.Probe,
        machine: node.NodeTopology,
        listed: source.Source,
        times: taints.Times,
        faults: kept.Faults,
        poll_s: float = POLL_S,
        threads: futures.Executor | None = None,
        requests: clearing.Clearing | None = None,
    ) -> None:
        self._probe, self._machine, self.source, self._poll_s = probe, machine, listed, poll_s
        self._files, self._threads, self._requests = kept.Files(faults, times), threads, requests
        self._reader = reader.Reader(probe, self._took, threads)
        self.known: dict[str, model.Health] = faults.read()
        self.readings: dict[str, interface.Reading] = {}
        self.before: dict[str, interface.Reading] = {}
        self.read_at: dict[str, float] = {}
        self.instances: dict[str, Sequence[mig.Instance]] = {}
        self.xids = _xids(self.known)
        self.gone: dict[str, device.Gpu] = {}
        self._told: tuple[node.NodeTopology, dict[str, Mapping[str, model.Fault]]] | None = None
        # Events and polls publish; what the listeners are told last must be what is known last.
        self._publishing = asyncio.Lock()
        self._listeners: list[Listener] = []
        self._stream: list[Callable[[], None]] = []
        self._at_end: list[Callable[[], None]] = []
        self._cleared: list[Callable[[clearing.Request, str], None]] = []
        self.ended = ""

    def tell(self, listener: Listener) -> None:
        """Call `listener` with the machine and the taints by device name, whenever one of them changed."""
        self._listeners.append(listener)

    def tell_stream(self, changed: Callable[[], None]) -> None:
        """Call `changed` whenever a state or message changed."""
        self._stream.append(changed)

    def tell_end(self, stop: Callable[[], None]) -> None:
        """Call `stop` when the hardware cannot be reached any more by this process."""
        self._at_end.append(stop)

    def tell_cleared(self, cleared: Callable[[clearing.Request, str], None]) -> None:
        """Call `cleared` with a request to clear faults that was carried out, and the name of its GPU."""
        self._cleared.append(cleared)

    def found(self, machine: node.NodeTopology) -> None:
        """Take over another list of devices; it is told with the next poll. A GPU that is in it no more is lost."""
        here = {gpu.uuid for gpu in machine.gpus}
        before = self.gone | {gpu.uuid: gpu for gpu in self._machine.gpus}
        self.gone = {uuid: gpu for uuid, gpu in before.items() if uuid not in here}
        self._machine = machine
        for uuid in self.gone:
            self.readings[uuid], self.instances[uuid] = interface.Reading(uuid, lost=True), ()
            old = self.known.get(uuid) or model.Health(uuid, {})
            self.known[uuid] = model.event(old, interface.Event(uuid, "unavailable"), time.time())

    async def start(self) -> None:
        """Poll once, so that the first slices have their taints."""
        await self.poll()
        if self.ended:
            raise interface.SessionEnded(self.ended)
        await self._clear()
        await self._publish()
        await self._answer()

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow())
                group.create_task(self._poll_often())
        finally:
            self._reader.stop()

    async def poll(self) -> None:
        """Read every GPU; one that does not answer keeps what is known of it, and is told once that lasts."""
        try:
            waiting = await self._reader.round(self._machine.gpus)
        except interface.SessionEnded as error:
            self._end(error)
            return
        for uuid, age_s in waiting.items():
            if age_s > healthstream.TIMEOUT_S:
                reason = f"no answer for more than {healthstream.TIMEOUT_S} s"
                self._judge(interface.Reading(uuid, failing={"reading": reason}))

    def _end(self, error: interface.SessionEnded) -> None:
        """Say once that only a new process can go on; what is known stays published until it does."""
        if not self.ended:
            self.ended = f"{error}; the GPU driver was unloaded or replaced, and the driver must start again"
            log.critical("the GPUs cannot be watched any more", error=self.ended)
            for stop in self._at_end:
                stop()

    def _took(self, gpu: device.Gpu, seen: interface.Reading, made: Sequence[mig.Instance] | None) -> None:
        """Take over a reading; a GPU that does not tell its MIG instances keeps those that are known."""
        if gpu.uuid in self.gone:
            return
        old = self.readings.get(gpu.uuid)
        if old is not None and old.nvlink_kib is not None:
            self.before[gpu.uuid] = old
        self.readings[gpu.uuid], self.read_at[gpu.uuid] = seen, time.monotonic()
        self.instances[gpu.uuid] = self.instances.get(gpu.uuid, ()) if made is None else made
        self._judge(seen)

    def _judge(self, seen: interface.Reading) -> None:
        before = self.known.get(seen.gpu_uuid) or model.Health(seen.gpu_uuid, {})
        self.known[seen.gpu_uuid] = model.polled(before, seen, time.time())

    async def _poll_often(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            await self.poll()
            await self._clear()
            if self._told != (self._machine, _faults(self.known)):
                await self._publish()
            else:
                if self._files.problem:
                    async with self._publishing:
                        await asyncio.to_thread(self._files.write, dict(self.known))
                self._tell_stream()  # the times of the stream go on
            await self._answer()

    async def _clear(self) -> None:
        """End the faults that an operator says are over."""
        if self._requests is not None:
            for request in await asyncio.to_thread(self._requests.new):
                self._requests.carry_out(request, self.known)

    async def _answer(self) -> None:
        """Say what was cleared, once a restart would not bring it back."""
        if self._requests is None or self._files.problem:
            return
        names = {gpu.uuid: gpu.name for gpu in (*self._machine.gpus, *self.gone.values())}
        for request in await asyncio.to_thread(self._requests.answer):
            for cleared in self._cleared:
                cleared(request, names.get(request.gpu_uuid, "GPU"))

    async def _follow(self) -> None:
        told = ""
        loop = asyncio.get_running_loop()
        while True:
            try:
                news = await loop.run_in_executor(self._threads, self._probe.wait, WAIT_S)
            except mig.HardwareError as error:
                if isinstance(error, interface.SessionEnded):
                    self._end(error)
                if str(error) != told:
                    log.error("events of the GPUs are not followed; polling goes on", error=str(error))
                told = str(error)
                await asyncio.sleep(self._poll_s)
                continue
            told = ""
            if self._take(news):
                await self._publish()

    def _take(self, news: Sequence[interface.Event]) -> bool:
        changed = False
        for one in news:
            log.warning("event of a GPU", gpu=one.gpu_uuid, kind=one.kind, data=one.data)
            if one.kind == "xid":
                self.xids[one.gpu_uuid] = one.data
            old = self.known.get(one.gpu_uuid) or model.Health(one.gpu_uuid, {})
            self.known[one.gpu_uuid] = model.event(old, one, time.time(), self._part(one))
            changed |= self.known[one.gpu_uuid] != old
        return changed

    def _part(self, news: interface.Event) -> tuple[int, int] | None:
        """Return where the MIG instance of an event lies; where it is not known the whole GPU is concerned."""
        made = self.instances.get(news.gpu_uuid, ())
        return next(((one.start, one.size) for one in made if one.gpu_instance == news.gpu_instance), None)

    async def _publish(self) -> None:
        async with self._publishing:
            machine, known = self._machine, dict(self.known)
            by_name = places.named(machine, await asyncio.to_thread(self._files.keep, known))
            log.info("health", taints={name: [t["key"] for t in found] for name, found in by_name.items()})
            for listener in self._listeners:
                listener(machine, by_name)
            self._told = machine, _faults(known)
        self._tell_stream()

    def _tell_stream(self) -> None:
        if self.source.tell(self._machine, self.known, self.read_at):
            for changed in self._stream:
                changed()


def _faults(known: Health) -> dict[str, Mapping[str, model.Fault]]:
    return {uuid: health.faults for uuid, health in known.items() if health.faults}


def _xids(known: Health) -> dict[str, int]:
    """Return the XIDs among faults that a restart kept."""
    faults = [(uuid, fault) for uuid, health in known.items() for fault in health.faults.values()]
    return {uuid: int(fault.value) for uuid, fault in faults if fault.kind == "xid"}
