"""The discovered topology of every machine of the model is the machine itself, through the real binding."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from dra_driver import host_files, mig
from dra_driver.probe import host, interface, roots
from scheduler.model import device, distance, machines, node, slices
from tests.hardware import library, machine, sysfs

CLUSTER = "a1b2c3d4-0000-4000-8000-00000000000f"


def fixture(kind: str) -> node.NodeTopology:
    """Return a machine; the rack's tray with a fabric that exists, since zeros stand for none."""
    return machines.nvl72("rack", CLUSTER, 7)[0] if kind == "gb200-nvl72" else machines.build(kind, "node-a")


def driven(machine: node.NodeTopology) -> node.NodeTopology:
    """Return a machine with the driver of the stand-in, whose release is ``580.65.06``."""
    return replace(machine, driver_version="580.65.6", cuda_version="13.0.0")


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

    def make(
        rendered: node.NodeTopology, folder: str = "", minors: Sequence[int] = range(node.MAX_GPUS)
    ) -> interface.Probe:
        for probe in probes:
            probe.close()  # the library has one state
        probes.clear()
        home = tmp_path / folder
        monkeypatch.setenv("MUSTER_NVML_STATE", str(machine.render(rendered, home, minors)))
        sysfs.render(rendered, home / "root", minors=minors)
        root = roots.Root(home / "root")
        probes.append(host.probe(root, rendered.name, library.folder() / library.NAME))
        return probes[-1]

    yield make
    for probe in probes:
        probe.close()


def test_accelerators_are_found_beside_gpus(opened: object) -> None:
    cards = tuple(device.Accelerator(i, "npu", "Gaudi3", f"0000:e{i}:00.0", "", f"pci0000:e{i}", i) for i in range(2))
    wanted = replace(fixture("dgx-1v"), accelerators=cards)
    assert unnamed_switches(opened(wanted).discover().topology) == unnamed_switches(driven(wanted))


@pytest.mark.parametrize("kind", machines.KINDS)
def test_discovers_the_machine(kind: str, opened: object) -> None:
    wanted = fixture(kind)
    found = opened(wanted).discover()
    assert unnamed_switches(found.topology) == unnamed_switches(driven(wanted))
    assert (found.problems, found.unlinked, found.driver_release) == ((), (), "580.65.06")
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


@pytest.mark.parametrize("call", ["nvmlDeviceGetNvLinkRemotePciInfo_v2", "nvmlDeviceGetNvLinkState"])
def test_links_that_cannot_be_read_cost_the_other_gpus_nothing(call: str, opened: object, tmp_path: Path) -> None:
    """On a mesh the peers tell of the links; behind switches the GPU has none."""
    for kind, left in (("dgx-1v", 6), ("hgx-h100", 0)):
        wanted = fixture(kind)
        probe = opened(wanted, kind)
        machine.rule(tmp_path / kind / "nvml.state", call, code=999, gpu=3)
        found = probe.discover()
        assert len(found.topology.gpus) == 8 and found.unlinked == ("GPU-node-a-3",)
        assert found.problems == ("gpu-3: NVLinks: Unknown Error",)
        counts = [list(row) for row in wanted.link_counts()]
        for other in range(8 if not left else 0):
            counts[3][other] = counts[other][3] = 0
        assert [list(row) for row in found.topology.link_counts()] == counts


def test_facts_that_cannot_be_read_cost_nothing_else(opened: object, tmp_path: Path) -> None:
    probe = opened(fixture("dgx-a100"))
    machine.rule(tmp_path / "nvml.state", "nvmlDeviceGetMinorNumber", code=999, gpu=2)
    found = probe.discover()
    assert len(found.topology.gpus) == 8 and found.problems == ("gpu-2: facts: Unknown Error",)
    assert found.gpus["GPU-node-a-2"].minor == -1 and found.gpus["GPU-node-a-3"].minor == 3


def test_one_gpu_with_more_memory_does_not_cost_the_node(opened: object, tmp_path: Path) -> None:
    """As with error correction off on one of them."""
    probe = opened(fixture("l40s-8"))
    machine.change(tmp_path / "nvml.state", 3, memory_total=49_140 << 20)
    found = probe.discover()
    assert {gpu.model.memory_mib for gpu in found.topology.gpus} == {46_068} and len(found.topology.gpus) == 8
    (problem,) = found.problems
    assert problem.startswith("gpu-3: published as the L40S with 46068 MiB")


def test_more_gpus_than_are_supported_are_told(opened: object, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = opened(fixture("dgx-2"))
    monkeypatch.setattr(node, "MAX_GPUS", 8)
    with pytest.raises(mig.HardwareError, match="node 'node-a': gpus: 16 GPUs, at most 8 are supported"):
        probe.discover()


def test_nics_beyond_the_most_are_told(opened: object, monkeypatch: pytest.MonkeyPatch) -> None:
    built = fixture("dgx-1v")
    more = tuple(device.Nic(i, f"mlx5_{i}", 100, f"0000:{0xC0 + i:02x}:00.0") for i in range(4, 34))
    with monkeypatch.context() as patched:
        patched.setattr(node, "MAX_NICS", 64)
        probe = opened(replace(built, nics=(*built.nics, *(replace(nic, pcie_root="pci0000:c0") for nic in more))))
    found = probe.discover()
    assert [nic.name for nic in found.topology.nics] == [f"mlx5_{i}" for i in range(32)]
    assert found.problems == ("34 NICs, at most 32 are published; left out: mlx5_32, mlx5_33",)


def test_device_nodes_have_the_numbers_of_the_kernel_and_not_ours(opened: object, tmp_path: Path) -> None:
    minors = [5, 2, 7, 0, 1, 6, 3, 4]
    found = opened(fixture("dgx-a100"), minors=minors).discover()
    assert [found.gpus[gpu.uuid].minor for gpu in found.topology.gpus] == minors
    assert [gpu.name for gpu in found.topology.gpus] == [f"gpu-{i}" for i in range(8)]
    files = host_files.HostFiles(tmp_path / "root")
    for gpu, minor in zip(found.topology.gpus, minors, strict=True):
        assert files.minor(gpu.pci_bus_id) == minor
        assert [one.path for one in files.gpu_nodes(minor)] == [f"/dev/nvidia{minor}"]
        assert len(files.mig_nodes(files.minor(gpu.pci_bus_id), 1, 0)) == 3


def test_a_gpu_below_many_switches_fits_into_an_attribute(opened: object) -> None:
    built = fixture("dgx-1v")
    deep = "/".join("abcdef")  # six ports of twelve characters
    gpus = tuple(replace(gpu, pcie_switch=f"{deep}/{gpu.index // 2}", pcie_root="pci0000:00") for gpu in built.gpus)
    found = opened(replace(built, gpus=gpus)).discover().topology
    paths = [gpu.pcie_switch for gpu in found.gpus]
    assert all(len(path) <= 64 for path in paths)
    assert [distance.between(found.gpus[0], gpu).name for gpu in found.gpus[1:3]] == ["PIX", "PXB"]
    assert slices.decode(slices.encode(found)).gpus == found.gpus


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
