"""What stays fixed while the fleet does not change: tree, machine shapes, capacities."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from scheduler.model import fabric, node
from scheduler.snapshot import shapes, tree


@dataclass(frozen=True, slots=True, eq=False)
class Topology:
    """A fleet compiled once; immutable and shared by all snapshots of one generation.

    Attributes
    ----------
    nodes : tuple of NodeTopology, length N
        In rank order: node n of every array.
    shapes : tuple of NodeShape, length S
    shape : ndarray of int32, shape (N,)
        Index into `shapes`.
    gpus : ndarray of int32, shape (N,)
        GPUs of each node; `width` is their maximum and the second axis of per-GPU arrays.
    all_gpus : ndarray of uint32, shape (N,)
        Mask with one bit per GPU.
    cpu_milli, memory_mib, nics, max_pods : ndarray of int64, shape (N,)
    accelerators : dict of kind to ndarray of int64, shape (N,)
    tie : ndarray of int32, shape (N,)
        Rank of each node in the content-derived total order that breaks ties; a permutation of 0..N-1.
    """

    tree: tree.CompiledTree
    nodes: tuple[node.NodeTopology, ...]
    shapes: tuple[shapes.NodeShape, ...]
    shape: NDArray[np.int32]
    gpus: NDArray[np.int32]
    all_gpus: NDArray[np.uint32]
    width: int
    cpu_milli: NDArray[np.int64]
    memory_mib: NDArray[np.int64]
    nics: NDArray[np.int64]
    max_pods: NDArray[np.int64]
    accelerators: dict[str, NDArray[np.int64]]
    tie: NDArray[np.int32]
    row: dict[str, int] = field(repr=False)
    generation: int = 0

    @property
    def total_gpus(self) -> int:
        """Return the number of GPUs of the fleet."""
        return int(self.gpus.sum())


def compile_topology(source: fabric.Fabric, generation: int = 0, tie: Sequence[int] | None = None) -> Topology:
    """Compile a fabric into the arrays that placement reads.

    Parameters
    ----------
    generation : int
        Number of the fleet's configuration; caches are keyed by it.
    tie : sequence of int, optional
        Permutation of the nodes that breaks ties last; by default the order of the nodes' names.
    """
    compiled = tree.compile_tree(source)
    machines = tuple(source.nodes())
    table, shape = shapes.classify(machines)
    gpus = np.array([len(m.gpus) for m in machines], dtype=np.int32)
    return Topology(
        tree=compiled,
        nodes=machines,
        shapes=table,
        shape=shape,
        gpus=gpus,
        all_gpus=((np.uint64(1) << gpus.astype(np.uint64)) - np.uint64(1)).astype(np.uint32),
        width=max(1, int(gpus.max(initial=0))),
        cpu_milli=_column([m.cpu_milli for m in machines]),
        memory_mib=_column([m.memory_mib for m in machines]),
        nics=_column([len(m.nics) for m in machines]),
        max_pods=_column([m.max_pods for m in machines]),
        accelerators=_count_accelerators(machines),
        tie=_name_order(machines) if tie is None else np.asarray(tie, dtype=np.int32),
        row={m.name: i for i, m in enumerate(machines)},
        generation=generation,
    )


def _column(values: list[int]) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def _name_order(machines: tuple[node.NodeTopology, ...]) -> NDArray[np.int32]:
    """Rank the nodes by name, which renumbering a fleet does not change."""
    order = sorted(range(len(machines)), key=lambda i: machines[i].name)
    rank = np.empty(len(machines), dtype=np.int32)
    rank[order] = np.arange(len(machines), dtype=np.int32)
    return rank


def _count_accelerators(machines: tuple[node.NodeTopology, ...]) -> dict[str, NDArray[np.int64]]:
    """Count the other accelerators of every node by kind."""
    kinds = sorted({a.kind for m in machines for a in m.accelerators})
    return {kind: _column([sum(a.kind == kind for a in m.accelerators) for m in machines]) for kind in kinds}
