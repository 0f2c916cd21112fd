"""A GPU that does not answer any more stays published in its place, until it is back; names outlive the driver."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dra_driver import checkpoint, faultpoint, inventory, known, naming, prepared
from dra_driver.health import kept, source, taints, watcher
from dra_driver.probe import host, interface, roots
from scheduler.model import device, machines, node, slices
from tests.hardware import library, machine, sysfs

EIGHT = [f"gpu-{i}" for i in range(8)]


def without(found: node.NodeTopology, *lost: int) -> node.NodeTopology:
    """Return a node as discovery tells it after the vendor's driver was loaded anew without some GPUs: all is counted anew."""
    left = [gpu for gpu in found.gpus if gpu.index not in lost]
    index = {gpu.index: i for i, gpu in enumerate(left)}
    links = [link for link in found.nvlinks if link.a in index and link.b in index]
    return replace(
        found,
        gpus=tuple(replace(gpu, index=index[gpu.index], device_name="") for gpu in left),
        nvlinks=tuple(replace(link, a=index[link.a], b=index[link.b]) for link in links),
    )


def names(found: node.NodeTopology) -> dict[str, str]:
    return {gpu.uuid: gpu.name for gpu in found.gpus}


@pytest.mark.parametrize("kind", ["dgx-1v", "hgx-h100"])
@pytest.mark.parametrize("lost", [(0,), (3, 7), (0, 1, 2)])
def test_what_is_lost_keeps_its_place_and_links(kind: str, lost: tuple[int, ...]) -> None:
    whole = machines.build(kind, "node-a")
    before = naming.merged(whole, known.Known())
    assert before.machine == whole
    after = naming.merged(without(whole, *lost), before)
    assert after == before
    assert names(naming.present(after.machine, names(without(whole, *lost)))).items() <= names(whole).items()
    assert naming.merged(whole, after) == before


def test_what_else_changed_is_taken_over() -> None:
    whole = machines.build("dgx-a100", "node-a")
    cut = replace(whole, gpus=tuple(replace(gpu, mig_enabled=gpu.index == 2) for gpu in whole.gpus))
    found = naming.merged(without(cut, 5), naming.merged(whole, known.Known())).machine
    assert [gpu.mig_enabled for gpu in found.gpus] == [False, False, True, *[False] * 5]


def test_a_lost_gpu_does_not_keep_the_model_of_an_older_driver() -> None:
    """Two models of one name would be no node."""
    whole = machines.build("dgx-a100", "node-a")
    before = naming.merged(whole, known.Known())
    newer = replace(whole.gpus[0].model, memory_mib=80_000)
    now = replace(whole, gpus=tuple(replace(gpu, model=newer) for gpu in whole.gpus))
    after = naming.merged(without(now, 2), before).machine
    assert {gpu.model.memory_mib for gpu in after.gpus} == {80_000} and len(after.gpus) == 8


def test_another_card_in_the_slot_of_a_lost_one_has_its_name() -> None:
    whole = machines.build("dgx-1v", "node-a")
    changed = replace(whole, gpus=(*whole.gpus[:2], replace(whole.gpus[2], uuid="GPU-new"), *whole.gpus[3:]))
    after = naming.merged(changed, naming.merged(whole, known.Known()))
    assert after.machine == changed and "GPU-node-a-2" not in after.names
    elsewhere = replace(changed.gpus[2], pci_bus_id="0000:ff:00.0")
    moved = replace(whole, gpus=(*whole.gpus[:2], elsewhere, *whole.gpus[3:]))
    both = naming.merged(moved, naming.merged(whole, known.Known()))
    assert names(both.machine) == names(whole) | {"GPU-new": "gpu-8"}


def test_nics_and_accelerators_keep_their_names() -> None:
    cards = tuple(device.Accelerator(i, "npu", "Gaudi3", f"0000:e{i}:00.0", "", f"pci0000:e{i}", i) for i in range(3))
    whole = replace(machines.build("hgx-h100", "node-a"), accelerators=cards)
    before = naming.merged(whole, known.Known())
    fewer = replace(
        whole,
        nics=tuple(replace(nic, index=i) for i, nic in enumerate(whole.nics[1:])),
        accelerators=tuple(replace(card, index=i) for i, card in enumerate(cards[1:])),
    )
    after = naming.merged(fewer, before)
    assert [nic.device_name for nic in after.machine.nics] == [nic.device_name for nic in whole.nics[1:]]
    assert [card.device_name for card in after.machine.accelerators] == ["accelerator-1", "accelerator-2"]
    assert naming.merged(replace(whole, nics=whole.nics), after).machine == whole
    decoded = slices.decode(slices.encode(after.machine))
    assert (decoded.nics, decoded.accelerators) == (after.machine.nics, after.machine.accelerators)


