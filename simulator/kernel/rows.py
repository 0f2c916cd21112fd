"""Cost rows, compiled: one row per request, re-scored where nodes changed, with minima per block of nodes.

Twin of ``scheduler.placement.rows`` and of the choice in ``scheduler.placement.scoring``. Touched and untouched nodes
have separate minima, since the scarcity price, which changes with every placement, falls on untouched nodes only.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.kernel import arrays, frag, jit, rules

BLOCK = 32
NONE = 1 << 61
"""Cost of a node that can't take the pod."""

Ints = NDArray[np.int64]


class Rows(NamedTuple):
    """Cost of every request on every node.

    `seen` is the position in `log` up to which a row is right, -1 for a row never scored. `log` lists the nodes in the
    order in which they changed, `last` the newest entry of each node. `before` is each node's fragmentation. `stale`
    marks blocks whose minima are being renewed.
    """

    cost: Ints
    gpu: NDArray[np.int8]
    touched: Ints
    untouched: Ints
    opens: NDArray[np.bool_]
    seen: Ints
    log: Ints
    last: Ints
    length: Ints
    stale: NDArray[np.bool_]
    before: Ints
    scratch: Ints


def new_rows(nodes: arrays.Nodes, pods: arrays.Pods, changes: int) -> Rows:
    """Allocate rows for a run of at most `changes` changes of nodes."""
    requests, machines = len(pods.cpu), len(nodes.cpu)
    blocks = -(-machines // BLOCK)
    return Rows(
        cost=np.full((requests, machines), NONE, dtype=np.int64),
        gpu=np.full((requests, machines), -1, dtype=np.int8),
        touched=np.full((requests, blocks), NONE, dtype=np.int64),
        untouched=np.full((requests, blocks), NONE, dtype=np.int64),
        opens=np.zeros(machines, dtype=np.bool_),
        seen=np.full(requests, -1, dtype=np.int64),
        log=np.zeros(changes + 1, dtype=np.int64),
        last=np.full(machines, -1, dtype=np.int64),
        length=np.zeros(1, dtype=np.int64),
        stale=np.zeros(blocks, dtype=np.bool_),
        before=np.zeros(machines, dtype=np.int64),
        scratch=np.zeros(max(1, nodes.gpu.shape[1]), dtype=np.int64),
    )


@jit.inner
def start(rows, nodes, rule):  # type: ignore[no-untyped-def]
    """Read every node once."""
    for n in range(len(nodes.cpu)):
        _read(rows, nodes, rule, n)


@jit.inner
def changed(rows, nodes, rule, n):  # type: ignore[no-untyped-def]
    """Note that node n changed."""
    _read(rows, nodes, rule, n)
    rows.log[rows.length[0]] = n
    rows.last[n] = rows.length[0]
    rows.length[0] += 1


@jit.inner
def _read(rows, nodes, rule, n):  # type: ignore[no-untyped-def]
    width = nodes.gpus[n]
    whole = 0
    for g in range(width):
        whole += nodes.gpu[n, g] == rules.FULL
    rows.opens[n] = width > 0 and whole == width and nodes.up[n]
    if rule.number == rules.FGD:
        rows.before[n] = measure(nodes, rule.popular, n)
    elif rule.number == rules.OPPORTUNITY and rule.weight[rules.W_FRAGMENTATION]:
        rows.before[n] = measure(nodes, rule.full, n)


@jit.inner
def measure(nodes, target, n):  # type: ignore[no-untyped-def]
    """Return the fragmentation of node n over a target."""
    return frag.fragmentation(nodes.cpu[n], nodes.gpu[n], nodes.gpus[n], nodes.model[n], target)


@jit.inner
def refresh(rows, nodes, pods, rule, p):  # type: ignore[no-untyped-def]
    """Bring row p up to date."""
    first = rows.seen[p] < 0
    for i in range(len(nodes.cpu) if first else rows.length[0] - rows.seen[p]):
        at = i if first else rows.seen[p] + i
        n = i if first else rows.log[at]
        if first or rows.last[n] == at:  # a node that changed several times is scored once
            _score(rows, nodes, pods, rule, p, n)
            rows.stale[n // BLOCK] = True
    for b in range(rows.touched.shape[1]):
        if rows.stale[b]:
            rows.stale[b] = False
            _minima(rows, p, b)
    rows.seen[p] = rows.length[0]


@jit.hot
def _score(rows, nodes, pods, rule, p, n):  # type: ignore[no-untyped-def]
    if rules.fits(nodes, pods, n, p):
        value, gpu = rules.cost(rule, nodes, pods, n, p, rows.before[n], rows.scratch)
        rows.cost[p, n] = value
        rows.gpu[p, n] = gpu
    else:
        rows.cost[p, n] = NONE
        rows.gpu[p, n] = -1


@jit.inner
def _minima(rows, p, block):  # type: ignore[no-untyped-def]
    """Find the least cost of a block among touched and among untouched nodes."""
    touched = NONE
    untouched = NONE
    for n in range(block * BLOCK, min((block + 1) * BLOCK, rows.cost.shape[1])):
        value = rows.cost[p, n]
        if rows.opens[n]:
            untouched = min(untouched, value)
        else:
            touched = min(touched, value)
    rows.touched[p, block] = touched
    rows.untouched[p, block] = untouched


@jit.inner
def choose(rows, nodes, pods, p, prices, sizes):  # type: ignore[no-untyped-def]
    """Return the best node for pod p, -1 where it fits nowhere.

    `prices` has the scarcity price of every machine size; a pod of a whole machine's size pays none. `sizes` has the GPU
    milli in untouched machines of every size.
    """
    priced = False
    for size in range(len(prices)):
        priced = priced or prices[size] > 0
    priced = priced and pods.kind[p] != rules.CPU
    least = _least_price(pods, p, prices, sizes) if priced else 0
    best = NONE
    found = -1
    for block in range(rows.touched.shape[1]):
        if min(rows.touched[p, block], rows.untouched[p, block] + least) >= best:
            continue
        for n in range(block * BLOCK, min((block + 1) * BLOCK, rows.cost.shape[1])):
            value = rows.cost[p, n]
            if value >= best:
                continue
            if priced and rows.opens[n]:
                size = nodes.gpus[n]
                if pods.kind[p] == rules.SHARE or pods.gpus[p] < size:
                    value += prices[size]
            if value < best:
                best = value
                found = n
    return found


@jit.inner
def _least_price(pods, p, prices, sizes):  # type: ignore[no-untyped-def]
    """Return the least that any untouched machine costs the pod: a bound by which whole blocks are passed over."""
    least = NONE
    for size in range(len(prices)):
        if sizes[size] > 0:
            pays = pods.kind[p] == rules.SHARE or pods.gpus[p] < size
            least = min(least, prices[size] if pays else 0)
    return 0 if least == NONE else least


@jit.inner
def draw(rows, nodes, pods, rule, p, version):  # type: ignore[no-untyped-def]
    """Return a random node for pod p and note its GPU in the row; -1 where it fits nowhere."""
    best = np.int64(0x7FFFFFFFFFFFFFFF)
    found = -1
    for n in range(rows.cost.shape[1]):
        if rows.cost[p, n] < NONE:
            key = np.int64(rules.mix(rule.seed, version, nodes.order[n]) >> np.uint64(2))
            if key < best:
                best = key
                found = n
    if found >= 0:
        rows.gpu[p, found] = rules.random_gpu(rule, nodes, pods, found, p, version)
    return found


@jit.inner
def opening_prices(rule, free, untouched_milli, prices):  # type: ignore[no-untyped-def]
    """Fill in the scarcity price of every machine size; twin of ``opportunity.opening_prices``."""
    for size in range(len(prices)):
        prices[size] = 0
        if rule.number == rules.OPPORTUNITY and rule.whole[size] > 0 and rule.weight[rules.W_SCARCITY] > 0:
            scarcity = min(1024, rule.whole[size] * free // max(1, untouched_milli[size]))
            prices[size] = rule.weight[rules.W_SCARCITY] * (scarcity**4 * rules.MICRO >> 40)
