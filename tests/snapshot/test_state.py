"""Occupancy: taking and giving back is the identity, and every count agrees with an independent recount."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from scheduler.model import claim, device, fabric, gpu_models, machines, node
from scheduler.snapshot import state, topology

FIELDS = (
    *("gpu_free", "free_mask", "slices_used", "cpu_free", "memory_free", "pods_free"),
    *("nic_mask", "up", "failed_gpus", "tags", "free_in"),
)


def small_fleet() -> topology.Topology:
    """Two racks: bridged pairs and a node in MIG mode; a node with accelerators and one without GPUs."""
    cut = machines.build("gb200-nvl72", "cut")
    cut = replace(cut, gpus=tuple(replace(gpu, mig_enabled=True) for gpu in cut.gpus[:2]), nvlinks=(), max_pods=5)
    fpga = node.NodeTopology(
        "fpga", "", 4000, 4096, accelerators=(device.Accelerator(0, "fpga", "X1"), device.Accelerator(1, "fpga", "X1"))
    )
    nodes = {
        "pairs": machines.build("a100-pcie-pairs", "pairs"),
        "cut": cut,
        "shares": machines.plain("shares", 2, gpu_models.T4, 8000, 8192),
        "fpga": fpga,
    }
    paths = {"pairs": ("r0",), "cut": ("r0",), "shares": ("r1",), "fpga": ("",)}
    return topology.compile_topology(fabric.from_paths(nodes, paths, ("rack",)))


def content(snapshot: state.Snapshot) -> dict[str, object]:
    """Return everything that a snapshot knows, without its versions."""
    arrays = {name: getattr(snapshot, name).tolist() for name in FIELDS}
    return arrays | {"accelerators": {k: v.tolist() for k, v in snapshot.accelerators_free.items()}}


@st.composite
def grants(draw: st.DrawFn, fleet: topology.Topology) -> state.Grant:
    """A grant that an empty node could hold; whether it is free now is another matter."""
    row = draw(st.integers(0, len(fleet.nodes) - 1))
    machine = fleet.nodes[row]
    cpu, memory = (total // draw(st.sampled_from([2, 8, 100])) for total in (machine.cpu_milli, machine.memory_mib))
    nics = draw(st.sampled_from([0, 0, 0, *range(1 << min(2, len(machine.nics)))]))
    base = state.Grant(row, 0, 0, cpu, memory, nic_mask=nics)
    kinds = ["cpu"] + ["whole", "share"] * bool(machine.gpus) + ["mig"] * any(g.mig_enabled for g in machine.gpus)
    match draw(st.sampled_from(kinds)):
        case "whole":
            return replace(base, mask=draw(st.integers(1, (1 << len(machine.gpus)) - 1)), milli=1000)
        case "share":
            gpu = draw(st.integers(0, len(machine.gpus) - 1))
            return replace(base, mask=1 << gpu, milli=draw(st.sampled_from([1, 250, 500, 999])))
        case "mig":
            part = draw(st.sampled_from([p for gpu in machine.gpus for p in claim.partitions_of(gpu)]))
            return replace(base, mask=1 << part.gpu.index, partitions=((part.gpu.index, part.slices),))
    if machine.accelerators:
        return replace(base, accelerators=(("fpga", draw(st.integers(1, 2))),))
    return base


@dataclass
class Book:
    """What is held, kept in plain values: the independent model."""

    fleet: topology.Topology
    held: list[state.Grant] = field(default_factory=list)
    down: set[int] = field(default_factory=set)
    failed: set[tuple[int, int]] = field(default_factory=set)

    def on(self, row: int) -> list[state.Grant]:
        return [grant for grant in self.held if grant.node == row]

    def shares(self, row: int, gpu: int) -> int:
        return sum(grant.milli for grant in self.on(row) if grant.mask >> gpu & 1)

    def slices(self, row: int, gpu: int) -> list[int]:
        return [s for grant in self.on(row) for g, s in grant.partitions if g == gpu]

    def wholly_free(self, row: int, gpu: int) -> bool:
        untouched = not self.shares(row, gpu) and not self.slices(row, gpu)
        return untouched and row not in self.down and (row, gpu) not in self.failed

    def fits(self, new: state.Grant) -> bool:
        """Tell whether a grant is free, from the definition."""
        row, machine, others = new.node, self.fleet.nodes[new.node], self.on(new.node)
        gpus = [g for g in range(len(machine.gpus)) if new.mask >> g & 1]
        if row in self.down or len(others) >= machine.max_pods:
            return False
        if sum(g.cpu_milli for g in others) + new.cpu_milli > machine.cpu_milli:
            return False
        if sum(g.memory_mib for g in others) + new.memory_mib > machine.memory_mib:
            return False
        if any(g.nic_mask & new.nic_mask for g in others):
            return False
        wanted = sum(count for _, count in new.accelerators)
        if wanted + sum(count for g in others for _, count in g.accelerators) > len(machine.accelerators):
            return False
        if any((row, gpu) in self.failed for gpu in gpus):
            return False
        for gpu, slices in new.partitions:
            if self.shares(row, gpu) or any(slices & other for other in self.slices(row, gpu)):
                return False
        if new.milli and any(self.slices(row, gpu) for gpu in gpus):
            return False
        return all(self.shares(row, gpu) + new.milli <= 1000 for gpu in gpus)


class Occupancy(RuleBasedStateMachine):
    """Random pods come and go, nodes and GPUs fail and return."""

    @initialize()
    def start(self) -> None:
        fleet = small_fleet()
        self.snapshot = state.empty(fleet)
        self.book = Book(fleet)
        self.version = 0

    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        grant = data.draw(grants(self.book.fleet))
        before = content(self.snapshot)
        if self.book.fits(grant):
            self.snapshot.take(grant)
            self.book.held.append(grant)
        else:
            with pytest.raises(state.InvariantError):
                self.snapshot.take(grant)
            assert content(self.snapshot) == before

    @precondition(lambda self: self.book.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        grant = data.draw(st.sampled_from(self.book.held))
        self.book.held.remove(grant)
        self.snapshot.release(grant)

    @rule(row=st.integers(0, 3), up=st.booleans())
    def cordon(self, row: int, up: bool) -> None:
        self.snapshot.set_up(row, up)
        (self.book.down.discard if up else self.book.down.add)(row)

    @rule(gpu=st.sampled_from([("pairs", 0), ("pairs", 3), ("cut", 1), ("shares", 1)]), failed=st.booleans())
    def fail(self, gpu: tuple[str, int], failed: bool) -> None:
        row, index = self.book.fleet.row[gpu[0]], gpu[1]
        busy = self.book.shares(row, index) or self.book.slices(row, index)
        if failed and busy and (row, index) not in self.book.failed:
            with pytest.raises(state.InvariantError):
                self.snapshot.set_gpu_failed(row, index, failed)
            return
        self.snapshot.set_gpu_failed(row, index, failed)
        (self.book.failed.add if failed else self.book.failed.discard)((row, index))

    @rule()
    def continue_on_a_copy(self) -> None:
        original, self.snapshot = self.snapshot, self.snapshot.copy()
        original.gpu_free[:] = -1
        original.free_in[:] = -1
        original.tags[:] = -1
        for free in original.accelerators_free.values():
            free[:] = -1

    @invariant()
    def gpus_agree_with_the_book(self) -> None:
        for row, machine in enumerate(self.book.fleet.nodes):
            for gpu in range(len(machine.gpus)):
                taken = self.book.slices(row, gpu) or (row, gpu) in self.book.failed
                assert self.snapshot.gpu_free[row, gpu] == (0 if taken else 1000 - self.book.shares(row, gpu))
                assert self.snapshot.slices_used[row, gpu] == sum(self.book.slices(row, gpu))
                assert bool(int(self.snapshot.free_mask[row]) >> gpu & 1) == self.book.wholly_free(row, gpu)

    @invariant()
    def other_resources_agree_with_the_book(self) -> None:
        for row, machine in enumerate(self.book.fleet.nodes):
            held = self.book.on(row)
            assert self.snapshot.cpu_free[row] == machine.cpu_milli - sum(g.cpu_milli for g in held)
            assert self.snapshot.memory_free[row] == machine.memory_mib - sum(g.memory_mib for g in held)
            assert self.snapshot.pods_free[row] == machine.max_pods - len(held)
            assert self.snapshot.nic_mask[row] == (1 << len(machine.nics)) - 1 - sum(g.nic_mask for g in held)
            used = sum(count for g in held for _, count in g.accelerators)
            assert self.snapshot.accelerators_free["fpga"][row] == len(machine.accelerators) - used

    @invariant()
    def counts_of_domains_equal_a_recount(self) -> None:
        fleet = self.book.fleet
        free = [
            sum(self.book.wholly_free(row, gpu) for gpu in range(len(machine.gpus)))
            for row, machine in enumerate(fleet.nodes)
        ]
        tree = fleet.tree
        for vertex in range(len(tree.names)):
            below = slice(int(tree.first_node[vertex]), int(tree.last_node[vertex]))
            assert self.snapshot.free_in[vertex] == sum(free[below])
        assert self.snapshot.free_gpus == sum(free)

    @invariant()
    def tags_count_the_pods_by_kind(self) -> None:
        tags = np.zeros_like(self.snapshot.tags)
        for grant in self.book.held:
            if grant.partitions:
                tags[grant.node, 17] += 1
            elif grant.milli:
                tags[grant.node, grant.mask.bit_count() if grant.milli == 1000 else 0] += 1
        assert self.snapshot.tags.tolist() == tags.tolist()

    def teardown(self) -> None:
        """Give everything back: the snapshot is the empty one again."""
        for grant in self.book.held:
            self.snapshot.release(grant)
        for row in range(len(self.book.fleet.nodes)):
            self.snapshot.set_up(row, True)
        for row, gpu in self.book.failed:
            self.snapshot.set_gpu_failed(row, gpu, False)
        assert content(self.snapshot) == content(state.empty(self.book.fleet))


Occupancy.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestOccupancy = Occupancy.TestCase


@given(st.data())
def test_release_undoes_take(data: st.DataObject) -> None:
    fleet = small_fleet()
    snapshot = state.empty(fleet)
    grant = data.draw(grants(fleet))
    before = content(snapshot)
    snapshot.take(grant)
    assert snapshot.version == snapshot.changed[grant.node] == 1
    snapshot.release(grant)
    assert content(snapshot) == before
    assert snapshot.version == snapshot.changed[grant.node] == 2


def grant_on(fleet: topology.Topology, name: str, **fields: object) -> state.Grant:
    return state.Grant(fleet.row[name], **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("pairs", {"mask": 0b1, "milli": 1000}),
        ("pairs", {"mask": 0b1, "milli": 1}),
        ("pairs", {"cpu_milli": 1}),
        ("pairs", {"memory_mib": 1}),
        ("pairs", {"nic_mask": 0b1}),
        ("pairs", {"nic_mask": 0b100}),
        ("pairs", {}),
        ("cut", {"mask": 0b1, "partitions": ((0, 0b1),)}),
        ("fpga", {"accelerators": (("fpga", 1),)}),
        ("fpga", {"accelerators": (("tpu", 1),)}),
    ],
)
def test_what_is_not_held_cannot_be_released(name: str, fields: dict[str, object]) -> None:
    fleet = small_fleet()
    snapshot = state.empty(fleet)
    before = content(snapshot)
    with pytest.raises(state.InvariantError, match=f"is not held on {name}"):
        snapshot.release(grant_on(fleet, name, **fields))
    assert content(snapshot) == before


HELD: tuple[tuple[str, dict[str, object]], ...] = (
    ("pairs", {"mask": 0b11, "milli": 1000, "nic_mask": 0b01}),
    ("shares", {"mask": 0b01, "milli": 600}),
    ("cut", {"mask": 0b01, "partitions": ((0, 0b0011),)}),
    ("fpga", {"accelerators": (("fpga", 1),), "cpu_milli": 3000, "memory_mib": 4000}),
    *(("cut", {}) for _ in range(3)),
)


@pytest.mark.parametrize(
    ("name", "fields", "free"),
    [
        ("pairs", {"mask": 0b0100, "milli": 1000}, True),
        ("pairs", {"mask": 0b0110, "milli": 1000}, False),
        ("pairs", {"mask": 0b0001, "milli": 1}, False),
        ("pairs", {"nic_mask": 0b10}, True),
        ("pairs", {"nic_mask": 0b11}, False),
        ("pairs", {"nic_mask": 0b100}, False),
        ("shares", {"mask": 0b01, "milli": 400}, True),
        ("shares", {"mask": 0b01, "milli": 401}, False),
        ("shares", {"mask": 0b01, "milli": 1000}, False),
        ("shares", {"mask": 0b01, "partitions": ((0, 0b1),)}, False),
        ("cut", {"mask": 0b01, "partitions": ((0, 0b0100),)}, True),
        ("cut", {"mask": 0b01, "partitions": ((0, 0b0110),)}, False),
        ("cut", {"mask": 0b10, "partitions": ((1, 0b0001), (1, 0b0001))}, False),
        ("cut", {"mask": 0b10, "partitions": ((1, 0b0001), (1, 0b0010))}, True),
        ("cut", {"mask": 0b01, "milli": 1}, False),
        ("fpga", {"accelerators": (("fpga", 1),)}, True),
        ("fpga", {"accelerators": (("fpga", 2),)}, False),
        ("fpga", {"cpu_milli": 1000, "memory_mib": 96}, True),
        ("fpga", {"cpu_milli": 1001}, False),
        ("fpga", {"memory_mib": 97}, False),
    ],
)
def test_what_is_free_is_taken_and_nothing_else(name: str, fields: dict[str, object], free: bool) -> None:
    fleet = small_fleet()
    snapshot = state.empty(fleet)
    for where, what in HELD:
        snapshot.take(grant_on(fleet, where, **what))
    grant = grant_on(fleet, name, **fields)
    before = content(snapshot)
    if free:
        snapshot.take(grant)
        snapshot.release(grant)
    else:
        with pytest.raises(state.InvariantError, match=f"is not free on {name}"):
            snapshot.take(grant)
    assert content(snapshot) == before


def test_a_node_takes_no_more_pods_than_it_may_hold() -> None:
    fleet = small_fleet()
    snapshot = state.empty(fleet)
    for _ in range(5):
        snapshot.take(grant_on(fleet, "cut"))
    with pytest.raises(state.InvariantError, match="is not free on cut"):
        snapshot.take(grant_on(fleet, "cut"))


def test_whole_gpus_cannot_be_released_from_under_partitions_or_failures() -> None:
    fleet = small_fleet()
    snapshot = state.empty(fleet)
    cut, pairs = fleet.row["cut"], fleet.row["pairs"]
    snapshot.take(state.Grant(cut, 0b1, partitions=((0, 0b1),)))
    snapshot.take(state.Grant(pairs, 0b10, 1000))
    snapshot.set_gpu_failed(pairs, 0, True)
    for grant in (state.Grant(cut, 0b1, 1000), state.Grant(pairs, 0b1, 1000)):
        with pytest.raises(state.InvariantError, match="is not held"):
            snapshot.release(grant)


def test_accelerators_that_the_fleet_does_not_have_are_not_free() -> None:
    fleet = small_fleet()
    with pytest.raises(state.InvariantError, match="is not free on fpga"):
        state.empty(fleet).take(grant_on(fleet, "fpga", accelerators=(("tpu", 1),)))


def test_a_grant_becomes_allocations_and_comes_back() -> None:
    fleet = small_fleet()
    machine = fleet.nodes[fleet.row["pairs"]]
    grant = state.Grant(fleet.row["pairs"], 0b1101, 1000, order=(0, 3, 2), nic_mask=0b10)
    rows = claim.allocations(machine, grant, share_ids=("a", "b", "c"))
    held = claim.held(machine, rows)
    assert (held.gpus, held.mask, held.nic_mask, held.milli) == (grant.gpus, grant.mask, grant.nic_mask, 1000)
