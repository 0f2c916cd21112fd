"""Metrics under the names of OpenTelemetry's hardware conventions, in the form that Prometheus gives them.

References
----------
opentelemetry.io/docs/specs/semconv/hardware/gpu (development), and the rules of the Prometheus exporters: a unit becomes a
suffix, ``1`` of a gauge becomes ``ratio``, dots become underscores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import metrics_core

from dra_driver.health import severity
from dra_driver.metrics.rows import Row

VENDOR = "NVIDIA"

Extra = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Field:
    """One metric; `values` yields samples with the labels that they have beside those of the device."""

    name: str
    text: str
    values: Callable[[Row], Iterator[tuple[Extra, float | None]]]
    of_parts: bool = False
    kind: str = "gauge"


def _one(
    value: Callable[[Row], float | None], *extra: tuple[str, str]
) -> Callable[[Row], Iterator[tuple[Extra, float | None]]]:
    def values(row: Row) -> Iterator[tuple[Extra, float | None]]:
        yield extra, value(row)

    return values


def _share(part: float | None, of: float | None) -> float | None:
    return None if part is None or not of else part / of


def _errors(row: Row) -> Iterator[tuple[Extra, float | None]]:
    yield (("error_type", "corrected"),), row.reading.ecc_corrected
    yield (("error_type", "uncorrected"),), row.reading.ecc_uncorrected


def _io(row: Row) -> Iterator[tuple[Extra, float | None]]:
    yield (("network_io_direction", "transmit"),), row.reading.pcie_tx_bytes
    yield (("network_io_direction", "receive"),), row.reading.pcie_rx_bytes


def _status(row: Row) -> Iterator[tuple[Extra, float | None]]:
    now = severity.state(fault.severity for fault in row.health.faults.values())
    for each in severity.STATES:
        yield (("hw_state", each),), float(each == now)


FIELDS = (
    Field(
        "hw_gpu_utilization_ratio",
        "Share of the time in which the GPU was busy.",
        _one(lambda row: _share(row.reading.utilization, 100), ("hw_gpu_task", "general")),
    ),
    Field("hw_gpu_memory_limit_bytes", "Size of the GPU memory.", _one(lambda row: row.memory_total), True),
    Field("hw_gpu_memory_usage_bytes", "GPU memory used.", _one(lambda row: row.memory_used), True),
    Field(
        "hw_gpu_memory_utilization_ratio",
        "Share of the GPU memory that is used.",
        _one(lambda row: _share(row.memory_used, row.memory_total)),
        True,
    ),
    Field("hw_power_watts", "Power draw.", _one(lambda row: _share(row.reading.power_mw, 1000))),
    Field("hw_temperature_celsius", "Temperature.", _one(lambda row: row.reading.temperature)),
    Field("hw_gpu_io_bytes", "Bytes over PCIe since the GPU driver was loaded.", _io, kind="counter"),
    Field("hw_errors", "ECC errors since the reset.", _errors, kind="counter"),
    Field("hw_status", "1 for the state that the device is in.", _status),
)


def families(found: Sequence[Row], node_name: str, release: str) -> Iterator[metrics_core.Metric]:
    """Yield the metrics; `release` is that of the GPU driver."""
    labelled = [(row, labels(row, node_name, release)) for row in found]
    for field in FIELDS:
        family = metrics_core.Metric(field.name, field.text, field.kind)
        name = f"{field.name}_total" if field.kind == "counter" else field.name
        for row, names in labelled:
            if field.of_parts or row.instance is None:
                for extra, value in field.values(row):
                    if value is not None:
                        family.add_sample(name, names | dict(extra), float(value))
        if family.samples:
            yield family


def labels(row: Row, node_name: str, release: str) -> dict[str, str]:
    """Return the attributes that are not empty, with underscores; a MIG device names its GPU as parent."""
    user = row.user
    found = {
        "hw_type": "gpu",
        "hw_id": row.device_uuid,
        "hw_name": row.gpu.name,
        "hw_parent": row.gpu.uuid if row.instance else "",
        "hw_model": f"{row.product} MIG {row.profile.name}" if row.profile else row.product,
        "hw_vendor": VENDOR,
        "hw_serial_number": row.facts.serial,
        "hw_driver_version": release,
        "k8s_node_name": node_name,
        "k8s_namespace_name": user.container.namespace if user else "",
        "k8s_pod_name": user.container.pod if user else "",
        "k8s_container_name": user.container.name if user else "",
        "dra_claim_name": user.held.claim if user else "",
        "dra_claim_namespace": user.held.namespace if user else "",
        "dra_device_name": user.held.device if user else "",
        "tenant": row.tenant,
    }
    return {name: value for name, value in found.items() if value}
