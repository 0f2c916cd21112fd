"""What the counters in our slices let a scheduler allocate, the hardware can make; and no two placements ever overlap.

Random claims are allocated by the counters alone, as a scheduler does, then prepared through the real binding.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dra_driver import claim
from dra_driver import state as driver_state
from dra_driver.probe import nvml, roots
from scheduler.model import node, slices
from tests.driver import first_fit, host, objects
from tests.hardware import library, machine, state, sysfs

KINDS = ("dgx-a100", "hgx-h100", "hgx-h200", "hgx-b200", "a100-pcie-pairs")
GPUS = (0, 1)
EXHAUSTED = 23


def only(found: node.NodeTopology, count: int) -> node.NodeTopology:
    """Return a machine with its first GPUs alone, all in MIG mode."""
    gpus = tuple(replace(gpu, mig_enabled=True) for gpu in found.gpus[:count])
    return replace(found, gpus=gpus, nics=(), nvlinks=(), nvswitches=0)


class Placements(RuleBasedStateMachine):
    @initialize(kind=st.sampled_from(KINDS))
    def begin(self, kind: str) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="muster-"))
        found = only(host.machine(kind), len(GPUS))
        host.lay_out(self.root, found)
        self.path = machine.render(found, self.root / "nvml")
        for index in GPUS:
            for number in range(1, 15):
                sysfs._capability(made(self.root, index, number) / "access", 200 * index + number)
                sysfs._capability(made(self.root, index, number) / "ci0/access", 200 * index + 100 + number)
        self.patch = pytest.MonkeyPatch()
        self.patch.setenv("MUSTER_NVML_STATE", str(self.path))
        self.probe = nvml.NvmlProbe(roots.Root(self.root), "node-a", library.folder() / library.NAME)
        self.api = host.Claims()
        self.state = driver_state.State(host.parts(self.root, found, self.api, hardware=self.probe))
        self.allocator = first_fit.Allocator(slices.encode(found))
        self.held: dict[str, tuple[claim.Reference, list[dict[str, Any]]]] = {}
        self.count = 0

    def teardown(self) -> None:
        if hasattr(self, "probe"):
            asyncio.run(self.state.close())
            self.probe.close()
            self.patch.undo()
            shutil.rmtree(self.root)

    @rule(pick=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=3), fails=st.sampled_from([0, 0, 0, 1]))
    def claim(self, pick: list[float], fails: int) -> None:
        """Some devices, each only if the counters still allow it; the hardware may fail once."""
        names = sorted({self.allocator.devices[int(p * len(self.allocator.devices))]["name"] for p in pick})
        wanted = [first_fit.Request(lambda entry, name=name: entry["name"] == name) for name in names]
        entries = self.allocator.allocate(*wanted)
        if entries is None:
            return
        self.count += 1
        reference = self.api.add(objects.claim(self.count, *names))
        self.held[reference.uid] = reference, entries
        if fails:
            machine.rule(self.path, "nvmlDeviceCreateGpuInstanceWithPlacement", code=EXHAUSTED, times=1)
            with pytest.raises(RuntimeError, match="Insufficient Resources"):
                asyncio.run(self.prepare(reference))
            machine.clear(self.path)
        asyncio.run(self.prepare(reference))

    async def prepare(self, reference: claim.Reference) -> None:
        await self.state.prepare(reference, await self.state.wanted(reference))

    @rule(pick=st.floats(0, 1, exclude_max=True))
    def give_back(self, pick: float) -> None:
        if self.held:
            uid = sorted(self.held)[int(pick * len(self.held))]
            reference, entries = self.held.pop(uid)
            asyncio.run(self.state.unprepare(reference.uid))
            self.allocator.release(entries)

    @invariant()
    def placements_are_those_of_the_claims_and_do_not_overlap(self) -> None:
        if not hasattr(self, "held"):
            return
        with state.changed(self.path) as found:
            rows = [(i, row.start, row.size) for i in GPUS for row in found.gpu[i].instance if row.used]
        taken = [(gpu, start + offset) for gpu, start, size in rows for offset in range(size)]
        assert len(taken) == len(set(taken))
        assert len(rows) == sum(len(entries) for _, entries in self.held.values())


def made(root: Path, index: int, number: int) -> Path:
    """Make the folder of a GPU instance's capabilities."""
    folder = root / f"proc/driver/nvidia/capabilities/gpu{index}/mig/gi{number}"
    (folder / "ci0").mkdir(parents=True, exist_ok=True)
    return folder


Placements.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestPlacements = Placements.TestCase
