"""Which devices a pod gets on its node."""

import pytest

from scheduler.model import device, gpu_models, machines, node, request
from scheduler.placement import devices, partitions, policy
from scheduler.snapshot import demand, shapes, state
from tests.placement import fleets


def shape(kind: str) -> shapes.NodeShape:
    """Return the shape of a real machine."""
    return shapes.classify((machines.build(kind, "n"),))[0][0]


def given(
    kind: str, rule: policy.DeviceRule = "best-subset", count: int = 1, taken: int = 0, **fields: object
) -> list[state.Grant]:
    """Return the grants of equal pods on one machine, some of whose GPUs are taken."""
    fleet = fleets.fleet({"n": ("", "")}, {"n": machines.build(kind, "n")})
    snapshot = state.empty(fleet)
    if taken:
        snapshot.take(state.Grant(0, taken, 1000))
    wanted = demand.compile_demand(fleet, request.PodRequest(**fields))  # type: ignore[arg-type]
    return devices.grants(snapshot, wanted, 0, count, rule)


def test_best_subset_takes_a_bridged_pair_where_first_fit_breaks_two() -> None:
    bridged = shape("a100-pcie-pairs")
    (ours,) = given("a100-pcie-pairs", gpus=2, taken=0b0001)
    (first,) = given("a100-pcie-pairs", "first-fit", gpus=2, taken=0b0001)
    assert first.mask == 0b0110
    assert bridged.bandwidth(ours.mask) > bridged.bandwidth(first.mask)


def test_single_gpus_of_a_gang_follow_the_ring() -> None:
    dgx = shape("dgx-1v")
    grants = given("dgx-1v", gpus=1, count=8)
    order = [grant.gpus[0] for grant in grants]
    assert tuple(order) == dgx.ring(0xFF)
    assert [g.gpus[0] for g in given("dgx-1v", "first-fit", gpus=1, count=8)] == list(range(8))


def test_pods_of_several_gpus_are_disjoint_best_subsets_inside_the_best_union() -> None:
    dgx = shape("dgx-1v")
    grants = given("dgx-1v", gpus=2, count=2, taken=0b1100_0000)
    masks = [grant.mask for grant in grants]
    assert masks[0] & masks[1] == 0
    assert masks[0] | masks[1] == dgx.best(4, 0b0011_1111)
    for grant in grants:
        assert set(grant.gpus) == {i for i in range(8) if grant.mask >> i & 1}


def test_the_order_is_that_of_the_ring_and_empty_where_it_ascends() -> None:
    (whole,) = given("dgx-1v", gpus=8)
    assert whole.order == shape("dgx-1v").ring(0xFF) == whole.gpus
    (switched,) = given("hgx-h100", gpus=8)
    assert switched.order == ()


def test_nics_are_the_nearest_and_given_once() -> None:
    hgx = shape("hgx-h100")
    grants = given("hgx-h100", gpus=2, count=4, nics=2)
    seen = 0
    for grant in grants:
        assert grant.nic_mask.bit_count() == 2 and not grant.nic_mask & seen
        assert grant.nic_mask == hgx.nics(grant.mask, 2, 0xFFFF_FFFF & ~seen & (1 << len(hgx.machine.nics)) - 1)
        seen |= grant.nic_mask
    with pytest.raises(state.InvariantError):
        given("hgx-h100", gpus=1, count=3, nics=4)


def test_shares_take_the_fullest_gpu_that_holds_them() -> None:
    fleet = fleets.fleet({"n": ("", "")}, {"n": fleets.machine("n")})
    snapshot = state.empty(fleet)
    snapshot.take(state.Grant(0, 0b0001, 500))
    snapshot.take(state.Grant(0, 0b0010, 700))
    wanted = demand.compile_demand(fleet, request.PodRequest(gpus=1, gpu_milli=300))
    assert [g.mask for g in devices.grants(snapshot, wanted, 0, 3, "best-subset")] == [0b0010, 0b0001, 0b0100]
    assert [g.mask for g in devices.grants(snapshot, wanted, 0, 3, "first-fit")] == [0b0001, 0b0010, 0b0100]
    assert [g.mask for g in devices.grants(snapshot, wanted, 0, 2, "best-subset", gpu=3)] == [0b1000, 0b0010]


def partitioned(
    taken: dict[int, tuple[str, int]], count: int, mig: str, rule: policy.DeviceRule = "best-subset"
) -> list[tuple[int, int]]:
    """Return GPU and slices of the partitions of pods, after some partitions are taken."""
    fleet = fleets.fleet({"m": ("", "")}, {"m": fleets.mig_node("m", 2)})
    snapshot = state.empty(fleet)
    model = gpu_models.A100_SXM4_80
    for gpu, (name, start) in taken.items():
        profile = model.profile(name)
        assert profile
        snapshot.take(state.Grant(0, 1 << gpu, partitions=((gpu, model.slices(profile, start)),)))
    wanted = demand.compile_demand(fleet, request.PodRequest(gpus=1, mig=mig))
    return [grant.partitions[0] for grant in devices.grants(snapshot, wanted, 0, count, rule)]


def test_partitions_go_to_cut_gpus_first_and_spare_the_large_shapes() -> None:
    assert partitioned({1: ("1g.10gb", 6)}, 1, "3g.40gb") == [(1, 0b1111)]
    assert partitioned({}, 1, "1g.10gb")[0][1] == 1 << 6
    assert partitioned({}, 1, "1g.10gb", "first-fit") == [(0, 1)]
    gpus = [gpu for gpu, _ in partitioned({1: ("4g.40gb", 0)}, 2, "3g.40gb")]
    assert gpus == [1, 0]


def test_worth_falls_with_every_slice_and_most_with_the_first() -> None:
    table = partitions.worth(gpu_models.A100_SXM4_80).tolist()
    assert table[0] == max(table) and table[-1] == 0
    for mask in range(512):
        for bit in range(9):
            assert table[mask | 1 << bit] <= table[mask]


def test_a_request_without_gpus_gets_none() -> None:
    fleet = fleets.fleet(
        {"n": ("", "")}, {"n": node.NodeTopology("n", cpu_milli=4000, gpus=(device.Gpu(0, fleets.SMALL),))}
    )
    wanted = demand.compile_demand(fleet, request.PodRequest(cpu_milli=1000))
    (grant,) = devices.grants(state.empty(fleet), wanted, 0, 1, "best-subset")
    assert grant == state.Grant(0, cpu_milli=1000)


@pytest.mark.parametrize("kind", ["dgx-1v", "hgx-h100", "a100-pcie-pairs"])
def test_grants_of_a_role_are_those_of_its_nodes(kind: str) -> None:
    names = ("n0", "n1", "n2")
    fleet = fleets.fleet(dict.fromkeys(names, ("", "")), {n: machines.build(kind, n) for n in names})
    snapshot = state.empty(fleet)
    snapshot.take(state.Grant(1, 0b11, 1000))
    for pod in (request.PodRequest(gpus=2), request.PodRequest(gpus=1, gpu_milli=400), request.PodRequest(cpu_milli=5)):
        wanted = demand.compile_demand(fleet, pod)
        together = devices.grants_of_role(snapshot, wanted, [0, 1, 2], [1, 1, 2], "best-subset")
        apart = [g for n, c in ((0, 1), (1, 1), (2, 2)) for g in devices.grants(snapshot, wanted, n, c, "best-subset")]
        assert list(together) == apart
