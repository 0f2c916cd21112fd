"""Why nodes do not suit a pod whatever is free on them: their devices, their labels, their taints."""

from collections import Counter
from dataclasses import replace

import numpy as np

from scheduler.model import admission, reasons
from scheduler.model import request as requests
from scheduler.placement import block
from scheduler.snapshot import admitted, demand, topology

NAMED = 3
"""Taints that are named, the most frequent first."""


def refused(fleet: topology.Topology, pod: demand.Demand, level: str, need: int) -> block.Block:
    """Return what keeps a pod off every node of the fleet: the first of devices, labels and taints that leaves none."""
    suits = _suits(fleet, pod)
    if not suits.any():
        return block.Block(reasons.Reason.NO_SUCH_DEVICE, level, missing=need * pod.gpus, resource=_device(pod))
    found = pod.admitted or admitted.admitted(fleet, pod.request.nodes)
    what = "nodes with such devices" if pod.gpus else "nodes"
    chosen = suits & found.selected
    if not chosen.any():
        detail = f"none of {int(suits.sum())} {what} has {pod.request.nodes}"
        return block.Block(reasons.Reason.NO_SUCH_NODE, level, missing=need, detail=detail)
    detail = f"all {int(chosen.sum())} {what} have taints that it does not tolerate: {_taints(fleet, pod, chosen)}"
    return block.Block(reasons.Reason.TAINTS, level, missing=need, detail=detail)


def left_out(fleet: topology.Topology, pod: demand.Demand) -> str:
    """Say how many nodes a pod's selector leaves, and which taints keep it off some of them; "" where all take it."""
    if pod.admitted is None:
        return ""
    suits = _suits(fleet, pod)
    chosen = suits & pod.admitted.selected
    tainted = chosen & ~pod.admitted.tolerated
    words = []
    if int(chosen.sum()) < int(suits.sum()):
        words.append(f"{int(chosen.sum())} of {int(suits.sum())} nodes have {pod.request.nodes}")
    if tainted.any():
        words.append(f"taints keep it off {int(tainted.sum())}: {_taints(fleet, pod, tainted)}")
    return block.join(*words)


def _suits(fleet: topology.Topology, pod: demand.Demand) -> admitted.Mask:
    """Return the nodes whose devices suit a pod."""
    anywhere = demand.compile_demand(fleet, replace(pod.request, nodes=admission.EVERYWHERE))
    return np.asarray(anywhere.eligible > 0)


def _taints(fleet: topology.Topology, pod: demand.Demand, nodes: admitted.Mask) -> str:
    """Name the taints that a pod does not tolerate, with the nodes that have them."""
    wanted = pod.request.nodes
    barring = (
        taint for row in np.flatnonzero(nodes) for taint in fleet.nodes[row].taints if not wanted.tolerates([taint])
    )
    counts = sorted(Counter(barring).items(), key=lambda one: (-one[1], one[0]))
    told = [f"{admission.spelled(taint)} ({count} node{'' if count == 1 else 's'})" for taint, count in counts[:NAMED]]
    return block.join(*told, f"and {len(counts) - NAMED} more" if len(counts) > NAMED else "")


def _device(pod: demand.Demand) -> str:
    """Name the devices that a pod asks for."""
    kind = f"{pod.request.mig} partitions" if pod.kind is requests.RequestKind.MIG else "GPUs"
    return f"{kind} of {' or '.join(pod.request.gpu_models)}" if pod.request.gpu_models else kind
