"""Target workloads: exact counts, the published cut by popularity, order by content."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from scheduler.model import request
from scheduler.placement import target
from tests.placement import states

CPU = request.PodRequest(cpu_milli=4000)
SHARE = request.PodRequest(cpu_milli=4000, gpus=1, gpu_milli=500)
ONE = request.PodRequest(cpu_milli=4000, gpus=1)
EIGHT = request.PodRequest(cpu_milli=4000, gpus=8)


def test_equal_requests_are_added_up_whatever_their_memory() -> None:
    more = request.PodRequest(cpu_milli=4000, memory_mib=77, gpus=1)
    made = target.from_requests([(ONE, 2), (more, 3), (CPU, 1)])
    assert {item.pod: item.count for item in made.items} == {ONE: 5, CPU: 1}
    assert made.total == 6


@given(st.lists(st.tuples(states.pods(), st.integers(1, 9)), max_size=8), st.randoms(use_true_random=False))
def test_a_target_does_not_depend_on_the_order_of_the_requests(
    pods: list[tuple[request.PodRequest, int]], shuffle: Random
) -> None:
    mixed = list(pods)
    shuffle.shuffle(mixed)
    assert target.from_requests(mixed) == target.from_requests(pods)
    assert hash(target.from_requests(mixed)) == hash(target.from_requests(pods))


def test_the_cut_takes_the_shortest_prefix_that_reaches_the_share() -> None:
    made = target.from_requests([(ONE, 90), (SHARE, 5), (CPU, 4), (EIGHT, 1)])
    assert [item.pod for item in made.popular().items] == [ONE, SHARE]  # exactly 95 %
    assert [item.pod for item in made.popular(951).items] == [ONE, SHARE, CPU]
    assert [item.pod for item in made.popular(900).items] == [ONE]
    assert len(made.popular(1000).items) == 4
    assert target.TargetWorkload(()).popular().items == ()


def test_ties_of_popularity_are_broken_as_published() -> None:
    """Count, then CPU, then GPU milli, then GPUs, then the models as written, each descending."""
    ranked = [
        request.PodRequest(cpu_milli=1, gpus=1, gpu_milli=10),
        request.PodRequest(cpu_milli=9000),
        request.PodRequest(cpu_milli=8000, gpus=2),
        request.PodRequest(cpu_milli=8000, gpus=1, gpu_models=("T4",)),
        request.PodRequest(cpu_milli=8000, gpus=1, gpu_models=("P100", "T4")),
        request.PodRequest(cpu_milli=8000, gpus=1),
        request.PodRequest(cpu_milli=8000, gpus=1, gpu_milli=999),
        request.PodRequest(cpu_milli=8000),
        request.PodRequest(cpu_milli=7000, gpus=8),
    ]
    made = target.from_requests([(pod, 3 if place == 0 else 2) for place, pod in enumerate(ranked)])
    assert [item.pod for item in made.popular(1000).items] == ranked
