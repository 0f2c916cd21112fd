"""Rows of devices and their users, and what is written of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import prometheus_client
import pytest
from prometheus_client import metrics_core

from dra_driver import mig, prepared
from dra_driver.health import model, severity
from dra_driver.metrics import dcgm, otel, own, rows, users
from dra_driver.probe import interface
from scheduler.model import machines
from tests.driver import host, metrics

MACHINE = host.machine("hgx-h100", mig_gpus=(1,))
GPU, CUT, LOST = (MACHINE.gpus[i].uuid for i in (0, 1, 2))
PROFILE = next(one for one in MACHINE.gpus[1].model.mig if one.name == "2g.20gb")
MIB = 1 << 20


def entry(number: int, *devices: prepared.Device, phase: prepared.Phase = prepared.Phase.COMPLETED) -> prepared.Claim:
    uid = f"uid-{number}"
    return prepared.Claim("ml", f"claim-{number}", uid, 1, "", phase, devices)


def whole(index: int, share_id: str = "") -> prepared.Device:
    gpu = MACHINE.gpus[index]
    return prepared.Device(
        prepared.Kind.GPU, "r", MACHINE.name, gpu.name, gpu.uuid, gpu.uuid, share_id=share_id, milli=500
    )


def part(start: int) -> prepared.Device:
    gpu = MACHINE.gpus[1]
    place = prepared.Partition(PROFILE.name, PROFILE.profile_id, start, PROFILE.memory_slices)
    name = gpu.partition_name(PROFILE, start)
    return prepared.Device(prepared.Kind.MIG, "r", MACHINE.name, name, gpu.uuid, "MIG-1", partition=place)


def held(*entries: prepared.Claim) -> prepared.Checkpoint:
    return prepared.Checkpoint("boot", claims={one.uid: one for one in entries})


def told(*pods: object) -> users.Containers:
    answer = metrics.messages.ListPodResourcesResponse(pod_resources=pods)
    return users.containers(answer, host.DRIVER)


def pod(name: str, claim: str, *devices: str, **more: str) -> object:
    return metrics.pod(name, claim, *devices, driver=more.pop("driver", host.DRIVER), pool=MACHINE.name, **more)


READING = interface.Reading(
    GPU,
    ecc_corrected=3,
    ecc_uncorrected=1,
    memory_total=80 * 1024 * MIB,
    memory_used=20 * 1024 * MIB + 5,
    utilization=42,
    memory_utilization=7,
    power_mw=350_500,
    temperature=61,
    links_down=(2, 4),
    sm_mhz=1980,
    memory_mhz=2619,
    memory_temperature=70,
    energy_mj=9_000_000_000,
    pcie_replays=6,
    pcie_tx=800,
    pcie_rx=900,
    pcie_tx_bytes=5 << 40,
    pcie_rx_bytes=6 << 40,
    encoder_utilization=11,
    decoder_utilization=12,
    remap_failed=False,
    nvlink_kib=70_000_000,
    nvlink_at_us=9_000_000,
    vgpu_licensed=False,
)


def seen(**more: object) -> rows.Seen:
    found = interface.Discovered(MACHINE, driver_release="580.65.06")
    return rows.Seen(found, more.pop("readings", {GPU: READING}), **more)


def text(looked: rows.Seen) -> str:
    """Return all families in the text format."""

    class Collector:
        def collect(self) -> Iterable[metrics_core.Metric]:
            found = list(rows.rows(looked))
            yield from dcgm.families(found, "node-a", host.DRIVER, looked.found.driver_release)
            yield from otel.families(found, "node-a", looked.found.driver_release)
            yield from own.families(found, "node-a", own.Driver(1, True, ""))

    registry = prometheus_client.CollectorRegistry()
    registry.register(Collector())
    return prometheus_client.generate_latest(registry).decode()


def test_values_have_the_units_of_dcgm_and_of_opentelemetry() -> None:
    said = text(seen(xids={GPU: 79}, ages={GPU: 12.5}))
    expected = {
        "DCGM_FI_DEV_GPU_UTIL": 42,
        "DCGM_FI_DEV_MEM_COPY_UTIL": 7,
        "DCGM_FI_DEV_FB_USED": 20 * 1024,
        "DCGM_FI_DEV_FB_FREE": 60 * 1024 - 1,
        "DCGM_FI_DEV_GPU_TEMP": 61,
        "DCGM_FI_DEV_POWER_USAGE": 350.5,
        "DCGM_FI_DEV_SM_CLOCK": 1980,
        "DCGM_FI_DEV_MEM_CLOCK": 2619,
        "DCGM_FI_DEV_MEMORY_TEMP": 70,
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": 9_000_000_000,
        "DCGM_FI_DEV_PCIE_REPLAY_COUNTER": 6,
        "DCGM_FI_DEV_PCIE_TX_THROUGHPUT": 800,
        "DCGM_FI_DEV_PCIE_RX_THROUGHPUT": 900,
        "DCGM_FI_DEV_ENC_UTIL": 11,
        "DCGM_FI_DEV_DEC_UTIL": 12,
        "DCGM_FI_DEV_XID_ERRORS": 79,
        "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL": 3,
        "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL": 1,
        "DCGM_FI_DEV_ROW_REMAP_FAILURE": 0,
        "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL": 0,
        "DCGM_FI_DEV_VGPU_LICENSE_STATUS": 0,
        "hw_gpu_utilization_ratio": 0.42,
        "hw_gpu_memory_limit_bytes": 80 * 1024 * MIB,
        "hw_gpu_memory_usage_bytes": 20 * 1024 * MIB + 5,
        "hw_power_watts": 350.5,
        "hw_temperature_celsius": 61,
        "muster_gpu_nvlinks_down": 2,
        "muster_gpu_reading_age_seconds": 12.5,
    }
    assert {name: metrics.value(said, name) for name in expected} == expected
    assert metrics.value(said, "hw_errors_total", error_type="uncorrected") == 1
    assert metrics.value(said, "hw_gpu_io_bytes_total", network_io_direction="receive") == 6 << 40
    assert metrics.value(said, "hw_gpu_memory_utilization_ratio") == pytest.approx(0.25)
    assert not metrics.samples(said, "DCGM_FI_DEV_ROW_REMAP_PENDING"), "what a GPU does not tell is left out"


@pytest.mark.parametrize(
    ("before", "now", "rate"),
    [
        (None, READING, 0),
        (replace(READING, nvlink_kib=None), READING, 0),
        (replace(READING, nvlink_kib=69_900_000, nvlink_at_us=4_000_000), READING, 20),
        (replace(READING, nvlink_kib=69_995_001, nvlink_at_us=4_000_000), READING, 0),
        (replace(READING, nvlink_kib=71_000_000, nvlink_at_us=4_000_000), READING, 0),
        (replace(READING, nvlink_kib=1), READING, 0),
        (READING, replace(READING, nvlink_kib=None), None),
    ],
    ids=["first", "told-anew", "rate", "cut-to-whole", "went-back", "no-time", "untold"],
)
def test_nvlinks_have_a_rate(before: interface.Reading | None, now: interface.Reading, rate: int | None) -> None:
    said = text(seen(readings={GPU: now}, before={} if before is None else {GPU: before}))
    found = [value for _, value in metrics.samples(said, "DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL")]
    assert found == ([] if rate is None else [rate])


def test_a_device_has_the_labels_of_its_claim_pod_and_tenant() -> None:
    used = users.users(held(entry(1, whole(0))), told(pod("train-0", "claim-1", "gpu-0")))
    said = text(seen(used=used, tenants={("ml", "train-0"): "blue"}))
    ((labels, _),) = metrics.samples(said, "DCGM_FI_DEV_FB_USED")
    assert labels == {
        "gpu": "0",
        "UUID": GPU,
        "pci_bus_id": MACHINE.gpus[0].pci_bus_id,
        "device": "nvidia0",
        "modelName": MACHINE.gpus[0].model.name,
        "Hostname": "node-a",
        "DCGM_FI_DRIVER_VERSION": "580.65.06",
        "container": "main",
        "namespace": "ml",
        "pod": "train-0",
        "dra_claim_name": "claim-1",
        "dra_claim_namespace": "ml",
        "dra_driver_name": host.DRIVER,
        "dra_pool_name": MACHINE.name,
        "dra_device_name": "gpu-0",
        "tenant": "blue",
    }
    ((labels, _),) = metrics.samples(said, "hw_gpu_memory_usage_bytes")
    assert (labels["k8s_pod_name"], labels["hw_id"], labels["tenant"]) == ("train-0", GPU, "blue")


def test_a_claim_is_named_before_its_pod_is_known_and_not_after_it_is_unprepared() -> None:
    ((labels, _),) = metrics.samples(text(seen(used=users.users(held(entry(1, whole(0))), {}))), "DCGM_FI_DEV_FB_USED")
    assert labels["dra_claim_name"] == "claim-1" and "pod" not in labels
    stale = told(pod("train-0", "claim-1", "gpu-0"))
    for state in (held(), held(entry(1, whole(0), phase=prepared.Phase.STARTED))):
        ((labels, _),) = metrics.samples(text(seen(used=users.users(state, stale))), "DCGM_FI_DEV_FB_USED")
        assert "dra_claim_name" not in labels and "pod" not in labels


def test_other_drivers_devices_are_not_ours() -> None:
    assert told(pod("p", "claim-1", "gpu-0", driver="gpu.example.com")) == {}


def test_a_shared_gpu_has_a_series_for_each_of_its_users() -> None:
    state = held(entry(1, whole(0, "s1"), whole(0, "s2")), entry(2, whole(0, "s3")))
    pods = (pod("a", "claim-1", "gpu-0", share="s1"), pod("a", "claim-1", "gpu-0", share="s2"))
    used = users.users(state, told(*pods, pod("b", "claim-2", "gpu-0", share="s3")))
    said = text(seen(used=used))
    assert [labels["pod"] for labels, _ in metrics.samples(said, "DCGM_FI_DEV_GPU_UTIL")] == ["a", "b"]
    assert len(metrics.samples(said, "muster_gpu_nvlinks_down")) == 1, "its own metrics are there once"
    older = users.users(state, told(pod("a", "claim-1", "gpu-0"), pod("b", "claim-2", "gpu-0")))
    assert older == used, "a kubelet without share ids tells as much"


def test_a_gpu_with_very_many_users_has_one_series() -> None:
    state = held(*(entry(i, whole(0, f"s{i}")) for i in range(users.MAX_USERS + 1)))
    ((labels, _),) = metrics.samples(text(seen(used=users.users(state, {}))), "DCGM_FI_DEV_GPU_UTIL")
    assert "dra_claim_name" not in labels


def test_a_mig_device_has_its_own_memory() -> None:
    instance = mig.Instance(CUT, PROFILE.profile_id, 2, PROFILE.memory_slices, 5, 0, "MIG-1")
    broken = replace(instance, start=4, gpu_instance=6, compute_instance=-1, uuid="")
    # The processes of other containers are not to be seen from the driver's.
    reading = replace(READING, gpu_uuid=CUT, utilization=None, processes=(), parts=((5, 4 * MIB, 100 * MIB),))
    used = users.users(held(entry(1, part(2))), told(pod("slice", "claim-1", part(2).name)))
    said = text(seen(readings={CUT: reading}, instances={CUT: (instance, broken)}, used=used))
    ((labels, used_mib),) = metrics.samples(said, "DCGM_FI_DEV_FB_USED", GPU_I_ID="5")
    assert used_mib == 4
    assert metrics.value(said, "DCGM_FI_DEV_FB_FREE", GPU_I_ID="5") == 100 - 4
    assert (labels["GPU_I_PROFILE"], labels["UUID"], labels["dra_mig_device_uuid"]) == ("2g.20gb", CUT, "MIG-1")
    assert labels["pod"] == "slice"
    (whole_gpu,) = (each for each, _ in metrics.samples(said, "DCGM_FI_DEV_FB_USED") if "GPU_I_ID" not in each)
    assert "pod" not in whole_gpu
    assert not metrics.samples(said, "DCGM_FI_DEV_GPU_UTIL")
    assert len(metrics.samples(said, "DCGM_FI_DEV_GPU_TEMP")) == 1, "the temperature is that of the GPU"
    assert not metrics.samples(said, "DCGM_FI_DEV_FB_USED", GPU_I_ID="6"), "one that is half made is no device yet"
    ((labels, _),) = metrics.samples(said, "hw_gpu_memory_limit_bytes", hw_id="MIG-1")
    assert labels["hw_parent"] == CUT


def test_what_is_gone_has_no_series() -> None:
    readings = {uuid: replace(READING, gpu_uuid=uuid) for uuid in (GPU, "GPU-gone")}
    assert {labels["UUID"] for labels, _ in metrics.samples(text(seen(readings=readings)), "DCGM_FI_DEV_GPU_UTIL")} == {
        GPU
    }


def test_health_is_a_state_and_a_list_of_faults() -> None:
    fault = model.Fault("xid", "79", severity.Severity.FATAL, 1.0, "XID 79")
    lost = model.Health(LOST, {"xid": fault})
    readings = {GPU: READING, LOST: interface.Reading(LOST, lost=True)}
    said = text(seen(readings=readings, health={LOST: lost}))
    assert metrics.value(said, "hw_status", hw_id=LOST, hw_state="failed") == 1
    assert metrics.value(said, "hw_status", hw_id=LOST, hw_state="ok") == 0
    assert metrics.value(said, "hw_status", hw_id=GPU, hw_state="ok") == 1
    ((labels, _),) = metrics.samples(said, "muster_gpu_fault")
    assert labels == {
        "Hostname": "node-a",
        "gpu": "2",
        "UUID": LOST,
        "kind": "xid",
        "value": "79",
        "severity": "fatal",
    }
    assert [each["UUID"] for each, _ in metrics.samples(said, "muster_gpu_nvlinks_down")] == [GPU]


@pytest.mark.parametrize(
    ("state", "status", "told_as"), [(None, None, None), (2, 0, 2), (3, 0, 3), (3, 9, 4), (0, 0, 0)]
)
def test_the_fabric_has_the_states_of_dcgm(state: int | None, status: int | None, told_as: int | None) -> None:
    reading = replace(READING, fabric_state=state, fabric_status=status)
    found = metrics.samples(text(seen(readings={GPU: reading})), "DCGM_FI_DEV_FABRIC_MANAGER_STATUS")
    assert [value for _, value in found] == ([] if told_as is None else [told_as])


@pytest.mark.parametrize("kind", machines.KINDS)
def test_series_of_a_full_node_are_bounded_and_different(kind: str) -> None:
    machine = machines.build(kind, "node-a")
    readings = {gpu.uuid: replace(READING, gpu_uuid=gpu.uuid) for gpu in machine.gpus}
    said = text(rows.Seen(interface.Discovered(machine), readings))
    lines = [line.rpartition(" ")[0] for line in said.splitlines() if not line.startswith("#")]
    assert len(lines) == len(set(lines)) <= 40 * max(1, len(machine.gpus)) + 10
