"""MIG instances through the real binding: made, listed, refused, removed."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from dra_driver import mig
from dra_driver.probe import nvml, roots
from scheduler.model import machines
from tests.hardware import library, machine, state

UUID = "GPU-node-a-0"


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> nvml.NvmlProbe:
    found = machines.build("dgx-a100", "node-a")
    cut = replace(found, gpus=tuple(replace(gpu, mig_enabled=gpu.index == 0) for gpu in found.gpus))
    monkeypatch.setenv("MUSTER_NVML_STATE", str(machine.render(cut, tmp_path)))
    made = nvml.NvmlProbe(roots.Root(tmp_path), "node-a", library.folder() / library.NAME)
    yield made
    made.close()


def test_an_instance_from_birth_to_death(probe: nvml.NvmlProbe) -> None:
    made = probe.create_gpu_instance(UUID, 9, 4)
    assert (made.profile_id, made.start, made.size, made.compute_instance) == (9, 4, 4, -1)
    whole = probe.create_compute_instance(made)
    assert whole.compute_instance == 0
    assert whole.uuid.startswith("MIG-")
    assert probe.instances(UUID) == [whole]
    with pytest.raises(mig.HardwareError, match=r"GPU-node-a-0: destroy GPU instance 1: In use"):
        probe.destroy_gpu_instance(whole)
    probe.destroy_compute_instance(whole)
    assert probe.instances(UUID) == [made]
    probe.destroy_gpu_instance(made)
    assert probe.instances(UUID) == []


def test_a_mig_device_tells_its_own_memory(probe: nvml.NvmlProbe, tmp_path: Path) -> None:
    made = [
        probe.create_compute_instance(probe.create_gpu_instance(UUID, profile, at)) for profile, at in ((9, 4), (19, 0))
    ]
    with state.changed(tmp_path / "nvml.state") as found:
        row = found.gpu[0]
        row.process[0] = state.Process(7, made[1].gpu_instance, 3 << 30)
        row.processes, row.memory_used = 1, 5 << 30
        sizes = {one.id: one.memory_mib << 20 for one in row.profile[: row.profiles]}
    seen = probe.reading(UUID)
    assert seen.parts == ((made[0].gpu_instance, 0, sizes[9]), (made[1].gpu_instance, 3 << 30, sizes[19]))
    assert (seen.memory_used, seen.memory_total, seen.failing) == (5 << 30, row.memory_total, {})
    assert probe.reading("GPU-node-a-1").parts == ()


def test_clocks_energy_and_traffic(probe: nvml.NvmlProbe, tmp_path: Path) -> None:
    said = {"sm_mhz": 1410, "memory_mhz": 1215, "pcie_replays": 3, "pcie_tx": 70, "pcie_rx": 80, "energy_mj": 1 << 40,
            "pcie_tx_bytes": 1 << 41, "pcie_rx_bytes": 1 << 42}  # fmt: skip
    machine.change(tmp_path / "nvml.state", 1, memory_celsius=66, encoder_percent=4, decoder_percent=5, **said)
    seen = probe.reading("GPU-node-a-1")
    assert {name: getattr(seen, name) for name in said} == said
    assert (seen.memory_temperature, seen.encoder_utilization, seen.decoder_utilization) == (66, 4, 5)


def test_data_over_all_nvlinks(probe: nvml.NvmlProbe, tmp_path: Path) -> None:
    machine.change(tmp_path / "nvml.state", 1, nvlink_tx_kib=1 << 33, nvlink_rx_kib=5, nvlink_at_us=77)
    seen = probe.reading("GPU-node-a-1")
    assert (seen.nvlink_kib, seen.nvlink_at_us) == ((1 << 33) + 5, 77)
    machine.change(tmp_path / "nvml.state", 1, nvlink_at_us=0)
    before_us = time.time_ns() // 1000
    assert before_us <= probe.reading("GPU-node-a-1").nvlink_at_us <= time.time_ns() // 1000
    machine.change(tmp_path / "nvml.state", 1, links=0)
    assert probe.reading("GPU-node-a-1").nvlink_kib is None


@pytest.mark.parametrize(
    ("licences", "of_vgpu", "state_of_it", "told"),
    [(0, 0, 0, False), (2, 0, 0, None), (2, 1, 0, False), (3, 1, 1, True)],
)
def test_licence_of_a_vgpu(
    probe: nvml.NvmlProbe, tmp_path: Path, licences: int, of_vgpu: int, state_of_it: int, told: bool | None
) -> None:
    machine.change(tmp_path / "nvml.state", 1, licences=licences, vgpu_feature=of_vgpu, vgpu_licensed=state_of_it)
    assert probe.reading("GPU-node-a-1").vgpu_licensed is told


def test_a_driver_that_knows_no_licences_is_no_fault(probe: nvml.NvmlProbe, tmp_path: Path) -> None:
    machine.rule(tmp_path / "nvml.state", "nvmlDeviceGetGridLicensableFeatures_v4", code=3)
    seen = probe.reading("GPU-node-a-1")
    assert (seen.vgpu_licensed, seen.failing) == (None, {})


def test_overlaps_and_wrong_starts_are_refused(probe: nvml.NvmlProbe) -> None:
    probe.create_gpu_instance(UUID, 9, 0)
    with pytest.raises(mig.HardwareError, match="Insufficient Resources"):
        probe.create_gpu_instance(UUID, 19, 3)
    with pytest.raises(mig.HardwareError, match="cannot start at 1"):
        probe.create_gpu_instance(UUID, 14, 1)


def test_instances_outlive_the_session(probe: nvml.NvmlProbe, tmp_path: Path) -> None:
    probe.create_gpu_instance(UUID, 19, 6)
    before = probe.instances(UUID)
    other = (tmp_path / "nvml.state").read_bytes()
    assert before
    assert other != b""
    probe.close()
    probe.__init__(roots.Root(tmp_path), "node-a")
    assert probe.instances(UUID) == before
