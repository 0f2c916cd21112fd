"""The observer follows a gang from its last pod to its last binding, whatever the order of the news."""

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from scheduler.gang import effects, events
from scheduler.kube import followed, life, mirror, observer, plan, pod, workload
from scheduler.model import gang as gangs
from scheduler.model import request
from scheduler.placement import placement

GANG = gangs.Gang("ml/g", (gangs.Role("worker", 2, request.PodRequest(gpus=8)),))
IDENTITY = workload.Identity("ml", "g", "Annotated")


@dataclass
class Heard(observer.Ear):
    """Keeps what it is told."""

    told: list[tuple[str, Any]] = field(default_factory=list)

    def written(self, one: life.Life, seconds: float) -> None:
        self.told.append(("written", one.waited))

    def bound(self, one: life.Life, seconds: float) -> None:
        self.told.append(("bound", one.waited))

    def stage(self, one: life.Life, name: str, began: float, ended: float, problem: str) -> None:
        self.told.append((name, problem))

    def ended(self, one: life.Life) -> None:
        self.told.append(("ended", one.key))


def member(number: int, node: str = "", deleting: bool = False) -> workload.Member:
    one = pod.Pod("ml", f"w-{number}", f"u{number}", "1", {}, {}, node=node, deleting=deleting)
    return workload.Member(number, "worker", number, one)


def gang(*members: workload.Member) -> followed.Followed:
    return followed.Followed(workload.Workload(IDENTITY, pod.Owner(), GANG, members))


def planned() -> plan.Plan:
    pods = tuple(plan.PlannedPod(i, "worker", f"w-{i}", f"u{i}", "n") for i in range(2))
    return plan.Plan(IDENTITY, pods, 1)


def moved(number: int, node: str) -> mirror.Change:
    return mirror.Change("pods", ("ml", f"w-{number}"), None, member(number, node).pod)


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def one(heard: Heard) -> observer.Observer:
    return observer.Observer((heard,))


def begun(one: observer.Observer, *members: workload.Member) -> followed.Followed:
    found = gang(*members)
    one.met(found)
    one.completed(found)
    one.writing(found, planned())
    return found


def test_a_gang_is_bound_with_its_last_pod_and_only_once(one: observer.Observer, heard: Heard) -> None:
    found = begun(one, member(0), member(1))
    one.written(found)
    one.changed(moved(0, "n"))
    one.changed(moved(1, ""))
    assert heard.told == [("written", False)]
    one.changed(moved(1, "n"))
    one.changed(moved(1, "n"))
    one.written(found)
    assert heard.told == [("written", False), ("bound", False)]


def test_bindings_may_be_seen_before_the_writing_has_ended(one: observer.Observer, heard: Heard) -> None:
    found = begun(one, member(0), member(1))
    one.changed(moved(0, "n"))
    one.changed(moved(1, "n"))
    assert heard.told == []
    one.written(found)
    assert heard.told == [("written", False), ("bound", False)]


def test_pods_that_run_already_are_not_waited_for(one: observer.Observer, heard: Heard) -> None:
    found = begun(one, member(0, "n"), member(1))
    one.written(found)
    one.changed(moved(1, "n"))
    assert heard.told[-1] == ("bound", False)


def test_an_evicted_gang_begins_anew_with_its_new_pods(one: observer.Observer, heard: Heard) -> None:
    found = begun(one, member(0), member(1))
    one.written(found)
    one.changed(moved(0, "n"))
    one.changed(moved(1, "n"))
    held = placement.Placement(GANG, (), "r", "rack")
    evict = effects.Evict(GANG, held, effects.Eviction.PREEMPTED, "test")
    one.decided(events.GangSubmitted(GANG), [evict], 0.0)
    assert heard.told[-1] == ("ended", "ml/g")
    leaving = gang(member(0, "n", deleting=True), member(1, "n", deleting=True))
    one.completed(leaving)
    assert one.lives["ml/g"].complete is None, "the old pods are no new gang"
    again = gang(*(replace(member(i), pod=replace(member(i).pod, uid=f"v{i}")) for i in range(2)))
    one.completed(again)
    assert one.lives["ml/g"].complete is not None


def test_a_stage_that_fails_is_told_with_its_problem_and_raises_on(one: observer.Observer, heard: Heard) -> None:
    begun(one, member(0), member(1))
    with pytest.raises(LookupError, match="gone"), one.stage("ml/g", "claims"):
        raise LookupError("gone")
    with one.stage("ml/g", "status"):
        pass
    with one.stage("ml/unknown", "status"):
        pass
    assert heard.told == [("claims", "LookupError: gone"), ("status", "")]


def test_a_gang_that_has_ended_leaves_nothing_behind(one: observer.Observer) -> None:
    begun(one, member(0), member(1))
    one.ended("ml/g")
    one.changed(moved(0, "n"))
    assert not one.lives and not one._gang_of