def test_more_gpus_than_a_node_may_have_forget_lost_ones() -> None:
    whole = machines.build("dgx-2", "node-a")
    new = tuple(replace(gpu, uuid=f"GPU-x-{gpu.index}", pci_bus_id=f"0000:f{gpu.index:x}:00.0") for gpu in whole.gpus)
    after = naming.merged(replace(whole, gpus=new), naming.merged(whole, known.Known())).machine
    assert {gpu.uuid for gpu in after.gpus} == {gpu.uuid for gpu in new}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sets(st.integers(0, 7), max_size=7), max_size=8))
def test_a_name_means_one_gpu_for_ever(losses: list[set[int]]) -> None:
    whole, now, meant = machines.build("dgx-1v", "node-a"), known.Known(), {}
    for lost in losses:
        now = naming.merged(without(whole, *lost), now)
        for gpu in now.machine.gpus:
            assert meant.setdefault(gpu.name, gpu.uuid) == gpu.uuid
        assert {gpu.uuid for gpu in whole.gpus if gpu.index not in lost} <= names(now.machine).keys()
    if losses:
        assert names(naming.merged(whole, now).machine).items() >= names(now.machine).items()


# With the file, the real binding and its stand-in


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[node.NodeTopology], interface.Probe]]:
    """Return a function that starts the vendor's driver anew on a machine, and opens a probe."""
    probes: list[interface.Probe] = []

    def make(rendered: node.NodeTopology) -> interface.Probe:
        for probe in probes:
            probe.close()
        monkeypatch.setenv("MUSTER_NVML_STATE", str(machine.render(rendered, tmp_path)))
        if not probes:
            sysfs.render(rendered, tmp_path / "root")
        probes[:] = [host.probe(roots.Root(tmp_path / "root"), "node-a", library.folder() / library.NAME)]
        return probes[0]

    yield make
    for probe in probes:
        probe.close()


async def test_a_lost_gpu_is_published_and_not_prepared(opened: Callable, tmp_path: Path) -> None:
    want = machines.build("dgx-1v", "node-a")
    held = await inventory.Inventory.take(opened(want), known.File(tmp_path))
    told: list[node.NodeTopology] = []
    held.tell(told.append)
    machine.change(tmp_path / "nvml.state", 3, lost=1)
    await held.refresh()
    assert [gpu.name for gpu in held.published.gpus] == EIGHT
    assert [gpu.name for gpu in held.current().gpus] == [name for name in EIGHT if name != "gpu-3"]
    assert told == [held.published] and held.published.nvlinks == want.nvlinks
    machine.change(tmp_path / "nvml.state", 3, lost=0)
    await held.refresh()
    assert held.current() == held.published == told[-1] and len(held.published.gpus) == 8


async def test_names_outlive_a_driver_that_was_loaded_without_a_gpu(opened: Callable, tmp_path: Path) -> None:
    """The library counts seven GPUs then; claims by name must still mean the same hardware."""
    want = machines.build("dgx-1v", "node-a")
    first = await inventory.Inventory.take(opened(want), known.File(tmp_path))
    assert names(first.published) == names(want)
    after = await inventory.Inventory.take(opened(without(want, 2)), known.File(tmp_path))
    assert names(after.published) == names(want) and after.published.nvlinks == want.nvlinks
    assert names(after.current()) == {uuid: name for uuid, name in names(want).items() if name != "gpu-2"}
    (problem,) = after.missing()
    assert problem.startswith("gpu-2 (GPU-node-a-2) was here before and does not answer")


async def test_a_gpu_that_is_lost_at_the_start_is_tainted(opened: Callable, tmp_path: Path) -> None:
    want = machines.build("dgx-1v", "node-a")
    await inventory.Inventory.take(opened(want), known.File(tmp_path))
    probe = opened(without(want, 2))
    after = await inventory.Inventory.take(probe, known.File(tmp_path))
    times, faults = taints.Times(tmp_path / "taints.json"), kept.Faults(tmp_path / "faults.json", "boot")
    watching = watcher.Watcher(probe, after.published, source.Source("node-a"), times, faults)
    told: list[tuple[node.NodeTopology, watcher.Taints]] = []
    watching.tell(lambda machine, found: told.append((machine, found)))
    await watching.start()
    ((published, by_name),) = told
    assert published == after.published and list(by_name) == ["gpu-2"]
    assert [(taint["key"], taint["effect"]) for taint in by_name["gpu-2"]] == [("gpu.muster.dev/gpu-lost", "NoExecute")]


