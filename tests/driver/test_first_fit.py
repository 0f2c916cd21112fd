"""What first fit takes from our slices: device lists in our order against the same devices by index."""

import copy
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import permutations
from typing import Any

import pytest

from scheduler.model import machines, slices
from scheduler.snapshot import subsets, wiring
from tests.driver import first_fit

BETTER = {"dgx-1v": 0.25, "a100-pcie-pairs-crossed": 0.25}
"""Machines whose index order is not already the best, and the least that the share must rise.

Pairs 0-1 and 2-3 are numbered as they are bridged, and of four GPUs joined each to each any two are as good: there no
order beats the index.
"""


def shares(kind: str, seed: int) -> tuple[float, float]:
    machine = machines.build(kind, "n")
    tables, ours = subsets.subsets(wiring.wiring(machine)), slices.encode(machine)
    return first_fit.share(tables, ours, 500, seed), first_fit.share(tables, first_fit.by_index(ours), 500, seed)


@pytest.mark.parametrize("kind", list(machines.KINDS))
def test_our_order_is_never_worse_than_the_index_and_better_where_that_is_possible(kind: str) -> None:
    ours, index = shares(kind, seed=1)
    assert ours >= index + BETTER.get(kind, 0.0)


@pytest.mark.parametrize("kind", ["a100-pcie-pairs", "a100-pcie-pairs-crossed", "h100-pcie-pairs", "hgx-h100-4"])
def test_no_order_of_four_gpus_beats_ours(kind: str) -> None:
    machine = machines.build(kind, "n")
    tables, ours = subsets.subsets(wiring.wiring(machine)), slices.encode(machine)
    best = max(first_fit.share(tables, _ordered(ours, order), 100) for order in permutations(range(4)))
    assert first_fit.share(tables, ours, 100) >= best - 0.02


def test_no_sampled_order_of_a_cube_mesh_beats_ours() -> None:
    machine = machines.build("dgx-1v", "n")
    tables, ours = subsets.subsets(wiring.wiring(machine)), slices.encode(machine)
    chance = random.Random(5)
    others = [_ordered(ours, chance.sample(range(8), 8)) for _ in range(150)]
    assert first_fit.share(tables, ours, 60) >= max(first_fit.share(tables, other, 60) for other in others)


def _ordered(found: Sequence[Mapping[str, Any]], ranks: Sequence[int]) -> list[dict[str, Any]]:
    """Return the slices with each GPU at the rank that it is given."""
    made = [dict(copy.deepcopy(item)) for item in found]
    for item in made:
        item["spec"]["devices"].sort(
            key=lambda entry: (
                not first_fit.is_gpu(entry),
                ranks[entry["attributes"]["index"]["int"]] if first_fit.is_gpu(entry) else 0,
            )
        )
    return made


@cache
def profile(name: str) -> first_fit.Selector:
    return lambda entry: entry["attributes"].get("profile") == {"string": name}


def cut(minor: int) -> list[dict[str, Any]]:
    machine = machines.build("dgx-a100", "n")
    gpus = tuple(replace(gpu, mig_enabled=gpu.index == 0) for gpu in machine.gpus)
    return slices.encode(replace(machine, gpus=gpus), form=slices.layout(minor, partitionable=True))


def _ascending(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    made = [dict(copy.deepcopy(item)) for item in found]
    for item in made:
        item["spec"].get("devices", []).sort(key=lambda e: e["attributes"].get("start", {"int": 9})["int"])
    return made


@pytest.mark.parametrize("minor", [34, 37])
def test_three_small_partitions_leave_a_large_one(minor: int) -> None:
    model = machines.build("dgx-a100", "n").gpus[0].model
    small, large = (next(p.name for p in model.mig if p.name.startswith(shape)) for shape in ("1g", "4g"))
    for arranged, fits in ((cut(minor), True), (_ascending(cut(minor)), False)):
        allocator = first_fit.Allocator(arranged)
        for _ in range(3):
            assert allocator.allocate(first_fit.Request(profile(small)))
        assert bool(allocator.allocate(first_fit.Request(profile(large)))) is fits


@pytest.mark.parametrize("minor", [34, 37])
def test_a_cut_gpu_is_given_whole_only_when_nothing_else_is_left(minor: int) -> None:
    allocator = first_fit.Allocator(cut(minor))
    others = allocator.allocate(first_fit.Request(first_fit.is_gpu, 7))
    assert others and "gpu-0" not in {entry["name"] for entry in others}
    assert [entry["name"] for entry in allocator.allocate(first_fit.Request(first_fit.is_gpu)) or ()] == ["gpu-0"]


def test_a_whole_gpu_and_its_partitions_exclude_each_other() -> None:
    allocator = first_fit.Allocator(cut(37))
    found = allocator.allocate(first_fit.Request(first_fit.is_gpu, 8))
    assert found and len({entry["name"] for entry in found}) == 8
    assert allocator.allocate(first_fit.Request(profile("1g.10gb"))) is None
    allocator.release(found)
    assert allocator.allocate(first_fit.Request(profile("1g.10gb")))
    assert allocator.allocate(first_fit.Request(first_fit.is_gpu, 8)) is None


def test_an_incomplete_pool_gives_nothing() -> None:
    assert first_fit.Allocator(cut(37)[:-1]).devices == []
