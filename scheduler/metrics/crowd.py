"""Gangs that wait and run, and their tenants."""

import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import metrics_core

from scheduler.gang import holdings, quota
from scheduler.gang import machine as machines
from scheduler.gang import queue as queues
from scheduler.kube import followed
from scheduler.model import reasons

MAX_TENANTS = 100
"""Tenants that have series of their own: those with the most GPUs, then with the most waiting gangs."""

OTHER = "other"


def tenants(core: machines.Machine) -> Mapping[str, str]:
    """Return what each tenant is called in labels: itself, or `OTHER` beyond `MAX_TENANTS`."""
    waiting = Counter(entry.gang.tenant for entry in core.queue.waiting.values())
    used = core.ledger.used
    known = {*waiting, *core.ledger.quotas, *(tenant for tenant, milli in used.items() if milli)}
    ranked = sorted(known, key=lambda tenant: (-used.get(tenant, 0), -waiting[tenant], tenant))
    return {tenant: tenant if i < MAX_TENANTS else OTHER for i, tenant in enumerate(ranked)}


def families(
    core: machines.Machine, followed_: Iterable[followed.Followed], now: float
) -> Iterator[metrics_core.Metric]:
    """Yield the gauges of gangs and tenants; `now` is on the machine's clock."""
    called = tenants(core)
    yield _states(followed_)
    yield from _waiting(core.queue.waiting.values(), called, now)
    yield from _running(core.held)
    yield from _shares(core, called)


def _states(followed_: Iterable[followed.Followed]) -> metrics_core.Metric:
    found = Counter(gang.state for gang in followed_)
    family = metrics_core.GaugeMetricFamily(
        "muster_gangs", "Gangs that are followed, by how far they are.", labels=["state"]
    )
    for state in followed.State:
        family.add_metric([state.value], found[state])
    return family


def _waiting(entries: Iterable[queues.Waiting], called: Mapping[str, str], now: float) -> Iterator[metrics_core.Metric]:
    counts: Counter[tuple[str, str]] = Counter()
    oldest: dict[str, float] = {}
    for entry in entries:
        tenant, reason = called[entry.gang.tenant], entry.said or reasons.Reason.QUEUED
        counts[reason.value, tenant] += 1
        oldest[tenant] = max(oldest.get(tenant, 0.0), now - entry.since)
    waiting = metrics_core.GaugeMetricFamily(
        "muster_waiting_gangs",
        "Gangs in the queue, by the reason told last and by tenant.",
        labels=["reason", "tenant"],
    )
    for labels, count in sorted(counts.items()):
        waiting.add_metric(labels, count)
    longest = metrics_core.GaugeMetricFamily(
        "muster_oldest_wait_seconds", "How long the gang has waited that waits longest.", labels=["tenant"]
    )
    for tenant, seconds in sorted(oldest.items()):
        longest.add_metric([tenant], max(0.0, seconds))
    yield from (waiting, longest)


def _running(held: Iterable[holdings.Holding]) -> Iterator[metrics_core.Metric]:
    """Yield how many gangs hold devices by the level of their tightest domain, and the bandwidth predicted for them."""
    found: dict[str, list[int]] = {}
    counts: Counter[str] = Counter()
    for one in held:
        counts[one.placement.level] += 1
        if one.placement.bandwidth_mb_s:
            found.setdefault(one.placement.level, []).append(one.placement.bandwidth_mb_s)
    gangs = metrics_core.GaugeMetricFamily(
        "muster_placed_gangs",
        "Gangs that hold devices, by the level of the tightest domain around them.",
        labels=["level"],
    )
    for level, count in sorted(counts.items()):
        gangs.add_metric([level], count)
    bandwidth = metrics_core.GaugeMetricFamily(
        "muster_predicted_bandwidth_bytes_per_second",
        "Bus bandwidth predicted for collectives of the gangs of two GPUs or more that hold devices.",
        labels=["level", "statistic"],
    )
    for level, values in sorted(found.items()):
        for name, value in (("min", min(values)), ("median", statistics.median(values)), ("max", max(values))):
            bandwidth.add_metric([level, name], value * 1e6)
    yield from (gangs, bandwidth)


def _shares(core: machines.Machine, called: Mapping[str, str]) -> Iterator[metrics_core.Metric]:
    used: Counter[str] = Counter()
    for tenant, milli in core.ledger.used.items():
        if tenant in called:
            used[called[tenant]] += milli
    total = core.scoring.topology.total_gpus
    gpus = metrics_core.GaugeMetricFamily(
        "muster_tenant_gpus", "GPUs that the gangs of a tenant hold, as its quota counts them.", labels=["tenant"]
    )
    share = metrics_core.GaugeMetricFamily(
        "muster_tenant_share_ratio", "The same as a share of the fleet's GPUs.", labels=["tenant"]
    )
    nominal = metrics_core.GaugeMetricFamily(
        "muster_tenant_quota_gpus", "Nominal quota of a tenant that has one.", labels=["tenant"]
    )
    for tenant, milli in sorted(used.items()):
        gpus.add_metric([tenant], milli / quota.WHOLE)
        share.add_metric([tenant], milli / quota.WHOLE / total if total else 0.0)
    for tenant, one in sorted(core.ledger.quotas.items()):
        if called[tenant] != OTHER:
            nominal.add_metric([tenant], one.nominal)
    yield from (gpus, share, nominal)
