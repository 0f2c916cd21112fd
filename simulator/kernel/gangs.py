"""Gangs of which a node holds at most one pod, compiled: twin of ``placement.search`` for the default domain rule.

With at most one pod per node every manner of packing gives the same nodes and there is no wider selection, so that the
rule comes down to this: the two best domains of the finest level that holds the gang, each filled with as few child
domains as possible, the cheaper one taken.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.kernel import jit, rules, tree

Ints = NDArray[np.int64]

NO_LIMIT = 1 << 40


class Gangs(NamedTuple):
    """Gang classes: row of their pod request, pods, required level, best possible bandwidth; and their room.

    `room` counts the pods that every domain can take, `fit` those of every node (0 or 1), both right up to position
    `seen` of the log of changes. The others are buffers of one decision.
    """

    pod: Ints
    need: Ints
    required: Ints
    best: Ints
    room: Ints
    fit: NDArray[np.int8]
    seen: Ints
    chosen: Ints
    other: Ints
    stack: Ints
    order: Ints
    share: Ints
    sums: Ints


def new_gangs(pod: Ints, need: Ints, required: Ints, best: Ints, vertices: int, nodes: int) -> Gangs:
    """Allocate gang classes that have counted nothing yet."""
    wide = max(vertices, nodes) + 1
    return Gangs(
        pod,
        need,
        required,
        best,
        room=np.zeros((len(pod), vertices), dtype=np.int64),
        fit=np.zeros((len(pod), nodes), dtype=np.int8),
        seen=np.full(len(pod), -1, dtype=np.int64),
        chosen=np.zeros(wide, dtype=np.int64),
        other=np.zeros(wide, dtype=np.int64),
        stack=np.zeros(2 * wide, dtype=np.int64),
        order=np.zeros(wide, dtype=np.int64),
        share=np.zeros(wide, dtype=np.int64),
        sums=np.zeros(2 * wide, dtype=np.int64),
    )


@jit.inner
def refresh(gangs, fabric, nodes, pods, rows, c):  # type: ignore[no-untyped-def]
    """Bring the room of class c up to date."""
    if gangs.seen[c] < 0:
        for row in range(len(nodes.cpu)):
            _count(gangs, fabric, nodes, pods, c, row)
    else:
        for i in range(gangs.seen[c], rows.length[0]):
            if rows.last[rows.log[i]] == i:
                _count(gangs, fabric, nodes, pods, c, rows.log[i])
    gangs.seen[c] = rows.length[0]


@jit.inner
def _count(gangs, fabric, nodes, pods, c, row):  # type: ignore[no-untyped-def]
    node = nodes.order[row]
    fits = 0
    if fabric.ancestor[gangs.required[c], node] >= 0 and rules.fits(nodes, pods, row, gangs.pod[c]):
        fits = 1
    change = fits - gangs.fit[c, node]
    if change:
        gangs.fit[c, node] = fits
        for level in range(fabric.ancestor.shape[0]):
            vertex = fabric.ancestor[level, node]
            if vertex >= 0:
                gangs.room[c, vertex] += change


@jit.inner
def choose(gangs, fabric, counts, nodes, pods, c):  # type: ignore[no-untyped-def]
    """Fill ``gangs.chosen`` with the nodes of a gang, ascending; return ``(nodes, bandwidth)``, (0, 0) without room."""
    first, second = _two_tightest(gangs, fabric, counts, c)
    if first < 0:
        return 0, 0
    need = gangs.need[c]
    _fill(gangs, fabric, counts, c, first, gangs.chosen)
    price, speed = _price(gangs, fabric, counts, nodes, pods, c, gangs.chosen)
    if second >= 0:
        _fill(gangs, fabric, counts, c, second, gangs.other)
        dearer, slower = _price(gangs, fabric, counts, nodes, pods, c, gangs.other)
        if dearer < price:
            for i in range(need):
                gangs.chosen[i] = gangs.other[i]
            speed = slower
    return need, speed


@jit.inner
def _two_tightest(gangs, fabric, counts, c):  # type: ignore[no-untyped-def]
    """Return the first two domains of the finest level that holds the gang, -1 where there is none."""
    need = gangs.need[c]
    for level in range(len(fabric.first_at) - 2, gangs.required[c] - 1, -1):
        first = -1
        second = -1
        for i in range(fabric.first_at[level], fabric.first_at[level + 1]):
            vertex = fabric.at[i]
            if gangs.room[c, vertex] < need:
                continue
            if first < 0 or _before(gangs, fabric, counts, c, vertex, first):
                second = first
                first = vertex
            elif second < 0 or _before(gangs, fabric, counts, c, vertex, second):
                second = vertex
        if first >= 0:
            return first, second
    return -1, -1


@jit.inner
def _before(gangs, fabric, counts, c, one, other):  # type: ignore[no-untyped-def]
    """Compare domains by free GPUs, room and dearness; of equals the one met first stays first."""
    if counts.free_in[one] != counts.free_in[other]:
        return counts.free_in[one] < counts.free_in[other]
    if gangs.room[c, one] != gangs.room[c, other]:
        return gangs.room[c, one] < gangs.room[c, other]
    return tree.dearness(fabric, counts, one) < tree.dearness(fabric, counts, other)


@jit.inner
def _fill(gangs, fabric, counts, c, domain, out):  # type: ignore[no-untyped-def]
    """Write the nodes of a domain that get a pod into `out`, ascending; twin of ``pack.fill``."""
    gangs.stack[0] = domain
    gangs.stack[1] = gangs.need[c]
    depth = 1
    found = 0
    while depth:
        depth -= 1
        vertex, wanted = gangs.stack[2 * depth], gangs.stack[2 * depth + 1]
        if wanted == gangs.room[c, vertex]:
            for node in range(fabric.first_node[vertex], fabric.last_node[vertex]):
                if gangs.fit[c, node]:
                    out[found] = node
                    found += 1
            continue
        low, high = fabric.first_child[vertex], fabric.first_child[vertex + 1]
        leaves = True
        for i in range(low, high):
            leaves = leaves and fabric.node[fabric.child[i]] >= 0
        _order(gangs, fabric, counts, c, low, high)
        if leaves:
            for i in range(wanted):
                out[found] = fabric.node[fabric.child[gangs.order[i]]]
                found += 1
            continue
        chosen = _fewest(gangs, fabric, counts, c, high - low, wanted)
        left = wanted
        for i in range(1, chosen):
            left -= gangs.room[c, fabric.child[gangs.order[i]]]
        for i in range(chosen):
            child = fabric.child[gangs.order[i]]
            gangs.stack[2 * depth] = child
            gangs.stack[2 * depth + 1] = left if i == 0 else gangs.room[c, child]
            depth += 1
    _ascend(out, found)


@jit.inner
def _ascend(values, count):  # type: ignore[no-untyped-def]
    """Sort the first values in place (Shell sort: nothing may be allocated here)."""
    gap = 1
    while gap < count // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(gap, count):
            value = values[i]
            at = i
            while at >= gap and values[at - gap] > value:
                values[at] = values[at - gap]
                at -= gap
            values[at] = value
        gap //= 3


@jit.inner
def _order(gangs, fabric, counts, c, low, high):  # type: ignore[no-untyped-def]
    """Sort the children by most room, least dear, position, into ``gangs.order``."""
    for i in range(low, high):
        at = i - low
        child = fabric.child[i]
        room, dear = gangs.room[c, child], tree.dearness(fabric, counts, child)
        while at > 0:
            above = fabric.child[gangs.order[at - 1]]
            if gangs.room[c, above] > room:
                break
            if gangs.room[c, above] == room and tree.dearness(fabric, counts, above) <= dear:
                break
            gangs.order[at] = gangs.order[at - 1]
            at -= 1
        gangs.order[at] = i


@jit.inner
def _fewest(gangs, fabric, counts, c, count, need):  # type: ignore[no-untyped-def]
    """Bring the chosen children to the front of ``gangs.order``, most room first; return how many; see ``pack.fewest``."""
    total = 0
    chosen = 0
    while total < need:
        total += gangs.room[c, fabric.child[gangs.order[chosen]]]
        chosen += 1
    spare = total - need
    if spare == 0:
        return chosen
    outside = count - chosen
    for i in range(chosen):
        gangs.share[i] = gangs.order[i]
    for i in range(outside):
        gangs.sums[i] = gangs.order[chosen + i]
    end = 0
    while end < chosen and spare:  # largest first; of equals, which stand together, the last first
        begin = end
        own = gangs.room[c, fabric.child[gangs.order[begin]]]
        while end < chosen and gangs.room[c, fabric.child[gangs.order[end]]] == own:
            end += 1
        for i in range(end - 1, begin - 1, -1):
            swap = _smallest(gangs, fabric, c, outside, max(own - spare, 1))
            if spare and swap >= 0 and gangs.room[c, fabric.child[gangs.sums[swap]]] < own:
                gangs.share[i] = gangs.sums[swap]
                spare -= own - gangs.room[c, fabric.child[gangs.sums[swap]]]
                outside -= 1
                for j in range(swap, outside):
                    gangs.sums[j] = gangs.sums[j + 1]
    _sort(gangs, fabric, counts, c, chosen)
    return chosen


@jit.inner
def _smallest(gangs, fabric, c, outside, least):  # type: ignore[no-untyped-def]
    """Return the first of the smallest outside children that have at least `least` room, -1 without any."""
    found = -1
    room = 1 << 60
    for j in range(outside):
        size = gangs.room[c, fabric.child[gangs.sums[j]]]
        if size < least:
            break
        if size < room:
            room = size
            found = j
    return found


@jit.inner
def _sort(gangs, fabric, counts, c, chosen):  # type: ignore[no-untyped-def]
    """Put the chosen children back into ``gangs.order``, by most room, least dear, position."""
    for i in range(chosen):
        new = gangs.share[i]
        child = fabric.child[new]
        room, dear = gangs.room[c, child], tree.dearness(fabric, counts, child)
        at = i
        while at > 0:
            old = gangs.order[at - 1]
            above = fabric.child[old]
            size, worth = gangs.room[c, above], tree.dearness(fabric, counts, above)
            if size > room or (size == room and (worth < dear or (worth == dear and old < new))):
                break
            gangs.order[at] = old
            at -= 1
        gangs.order[at] = new


@jit.inner
def mask_of(fabric, nodes, pods, p, node, count):  # type: ignore[no-untyped-def]
    """Return the GPUs that `count` GPUs of pod p would be on a node; twin of ``bandwidth.unions``."""
    row, shape = fabric.row[node], fabric.shape[node]
    free = 0
    for g in range(nodes.gpus[row]):
        if nodes.gpu[row, g] == rules.FULL and (pods.eligible[p, row] >> g) & 1:
            free |= 1 << g
    return fabric.union[fabric.union_start[shape] + count * fabric.masks[shape] + free]


@jit.inner
def _price(gangs, fabric, counts, nodes, pods, c, chosen):  # type: ignore[no-untyped-def]
    """Return price and bandwidth of a gang on these nodes; twin of ``gang_price.prices``."""
    p, need = gangs.pod[c], gangs.need[c]
    speed = _bandwidth(gangs, fabric, nodes, pods, c, chosen)
    whole = pods.kind[p] == rules.WHOLE
    k = pods.gpus[p] if whole else 0
    short = 0
    if gangs.best[c] > 0:
        short = min(1000, max(0, 1000 - 1000 * speed // gangs.best[c]))
    lost_nodes = 0
    for i in range(need):
        node = chosen[i]
        size, free = nodes.gpus[fabric.row[node]], counts.free[node]
        lost_nodes += fabric.worth_node[size, free] - fabric.worth_node[size, free - k]
    lost_domains = 0
    span = need
    for level in range(1, fabric.ancestor.shape[0] - 1):
        i = 0
        while i < need:
            vertex = fabric.ancestor[level, chosen[i]]
            broken = 0
            while i < need and fabric.ancestor[level, chosen[i]] == vertex:
                size = nodes.gpus[fabric.row[chosen[i]]]
                broken += k > 0 and counts.free[chosen[i]] == size
                i += 1
            if vertex >= 0:
                span += 1
                before = fabric.worth_start[vertex] + counts.intact[vertex]
                lost_domains += fabric.worth_domain[before] - fabric.worth_domain[before - broken]
    price = fabric.weight[0] * need * k * short + fabric.weight[1] * lost_nodes
    return price + fabric.weight[2] * lost_domains + fabric.weight[3] * 1000 * span, speed


@jit.inner
def _bandwidth(gangs, fabric, nodes, pods, c, chosen):  # type: ignore[no-untyped-def]
    """Predict the bandwidth of a gang with one pod on each of some nodes; twin of ``bandwidth.predict``."""
    p, need = gangs.pod[c], gangs.need[c]
    if pods.kind[p] != rules.WHOLE or need * pods.gpus[p] < 2:
        return 0
    k = pods.gpus[p]
    inside = NO_LIMIT
    link = NO_LIMIT
    groups = 0
    lone = NO_LIMIT
    for i in range(need):
        fabric_id = fabric.fabric[chosen[i]]
        if fabric_id >= 0:
            gangs.sums[fabric_id] = -1  # not met yet
    for i in range(need):
        node = chosen[i]
        shape = fabric.shape[node]
        at = fabric.start[shape] + mask_of(fabric, nodes, pods, p, node, k)
        if k > 1:
            inside = min(inside, fabric.ring[at])
        link = min(link, fabric.link[shape])
        fabric_id = fabric.fabric[node]
        if fabric_id < 0:
            groups += 1
            lone = min(lone, fabric.nic[at])
        else:
            if gangs.sums[fabric_id] < 0:
                groups += 1
                gangs.sums[fabric_id] = 0
            gangs.sums[fabric_id] += fabric.nic[at]
    if need == 1:
        return inside
    if groups == 1:
        return min(inside, link)
    for i in range(need):
        fabric_id = fabric.fabric[chosen[i]]
        if fabric_id >= 0:
            lone = min(lone, gangs.sums[fabric_id])
    return min(inside, 1000 * lone // fabric.factor[common_level(fabric, chosen[0], chosen[need - 1])])


@jit.inner
def common_level(fabric, first, last):  # type: ignore[no-untyped-def]
    """Return the level of the tightest domain that holds two nodes."""
    for level in range(fabric.ancestor.shape[0] - 1, 0, -1):
        if fabric.ancestor[level, first] >= 0 and fabric.ancestor[level, first] == fabric.ancestor[level, last]:
            return level
    return 0
