"""Metrics under the names, units and labels of NVIDIA's dcgm-exporter, so that dashboards and rules go on working.

References
----------
github.com/NVIDIA/dcgm-exporter, ``etc/default-counters.csv`` and its Kubernetes labels; field ids of DCGM, and what it
computes of NVLinks and licences in ``DcgmCacheManager.cpp``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import metrics_core

from dra_driver.metrics import rows
from dra_driver.metrics.rows import MIB, Row

LABELS = (
    *("gpu", "UUID", "pci_bus_id", "device", "modelName", "Hostname", "DCGM_FI_DRIVER_VERSION", "GPU_I_ID"),
    *("GPU_I_PROFILE", "container", "namespace", "pod", "dra_claim_name", "dra_claim_namespace", "dra_driver_name"),
    *("dra_pool_name", "dra_device_name", "dra_mig_profile", "dra_mig_device_uuid", "tenant"),
)

FABRIC_FAILED = 4
"""Of DCGM's states of the fabric manager; 0 to 3 are numbered as NVML does."""


@dataclass(frozen=True, slots=True)
class Field:
    """One metric; `value` is None where a GPU does not tell."""

    name: str
    text: str
    value: Callable[[Row], float | None]
    of_parts: bool = False
    """Told for MIG devices too; other fields are those of the whole GPU."""


def _mib(size: int | None) -> float | None:
    return None if size is None else size // MIB


def _free(row: Row) -> float | None:
    if row.memory_total is None or row.memory_used is None:
        return None
    return max(0, row.memory_total - row.memory_used) // MIB


def _fabric(row: Row) -> float | None:
    reading = row.reading
    return FABRIC_FAILED if reading.fabric_state == 3 and reading.fabric_status else reading.fabric_state


def _nvlink(row: Row) -> float | None:
    """Return DCGM's rate: whole thousands of KiB per second, 0 as long as there is nothing to compare with.

    A count that went back is that of a GPU that was reset, and nothing to compare with either; DCGM's rate is negative.
    """
    now, before = row.reading, row.before
    if now.nvlink_kib is None or before is None or before.nvlink_kib is None:
        return None if now.nvlink_kib is None else 0
    kib, took_s = now.nvlink_kib - before.nvlink_kib, (now.nvlink_at_us - before.nvlink_at_us) / 1e6
    return int(kib / took_s / 1000) if kib > 0 and took_s > 0 else 0


def _watts(row: Row) -> float | None:
    return None if row.reading.power_mw is None else row.reading.power_mw / 1000


