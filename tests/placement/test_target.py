"""Target workloads: exact counts, and the published order of popularity."""

from hypothesis import given
from hypothesis import strategies as st

from scheduler.model import request
from scheduler.placement import target

PODS = (
    request.PodRequest(gpus=1, gpu_milli=500, cpu_milli=1000),
    request.PodRequest(gpus=1, cpu_milli=1000),
    request.PodRequest(gpus=8, cpu_milli=1000),
    request.PodRequest(cpu_milli=9000),
)


def test_equal_requests_are_added_up_and_memory_is_dropped() -> None:
    pods = [(PODS[0], 2), (request.PodRequest(gpus=1, gpu_milli=500, cpu_milli=1000, memory_mib=77), 3)]
    assert target.from_requests(pods).items == (target.TargetItem(PODS[0], 5, 1),)


def test_gangs_stay_apart_from_lone_pods() -> None:
    merged = target.merge(
        target.from_requests([(PODS[2], 1)]),
        target.from_requests([(PODS[2], 4)], gang_gpus=32),
        target.from_requests([]),
    )
    assert [(item.count, item.gang_gpus) for item in merged.items] == [(1, 8), (4, 32)]
    assert merged.total == 5


def test_popular_items_come_by_count_then_cpu_then_milli_then_gpus() -> None:
    wanted = target.from_requests([(pod, 1) for pod in PODS])
    assert [item.pod for item in wanted.popular(1000).items] == [PODS[3], PODS[2], PODS[1], PODS[0]]


def test_the_shortest_prefix_is_kept() -> None:
    wanted = target.from_requests([(PODS[0], 94), (PODS[1], 5), (PODS[2], 1)])
    assert [item.count for item in wanted.popular(940).items] == [94]
    assert [item.count for item in wanted.popular(941).items] == [94, 5]
    assert target.TargetWorkload(()).popular().items == ()


@given(st.lists(st.tuples(st.sampled_from(PODS), st.integers(1, 50)), max_size=8), st.randoms(use_true_random=False))
def test_order_of_requests_does_not_matter(pods: list[tuple[request.PodRequest, int]], shuffler: object) -> None:
    other = list(pods)
    shuffler.shuffle(other)  # type: ignore[attr-defined]
    one = target.from_requests(pods)
    assert one == target.from_requests(other)
    assert one.total == sum(count for _, count in pods)
    assert one.popular().total * 1000 >= 950 * one.total
