"""Gangs whose domain somebody else has chosen."""

from dataclasses import replace

from scheduler.gang import effects, events
from scheduler.kube import confined, pod, workload
from scheduler.model import reasons
from tests.gang import test_machine_live as live

SPELLINGS = {"example.com/rack": "rack", "rack": "rack"}


def found(*within: workload.Within, required: str = "") -> workload.Workload:
    gang = live.gang("ml/g", 2, required=required)
    return workload.Workload(workload.Identity("ml", "g", "JobSet"), pod.Owner(), gang, within=within)


def test_a_domain_by_its_label_binds_the_gang() -> None:
    core = live.core()
    seen = confined.confined(
        found(workload.Within("worker", "example.com/rack", "r1")), core.scoring.topology, SPELLINGS
    )
    assert seen.gang and seen.gang.within == "b0/r1"
    started = live.only(core.handle(events.GangSubmitted(seen.gang), 0), effects.Start)
    assert {name[:2] for name in live.nodes_of(started.placement, core)} == {"r1"}


def test_the_domain_of_a_leader_binds_its_workers() -> None:
    core = live.core()
    for name in live.NAMES[:3]:
        seen = confined.confined(found(workload.Within("worker", "rack", node=name)), core.scoring.topology, SPELLINGS)
        assert seen.gang and seen.gang.within == "b0/r0"


def test_a_full_domain_makes_a_bound_gang_wait_although_another_is_free() -> None:
    core = live.core()
    for name in live.NAMES[:2]:
        core.handle(events.Occupied(name, name, live.gpus(1)), 0)
    bound = replace(live.gang("g", 2), within="b0/r0")
    waits = live.only(core.handle(events.GangSubmitted(bound), 0), effects.Wait)
    assert waits.rejection.missing > 0
    free = live.only(core.handle(events.GangSubmitted(live.gang("h", 2)), 1), effects.Start)
    assert {name[:2] for name in live.nodes_of(free.placement, core)} == {"r1"}, "the shapes are not the same"


def test_a_domain_that_is_not_there_is_named() -> None:
    core = live.core()
    seen = confined.confined(found(workload.Within("worker", "rack", "r9")), core.scoring.topology, SPELLINGS)
    assert seen.gang
    waits = live.only(core.handle(events.GangSubmitted(seen.gang), 0), effects.Wait)
    assert waits.rejection.reason is reasons.Reason.DOMAIN and "r9" in str(waits.rejection)


def test_several_domains_are_refused_with_the_remedy() -> None:
    two = found(workload.Within("worker", "rack", "r0", count=1), workload.Within("worker", "rack", "r1", count=1))
    seen = confined.confined(two, live.core().scoring.topology, SPELLINGS)
    assert "b0/r0, b0/r1 were chosen" in seen.problem and "AdmissionCheck" in seen.problem
