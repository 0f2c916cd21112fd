"""The FGD study's protocol as one compiled loop: pods arrive one by one, nothing leaves, nothing is retried."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.kernel import arrays, frag, jit, rows, rules

Ints = NDArray[np.int64]


class Series(NamedTuple):
    """What is logged after every submission: node (or -1) and GPU, GPU milli used, fragmentation times target total."""

    node: Ints
    gpu: Ints
    used: Ints
    fragmentation: Ints


def inflate(nodes: arrays.Nodes, pods: arrays.Pods, rule: arrays.Rule, sequence: Ints) -> Series:
    """Submit the requests of `sequence` in order; `nodes` is changed in place.

    Parameters
    ----------
    sequence : ndarray of int64
        Row in `pods` of every submission.

    Returns
    -------
    Series
        Nodes by their number in the topology.
    """
    scored = rows.new_rows(nodes, pods, len(sequence))
    series = Series(*(np.full(len(sequence), -1, dtype=np.int64) for _ in range(4)))
    _run(nodes, pods, rule, sequence, scored, series)
    return series


@jit.outer
def _run(nodes, pods, rule, sequence, scored, series):  # type: ignore[no-untyped-def]
    rows.start(scored, nodes, rule)
    free, untouched = totals(nodes)
    prices = np.zeros(len(untouched), dtype=np.int64)
    popular = np.zeros(len(nodes.cpu), dtype=np.int64)
    fragments = 0
    for n in range(len(nodes.cpu)):
        popular[n] = frag.fragmentation(nodes.cpu[n], nodes.gpu[n], nodes.gpus[n], nodes.model[n], rule.popular)
        fragments += popular[n]
    used = 0
    version = 0
    for i in range(len(sequence)):
        p = sequence[i]
        rows.refresh(scored, nodes, pods, rule, p)
        if rule.number == rules.RANDOM:
            n = rows.draw(scored, nodes, pods, rule, p, version)
        else:
            rows.opening_prices(rule, free, untouched, prices)
            n = rows.choose(scored, nodes, pods, p, prices, untouched)
        if n >= 0:
            gpu = scored.gpu[p, n]
            if scored.opens[n] and pods.kind[p] != rules.CPU:
                untouched[nodes.gpus[n]] -= nodes.gpus[n] * rules.FULL
            take(nodes, pods, n, p, gpu)
            version += 1
            need = pods.milli[p] * pods.gpus[p]
            used += need
            free -= need
            rows.changed(scored, nodes, rule, n)
            if rule.number == rules.FGD:
                now = scored.before[n]
            else:
                now = frag.fragmentation(nodes.cpu[n], nodes.gpu[n], nodes.gpus[n], nodes.model[n], rule.popular)
            fragments += now - popular[n]
            popular[n] = now
            series.node[i] = nodes.order[n]
            series.gpu[i] = gpu
        series.used[i] = used
        series.fragmentation[i] = fragments


@jit.outer
def totals(nodes):  # type: ignore[no-untyped-def]
    """Return the fleet's free GPU milli and, per machine size, the GPU milli in untouched machines."""
    free = 0
    untouched = np.zeros(33, dtype=np.int64)
    for n in range(len(nodes.cpu)):
        whole = 0
        for g in range(nodes.gpus[n]):
            free += nodes.gpu[n, g]
            whole += nodes.gpu[n, g] == rules.FULL
        if whole == nodes.gpus[n] and nodes.up[n]:
            untouched[whole] += whole * rules.FULL
    return free, untouched


@jit.inner
def take(nodes, pods, n, p, gpu):  # type: ignore[no-untyped-def]
    """Give node n's resources to pod p: the shared GPU given, or the lowest free eligible ones."""
    nodes.cpu[n] -= pods.cpu[p]
    nodes.memory[n] -= pods.memory[p]
    nodes.pods[n] -= 1
    if pods.kind[p] == rules.SHARE:
        nodes.gpu[n, gpu] -= pods.milli[p]
        nodes.tags[n, 0] += 1
    elif pods.kind[p] == rules.WHOLE:
        left = pods.gpus[p]
        for g in range(nodes.gpus[n]):
            if left and nodes.gpu[n, g] == rules.FULL and (pods.eligible[p, n] >> g) & 1:
                nodes.gpu[n, g] = 0
                left -= 1
        nodes.tags[n, pods.gpus[p]] += 1
