"""Gauges of fleet, queue and tenants from machines in known states."""

import random
import time
from collections import Counter
from collections.abc import Iterable

import pytest
from prometheus_client import metrics_core

from scheduler import policies
from scheduler.gang import config, events
from scheduler.gang import machine as machines
from scheduler.metrics import crowd, fleet, waste
from scheduler.model import fabric, request
from scheduler.model import gang as gangs
from scheduler.model import machines as hardware
from scheduler.placement import scoring, target
from scheduler.placement.score import fragmentation
from scheduler.snapshot import state, topology
from tests.bench import fleets as large


def compiled(kinds: list[str]) -> topology.Topology:
    """Return machines of some kinds, two in each rack."""
    nodes = {f"n{i}": hardware.build(kind, f"n{i}") for i, kind in enumerate(kinds)}
    return topology.compile_topology(fabric.from_paths(nodes, {n: (f"r{int(n[1:]) // 2}",) for n in nodes}, ("rack",)))


def core(kinds: list[str], wanted: target.TargetWorkload | None = None, **settings: object) -> machines.Machine:
    found = scoring.compile_scoring(policies.load("muster"), compiled(kinds), wanted)
    return machines.Machine(found, config.QueueConfig(**settings))


def gang(name: str, pods: int = 1, gpus: int = 8, tenant: str = "default", **more: object) -> gangs.Gang:
    return gangs.Gang(name, (gangs.Role("worker", pods, request.PodRequest(gpus=gpus, **more)),), tenant=tenant)


def samples(families: Iterable[metrics_core.Metric]) -> dict[tuple[str, ...], float]:
    """Return values by name and labels in the order of the family."""
    return {
        (sample.name.removeprefix("muster_"), *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def fleet_of(one: machines.Machine) -> dict[tuple[str, ...], float]:
    return samples(fleet.families(one.snapshot, fleet.models(one.snapshot.topology), one.held))


def slowly(snapshot: state.Snapshot) -> Counter[tuple[str, str]]:
    """Count GPUs by model and state, GPU by GPU."""
    found: Counter[tuple[str, str]] = Counter()
    for n, node in enumerate(snapshot.topology.nodes):
        for gpu in node.gpus:
            left, slices = int(snapshot.gpu_free[n, gpu.index]), int(snapshot.slices_used[n, gpu.index])
            if int(snapshot.failed_gpus[n]) >> gpu.index & 1:
                word = "failed"
            elif slices or 0 < left < 1000:
                word = "partial"
            elif left == 1000:
                word = "free" if snapshot.up[n] else "closed"
            else:
                word = "used"
            found[gpu.model.name, word] += 1
    return found


@pytest.mark.parametrize("seed", range(6))
def test_gpus_by_state_are_what_counting_one_by_one_gives(seed: int) -> None:
    draw = random.Random(seed)
    one = core([draw.choice(("hgx-h100", "dgx-a100", "dgx-1v")) for _ in range(6)])
    for i in range(12):
        more = draw.choice(({"gpus": 1, "gpu_milli": 300}, {"gpus": 1}, {"gpus": 4}, {"gpus": 1, "mig": "1g.10gb"}))
        one.handle(events.GangSubmitted(gang(f"g{i}", **more)), float(i))
    one.handle(events.NodeCordoned("n1"), 20.0)
    one.handle(events.DeviceFailed("n0", 7), 21.0)
    told, counted = fleet_of(one), slowly(one.snapshot)
    models = {model for model, _ in counted}
    assert {word for _, word in counted} >= {"free", "closed", "failed"}
    for model in models:
        for word in fleet.STATES:
            assert told["gpus", model, word] == counted[model, word], (model, word)
        assert sum(told["gpus", model, word] for word in fleet.STATES) == sum(
            gpu.model.name == model for node in one.snapshot.topology.nodes for gpu in node.gpus
        )


def test_rooms_are_the_largest_and_the_idle_domains() -> None:
    one = core(["hgx-h100"] * 4)
    model = "H100-SXM5-80GB"
    one.handle(events.Adopted(gang("a", gpus=3), (state.Grant(0, 0b111, 1000),)), 0.0)
    one.handle(events.Adopted(gang("b", gpus=8), (state.Grant(2, 0xFF, 1000),)), 0.0)
    told = fleet_of(one)
    assert told["domain_free_gpus_max", "node", model] == 8
    assert told["domain_free_gpus_max", "rack", model] == 13
    assert told["domain_free_gpus_max", "cluster", model] == 21
    assert (told["idle_domains", "node", model], told["idle_domains", "rack", model]) == (2, 0)
    assert (told["domains", "node", model], told["domains", "rack", model]) == (4, 2)
    one.handle(events.NodeCordoned("n1"), 1.0)
    assert fleet_of(one)["idle_domains", "node", model] == 1, "nothing starts on a node that is shut"


def test_reservations_are_told_until_they_are_confirmed() -> None:
    one = core(["hgx-h100"] * 2, reservation_s=60.0)
    one.handle(events.GangSubmitted(gang("g", 2, 4)), 0.0)
    assert fleet_of(one)["reserved_gpus", "H100-SXM5-80GB"] == 8
    one.handle(events.Bound("g"), 1.0)
    assert fleet_of(one)["reserved_gpus", "H100-SXM5-80GB"] == 0


def test_series_of_models_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "MAX_MODELS", 1)
    one = core(["hgx-h100", "hgx-h100", "dgx-a100", "dgx-1v"])
    told = fleet_of(one)
    assert told["gpus", "H100-SXM5-80GB", "free"] == 16
    assert told["gpus", "other", "free"] == 16
    assert {labels[1] for labels in told if labels[0] == "gpus"} == {"H100-SXM5-80GB", "other"}


def test_series_of_tenants_are_bounded_and_nobody_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowd, "MAX_TENANTS", 3)
    one = core(["hgx-h100"] * 4)
    for i in range(5):
        one.handle(events.GangSubmitted(gang(f"g{i}", 1, 5 - i, f"t{i}")), float(i))
    for i in range(5, 9):
        one.handle(events.GangSubmitted(gang(f"g{i}", 4, 8, f"t{i}")), float(i))
    told = samples(crowd.families(one, (), 100.0))
    held = {labels[1]: value for labels, value in told.items() if labels[0] == "tenant_gpus"}
    assert held == {"t0": 5, "t1": 4, "t2": 3, "other": 3}
    waiting = {labels[1:]: value for labels, value in told.items() if labels[0] == "waiting_gangs"}
    assert waiting == {("InsufficientGPUs", "other"): 4}
    assert told["oldest_wait_seconds", "other"] == 95.0


