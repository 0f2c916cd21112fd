"""Arithmetic of a burst, and its objects."""

import pytest

from scheduler.model import claim, machines, slices
from tests.bench import burst


def pod(name: str, node: str = "", message: str = "") -> dict[str, object]:
    conditions = [{"type": "PodScheduled", "status": "False", "message": message}] if message else []
    return {
        "metadata": {"name": name},
        "spec": {"nodeName": node} if node else {},
        "status": {"conditions": conditions},
    }


def test_times_run_from_the_first_creation_to_the_last_binding() -> None:
    times = burst.Clock(3, load=1.5, cpu_s=0.75)
    times.begun = {"a": 10.0, "b": 10.5, "c": 11.0}
    times.created = 11.25
    times.see(pod("b", "n1"), 12.5)
    times.see(pod("a"), 12.75)
    times.see(pod("a", "n2"), 13.0)
    times.see(pod("a", "n2"), 19.0)  # running now; it was bound before
    times.see(pod("c", "n1"), 15.0)
    made = times.burst()
    assert (made.seconds, made.create_s, made.waits) == (5.0, 1.25, (2.0, 3.0, 4.0))
    assert made.rate == pytest.approx(0.6)
    assert made.as_json() == {
        "pods": 3,
        "bound": 5.0,
        "created": 1.25,
        "p50": 3.0,
        "p99": 4.0,
        "load_1min": 1.5,
        "cpu": 0.75,
    }


@pytest.mark.parametrize(("share", "wait"), [(0.5, 50.0), (0.99, 99.0), (1.0, 100.0), (0.001, 1.0)])
def test_a_quantile_is_a_wait_that_was_seen(share: float, wait: float) -> None:
    made = burst.Burst(1.0, 1.0, tuple(float(each) for each in range(1, 101)))
    assert made.quantile(share) == wait


def test_what_is_left_is_told_in_the_words_of_the_scheduler() -> None:
    times = burst.Clock(2)
    times.begun = {"a": 0.0, "b": 0.0}
    times.see(pod("a", "n1", "0/4 nodes are available: bound since"), 1.0)
    times.see(pod("b", "", "0/4 nodes are available: cannot allocate all claims"), 1.0)
    assert times.left() == (
        "1 of 2 pods were not bound within 300 s: 0/4 nodes are available: cannot allocate all claims"
    )


def test_the_class_names_the_driver_and_the_type_as_the_codec_publishes_them() -> None:
    ((selector,),) = [burst.device_class()["spec"]["selectors"]]
    (published,) = slices.encode(machines.build("hgx-h100", "n"))
    types = {entry["attributes"]["type"]["string"] for entry in published["spec"]["devices"]}
    assert published["spec"]["driver"] == claim.DRIVER and types == {"gpu", "nic"}
    wanted = f'device.driver == "{claim.DRIVER}" && device.attributes["{claim.DRIVER}"].type == "gpu"'
    assert selector["cel"]["expression"] == wanted


def test_spread_names_the_ends_and_the_number_of_runs() -> None:
    assert burst.spread([3.0, 1.0, 2.0]) == "1 to 3 in 3 runs"