async def test_two_instances_give_one_name_to_a_gpu_that_is_new(opened: Callable, tmp_path: Path) -> None:
    """While one instance gives way to the next, both discover; what the one called a GPU the other calls it too."""
    want = machines.build("dgx-1v", "node-a")
    old = await inventory.Inventory.take(opened(without(want, 1, 5)), known.File(tmp_path))
    probe = opened(want)
    new = await inventory.Inventory.take(probe, known.File(tmp_path))
    old.probe = probe
    await old.refresh()
    assert names(old.published) == names(new.published)
    assert names(old.published) | {"GPU-node-a-1": "gpu-6", "GPU-node-a-5": "gpu-7"} == names(old.published)


async def test_links_that_cannot_be_read_for_a_while_stay_as_they_were(opened: Callable, tmp_path: Path) -> None:
    want = machines.build("hgx-h100", "node-a")
    held = await inventory.Inventory.take(opened(want), known.File(tmp_path))
    machine.rule(tmp_path / "nvml.state", "nvmlDeviceGetNvLinkRemotePciInfo_v2", code=999, gpu=3)
    await held.refresh()
    assert held.found.unlinked == ("GPU-node-a-3",)
    assert held.published.nvlinks == held.current().nvlinks == want.nvlinks and held.published.machine == "hgx-h100"


async def test_a_discovery_that_makes_no_node_leaves_the_last(
    opened: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = await inventory.Inventory.take(opened(machines.build("dgx-1v", "node-a")), known.File(tmp_path))
    machine.change(tmp_path / "nvml.state", 3, lost=1)
    monkeypatch.setattr(node, "MAX_GPUS", 4)
    await held.refresh()
    assert [gpu.name for gpu in held.published.gpus] == EIGHT


def test_a_file_that_cannot_be_read_is_set_aside_and_names_of_claims_stay(tmp_path: Path) -> None:
    whole = machines.build("dgx-1v", "node-a")
    (tmp_path / "devices.json").write_text('{"machine": {"name": ')
    held = {"GPU-node-a-3": "gpu-2", "GPU-node-a-2": "gpu-3"}
    found = known.File(tmp_path, lambda: held).change(lambda before: naming.merged(whole, before))
    assert (tmp_path / "devices.corrupt").exists()
    assert names(found.machine) == names(whole) | held
    assert json.loads((tmp_path / "devices.json").read_text())["names"]["GPU-node-a-3"] == "gpu-2"


async def test_names_of_prepared_claims(tmp_path: Path) -> None:
    store = checkpoint.Store(tmp_path)
    whole = prepared.Device(prepared.Kind.GPU, "r", "node-a", "gpu-4", uuid="GPU-4", gpu_uuid="GPU-4")
    part = prepared.Device(prepared.Kind.MIG, "r", "node-a", "gpu-1-mig-1g10gb-19-6", gpu_uuid="GPU-1")
    nic = prepared.Device(prepared.Kind.NIC, "r", "node-a", "nic-3", pci_bus_id="0000:1b:00.0")
    claim = prepared.Claim("ns", "c", "uid", 1, "", prepared.Phase.COMPLETED, (whole, part, nic))
    await store.change(lambda before: before.having(claim))
    assert known.held(store) == {"GPU-4": "gpu-4", "GPU-1": "gpu-1", "0000:1b:00.0": "nic-3"}
    store.path.write_text("{")
    assert known.held(store) == {}


def test_a_disk_that_takes_nothing_costs_the_memory_alone(tmp_path: Path) -> None:
    whole = machines.build("dgx-1v", "node-a")
    file = known.File(tmp_path / "gone")  # no folder: no file can be made in it
    assert names(file.change(lambda before: naming.merged(whole, before)).machine) == names(whole)
    again = file.change(lambda before: naming.merged(without(whole, 2), before))
    assert names(again.machine) == names(whole)


def test_killed_before_the_file_is_in_place_the_old_names_hold(tmp_path: Path) -> None:
    """SIGKILL with the new file written beside the old one."""
    code = (
        "import sys; from pathlib import Path; from dra_driver import known, naming; from scheduler.model import machines;"
        "known.File(Path(sys.argv[1])).change(lambda b: naming.merged(machines.build(sys.argv[2], 'node-a'), b))"
    )

    def change(kind: str, point: str = "") -> int:
        env = os.environ | {faultpoint.VARIABLE: point}
        return subprocess.run([sys.executable, "-c", code, str(tmp_path), kind], env=env, timeout=60).returncode

    assert change("dgx-1v") == 0
    before = (tmp_path / "devices.json").read_bytes()
    assert change("dgx-2", "devices-temporary-written") == -signal.SIGKILL
    assert (tmp_path / "devices.json").read_bytes() == before
    assert change("dgx-2") == 0 and (tmp_path / "devices.json").read_bytes() != before
