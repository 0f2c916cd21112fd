"""Faults over restarts and reboots, and the end of a fault that only an event tells."""

import asyncio
import queue
from collections.abc import Sequence
from pathlib import Path

import pytest

from dra_driver.health import source, taints, watcher
from dra_driver.probe import interface
from scheduler.model import machines
from tests.driver import kubelet, small_disk

MACHINE = machines.build("dgx-1v", "node-a")
UUID = MACHINE.gpus[2].uuid


class Probe:
    """Readings that a test sets."""

    def __init__(self) -> None:
        self.lost: set[str] = set()
        self.news: queue.SimpleQueue[interface.Event] = queue.SimpleQueue()

    def wait(self, timeout_s: float) -> Sequence[interface.Event]:
        try:
            return [self.news.get(timeout=0.02)]
        except queue.Empty:
            return []

    def reading(self, gpu_uuid: str) -> interface.Reading:
        return interface.Reading(gpu_uuid, lost=gpu_uuid in self.lost, recovery_action=None)


def opened(folder: Path, probe: Probe, boot: str = "one") -> watcher.Watcher:
    faults, times = watcher.Faults(folder / "faults.json", boot), taints.Times(folder / "taints.json")
    return watcher.Watcher(probe, MACHINE, source.Source("node-a"), times, faults, poll_s=0.02)


async def keys(watched: watcher.Watcher) -> dict[str, list[str]]:
    """Return the keys of the taints that the watcher tells after a poll."""
    told: list[watcher.Taints] = []
    watched.tell(lambda machine, found: told.append(found))
    await watched.start()
    return {name: [taint["key"] for taint in found] for name, found in told[-1].items()}


def hit(watched: watcher.Watcher, news: Sequence[int]) -> None:
    assert watched._take([interface.Event(UUID, "xid", number) for number in news])


async def test_a_fault_of_an_event_outlives_the_driver_and_not_the_boot(tmp_path: Path) -> None:
    first = opened(tmp_path, Probe())
    hit(first, [79])
    assert await keys(first) == {"gpu-2": ["gpu.muster.dev/xid"]}
    assert await keys(opened(tmp_path, Probe())) == {"gpu-2": ["gpu.muster.dev/xid"]}
    assert await keys(opened(tmp_path, Probe(), "two")) == {}


async def test_a_lost_gpu_that_comes_back_was_reset(tmp_path: Path) -> None:
    probe = Probe()
    watched = opened(tmp_path, probe)
    hit(watched, [79])
    probe.lost = {UUID}
    assert await keys(watched) == {"gpu-2": ["gpu.muster.dev/gpu-lost", "gpu.muster.dev/xid"]}
    probe.lost = set()
    assert await keys(watched) == {}


async def test_a_damaged_file_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "faults.json").write_bytes(b"\xff{")
    assert await keys(opened(tmp_path, Probe())) == {}
    assert (tmp_path / "faults.corrupt").exists()


@pytest.mark.parametrize("how", ["full", "read-only"])
async def test_a_disk_that_takes_nothing_costs_no_taint_and_is_made_up_for(tmp_path: Path, how: str) -> None:
    """A fault that an event tells and one that a poll tells, at the start and while it runs; then the disk takes files again."""
    other, probe = MACHINE.gpus[5], Probe()
    with small_disk.mounted(tmp_path / "disk") as disk:
        disk.fill() if how == "full" else disk.read_only(True)
        probe.lost = {other.uuid}
        watched, told = opened(disk.path, probe), []
        watched.tell(lambda machine, found: told.append(found))
        await watched.start()
        assert told[-1]["gpu-5"][0]["key"] == "gpu.muster.dev/gpu-lost"
        work = asyncio.create_task(watched.run())
        probe.news.put(interface.Event(UUID, "xid", 79))
        await kubelet.until(lambda: "gpu-2" in told[-1], 20)
        assert not work.done() and not list(disk.path.glob("*.json*"))
        disk.free() if how == "full" else disk.read_only(False)
        await kubelet.until(lambda: work.done() or len(list(disk.path.glob("*.json"))) == 2, 20)
        assert not work.done()
        work.cancel()
        later = opened(disk.path, probe)
        seen = []
        later.tell(lambda machine, found: seen.append(found))
        await later.start()
        assert seen[-1] == told[-1], "a restart forgets a fault, or gives its taint another time"
