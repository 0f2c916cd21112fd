"""Metrics that neither DCGM nor OpenTelemetry has a name for: faults, NVLinks, and the state of the driver."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import metrics_core

from dra_driver.metrics.rows import Row

DEVICE = ("Hostname", "gpu", "UUID")


@dataclass(frozen=True, slots=True)
class Driver:
    """State of the driver.

    Attributes
    ----------
    slices_problem : str
        Why the slices are not published; "" when they are.
    """

    prepared_claims: int
    registered: bool
    slices_problem: str


def families(found: Sequence[Row], node_name: str, driver: Driver) -> Iterator[metrics_core.Metric]:
    """Yield the metrics of GPUs, once for each, and of the driver."""
    gpus = [row for row in found if row.first and row.instance is None]
    fault = metrics_core.GaugeMetricFamily(
        "muster_gpu_fault", "1 for each fault that a GPU has.", labels=[*DEVICE, "kind", "value", "severity"]
    )
    down = metrics_core.GaugeMetricFamily(
        "muster_gpu_nvlinks_down", "NVLinks that exist and are not active.", labels=DEVICE
    )
    age = metrics_core.GaugeMetricFamily(
        "muster_gpu_reading_age_seconds", "Time since the GPU was read; grows where a call hangs.", labels=DEVICE
    )
    for row in gpus:
        names = [node_name, row.number, row.gpu.uuid]
        # Two MIG instances of a GPU may have the same fault.
        for labels in sorted({(one.kind, one.value, one.severity.name.lower()) for one in row.health.faults.values()}):
            fault.add_metric([*names, *labels], 1.0)
        if not row.reading.lost:
            down.add_metric(names, float(len(row.reading.links_down)))
            age.add_metric(names, row.age_s)
    yield from (fault, down, age)
    for name, text, value in (
        ("prepared_claims", "Claims that are prepared on the node.", driver.prepared_claims),
        ("registered", "Whether the kubelet has registered the driver.", driver.registered),
        ("slices_published", "Whether the slices of the node are as wanted.", not driver.slices_problem),
    ):
        yield metrics_core.GaugeMetricFamily(f"muster_dra_{name}", text, float(value))
