"""Counts per node and per resource, against putting pods on one after the other."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.model import device, gpu_models, node, reasons, request
from scheduler.model import gang as gangs
from scheduler.placement import devices, fit, partitions
from scheduler.snapshot import demand, state
from tests.placement import fleets

PROFILES = [profile.name for profile in gpu_models.A100_SXM4_80.mig]


@settings(max_examples=200, deadline=None)
@given(snapshot=fleets.snapshots(), one=fleets.gangs())
def test_counts_are_what_fits_one_after_the_other(snapshot: state.Snapshot, one: gangs.Gang) -> None:
    pod = one.roles[0].request
    wanted = demand.compile_demand(snapshot.topology, pod)
    counts = fit.pods_that_fit(snapshot, wanted)
    capped = np.minimum(counts, 200)
    for row in range(len(snapshot.up)):
        assert capped[row] == fleets.room(snapshot, row, pod)
    assert (fit.pods_that_fit(snapshot, wanted, 1, 3) == counts[1:3]).all()
    everywhere = [limit.pods for limit in fit.limits(snapshot, wanted)]
    assert (np.minimum.reduce(everywhere) == counts)[wanted.eligible > 0].all()


@settings(max_examples=200, deadline=None)
@given(snapshot=fleets.snapshots(), one=fleets.gangs(), rule=st.sampled_from(("best-subset", "first-fit")))
def test_exactly_the_counted_pods_get_devices(snapshot: state.Snapshot, one: gangs.Gang, rule: str) -> None:
    wanted = demand.compile_demand(snapshot.topology, one.roles[0].request)
    for row, count in enumerate(fit.pods_that_fit(snapshot, wanted).tolist()):
        grants = devices.grants(snapshot, wanted, row, min(count, 20), rule)  # type: ignore[arg-type]
        full = fleets.take_all(snapshot, grants)
        if count <= 20:
            assert fit.pods_that_fit(full, wanted)[row] == 0
        if count < 20 and wanted.gpus:
            with pytest.raises(state.InvariantError):
                fleets.take_all(snapshot, devices.grants(snapshot, wanted, row, count + 1, rule))  # type: ignore[arg-type]


def test_models_sharing_and_accelerators_are_respected() -> None:
    other = device.GpuModel("OTHER", "Hopper", 80_000)
    mixed = node.NodeTopology(
        "mixed",
        cpu_milli=64_000,
        gpus=(device.Gpu(0, fleets.SMALL), device.Gpu(1, other), device.Gpu(2, other, shareable=False)),
        accelerators=(device.Accelerator(0, "fpga", "X1"), device.Accelerator(1, "fpga", "X1")),
    )
    fleet = fleets.fleet({"mixed": ("", "")}, {"mixed": mixed})
    snapshot = state.empty(fleet)

    def count(**fields: object) -> int:
        pod = request.PodRequest(**fields)  # type: ignore[arg-type]
        return int(fit.pods_that_fit(snapshot, demand.compile_demand(fleet, pod))[0])

    assert count(gpus=1) == 3
    assert count(gpus=2, gpu_models=("OTHER",)) == 1
    assert count(gpus=1, gpu_milli=500) == 4
    assert count(gpus=1, gpu_milli=501, gpu_models=("OTHER",)) == 1
    assert count(accelerators=(("fpga", 2),)) == 1
    assert count(accelerators=(("tpu", 1),)) == 0
    assert count(gpus=1, gpu_models=("NONE",)) == 0


@pytest.mark.parametrize("name", PROFILES)
@settings(max_examples=25, deadline=None)
@given(held=st.lists(st.sampled_from(PROFILES), max_size=4))
def test_the_count_of_partitions_is_the_best_over_all_orders(name: str, held: list[str]) -> None:
    fleet = fleets.fleet({"m": ("", "")}, {"m": fleets.mig_node("m", 1)})
    snapshot = state.empty(fleet)
    for other in held:
        wanted = demand.compile_demand(fleet, request.PodRequest(gpus=1, mig=other))
        if fit.pods_that_fit(snapshot, wanted)[0]:
            snapshot.take(devices.grants(snapshot, wanted, 0, 1, "first-fit")[0])
    profile = gpu_models.A100_SXM4_80.profile(name)
    assert profile
    used = int(snapshot.slices_used[0, 0])
    most = 0
    for order in permutations(profile.starts):
        mask, count = used, 0
        for start in order:
            place = gpu_models.A100_SXM4_80.slices(profile, start)
            if not mask & place:
                mask, count = mask | place, count + 1
        most = max(most, count)
    wanted = demand.compile_demand(fleet, request.PodRequest(gpus=1, mig=name))
    assert fit.pods_that_fit(snapshot, wanted)[0] == most
    for rule in ("best-subset", "first-fit"):
        fleets.take_all(snapshot, devices.grants(snapshot, wanted, 0, most, rule))


def test_a_gpu_with_shares_or_a_failure_carries_no_partitions() -> None:
    fleet = fleets.fleet({"m": ("", "")}, {"m": fleets.mig_node("m", 3)})
    snapshot = state.empty(fleet)
    snapshot.take(state.Grant(0, 0b001, 1000))
    snapshot.set_gpu_failed(0, 1, True)
    wanted = demand.compile_demand(fleet, request.PodRequest(gpus=1, mig="7g.80gb"))
    assert fit.pods_that_fit(snapshot, wanted)[0] == 1
    assert partitions.usable(snapshot, 0, 0b111) == 0b100


def test_partitions_in_an_interval_are_those_of_its_nodes() -> None:
    """Nodes of several sizes, one without MIG, one in use: an interval counts its own nodes and no others."""
    built = {f"m{i}": fleets.mig_node(f"m{i}", gpus) for i, gpus in enumerate((1, 3, 2, 4))}
    built["m4"] = fleets.machine("m4", 4)
    fleet = fleets.fleet(dict.fromkeys(built, ("b0", "r0")), built)
    snapshot = state.empty(fleet)
    snapshot.take(state.Grant(1, 0b010, 1000))
    wanted = demand.compile_demand(fleet, request.PodRequest(gpus=1, mig="3g.40gb"))
    assert fit.pods_that_fit(snapshot, wanted).tolist() == [2, 4, 4, 8, 0]
    assert fit.pods_that_fit(snapshot, wanted, 1, 4).tolist() == [4, 4, 8]
    assert fit.pods_that_fit(snapshot, wanted, 3).tolist() == [8, 0]


def test_limits_tell_units_and_pods_apart() -> None:
    fleet = fleets.racks(2)
    snapshot = state.empty(fleet)
    snapshot.take(state.Grant(0, 0b0111, 1000))
    wanted = demand.compile_demand(fleet, request.PodRequest(gpus=2, cpu_milli=10_000))
    limits = {limit.reason: limit for limit in fit.limits(snapshot, wanted)}
    gpus = limits[reasons.Reason.GPUS]
    assert gpus.free.tolist() == [1, 4] and gpus.pods.tolist() == [0, 2]
    assert limits[reasons.Reason.CPU].pods.tolist() == [3, 3]
