"""The verifier finds every device that is given out twice, and nothing else."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as some

from scheduler.kube import claim, occupancy
from scheduler.model import claim as model
from scheduler.model import machines
from tests.kube import fleets

CUT = machines.build("dgx-a100", "a")
CUT = replace(CUT, gpus=tuple(replace(g, mig_enabled=g.index == 0, uuid=f"GPU-a-{g.index}") for g in CUT.gpus))
FLEET = fleets.told(CUT)
PARTS = {part.name: part for part in model.partitions_of(CUT.gpus[0])}


def held(name: str, *rows: tuple[str, str, int], pool: str = "a", memory: int = 0) -> claim.Claim:
    """Return a claim with devices: name, share id, milli."""
    more = (("memory", memory),) if memory else ()
    found = tuple(
        model.Allocation("gpu.muster.dev", pool, device, "r", share, (*more, ("milli", milli)) if share else ())
        for device, share, milli in rows
    )
    return claim.Claim("ml", name, name, "1", claim.Spec(), rows=found)


CASES: list[tuple[list[claim.Claim], list[tuple[str, tuple[str, ...], str]]]] = [
    ([held("a", ("nic-0", "", 0)), held("b", ("nic-1", "", 0)), claim.Claim("ml", "c", "c", "1", claim.Spec())], []),
    (
        [held("b", ("nic-0", "", 0)), held("a", ("nic-0", "", 0))],
        [("gpu.muster.dev/a/nic-0", ("ml/a", "ml/b"), "2 allocations of a device that ml/b holds alone")],
    ),
    ([held("a", ("gpu-1", "x", 400), ("gpu-1", "y", 100)), held("b", ("gpu-1", "z", 500))], []),
    (
        [held("a", ("gpu-1", "x", 501)), held("b", ("gpu-1", "z", 500))],
        [("gpu.muster.dev/a/gpu-1", ("ml/a", "ml/b"), "shares take 1001 of 1000 milli")],
    ),
    (
        [held("a", ("gpu-1", "x", 1), memory=60 << 30), held("b", ("gpu-1", "z", 1), memory=30 << 30)],
        [("gpu.muster.dev/a/gpu-1", ("ml/a", "ml/b"), f"shares take {90 << 30} of {80 << 30} memory")],
    ),
    (
        [held("a", ("gpu-1", "x", 500)), held("b", ("gpu-1", "x", 500))],
        [("gpu.muster.dev/a/gpu-1", ("ml/a", "ml/b"), "two allocations have one share id")],
    ),
    (
        [held("a", ("gpu-1", "x", 500)), held("b", ("gpu-1", "", 0))],
        [("gpu.muster.dev/a/gpu-1", ("ml/a", "ml/b"), "2 allocations of a device that ml/b holds alone")],
    ),
    (
        [held("a", ("gpu-0-mig-3g40gb-9-0", "", 0)), held("b", ("gpu-0-mig-1g10gb-19-3", "", 0))],
        [("gpu.muster.dev/a/gpu-0", ("ml/a", "ml/b"), "gpu-0-mig-1g10gb-19-3, gpu-0-mig-3g40gb-9-0 overlap")],
    ),
    ([held("a", ("gpu-0-mig-3g40gb-9-0", "", 0)), held("b", ("gpu-0-mig-1g10gb-19-4", "", 0))], []),
    (
        [held("a", ("gpu-0", "", 0)), held("b", ("gpu-0-mig-1g10gb-19-4", "", 0))],
        [("gpu.muster.dev/a/gpu-0", ("ml/a", "ml/b"), "gpu-0, gpu-0-mig-1g10gb-19-4 overlap")],
    ),
    (
        [held("a", ("gone", "", 0), pool="far"), held("b", ("gone", "", 0), pool="far")],
        [("gpu.muster.dev/far/gone", ("ml/a", "ml/b"), "2 allocations of a device that ml/a holds alone")],
    ),
]


@pytest.mark.parametrize(("claims", "expected"), CASES)
def test_conflicts(claims: list[claim.Claim], expected: list[tuple[str, tuple[str, ...], str]]) -> None:
    assert occupancy.conflicts(claims, FLEET) == [occupancy.Conflict(*one) for one in expected]


@given(some.lists(some.sampled_from(sorted(PARTS)), max_size=6))
def test_partitions_conflict_exactly_where_their_slices_do(names: list[str]) -> None:
    claims = [held(f"c{i}", (name, "", 0)) for i, name in enumerate(names)]
    used, clash = 0, False
    for name in names:
        clash |= bool(used & PARTS[name].slices)
        used |= PARTS[name].slices
    assert bool(occupancy.conflicts(claims, FLEET)) is clash
