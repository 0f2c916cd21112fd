"""Slow, failing and lost hardware below the driver: the real binding on the stand-in library, with the kubelet above."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dra_driver import claim, inventory
from dra_driver.health import kept, source, taints, watcher
from dra_driver.probe import nvml, roots
from tests.driver import kubelet, objects
from tests.driver.conftest import Node
from tests.hardware import library, machine, state, sysfs

CREATE, COMPUTE = "nvmlDeviceCreateGpuInstanceWithPlacement", "nvmlGpuInstanceCreateComputeInstance"
SMALL = "gpu-{}-mig-1g10gb-19-6"
EXHAUSTED, UNKNOWN = 23, 999


@dataclass
class Real:
    """A node whose GPUs are the stand-in library's; `path` is its state."""

    node: Node
    probe: nvml.NvmlProbe
    path: Path

    def instances(self) -> list[tuple[int, int, bool]]:
        """Return GPU, start and whether there is a compute instance, of each MIG instance."""
        with state.changed(self.path) as found:
            gpus = list(enumerate(found.gpu[: found.gpus]))
            return [(i, row.start, row.ci >= 0) for i, gpu in gpus for row in gpu.instance if row.used]

    def add(self, number: int, *devices: str) -> claim.Reference:
        return self.node.claims.add(objects.claim(number, *devices))

    def watcher(self) -> watcher.Watcher:
        faults = kept.Faults(self.node.root / "faults.json", "boot")
        times = taints.Times(self.node.root / "taints.json")
        return watcher.Watcher(self.probe, self.node.machine, source.Source("node-a"), times, faults)


@pytest.fixture
def real(make_node: Callable[..., Node], monkeypatch: pytest.MonkeyPatch) -> Iterator[Real]:
    """A DGX A100 whose GPUs 1 to 7 are in MIG mode."""
    node = make_node(mig_gpus=range(1, 8))
    path = machine.render(node.machine, node.root / "nvml")
    for gpu in node.machine.gpus:
        for number in range(1, 15):
            place = node.root / f"proc/driver/nvidia/capabilities/gpu{gpu.index}/mig/gi{number}"
            (place / "ci0").mkdir(parents=True)
            sysfs._capability(place / "access", gpu.index * 136 + number * 9)
            sysfs._capability(place / "ci0/access", gpu.index * 136 + number * 9 + 1)
    monkeypatch.setenv("MUSTER_NVML_STATE", str(path))
    probe = nvml.NvmlProbe(roots.Root(node.root), "node-a", library.folder() / library.NAME)
    node.hardware = probe
    yield Real(node, probe, path)
    probe.close()


async def errors_of(calls: kubelet.Kubelet, *references: claim.Reference, timeout_s: float = 45.0) -> dict[str, str]:
    answers = await calls.prepare(*references, timeout_s=timeout_s)
    return {one.name: answers[one.uid].error for one in references}


async def test_slow_calls_cost_their_claims_the_deadline_and_no_other_claim_anything(real: Real) -> None:
    machine.rule(real.path, CREATE, ms=3000)
    async with real.node.driver(), real.node.kubelet() as calls:
        slow = [real.add(gpu, SMALL.format(gpu)) for gpu in range(1, 8)]
        whole = real.add(10, "gpu-0")
        began = time.monotonic()
        errors = await errors_of(calls, *slow, whole, timeout_s=3.0)
        assert time.monotonic() - began < 3.0, "the kubelet's deadline is over before the answer"
        assert errors.pop("claim-10") == ""
        for name, error in errors.items():
            assert error.startswith(f"claim default/{name} (") and "not prepared within the deadline" in error
        began = time.monotonic()
        assert set((await errors_of(calls, *slow)).values()) == {""}
        assert time.monotonic() - began < 4.0, "the calls for several GPUs wait for each other"
        assert real.instances() == [(gpu, 6, True) for gpu in range(1, 8)]


@pytest.mark.parametrize(("function", "left"), [(CREATE, []), (COMPUTE, [(7, 6, False)])])
async def test_a_call_that_fails_is_named_and_the_next_try_goes_on(
    real: Real, function: str, left: list[tuple[int, int, bool]]
) -> None:
    machine.rule(real.path, function, code=EXHAUSTED, gpu=7, times=2)
    async with real.node.driver(), real.node.kubelet() as calls:
        cut, other = real.add(1, SMALL.format(7)), real.add(2, SMALL.format(6))
        errors = await errors_of(calls, cut, other)
        assert errors["claim-2"] == ""
        assert "default/claim-1" in errors["claim-1"] and "GPU-node-a-7" in errors["claim-1"]
        assert "Insufficient Resources" in errors["claim-1"]
        assert [row for row in real.instances() if row[0] == 7] == left
        assert "Insufficient Resources" in (await errors_of(calls, cut))["claim-1"]
        assert (await errors_of(calls, cut))["claim-1"] == ""
        assert set((await calls.unprepare(cut, other)).values()) == {""}
        assert real.instances() == []