def test_the_bandwidth_is_the_engines_by_level() -> None:
    one = core(["hgx-h100"] * 2)
    one.handle(events.GangSubmitted(gang("wide", 2, 4)), 0.0)
    one.handle(events.GangSubmitted(gang("near", 1, 2)), 0.0)
    one.handle(events.GangSubmitted(gang("lone", 1, 1)), 0.0)
    told = samples(crowd.families(one, (), 1.0))
    wanted: dict[str, list[int]] = {}
    for held in one.held:
        wanted.setdefault(held.placement.level, []).append(held.placement.bandwidth_mb_s)
    assert sum(told["placed_gangs", level] for level in wanted) == 3
    for level, values in wanted.items():
        predicted = [value for value in values if value]
        assert told["predicted_bandwidth_bytes_per_second", level, "min"] == min(predicted) * 1e6
        assert told["predicted_bandwidth_bytes_per_second", level, "max"] == max(predicted) * 1e6


def test_fragmentation_is_what_the_workload_can_not_use() -> None:
    one = core(["hgx-h100"] * 2)
    kept = waste.Waste()
    assert kept.gpus(one) is None, "without a workload nothing is wasted"
    one.handle(events.Adopted(gang("a", gpus=2), (state.Grant(0, 0b11, 1000),)), 0.0)
    one.handle(events.GangSubmitted(gang("big", 2, 8)), 1.0)
    # pods seen: one of 2 GPUs, two of 8; node 0 has 6 free GPUs that the pods of 8 can't use: 2/3 of 6
    assert kept.gpus(one) == pytest.approx(4.0)
    told = samples(kept.families(one))
    assert told["fragmentation_ratio",] == pytest.approx(4.0 / 16)
    one.handle(events.GangCancelled("big"), 2.0)
    assert kept.gpus(one) == 0.0, "a pod of 2 GPUs fits into 6"


def test_fragmentation_is_the_simulators_where_the_policy_has_a_target() -> None:
    wanted = target.from_requests([(request.PodRequest(gpus=n), n) for n in (1, 2, 4, 8)])
    one = core(["hgx-h100"] * 4, wanted)
    for i in range(5):
        one.handle(events.GangSubmitted(gang(f"g{i}", 1, 3)), float(i))
    measure = fragmentation.compile_fragmentation(one.snapshot.topology, wanted)
    nodes = range(len(one.snapshot.up))
    found = measure.of(one.snapshot.gpu_free.astype("int64"), one.snapshot.cpu_free, list(nodes))
    assert waste.Waste().gpus(one) == pytest.approx(found.sum() / measure.total / 1000)


def test_a_scrape_of_5000_nodes_does_not_hold_the_loop_for_long() -> None:
    found = scoring.compile_scoring(policies.load("muster"), large.large())
    one = machines.Machine(found, config.QueueConfig())
    for i in range(2000):
        size = (1, 2, 4, 8)[i % 4]
        one.handle(events.GangSubmitted(gang(f"g{i}", 2, size, f"t{i % 40}")), float(i))
    kinds, kept = fleet.models(one.snapshot.topology), waste.Waste()

    def scrape() -> float:
        began = time.perf_counter()
        list(fleet.families(one.snapshot, kinds, one.held))
        list(crowd.families(one, (), 5000.0))
        list(kept.families(one))
        return time.perf_counter() - began

    scrape()  # the first after a change of the fleet or the workload compiles
    took = []
    for i in range(3):
        one.handle(events.GangFinished(f"g{4 * i}"), 6000.0 + i)
        took.append(scrape())
    print(f"scrape of 5,000 nodes: {min(took) * 1e3:.1f} ms")
    assert min(took) < 0.25
