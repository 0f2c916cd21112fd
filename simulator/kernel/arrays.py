"""Fleet, requests and target as flat arrays, nodes in tie order: what compiled code reads."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from scheduler.model import request
from scheduler.placement import policy, scoring
from scheduler.placement.score import fragmentation
from scheduler.snapshot import state, topology

Ints = NDArray[np.int64]

RULE_NUMBERS: dict[policy.PodRule, int] = {name: number for number, name in enumerate(scoring.RULES)}

CPU, SHARE, WHOLE = 0, 1, 2
WEIGHT_NAMES = tuple(policy.POD_WEIGHTS["opportunity-cost"])


class Nodes(NamedTuple):
    """Occupancy of every node, in tie order. The kernels change it in place.

    `order` holds the node number of each row; `gpus`, `model` and `shape` do not change.
    """

    cpu: Ints
    memory: Ints
    pods: Ints
    gpu: Ints
    tags: Ints
    up: NDArray[np.bool_]
    gpus: Ints
    cpu_capacity: Ints
    memory_capacity: Ints
    model: Ints
    shape: Ints
    order: Ints


class Pods(NamedTuple):
    """Distinct requests; `eligible` has one mask of GPUs per request and node, `best` the widest ring of the fleet."""

    cpu: Ints
    memory: Ints
    gpus: Ints
    milli: Ints
    kind: Ints
    best: Ints
    eligible: NDArray[np.uint32]


class Target(NamedTuple):
    """A target workload for fragmentation: `weight` pods of each kind; `models` has one bit per GPU model."""

    cpu: Ints
    milli: Ints
    gpus: Ints
    weight: Ints
    models: Ints
    total: int


class Rule(NamedTuple):
    """Tables of the pod rule; `weight` in the order of `WEIGHT_NAMES`, `whole` per machine size (per 1024)."""

    number: int
    popular: Target
    full: Target
    thresholds: Ints
    residual: Ints
    kappa: Ints
    pressure: Ints
    peak: Ints
    peak_start: Ints
    peak_masks: Ints
    whole: Ints
    weight: Ints
    seed: int


def nodes_of(snapshot: state.Snapshot) -> Nodes:
    """Copy a snapshot's occupancy into kernel order."""
    fleet = snapshot.topology
    order = np.argsort(fleet.tie).astype(np.int64)
    return Nodes(
        cpu=snapshot.cpu_free[order],
        memory=snapshot.memory_free[order],
        pods=snapshot.pods_free[order],
        gpu=snapshot.gpu_free[order].astype(np.int64),
        tags=snapshot.tags[order].astype(np.int64),
        up=snapshot.up[order],
        gpus=fleet.gpus[order].astype(np.int64),
        cpu_capacity=fleet.cpu_milli[order],
        memory_capacity=fleet.memory_mib[order],
        model=_models(fleet)[1][order],
        shape=fleet.shape[order].astype(np.int64),
        order=order,
    )


def pods_of(scored: scoring.Scoring, requests: Iterable[request.PodRequest]) -> Pods:
    """Flatten requests. MIG, NICs and other accelerators are outside the kernels.

    Raises
    ------
    ValueError
        A request that the kernels do not know.
    """
    kinds = {request.RequestKind.CPU: CPU, request.RequestKind.SHARE: SHARE, request.RequestKind.WHOLE: WHOLE}
    wanted = [scored.demand(pod) for pod in requests]
    if not all(supported(w.request) for w in wanted):
        raise ValueError("compiled code knows no MIG partitions, NICs or other accelerators")
    order = np.argsort(scored.topology.tie)
    return Pods(
        cpu=np.array([w.cpu_milli for w in wanted], dtype=np.int64),
        memory=np.array([w.memory_mib for w in wanted], dtype=np.int64),
        gpus=np.array([w.gpus for w in wanted], dtype=np.int64),
        milli=np.array([w.gpu_milli if w.gpus else 0 for w in wanted], dtype=np.int64),
        kind=np.array([kinds[w.kind] for w in wanted], dtype=np.int64),
        best=np.array([scored.tables.rings.best(w, scored.topology) for w in wanted], dtype=np.int64),
        eligible=np.array([w.eligible[order] for w in wanted], dtype=np.uint32).reshape(len(wanted), len(order)),
    )


def supported(pod: request.PodRequest) -> bool:
    """Tell whether compiled code knows the request."""
    return not (pod.mig or pod.nics or pod.accelerators)


def rule_of(scored: scoring.Scoring) -> Rule:
    """Flatten a compiled policy."""
    fleet, tables = scored.topology, scored.tables
    order = np.argsort(fleet.tie)
    whole = np.zeros(33, dtype=np.int64)
    for size, share in tables.prices.whole.items():
        whole[size] = share
    return Rule(
        number=RULE_NUMBERS[scored.policy.spec.pods.rule],
        popular=_target(fleet, tables.popular),
        full=_target(fleet, tables.whole),
        thresholds=tables.thresholds,
        residual=tables.prices.residual,
        kappa=tables.prices.kappa,
        pressure=tables.prices.pressure[order],
        peak=tables.rings.peak,
        peak_start=tables.rings.start,
        peak_masks=tables.rings.masks,
        whole=whole,
        weight=np.array([tables.weights.get(name, 0) for name in WEIGHT_NAMES], dtype=np.int64),
        seed=scored.seed,
    )


def _models(fleet: topology.Topology) -> tuple[list[str], Ints]:
    """Number the GPU models; a node has the model of its first GPU, as `Fragmentation` sees it.

    Raises
    ------
    ValueError
        More models than bits.
    """
    names = [m.gpus[0].model.name if m.gpus else "" for m in fleet.nodes]
    known = sorted(set(names))
    if len(known) > 62:
        raise ValueError(f"compiled code knows up to 62 GPU models, the fleet has {len(known)}")
    number = {name: i for i, name in enumerate(known)}
    return known, np.array([number[name] for name in names], dtype=np.int64)


def _target(fleet: topology.Topology, measure: fragmentation.Fragmentation) -> Target:
    """Flatten a fragmentation measure: access per model instead of per node."""
    known, model = _models(fleet)
    masks = np.zeros(len(measure.cpu), dtype=np.int64)
    for i in range(len(known)):
        example = int(np.flatnonzero(model == i)[0])
        masks |= measure.access[:, example].astype(np.int64) << i
    return Target(measure.cpu, measure.milli, measure.gpus, measure.count, masks, measure.total)