FIELDS = (
    Field("DCGM_FI_DEV_GPU_UTIL", "GPU utilization (in %).", lambda row: row.reading.utilization),
    Field("DCGM_FI_DEV_MEM_COPY_UTIL", "Memory utilization (in %).", lambda row: row.reading.memory_utilization),
    Field("DCGM_FI_DEV_FB_USED", "Framebuffer memory used (in MiB).", lambda row: _mib(row.memory_used), True),
    Field("DCGM_FI_DEV_FB_FREE", "Framebuffer memory free (in MiB).", _free, True),
    Field("DCGM_FI_DEV_FB_TOTAL", "Framebuffer memory (in MiB).", lambda row: _mib(row.memory_total), True),
    Field("DCGM_FI_DEV_GPU_TEMP", "GPU temperature (in C).", lambda row: row.reading.temperature),
    Field("DCGM_FI_DEV_POWER_USAGE", "Power draw (in W).", _watts),
    Field("DCGM_FI_DEV_SM_CLOCK", "SM clock frequency (in MHz).", lambda row: row.reading.sm_mhz),
    Field("DCGM_FI_DEV_MEM_CLOCK", "Memory clock frequency (in MHz).", lambda row: row.reading.memory_mhz),
    Field("DCGM_FI_DEV_MEMORY_TEMP", "Memory temperature (in C).", lambda row: row.reading.memory_temperature),
    Field(
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
        "Energy since the GPU driver was loaded (in mJ).",
        lambda row: row.reading.energy_mj,
    ),
    Field("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "PCIe retries.", lambda row: row.reading.pcie_replays),
    Field("DCGM_FI_DEV_PCIE_TX_THROUGHPUT", "PCIe transmitted (in KiB/s).", lambda row: row.reading.pcie_tx),
    Field("DCGM_FI_DEV_PCIE_RX_THROUGHPUT", "PCIe received (in KiB/s).", lambda row: row.reading.pcie_rx),
    Field("DCGM_FI_DEV_ENC_UTIL", "Encoder utilization (in %).", lambda row: row.reading.encoder_utilization),
    Field("DCGM_FI_DEV_DEC_UTIL", "Decoder utilization (in %).", lambda row: row.reading.decoder_utilization),
    Field("DCGM_FI_DEV_XID_ERRORS", "Value of the last XID error encountered.", lambda row: row.xid),
    Field("DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", "Bits of why clocks are low.", lambda row: row.reading.clock_reasons),
    Field(
        "DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", "Single-bit ECC errors since the reset.", lambda row: row.reading.ecc_corrected
    ),
    Field(
        "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL",
        "Double-bit ECC errors since the reset.",
        lambda row: row.reading.ecc_uncorrected,
    ),
    Field(
        "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS",
        "Rows remapped for correctable errors.",
        lambda row: row.reading.remap_corrected,
    ),
    Field(
        "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS",
        "Rows remapped for uncorrectable errors.",
        lambda row: row.reading.remap_uncorrected,
    ),
    Field("DCGM_FI_DEV_ROW_REMAP_FAILURE", "Whether remapping of rows failed.", lambda row: row.reading.remap_failed),
    Field(
        "DCGM_FI_DEV_ROW_REMAP_PENDING",
        "Whether a reset is due to remap rows.",
        lambda row: row.reading.remap_pending,
    ),
    Field("DCGM_FI_DEV_NVLINK_BANDWIDTH_TOTAL", "Data over all NVLinks (in 1000 KiB/s).", _nvlink),
    Field("DCGM_FI_DEV_VGPU_LICENSE_STATUS", "Whether a vGPU is licensed.", lambda row: row.reading.vgpu_licensed),
    Field("DCGM_FI_DEV_FABRIC_MANAGER_STATUS", "State of the NVLink fabric: 3 is completed, 4 failed.", _fabric),
)


def families(found: Sequence[Row], node_name: str, driver: str, release: str) -> Iterator[metrics_core.Metric]:
    """Yield the metrics; `release` is that of the GPU driver."""
    labelled = [(row, labels(row, node_name, driver, release)) for row in found]
    for field in FIELDS:
        family = metrics_core.Metric(field.name, field.text, "unknown")  # a counter's name would get a suffix
        for row, names in labelled:
            value = field.value(row) if field.of_parts or row.instance is None else None
            if value is not None:
                family.add_sample(field.name, names, float(value))
        if family.samples:
            yield family


def labels(row: rows.Row, node_name: str, driver: str, release: str) -> dict[str, str]:
    """Return the labels of a row that are not empty; those of a MIG device name the GPU too, as dcgm-exporter does."""
    user, part = row.user, row.instance
    minor = row.facts.minor if row.facts.minor >= 0 else row.number
    profile = row.profile.name if row.profile else ""
    values = (
        *(row.number, row.gpu.uuid, row.gpu.pci_bus_id, f"nvidia{minor}", row.product, node_name, release),
        *(str(part.gpu_instance) if part else "", profile),
        *((user.container.name, user.container.namespace, user.container.pod) if user else ("", "", "")),
        *((user.held.claim, user.held.namespace, driver, user.held.pool, user.held.device) if user else ("",) * 5),
        *((profile, part.uuid) if part else ("", "")),
        row.tenant,
    )
    return {name: value for name, value in zip(LABELS, values, strict=True) if value}
