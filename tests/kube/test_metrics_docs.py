"""The tables of docs/metrics.md against the metrics that scheduler and driver register, and alerts against the tables."""

import re
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from opentelemetry.sdk.trace.export import in_memory_span_exporter
from prometheus_client import metrics_core

from dra_driver.metrics import dcgm, otel, own, work
from scheduler.tracing import exporter
from tests.kube import live

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs/metrics.md"
ALERTS = (ROOT / "deploy/scheduler/alerts.yaml", ROOT / "deploy/driver/alerts.yaml")

OTHERS = {"vllm:kv_cache_usage_perc"}
"""Metrics of other programs that alerts read."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table; `labels` is None where they are told above the table."""

    name: str
    kind: str
    labels: frozenset[str] | None
    unit: str
    meaning: str
    query: str


def rows() -> Iterator[Row]:
    for line in DOCS.read_text().splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 6 and cells[0].startswith("`"):
            name, kind, labels, unit, meaning, query = (cell.replace("\\|", "|") for cell in cells)
            known = None if "device's" in labels else frozenset(re.findall(r"`(\w+)`", labels))
            yield Row(name.strip("`"), kind, known, unit, meaning, query.strip("`"))


def shown(family: metrics_core.Metric) -> str:
    """Return the name that a query uses."""
    return f"{family.name}_total" if family.type == "counter" else family.name


def labels(family: metrics_core.Metric) -> frozenset[str] | None:
    """Return the labels of a family's samples, None without samples."""
    found = {frozenset(sample.labels) - {"le"} for sample in family.samples}
    assert len(found) <= 1, f"samples of {family.name} differ in their labels"
    return found.pop() if found else None


@pytest.fixture
async def scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[metrics_core.Metric]]:
    """What a scheduler tells that has a gang, one that waits, and a tenant with a quota is beyond its settings."""
    kept = in_memory_span_exporter.InMemorySpanExporter()
    monkeypatch.setattr(exporter.trace_exporter, "OTLPSpanExporter", lambda endpoint: kept)
    async with live.cluster(tmp_path) as home:
        await home.start(otlp_endpoint="http://127.0.0.1:1")
        await home.create(*(live.pod(f"w-{i}", "g", 3) for i in range(3)))
        await home.bound("w-0", "w-1", "w-2")
        await home.create(*(live.pod(f"x-{i}", "h", 2) for i in range(2)))
        assert home.scheduler is not None
        registry = home.scheduler.meters.registry
        labels = {"reason": "InsufficientGPUs", "tenant": "default"}
        await home.until(lambda: _true(registry.get_sample_value("muster_waiting_gangs", labels) == 1))
        yield list(registry.collect())


async def _true(found: bool) -> bool:
    return found


def driver() -> Iterable[metrics_core.Metric]:
    yield from work.Work().registry.collect()
    yield from own.families([], "node-a", own.Driver(0, True, ""))
    for field in dcgm.FIELDS:
        yield metrics_core.Metric(field.name, field.text, "unknown")
    for field in otel.FIELDS:
        yield metrics_core.Metric(field.name, field.text, field.kind)


async def test_each_metric_is_in_a_table_with_its_type_and_labels(scheduler: list[metrics_core.Metric]) -> None:
    told = {row.name: row for row in rows()}
    assert len(told) == len(list(rows())), "a metric is in two rows"
    found = {shown(family): family for family in [*scheduler, *driver()]}
    assert found.keys() - told.keys() == set(), "not in docs/metrics.md"
    assert told.keys() - found.keys() == set(), "in docs/metrics.md, but not in the program"
    for name, family in found.items():
        assert told[name].kind == family.type, name
        if told[name].labels is not None and labels(family) is not None:
            assert told[name].labels == labels(family), name


async def test_most_metrics_have_samples_to_compare_labels_with(scheduler: list[metrics_core.Metric]) -> None:
    assert {family.name for family in scheduler if not family.samples} <= {"muster_tenant_quota_gpus"}


def names_in(expression: str) -> set[str]:
    """Return the metrics that a query reads, without the endings of histograms."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    bare = re.sub(r"\b(by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", bare)
    found = {name for name in re.findall(r"[A-Za-z_:][\w:]*", bare) if "_" in name}
    found -= {"histogram_quantile", "group_left", "group_right", "count_over_time", "max_over_time"}
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in found}


def test_every_query_is_about_its_metric() -> None:
    known = {row.name for row in rows()}
    for row in rows():
        assert row.unit and row.meaning and row.query, row.name
        assert row.name in names_in(row.query), row.name
        assert names_in(row.query) <= known, row.name


@pytest.mark.parametrize("path", ALERTS, ids=lambda path: path.parent.name)
def test_alerts_read_metrics_that_exist(path: Path) -> None:
    known = {row.name for row in rows()} | OTHERS
    rules = [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 5
    for rule in rules:
        assert names_in(rule["expr"]) and names_in(rule["expr"]) <= known, rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["summary"] and rule["annotations"]["description"]
