"""Fixtures of real machines agree with what is publicly known about them."""

from itertools import combinations

import pytest

from scheduler.model import device, gpu_models, machines, node


@pytest.mark.parametrize("kind", machines.KINDS)
def test_every_machine_has_unique_bus_ids_and_known_places(kind: str) -> None:
    machine = machines.build(kind, "n")
    devices: list[device.Gpu | device.Nic] = [*machine.gpus, *machine.nics]
    buses = [d.pci_bus_id for d in devices]
    assert len(set(buses)) == len(buses)
    assert all(d.pcie_root for d in devices)
    assert all(0 <= d.numa < len(machine.numa_distances) for d in devices)
    assert machine.machine == kind
    assert machine.cpu_milli and machine.memory_mib


@pytest.mark.parametrize(
    ("kind", "gpus", "links_per_gpu", "nvswitches"),
    [
        ("dgx-1v", 8, 6, 0),
        ("dgx-2", 16, 6, 12),
        ("dgx-a100", 8, 12, 6),
        ("hgx-h100", 8, 18, 4),
        ("hgx-h200", 8, 18, 4),
        ("hgx-b200", 8, 18, 2),
        ("hgx-h100-4", 4, 18, 0),
        ("a100-pcie-pairs", 4, 12, 0),
        ("l40s-8", 8, 0, 0),
        ("aws-p4d", 8, 12, 6),
        ("gb200-nvl72", 4, 18, 0),
    ],
)
def test_link_counts_are_those_of_the_product(kind: str, gpus: int, links_per_gpu: int, nvswitches: int) -> None:
    machine = machines.build(kind, "n")
    counts = machine.link_counts()
    switched = machine.nvswitches or kind == "gb200-nvl72"
    for gpu in range(gpus):
        assert (max if switched else sum)(counts[gpu]) == links_per_gpu
    assert (len(machine.gpus), machine.nvswitches) == (gpus, nvswitches)


def test_bandwidth_per_gpu_matches_the_data_sheets() -> None:
    rows = {kind: machines.build(kind, "n").link_gbps() for kind in machines.KINDS}
    assert rows["dgx-a100"][0][1] == 300.0  # 600 GB/s both ways
    assert round(rows["hgx-h100"][0][1]) == 478  # 900 GB/s both ways, and protocol overhead
    assert round(sum(rows["hgx-h100-4"][0])) == 478
    assert sum(rows["dgx-1v"][0]) == 150.0  # 300 GB/s both ways


def test_unknown_kinds_are_refused_with_the_list() -> None:
    with pytest.raises(KeyError, match="no machine 'dgx-9'; there are dgx-1v"):
        machines.build("dgx-9", "n")


def test_plain_nodes_have_gpus_and_nothing_else() -> None:
    machine = machines.plain("n", 3, "G2", 96000, 786432)
    assert [gpu.model.name for gpu in machine.gpus] == ["G2"] * 3
    assert (machine.nvlinks, machine.nics, machine.gpus[0].numa) == ((), (), -1)
    assert machines.plain("c", 0, "", 1000, 1).gpus == ()


def compatible(model: device.GpuModel, chosen: list[tuple[device.MigProfile, int]]) -> bool:
    """Tell whether partitions can be on a GPU at once, from slices, compute budget and instance limits alone."""
    masks = [profile.mask(start) for profile, start in chosen]
    disjoint = all(a & b == 0 for a, b in combinations(masks, 2))
    compute = sum(profile.compute for profile, _ in chosen) <= model.compute_slices
    return disjoint and compute


@pytest.mark.parametrize("model", [m for m in gpu_models.MODELS.values() if m.mig], ids=lambda m: str(m.name))
def test_memory_slices_and_media_engine_imply_all_other_limits(model: device.GpuModel) -> None:
    placements = [(profile, start) for profile in model.mig for start in profile.starts]
    for a, b in combinations(placements, 2):
        if model.slices(*a) & model.slices(*b) == 0:
            assert compatible(model, [a, b])
    for profile in model.mig:
        masks = [model.slices(profile, start) for start in profile.starts]
        subsets = (chosen for size in range(1, len(masks) + 1) for chosen in combinations(masks, size))
        best = max(len(chosen) for chosen in subsets if all(a & b == 0 for a, b in combinations(chosen, 2)))
        assert best == profile.max_instances, profile.name


def larger_possible(model: device.GpuModel, taken: list[int], compute: int) -> bool:
    used = 0
    for mask in taken:
        used |= mask
    return any(
        profile.compute >= compute and model.slices(profile, start) & used == 0
        for profile in model.mig
        for start in profile.starts
    )


def test_single_slices_leave_room_for_the_largest_partitions() -> None:
    model = gpu_models.H100_SXM5_80
    small = model.profile("1g.10gb")
    assert small is not None
    order = small.starts_best_first()
    assert order == (6, 4, 5, 2, 3, 0, 1)
    for count in (1, 2, 3):
        taken = [small.mask(start) for start in order[:count]]
        assert larger_possible(model, taken, 4)
    assert not larger_possible(model, [small.mask(0)], 4)


def test_other_profiles_start_at_the_end() -> None:
    orders = {p.name: p.starts_best_first() for p in gpu_models.A100_SXM4_40.mig}
    assert orders["1g.10gb"] == (6, 4, 2, 0)
    assert orders["2g.10gb"] == (4, 2, 0)
    assert orders["3g.20gb"] == (4, 0)


def test_nodes_without_links_get_those_of_their_only_twin() -> None:
    known = machines.build("hgx-h100", "n")
    bare = node.NodeTopology("n", gpus=tuple(device.Gpu(i, gpu_models.H100_SXM5_80) for i in range(8)))
    assert machines.assume(bare).nvlinks == known.nvlinks
    pairs = node.NodeTopology("n", gpus=tuple(device.Gpu(i, gpu_models.A100_PCIE_80) for i in range(4)))
    assert machines.assume(pairs).nvlinks == (), "two bridge layouts are possible, so none is assumed"
    assert machines.assume(known) is known
