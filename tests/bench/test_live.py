"""Arithmetic of the live benchmark, and the cluster that stands still."""

from typing import cast

import pytest

from scheduler.apiserver import client, errors
from scheduler.web import extender as answering
from scheduler.web import wire
from tests.bench import burst, cost, extender, figure, live, product, still
from tests.testbed import cluster, ports
from tests.testbed.fleet import presets

BUCKET = "took_bucket"


def told(*counts: float) -> product.Metrics:
    """Return a histogram of filter's times with buckets up to 1, 2 and 4 ms and above; another verb stands beside it."""
    bounds = ("0.001", "0.002", "0.004", "+Inf")
    own = {(BUCKET, (("le", le), ("verb", "filter"))): count for le, count in zip(bounds, counts, strict=True)}
    return own | {(BUCKET, (("le", "0.001"), ("verb", "preempt"))): 1e6}


def test_a_quantile_is_linear_within_its_bucket_and_over_all_spans() -> None:
    spans = [(told(10, 10, 10, 10), told(60, 60, 60, 60)), (told(60, 60, 60, 60), told(60, 100, 110, 110))]
    assert product.quantile(spans, "took", 0.25, verb="filter") == pytest.approx(0.0005)
    assert product.quantile(spans, "took", 0.5, verb="filter") == pytest.approx(0.001)
    assert product.quantile(spans, "took", 0.7, verb="filter") == pytest.approx(0.0015)
    assert product.quantile(spans, "took", 0.95, verb="filter") == pytest.approx(0.003)


def test_a_quantile_above_all_buckets_or_of_nothing_is_none() -> None:
    assert product.quantile([(told(0, 0, 0, 0), told(1, 1, 1, 100))], "took", 0.99, verb="filter") is None
    assert product.quantile([(told(5, 5, 5, 5), told(5, 5, 5, 5))], "took", 0.5, verb="filter") is None


def test_each_round_is_compared_with_its_own_stock() -> None:
    made, fleet = live.Bench(), live.FLEETS[0]
    made.ready[fleet.name] = (cast(cluster.Cluster, None), 1.0)
    made.seen["500 nodes"] = live.Taken(
        stock=[burst.Burst(s, 1.0, (1.0, s)) for s in (1.0, 4.0, 2.0)],
        lone=[burst.Burst(s, 0.5, (1.0, s)) for s in (0.5, 1.0, 4.0)],
        gangs={64: [burst.Burst(s, 0.5, (1.0, s)) for s in (1.5, 2.5, 3.5)]},
        decided_s={64: [0.001, 0.003, 0.002]},
        end_mib=[100.0, 120.0, 110.0],
        peak_mib=[150.0, 130.0, 110.0],
    )
    assert made.ratio(fleet)[0] == 2.0  # 2, 4 and a half; the ratio of the medians would be 2 / 1 too
    assert made.gang(fleet, 64)[0] == 2.0 and made.decided(fleet, 64)[0] == 2.0
    assert (made.memory(fleet, True)[0], made.memory(fleet, False)[0]) == (150.0, 120.0)
    with pytest.raises(figure.Missing, match="0 answers"):
        made.asked(fleet, "filter", 0.99)


@pytest.mark.parametrize("starts", [0, 2])
def test_the_time_of_a_decision_is_taken_of_one_decision_only(starts: float) -> None:
    def metrics(count: float, seconds: float) -> product.Metrics:
        own = (("outcome", "start"),)
        return {(f"{live.DECISION}_count", own): count, (f"{live.DECISION}_sum", own): seconds}

    assert live._decided(metrics(3, 1.0), metrics(4, 1.5)) == 0.5
    with pytest.raises(figure.Missing, match=f"{starts:g} decisions"):
        live._decided(metrics(3, 1.0), metrics(3 + starts, 1.5))


def test_every_bound_of_the_live_benchmark_is_of_some_figure() -> None:
    known = figure.bounds("live")
    used = [figure.bound_of(known, name) for name, _ in live.measurements(live.Bench())]
    assert [name for name, one in known.items() if not any(one is other for other in used)] == []


def test_costs_are_for_each_pod() -> None:
    spent = cost.Cost(None, 4, {}, {"etcd": 0.1, "kwok": 0.02}, {"POST pods": 4, "PATCH events": 2, "PUT pods": 0})
    assert (spent.per_pod_ms("etcd"), spent.per_pod_ms(), spent.writes_per_pod()) == pytest.approx((25.0, 30.0, 1.5))
    assert spent.as_json() == {"cpu": {"etcd": 25.0, "kwok": 5.0}, "writes": {"POST pods": 1.0, "PATCH events": 0.5}}


METRICS = b"""# TYPE apiserver_request_total counter
apiserver_request_total{code="201",component="apiserver",group="",resource="pods",subresource="",verb="POST",version="v1"} 7
apiserver_request_total{code="409",component="apiserver",group="",resource="pods",subresource="",verb="POST",version="v1"} 1
apiserver_request_total{code="201",group="",resource="pods",subresource="binding",verb="POST",version="v1"} 6
apiserver_request_total{code="200",group="resource.k8s.io",resource="resourceclaims",subresource="status",verb="PUT"} 1.2e+03
apiserver_request_total{code="200",group="",resource="pods",subresource="",verb="GET",version="v1"} 50
apiserver_request_total{code="200",group="coordination.k8s.io",resource="leases",subresource="",verb="PUT",version="v1"} 90
"""


def test_requests_that_change_pods_are_read_from_the_api_server() -> None:
    assert cost.read(METRICS) == {"POST pods": 8, "POST pods/binding": 6, "PUT resourceclaims/status": 1200}


async def test_a_still_cluster_is_a_whole_scheduler() -> None:
    made = still.Cluster(presets.read("hgx-h100=3"))
    names = made.names()
    made.run(names[0], 8)
    waits = made.pod("waits", 8)
    planned = made.pod("planned", 2, names[1])
    async with still.scheduler(made, ports.one()) as one:
        deciding = one.decisions()
        assert deciding is not None and one.leading
        for pod, left in ((waits, [names[2]]), (planned, [names[1]])):
            asked = wire.read_args(extender.Requests(made).of("filter", pod))
            assert answering.filtered(deciding, asked).feasible == left


async def test_a_table_takes_no_writes_and_lacks_what_it_was_not_given() -> None:
    table = still.Table({"/api/v1/pods": []})
    assert await table.list("/api/v1/pods") == ([], "1")
    for job in (table.list("/api/v1/nodes"), table.create("/api/v1/pods", {}), client.Client.get(table, "/x")):
        with pytest.raises(errors.ApiError):
            await job
