"""The engine against exact answers on small instances."""

import numpy as np
import pytest

from scheduler import policies
from scheduler.model import device, fabric, gang, node, request
from scheduler.placement import engine, placement, scoring
from scheduler.snapshot import state, topology
from simulator import oracle

MODEL = device.GpuModel("A", "x", 16_000)
WORST_MEAN_GAP = 0.07
"""Gangs that first come, first served may leave out, of those that an optimum places, mean over the instances: 0.054 in the
run that this bound was set from. The order of arrival costs that much; an optimum may serve small gangs first."""


def fleet(random: np.random.Generator) -> topology.Topology:
    sizes = random.choice([2, 4, 4], size=int(random.integers(2, 6))).tolist()
    nodes = {}
    for n, size in enumerate(sizes):
        gpus = tuple(device.Gpu(i, MODEL) for i in range(size))
        nodes[f"n{n}"] = node.NodeTopology(f"n{n}", "test", 4_000 * size, 8_000 * size, gpus)
    paths = {name: (f"r{n // 2}",) for n, name in enumerate(nodes)}
    return topology.compile_topology(fabric.from_paths(nodes, paths, ("rack",)))


def one_role(random: np.random.Generator, number: int) -> gang.Gang:
    share = random.random() < 0.3
    pod = request.PodRequest(
        cpu_milli=int(random.integers(1, 6)) * 1_000,
        gpus=1 if share else int(random.integers(1, 5)),
        gpu_milli=int(random.choice([300, 500, 700])) if share else 1000,
    )
    level = str(random.choice(["", "rack", "node"]))
    constraint = gang.TopologyConstraint(required=level)
    return gang.Gang(f"g{number}", (gang.Role("w", int(random.integers(1, 5)), pod),), constraint=constraint)


@pytest.mark.parametrize("seed", range(12))
def test_one_role_is_refused_exactly_when_it_does_not_fit(seed: int) -> None:
    random = np.random.default_rng(seed)
    compiled = fleet(random)
    scored = scoring.compile_scoring(policies.load("muster"), compiled)
    snapshot = state.empty(compiled)
    for number in range(6):
        wanted = one_role(random, number)
        answer = engine.place(snapshot, wanted, scored)
        assert isinstance(answer, placement.Placement) == oracle.feasible(snapshot, wanted)
        if isinstance(answer, placement.Placement):
            for grant in answer.grants:
                snapshot.take(grant)


def test_first_come_first_served_loses_little_against_the_optimum_and_never_beats_it() -> None:
    gaps = []
    for seed in range(20):
        random = np.random.default_rng(100 + seed)
        compiled = fleet(random)
        scored = scoring.compile_scoring(policies.load("muster"), compiled)
        gangs = [one_role(random, number) for number in range(5)]
        best = oracle.most(state.empty(compiled), gangs).value
        snapshot, placed = state.empty(compiled), 0
        for wanted in gangs:
            answer = engine.place(snapshot, wanted, scored)
            if isinstance(answer, placement.Placement):
                placed += 1
                for grant in answer.grants:
                    snapshot.take(grant)
        assert placed <= best
        gaps.append((best - placed) / max(1, best))
    assert np.mean(gaps) <= WORST_MEAN_GAP, f"mean gap {np.mean(gaps):.3f}"


def test_the_fewest_racks_are_counted_exactly() -> None:
    nodes = {
        f"n{n}": node.NodeTopology(f"n{n}", "t", 8_000, 8_000, tuple(device.Gpu(i, MODEL) for i in range(2)))
        for n in range(4)
    }
    compiled = topology.compile_topology(
        fabric.from_paths(nodes, {f"n{n}": (f"r{n // 2}",) for n in range(4)}, ("rack",))
    )
    snapshot = state.empty(compiled)
    pod = request.PodRequest(gpus=2)
    assert [
        oracle.fewest_domains(snapshot, gang.Gang("g", (gang.Role("w", n, pod),)), "rack") for n in (1, 2, 3, 5)
    ] == [1, 1, 2, None]
