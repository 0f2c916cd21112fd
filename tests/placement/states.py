"""Fleets of several GPU models at random occupancy, pods of every kind, and targets: what tests of scoring rules draw."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from scheduler.model import device, fabric, node, request
from scheduler.placement import policy, scoring, target
from scheduler.placement.score import feasible, tables
from scheduler.snapshot import demand, state, topology

MODELS = (device.GpuModel("P4", "Pascal", 8_000), device.GpuModel("T4", "Turing", 16_000))

RULES: tuple[policy.PodRule, ...] = tuple(scoring.RULES)


def machine(
    name: str, gpus: int, cpu: int = 32_000, model: device.GpuModel = MODELS[0], max_pods: int = 100
) -> node.NodeTopology:
    """Return a machine without links."""
    own = tuple(device.Gpu(i, model, f"{name}/{i}") for i in range(gpus))
    return node.NodeTopology(name, f"{model.name}x{gpus}", cpu, 64_000, own, max_pods=max_pods)


def fleet(machines: Sequence[node.NodeTopology], tie: Sequence[int] | None = None) -> topology.Topology:
    """Compile machines that hang directly below the root, rows in the order given."""
    built = {one.name: one for one in machines}
    compiled = topology.compile_topology(fabric.from_paths(built, dict.fromkeys(built, ("r",)), ("rack",)))
    rows = [compiled.row[one.name] for one in machines]
    assert rows == list(range(len(machines))), "machines must be given in order of name"
    if tie is None:
        return compiled
    again = fabric.from_paths(built, dict.fromkeys(built, ("r",)), ("rack",))
    return topology.compile_topology(again, tie=tie)


@st.composite
def fleets(draw: st.DrawFn, most: int = 7) -> topology.Topology:
    """Draw up to `most` machines of two models with unequal capacities, ties in random order."""
    count = draw(st.integers(1, most))
    machines = [
        machine(
            f"n{index}",
            draw(st.sampled_from((0, 1, 2, 4, 4, 8))),
            draw(st.sampled_from((4_000, 16_000, 48_000, 96_000))),
            draw(st.sampled_from(MODELS)),
            draw(st.sampled_from((2, 100, 100))),
        )
        for index in range(count)
    ]
    return fleet(machines, draw(st.permutations(range(count))))


@st.composite
def pods(draw: st.DrawFn) -> request.PodRequest:
    """Draw a CPU-only, shared or whole-GPU pod."""
    gpus = draw(st.sampled_from((0, 1, 1, 1, 2, 4, 8)))
    share = gpus == 1 and draw(st.booleans())
    models = draw(st.sampled_from(((), (), ("P4",), ("T4",), ("P4", "T4"), ("none",)))) if gpus else ()
    return request.PodRequest(
        cpu_milli=draw(st.sampled_from((0, 500, 3_152, 8_000, 20_000))),
        memory_mib=draw(st.sampled_from((0, 512, 30_000))),
        gpus=gpus,
        gpu_milli=draw(st.sampled_from((100, 370, 500, 810))) if share else 1000,
        gpu_models=models,
    )


def targets() -> st.SearchStrategy[target.TargetWorkload]:
    """Draw a small target workload."""
    counted = st.tuples(pods(), st.integers(1, 40))
    return st.lists(counted, min_size=0, max_size=6).map(target.from_requests)


def place(snapshot: state.Snapshot, pod: request.PodRequest, pick: int) -> state.Grant | None:
    """Put a pod on the feasible node that `pick` says, devices as `pick` says; None where it fits nowhere."""
    wanted = demand.compile_demand(snapshot.topology, pod)
    able = np.flatnonzero(feasible.feasible(snapshot, wanted, np.arange(len(snapshot.up))))
    if not len(able):
        return None
    row = int(able[pick % len(able)])
    size = len(snapshot.topology.nodes[row].gpus)
    room = [g for g in range(size) if snapshot.gpu_free[row, g] >= pod.gpu_milli and int(wanted.eligible[row]) >> g & 1]
    start = pick % len(room) if pod.gpus and room else 0
    chosen = (room[start:] + room[:start])[: pod.gpus]
    mask = sum(1 << g for g in chosen)
    grant = state.Grant(row, mask, pod.gpu_milli if mask else 0, pod.cpu_milli, pod.memory_mib)
    snapshot.take(grant)
    return grant


@st.composite
def snapshots(draw: st.DrawFn, most: int = 7) -> state.Snapshot:
    """Draw a fleet on which pods came and went, a node may be cordoned and a GPU may have failed."""
    snapshot = state.empty(draw(fleets(most)))
    held: list[state.Grant] = []
    for pod, pick in draw(st.lists(st.tuples(pods(), st.integers(0, 1 << 16)), max_size=12)):
        if held and pick % 5 == 0:
            snapshot.release(held.pop(pick % len(held)))
        elif (grant := place(snapshot, pod, pick)) is not None:
            held.append(grant)
    for row, one in enumerate(snapshot.topology.nodes):
        if draw(st.integers(0, 9)) == 0:
            snapshot.set_up(row, False)
        if one.gpus and draw(st.integers(0, 9)) == 0 and snapshot.gpu_free[row, 0] == state.FULL:
            snapshot.set_gpu_failed(row, 0, True)
    return snapshot


def named(rule: policy.PodRule, **weights: int) -> policy.ScoringPolicy:
    """Return a policy with a pod rule."""
    spec = policy.Spec(pods=policy.PodScoring(rule=rule, weights=weights))
    return policy.ScoringPolicy(metadata=policy.Metadata(name=rule), spec=spec)


def compiled(
    rule: policy.PodRule,
    fleet_topology: topology.Topology,
    expected: target.TargetWorkload | None = None,
    seed: int = 0,
    **weights: int,
) -> scoring.Scoring:
    """Compile a pod rule for a fleet."""
    return scoring.compile_scoring(named(rule, **weights), fleet_topology, expected, seed)


def tables_of(
    fleet_topology: topology.Topology, expected: target.TargetWorkload | None = None, **weights: int
) -> tables.Tables:
    """Compile the tables of the opportunity cost."""
    return compiled("opportunity-cost", fleet_topology, expected, **weights).tables


def loads(snapshot: state.Snapshot, row: int, *pairs: Any) -> None:
    """Take ``(GPU mask, milli, CPU milli)`` of a node, one grant per pair."""
    for mask, milli, cpu in pairs:
        snapshot.take(state.Grant(row, mask, milli if mask else 0, cpu))
