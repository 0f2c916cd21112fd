"""Faults over restarts and reboots, and the end of a fault that only an event tells."""

import asyncio
import queue
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from dra_driver import healthstream, mig
from dra_driver.health import kept, places, source, taints, watcher
from dra_driver.probe import interface
from dra_driver.publish import publisher
from scheduler.model import claim, machines, slices
from tests.driver import host, kubelet, small_disk

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
    faults, times = kept.Faults(folder / "faults.json", boot), taints.Times(folder / "taints.json")
    return watcher.Watcher(probe, MACHINE, source.Source("node-a"), times, faults, poll_s=0.02)


async def keys(watched: watcher.Watcher) -> dict[str, list[str]]:
    """Return the keys of the taints that the watcher tells after a poll."""
    told: list[watcher.Taints] = []
    watched.tell(lambda machine, found: told.append(found))
    await watched.start()
    return {name: [taint["key"] for taint in found] for name, found in told[-1].items()}


async def test_the_last_that_is_told_is_the_last_that_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older snapshot whose file takes long is not told after a newer one."""
    watched, told = opened(tmp_path, Probe()), []
    watched.tell(lambda machine, found: told.append(sorted(found)))
    await watched.start()
    slow, write = threading.Event(), watched._files.write
    entered = threading.Event()

    def wait_first(known: watcher.Health) -> None:
        if not entered.is_set():
            entered.set()
            slow.wait(20)
        write(known)

    monkeypatch.setattr(watched._files, "write", wait_first)
    older = asyncio.create_task(watched._publish())
    await asyncio.to_thread(entered.wait, 20)
    hit(watched, [79])
    newer = asyncio.create_task(watched._publish())
    await asyncio.wait((newer,), timeout=0.2)  # it may not end before the older one
    slow.set()
    await asyncio.gather(older, newer)
    assert told == [[], [], ["gpu-2"]]


async def test_a_gpu_that_hangs_holds_up_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hangs(Probe):
        asked = 0

        def reading(self, gpu_uuid: str) -> interface.Reading:
            if gpu_uuid == UUID:
                self.asked += 1
                go_on.wait(60)
            return super().reading(gpu_uuid)

    go_on, probe, other = threading.Event(), Hangs(), MACHINE.gpus[5]
    watched, told = opened(tmp_path, probe), []
    watched.tell(lambda machine, found: told.append(found))
    watched._reader.limit_s = 0.05
    try:
        await watched.start()
        work = asyncio.create_task(watched.run())
        probe.lost = {other.uuid}
        await kubelet.until(lambda: "gpu-5" in told[-1], 20)
        states = {each.device: each.health for each in watched.source.current()}
        assert states["gpu-2"] is healthstream.Health.UNKNOWN and states["gpu-7"] is healthstream.Health.HEALTHY
        monkeypatch.setattr(healthstream, "TIMEOUT_S", 0)
        await kubelet.until(lambda: "gpu-2" in told[-1], 20)
        assert [taint["key"] for taint in told[-1]["gpu-2"]] == ["gpu.muster.dev/unmonitored"]
        assert probe.asked == 1, "calls that hang pile up"
        monkeypatch.undo()
        go_on.set()
        await kubelet.until(lambda: "gpu-2" not in told[-1], 20)
        work.cancel()
    finally:
        go_on.set()


@pytest.mark.parametrize("call", ["reading", "wait"])
async def test_a_session_that_ended_stops_the_driver_and_keeps_what_is_published(tmp_path: Path, call: str) -> None:
    probe = Probe()
    watched, told, stopped = opened(tmp_path, probe), [], asyncio.Event()
    watched.tell(lambda machine, found: told.append(found))
    watched.tell_end(stopped.set)
    await watched.start()
    work = asyncio.create_task(watched.run())

    def ended(_: object) -> None:
        raise interface.SessionEnded("NVML: Uninitialized")

    setattr(probe, call, ended)
    await asyncio.wait_for(stopped.wait(), 20)
    assert watched.ended.startswith("NVML: Uninitialized; the GPU driver was unloaded or replaced")
    assert told == [{}] and not work.done()
    work.cancel()
    probe.reading = ended
    with pytest.raises(interface.SessionEnded):
        await opened(tmp_path, probe).start()


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


async def test_the_reading_before_is_the_last_that_told_of_nvlinks(tmp_path: Path) -> None:
    class Counts(Probe):
        kib: int | None = None

        def reading(self, gpu_uuid: str) -> interface.Reading:
            return interface.Reading(gpu_uuid, nvlink_kib=self.kib)

    probe = Counts()
    watched, seen = opened(tmp_path, probe), []
    for probe.kib in (None, 1, 2, None, 3):
        await watched.poll()
        before = watched.before.get(UUID)
        seen.append((before and before.nvlink_kib, watched.readings[UUID].nvlink_kib))
    assert seen == [(None, None), (None, 1), (1, 2), (2, None), (2, 3)]


async def test_an_xid_of_one_mig_instance_taints_what_shares_its_memory(tmp_path: Path) -> None:
    machine = host.machine("hgx-h100", mig_gpus=(1,))
    gpu = machine.gpus[1]
    made = mig.Instance(gpu.uuid, 14, 2, 2, 5, 0, "MIG-1")

    class Cut(Probe):
        def instances(self, gpu_uuid: str) -> Sequence[mig.Instance]:
            return [made]

    def begun() -> watcher.Watcher:
        faults, times = kept.Faults(tmp_path / "faults.json", "one"), taints.Times(tmp_path / "taints.json")
        return watcher.Watcher(Cut(), machine, source.Source("node-a"), times, faults)

    touched = {p.name for p in claim.partitions_of(gpu) if p.start < 4 and p.start + p.profile.memory_slices > 2}
    watched = begun()
    await watched.start()
    assert watched._take([interface.Event(gpu.uuid, "xid", 94, gpu_instance=5)])
    assert await keys(watched) == {name: ["gpu.muster.dev/xid"] for name in touched}
    said = {each.device: each.health for each in watched.source.current()}
    sick = {name for name, state in said.items() if state is healthstream.Health.UNHEALTHY}
    assert sick == touched | {gpu.name} and len([n for n in said if n.startswith(gpu.name)]) > len(touched) + 1
    entries = [e for part in slices.encode(machine, taints=_told(watched)) for e in part["spec"].get("devices", ())]
    assert {e["name"] for e in entries if "taints" in e} == touched
    owned = publisher.with_ownership(publisher.Wanted(machine, _told(watched)))
    assert {name for name, found in owned.items() if any(t["key"] == "gpu.muster.dev/xid" for t in found)} == touched
    assert await keys(begun()) == {name: ["gpu.muster.dev/xid"] for name in touched}, "a restart forgets the place"
    assert watched._take([interface.Event(gpu.uuid, "xid", 94, gpu_instance=9)]), "an instance that is not known"
    assert (await keys(watched))[gpu.name] == ["gpu.muster.dev/xid"]


def _told(watched: watcher.Watcher) -> watcher.Taints:
    return places.named(watched._machine, watched._files.keep(watched.known))