async def test_what_failed_half_way_is_removed_by_an_unprepare_and_by_the_sweep(real: Real) -> None:
    machine.rule(real.path, COMPUTE, code=UNKNOWN)
    async with real.node.driver() as driver, real.node.kubelet() as calls:
        first, second = real.add(1, SMALL.format(1)), real.add(2, SMALL.format(2))
        assert all("Unknown Error" in error for error in (await errors_of(calls, first, second)).values())
        assert real.instances() == [(1, 6, False), (2, 6, False)]
        assert await calls.unprepare(first) == {first.uid: ""}
        del real.node.claims.objects["default", "claim-2"]
        await driver.recovery.sweep()
        assert real.instances() == []


async def test_a_gpu_that_is_lost_and_comes_back(real: Real) -> None:
    found = await inventory.Inventory.take(real.probe)
    async with real.node.driver() as driver, real.node.kubelet() as calls:
        driver.state.parts.machine.current = found.current
        whole, cut = real.add(1, "gpu-0"), real.add(2, SMALL.format(7))
        assert set((await errors_of(calls, whole, cut)).values()) == {""}
        for gpu in (0, 7):
            machine.change(real.path, gpu, lost=1)
        (gone,) = (await calls.unprepare(cut)).values()
        assert "default/claim-2" in gone and "GPU is lost" in gone and "GPU-node-a-7" in gone
        await found.refresh()
        assert len(found.found.problems) == 2
        errors = await errors_of(calls, whole, cut)
        assert all("does not exist" in error for error in errors.values()), errors
        fresh = real.add(3, SMALL.format(6))
        assert (await errors_of(calls, fresh))["claim-3"] == ""
        assert await calls.unprepare(whole) == {whole.uid: ""}
        for gpu in (0, 7):
            machine.change(real.path, gpu, lost=0)
        await found.refresh()
        assert set((await errors_of(calls, whole, cut)).values()) == {""}
        assert set((await calls.unprepare(whole, cut, fresh)).values()) == {""}
        assert real.instances() == []


async def keys(watched: watcher.Watcher) -> dict[str, list[tuple[str, str, str]]]:
    """Return key, value and effect of the taints that the watcher tells after a poll."""
    told: list[watcher.Taints] = []
    watched.tell(lambda found, by_name: told.append(by_name))
    await watched.start()
    return {
        name: [(one["key"].rpartition("/")[2], one.get("value", ""), one["effect"]) for one in found]
        for name, found in told[-1].items()
    }


async def test_rows_to_remap_taint_and_a_reset_clears(real: Real) -> None:
    watched = real.watcher()
    assert await keys(watched) == {}
    machine.change(real.path, 3, remap_pending=1, recovery=1)
    pending = [("recovery-action", "1", "NoSchedule"), ("row-remap", "pending", "NoSchedule")]
    assert {name: sorted(found) for name, found in (await keys(watched)).items()} == {"gpu-3": pending}
    machine.change(real.path, 3, remap_pending=0, remap_failed=1)
    assert ("row-remap", "failed", "NoExecute") in (await keys(watched))["gpu-3"]
    machine.change(real.path, 3, remap_failed=0, recovery=0)
    assert await keys(watched) == {}


async def test_events_taint_their_gpu_alone(real: Real) -> None:
    watched = real.watcher()
    await asyncio.to_thread(real.probe.wait, 0)
    machine.xid(real.path, 2, 94)  # a contained error: its page waits for a reset, new work stays away
    machine.xid(real.path, 4, 64)  # a row could not be remapped
    machine.event(real.path, 5, 2, 0)  # a double bit error
    assert watched._take(await asyncio.to_thread(real.probe.wait, 1))
    assert await keys(watched) == {
        "gpu-2": [("xid", "94", "NoSchedule")],
        "gpu-4": [("xid", "64", "NoExecute")],
        "gpu-5": [("ecc-event", "uncorrected", "NoSchedule")],
    }


async def test_a_gpu_that_does_not_answer_its_health_keeps_what_is_known_of_it(real: Real) -> None:
    watched = real.watcher()
    machine.change(real.path, 1, remap_failed=1)
    before = await keys(watched)
    assert [key for key, _, _ in before["gpu-1"]] == ["row-remap"]
    machine.rule(real.path, "nvmlDeviceGetRemappedRows", code=UNKNOWN, gpu=1)
    told = await keys(watched)
    assert ("unmonitored", "", "None") in told["gpu-1"]
    assert ("row-remap", "failed", "NoExecute") in told["gpu-1"], "silence is taken for health"
