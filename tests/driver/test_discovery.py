"""The discovered topology of every machine of the model is the machine itself, through the real binding."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dra_driver.probe import host, interface, roots
from scheduler.model import device, machines, node
from tests.hardware import library, machine, sysfs

CLUSTER = "a1b2c3d4-0000-4000-8000-00000000000f"


def fixture(kind: str) -> node.NodeTopology:
    """Return a machine; the rack's tray with a fabric that exists, since zeros stand for none."""
    return machines.nvl72("rack", CLUSTER, 7)[0] if kind == "gb200-nvl72" else machines.build(kind, "node-a")


def unnamed_switches(found: node.NodeTopology) -> node.NodeTopology:
    """Number the switches in the order of the devices: fixtures and sysfs name them differently."""
    names: dict[str, str] = {}

    def renamed(place: object) -> object:
        root, path, new = place.pcie_root, "", []
        for part in place.pcie_switch.split("/") if place.pcie_switch else []:
            path += "/" + part
            new.append(names.setdefault(root + path, str(len(names))))
        return replace(place, pcie_switch="/".join(new))

    return replace(found, gpus=tuple(map(renamed, found.gpus)), nics=tuple(map(renamed, found.nics)))


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Return a function that renders a machine and opens a probe on it."""
    probes = []

    def make(rendered: node.NodeTopology) -> interface.Probe:
        monkeypatch.setenv("MUSTER_NVML_STATE", str(machine.render(rendered, tmp_path)))
        sysfs.render(rendered, tmp_path / "root")
        root = roots.Root(tmp_path / "root")
        probes.append(host.probe(root, rendered.name, library.folder() / library.NAME))
        return probes[-1]

    yield make
    for probe in probes:
        probe.close()


def test_accelerators_are_found_beside_gpus(opened: object) -> None:
    cards = tuple(device.Accelerator(i, "npu", "Gaudi3", f"0000:e{i}:00.0", "", f"pci0000:e{i}", i) for i in range(2))
    wanted = replace(fixture("dgx-1v"), accelerators=cards)
    assert unnamed_switches(opened(wanted).discover().topology) == unnamed_switches(wanted)


@pytest.mark.parametrize("kind", machines.KINDS)
def test_discovers_the_machine(kind: str, opened: object) -> None:
    wanted = fixture(kind)
    found = opened(wanted).discover()
    assert unnamed_switches(found.topology) == unnamed_switches(wanted)
    assert found.problems == ()
    assert (found.driver_version, found.driver_release, found.cuda_version) == ("580.65.6", "580.65.06", "13.0.0")
    assert [found.gpus[gpu.uuid].minor for gpu in wanted.gpus] == list(range(len(wanted.gpus)))
    assert all(facts.total_functions == 16 and len(facts.functions) == 4 for facts in found.nics.values())
    assert [disk.pcie_root for disk in found.nvmes] == [wanted.gpus[0].pcie_root]


def test_a_lost_gpu_is_a_problem_and_the_others_are_found(opened: object, tmp_path: Path) -> None:
    probe = opened(fixture("hgx-h100"))
    machine.change(tmp_path / "nvml.state", 3, lost=1)
    found = probe.discover()
    assert len(found.topology.gpus) == 7
    assert found.problems == ("GPU 3: discovery: GPU is lost",)
    assert probe.reading("GPU-node-a-3").lost
    assert not probe.reading("GPU-node-a-2").lost


def test_a_link_that_is_down_is_counted_out(opened: object, tmp_path: Path) -> None:
    probe = opened(fixture("hgx-h100"))
    machine.link(tmp_path / "nvml.state", 0, 5, False)
    assert probe.discover().topology.link_counts()[0] == (0, *[17] * 7)
    assert probe.reading("GPU-node-a-0").links_down == (5,)


def test_events_and_readings(opened: object, tmp_path: Path) -> None:
    probe, state = opened(fixture("dgx-a100")), tmp_path / "nvml.state"
    assert probe.wait(0) == []
    machine.xid(state, 2, 79)
    machine.change(state, 2, remap_pending=1, recovery=1, ecc_uncorrected=4)
    (event,) = probe.wait(1)
    assert (event.gpu_uuid, event.kind, event.data, event.gpu_instance) == ("GPU-node-a-2", "xid", 79, -1)
    seen = probe.reading("GPU-node-a-2")
    assert (seen.remap_pending, seen.recovery_action, seen.ecc_uncorrected) == (True, 1, 4)
    machine.rule(state, "nvmlDeviceGetPowerUsage", code=999)
    assert probe.reading("GPU-node-a-2").failing == {"nvmlDeviceGetPowerUsage": "Unknown Error"}
