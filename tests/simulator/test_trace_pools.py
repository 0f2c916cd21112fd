"""Requests become replicas by the documented capacity model."""

import numpy as np
import pydantic
import pytest

from simulator.trace import job, pools

CAPACITY = pools.Capacity(
    gpus=2,
    prefill_tokens_s=100,
    decode_tokens_s=100,
    token_latency_s=0.001,
    concurrency=1000,
    headroom_milli=0,
    window_s=10,
    scale_up_s=5,
    scale_down_s=20,
)


def arrivals(tokens_by_window: list[int]) -> pools.Requests:
    middle = np.arange(5, 5 + 10 * len(tokens_by_window), 10, dtype=np.float64)
    tokens = np.array(tokens_by_window, dtype=np.int64)
    return pools.Requests("pool", "", middle, tokens, np.zeros_like(tokens))


def test_need_is_tokens_over_speed_rounded_up() -> None:
    # A replica reads 1,000 tokens in a window.
    need = pools.demand(arrivals([0, 1000, 1001, 3000, 500]), CAPACITY)
    assert need.tolist() == [1, 1, 2, 3, 1]


def test_headroom_and_bounds_apply_to_the_need() -> None:
    eased = CAPACITY.model_copy(update={"headroom_milli": 500, "min_replicas": 2, "max_replicas": 4})
    assert pools.demand(arrivals([0, 2000, 9000]), eased).tolist() == [2, 3, 4]


def test_requests_in_flight_bound_the_need_where_tokens_do_not() -> None:
    slow = CAPACITY.model_copy(update={"token_latency_s": 0.5, "concurrency": 4, "decode_tokens_s": 1e6})
    requests = pools.Requests("p", "", np.full(8, 5.0), np.zeros(8, np.int64), np.full(8, 20, np.int64))
    # Eight requests of ten seconds each in a window of ten: eight in flight, four to a replica.
    assert pools.demand(requests, slow).tolist() == [2]


def test_replicas_go_only_after_the_load_has_stayed_low() -> None:
    need = np.array([1, 3, 1, 1, 1, 2, 1], dtype=np.int32)
    assert pools.settle(need, CAPACITY).tolist() == [1, 3, 3, 3, 1, 2, 2]


def test_stays_become_jobs_and_the_last_to_come_goes_first() -> None:
    trace = pools.jobs(arrivals([0, 3000, 0, 0, 0, 0]), CAPACITY, priority=7)
    rows = sorted(zip(trace.names.tolist(), trace.submit_s.tolist(), trace.duration_s.tolist(), strict=True))
    # The window that asks ends at 20 s; its replicas are submitted 5 s later and leave at the end of the window after
    # two quiet ones.
    assert rows == [("pool-0-0", 0, 70), ("pool-1-1", 25, 25), ("pool-2-1", 25, 25)]
    assert trace.gang(0).gpus == 2
    assert trace.gang(0).priority == 7
    assert trace.gang(0).tenant == "pool"


def test_replica_seconds_equal_the_settled_replicas() -> None:
    random = np.random.default_rng(5)
    requests = arrivals(random.integers(0, 6000, 200).tolist())
    instant = CAPACITY.model_copy(update={"scale_up_s": 0.0})
    trace = pools.jobs(requests, instant)
    kept = pools.settle(pools.demand(requests, instant), instant)
    first = int(kept[0])
    # Every stay is the windows that it was wanted for; the replicas of the first window have one more.
    assert trace.duration_s.sum() == pytest.approx(kept.sum() * 10 + first * 10)


def test_a_pool_without_requests_is_refused() -> None:
    with pytest.raises(job.TraceError, match="no requests"):
        pools.jobs(arrivals([]))


def test_capacities_are_checked() -> None:
    with pytest.raises(pydantic.ValidationError, match="max_replicas"):
        pools.Capacity(min_replicas=3, max_replicas=2)
    with pytest.raises(pydantic.ValidationError):
        pools.Capacity(prefill_tokens_s=float("nan"))
