"""Requests compile to the GPUs and MIG placements that suit them."""

from dataclasses import replace

from scheduler.model import device, fabric, gpu_models, machines, node, request
from scheduler.snapshot import demand, topology


def fleet(*nodes: node.NodeTopology) -> topology.Topology:
    return topology.compile_topology(fabric.from_paths({machine.name: machine for machine in nodes}, {}, ()))


def mixed() -> node.NodeTopology:
    """A GPU in MIG mode, one for shares, one indivisible, one of another model."""
    a100, t4 = gpu_models.A100_SXM4_40, gpu_models.T4
    gpus = (
        device.Gpu(0, a100, mig_enabled=True),
        device.Gpu(1, a100),
        device.Gpu(2, a100, shareable=False),
        device.Gpu(3, t4),
    )
    return node.NodeTopology("mixed", gpus=gpus)


def eligible(pod: request.PodRequest, *nodes: node.NodeTopology) -> list[int]:
    mask: list[int] = demand.compile_demand(fleet(*nodes), pod).eligible.tolist()
    return mask


def test_whole_gpus_of_any_or_of_named_models_suit() -> None:
    assert eligible(request.PodRequest(gpus=1), mixed()) == [0b1111]
    assert eligible(request.PodRequest(gpus=1, gpu_models=("T4",)), mixed()) == [0b1000]
    assert eligible(request.PodRequest(gpus=1, gpu_models=("A100-SXM4-40GB", "T4")), mixed()) == [0b1111]
    assert eligible(request.PodRequest(gpus=1, gpu_models=("B300",)), mixed()) == [0]


def test_shares_need_divisible_gpus() -> None:
    assert eligible(request.PodRequest(gpus=1, gpu_milli=500), mixed()) == [0b1010]


def test_partitions_need_mig_mode_and_the_profile() -> None:
    assert eligible(request.PodRequest(gpus=1, mig="1g.5gb"), mixed()) == [0b0001]
    assert eligible(request.PodRequest(gpus=1, mig="1g.10gb"), mixed()) == [0b0001]
    assert eligible(request.PodRequest(gpus=1, mig="1g.18gb"), mixed()) == [0]
    assert eligible(request.PodRequest(gpus=1, mig="1g.5gb", gpu_models=("T4",)), mixed()) == [0]


def test_every_gpu_suits_a_pod_without_gpus() -> None:
    assert eligible(request.PodRequest(cpu_milli=1), mixed(), node.NodeTopology("cpu")) == [0xFFFF_FFFF] * 2


def test_each_node_is_judged_by_its_own_shape() -> None:
    h100 = machines.build("hgx-h100", "h100")
    cut = replace(h100, name="cut", gpus=tuple(replace(gpu, mig_enabled=True, uuid="") for gpu in h100.gpus))
    nodes = (machines.build("l40s-8", "l40s"), h100, cut, node.NodeTopology("cpu"))
    assert eligible(request.PodRequest(gpus=1, mig="1g.10gb"), *nodes) == [0, 0, 0xFF, 0]
    assert eligible(request.PodRequest(gpus=1, gpu_milli=1), *nodes) == [0xFF, 0xFF, 0, 0]


def placements(name: str) -> tuple[int, ...]:
    compiled = demand.compile_demand(fleet(mixed()), request.PodRequest(gpus=1, mig=name))
    return compiled.partitions[0]


def test_placements_are_in_the_order_that_keeps_large_partitions_possible() -> None:
    assert placements("1g.5gb") == tuple(1 << start for start in (6, 4, 5, 2, 3, 0, 1))
    assert placements("1g.10gb") == tuple(0b11 << start for start in (6, 4, 2, 0))
    assert placements("3g.20gb") == (0xF0, 0x0F)


def test_the_media_engine_is_held_by_the_media_profile_and_by_the_full_size_one() -> None:
    media = demand.MEDIA_BIT
    assert all(mask & media for mask in placements("1g.5gb+me"))
    assert placements("7g.40gb") == (0xFF | media,)
    assert not any(mask & media for mask in placements("4g.20gb"))


def test_one_name_for_two_shapes_offers_only_one_of_them_on_a_node() -> None:
    gpus = (
        device.Gpu(0, gpu_models.A100_SXM4_80, mig_enabled=True),
        device.Gpu(1, gpu_models.A100_SXM4_40, mig_enabled=True),
        device.Gpu(2, gpu_models.A100_SXM4_80, mig_enabled=True),
    )
    compiled = demand.compile_demand(
        fleet(node.NodeTopology("n", gpus=gpus)), request.PodRequest(gpus=1, mig="1g.10gb")
    )
    assert compiled.eligible.tolist() == [0b101]
    assert all(mask.bit_count() == 1 for mask in compiled.partitions[0])


def test_numbers_are_copied_from_the_request() -> None:
    pod = request.PodRequest(cpu_milli=2000, memory_mib=512, gpus=3, nics=2)
    compiled = demand.compile_demand(fleet(mixed()), pod)
    assert (compiled.cpu_milli, compiled.memory_mib, compiled.gpus, compiled.nics) == (2000, 512, 3, 2)
    assert (compiled.kind, compiled.total_gpu_milli, compiled.partitions) == (request.RequestKind.WHOLE, 3000, ())
