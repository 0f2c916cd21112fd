"""Gangs whose domain somebody else has chosen."""

from dataclasses import replace

from scheduler.gang import effects, events
from scheduler.kube import confined, pod, workload
from scheduler.model import gang, levels, reasons
from tests.gang import test_machine_live as live
from tests.placement import fleets

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


def test_several_domains_bind_the_ranks_one_by_one() -> None:
    two = found(workload.Within("worker", "rack", "r1", count=1), workload.Within("worker", "rack", "r0", count=1))
    core = live.core()
    seen = confined.confined(two, core.scoring.topology, SPELLINGS)
    assert seen.gang and seen.gang.roles[0].places == (gang.Place("b0/r1", 1), gang.Place("b0/r0", 1))
    started = live.only(core.handle(events.GangSubmitted(seen.gang), 0), effects.Start)
    ranks = [core.scoring.topology.nodes[grant.node].name for grant in started.placement.grants]
    assert [name[:2] for name in ranks] == ["r1", "r0"]


def test_hosts_are_places_by_name() -> None:
    hosts = found(
        *(workload.Within("worker", levels.HOSTNAME, name, count=1) for name in (live.NAMES[3], live.NAMES[0]))
    )
    seen = confined.confined(hosts, live.core().scoring.topology, SPELLINGS)
    assert seen.gang and [one.domain for one in seen.gang.roles[0].places] == [live.NAMES[3], live.NAMES[0]]


def test_a_rack_of_a_name_that_two_blocks_have_is_told_by_its_block() -> None:
    fleet = fleets.fleet({"a": ("b0", "r0"), "b": ("b1", "r0")}, {name: fleets.machine(name) for name in ("a", "b")})
    spellings = {"x/rack": "rack", "x/block": "block"}
    for block in ("b0", "b1"):
        seen = confined.confined(
            found(workload.Within("worker", "x/rack", "r0", above=(("x/block", block),))), fleet, spellings
        )
        assert seen.gang and seen.gang.within == f"{block}/r0"


def test_places_for_another_number_of_pods_are_refused() -> None:
    few = found(workload.Within("worker", "rack", "r0", count=1), workload.Within("worker", "rack", "r1", count=2))
    seen = confined.confined(few, live.core().scoring.topology, SPELLINGS)
    assert "places were chosen for 3 pods, but 2 have to run" in seen.problem
