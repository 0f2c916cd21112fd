"""Requests become claims, holdings become allocations, and allocations become holdings again."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.model import claim, machines, node, request
from tests.model import strategies


def test_cpu_pods_claim_nothing() -> None:
    assert claim.claims_of(request.PodRequest(cpu_milli=1000)) == ()


def test_a_whole_request_names_models_partitions_and_accelerators() -> None:
    pod = request.PodRequest(gpus=2, mig="1g.10gb", gpu_models=("A", "B"), nics=1, accelerators=(("FPGA", 3),))
    (only,) = claim.claims_of(pod)
    rows = [(r.name, r.device_class, r.count) for r in only.requests]
    assert rows == [
        ("gpus", "mig.muster.dev", 2),
        ("nics", "nic.muster.dev", 1),
        ("accelerator-fpga", "accelerator.muster.dev", 3),
    ]
    assert only.requests[0].selectors == (
        "device.attributes['gpu.muster.dev'].productName in ['A', 'B']",
        "device.attributes['gpu.muster.dev'].profile == '1g.10gb'",
    )


def test_more_than_32_devices_make_several_claims() -> None:
    claims = claim.claims_of(request.PodRequest(gpus=16, nics=20, accelerators=(("fpga", 10),)))
    assert [(c.name, sum(r.count for r in c.requests)) for c in claims] == [("devices", 16), ("devices-1", 30)]


@st.composite
def holdings(draw: st.DrawFn) -> tuple[node.NodeTopology, claim.Held, str]:
    """A machine, something held on it, and the MIG profile of its partitions."""
    machine = draw(strategies.topologies(max_gpus=4))
    nic_mask = draw(st.integers(0, (1 << len(machine.nics)) - 1))
    chosen = draw(st.lists(st.sampled_from(range(len(machine.gpus))), unique=True)) if machine.gpus else []
    accelerators = (
        tuple(draw(st.sets(st.sampled_from(range(len(machine.accelerators)))))) if machine.accelerators else ()
    )
    parts = [part for gpu in machine.gpus for part in claim.partitions_of(gpu)]
    part = draw(st.sampled_from([None, *parts]))
    if part:
        held = claim.Held((), 0, ((part.gpu.index, part.slices),), nic_mask, accelerators)
        return machine, held, part.profile.name
    divisible = all(machine.gpus[g].divisible for g in chosen)
    milli = draw(st.integers(1, 1000)) if divisible and len(chosen) == 1 else 1000
    return machine, claim.Held(tuple(chosen), milli if chosen else 0, (), nic_mask, accelerators), ""


@given(holdings())
def test_allocations_come_back_as_what_is_held(case: tuple[node.NodeTopology, claim.Held, str]) -> None:
    machine, held, profile = case
    ids = [f"00000000-0000-4000-8000-{i:012d}" for i in range(4)]
    rows = claim.allocations(machine, held, profile=profile, share_ids=ids, accelerators=held.accelerators)
    assert claim.held(machine, rows) == held
    assert len({row.device for row in rows}) == len(rows)
    for row in rows:
        gpu = next((gpu for gpu in machine.gpus if gpu.name == row.device), None)
        assert bool(row.share_id) == bool(row.consumed) == bool(gpu and gpu.divisible)


@given(strategies.topologies())
def test_device_names_are_unique(machine: node.NodeTopology) -> None:
    parts = sum(len(list(claim.partitions_of(gpu))) for gpu in machine.gpus)
    expected = len(machine.gpus) + parts + len(machine.nics) + len(machine.accelerators)
    assert len(claim.devices(machine)) == expected


def test_rows_keep_the_rank_order_of_the_gpus() -> None:
    machine = machines.build("dgx-1v", "n")
    held = claim.Held((0, 3, 2, 1), 1000)
    assert [row.device for row in claim.allocations(machine, held)] == ["gpu-0", "gpu-3", "gpu-2", "gpu-1"]


def test_a_part_of_a_gpu_needs_a_share_id() -> None:
    machine = machines.build("l40s-8", "n")
    with pytest.raises(claim.ClaimError, match="gpu-1 of node n: 250 of 1000 given out without a share id"):
        claim.allocations(machine, claim.Held((1,), 250))


def test_unknown_devices_pools_and_partitions_are_refused() -> None:
    machine = machines.build("hgx-h100", "n")
    for pool, name in (("n", "gpu-8"), ("m", "gpu-0")):
        with pytest.raises(claim.ClaimError, match=f"node n has no device {pool}/{name}"):
            claim.held(machine, [claim.Allocation(claim.DRIVER, pool, name, "gpus")])
    cut = replace(machine, gpus=tuple(replace(gpu, mig_enabled=True) for gpu in machine.gpus))
    with pytest.raises(claim.ClaimError, match=r"GPU 2 of node n has no partition 1g\.10gb at 0x3"):
        claim.allocations(cut, claim.Held(partitions=((2, 0b11),)), profile="1g.10gb")
