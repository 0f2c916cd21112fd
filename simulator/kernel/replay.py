"""The queue and the clock, compiled: twin of ``gang.machine`` and ``simulator.replay`` for plain workloads.

Plain means: lone pods, and gangs of which a node holds at most one pod; queue modes ``skip`` and ``fifo`` without quotas
or preemption; nothing breaks; run times are the trace's. There it makes the same decisions at the same moments.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.kernel import gangs, jit, rows, rules, tree

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

ARRIVED, HEAP, STARTS, FREE, WAITING, DONE, HANDLED, VERSION, USED = range(9)
"""Places in ``Run.totals``."""

NOW, NEXT_SAMPLE, INTERVAL = range(3)
"""Places in ``Run.time``."""

PENDING, RUNNING, FINISHED, REJECTED = 1, 2, 3, 4
"""Twins of ``outcome.State``."""

NOBODY = -1


class Classes(NamedTuple):
    """What jobs ask for, by class: row of the pod request, row in `Gangs` (-1 for lone pods), pods, whole GPUs needed.

    `never` marks classes that not even the empty fleet holds.
    """

    pod: Ints
    gang: Ints
    size: Ints
    whole: Ints
    never: NDArray[np.bool_]


class Jobs(NamedTuple):
    """Jobs in order of submission: what they ask for, and what becomes of them.

    `urgency` numbers the priorities, 0 the highest. The pods of job j have the slots from ``slot[j]`` on.
    """

    submit: Floats
    duration: Floats
    kind: Ints
    urgency: Ints
    slot: Ints
    state: NDArray[np.int8]
    start: Floats
    end: Floats
    nodes: Ints
    level: Ints
    bandwidth: Ints


class Run(NamedTuple):
    """Everything that changes: queue, heap of ends, slots of running pods, totals.

    `head`, `tail` (class by urgency) and `next` (by job) are the queue; `blocked` marks refused classes. `heap_time`,
    `heap_order` and `heap_job` are a binary heap by (time, start number). `slot_row` and `slot_mask` say what a running
    pod holds: row of the node, and GPU mask or the index of the shared GPU.
    """

    head: Ints
    tail: Ints
    next: Ints
    blocked: NDArray[np.bool_]
    heap_time: Floats
    heap_order: Ints
    heap_job: Ints
    slot_row: NDArray[np.int32]
    slot_mask: NDArray[np.int32]
    untouched: Ints
    prices: Ints
    totals: Ints
    time: Floats
    samples: Floats
    sampled: Ints


def new_run(jobs: Jobs, classes: Classes, urgencies: int, samples: int) -> Run:
    """Allocate a run that has not begun."""
    total, kinds = len(jobs.submit), len(classes.pod)
    pods = int(classes.size[jobs.kind].sum()) if total else 0
    return Run(
        head=np.full((kinds, urgencies), NOBODY, dtype=np.int64),
        tail=np.full((kinds, urgencies), NOBODY, dtype=np.int64),
        next=np.full(total, NOBODY, dtype=np.int64),
        blocked=np.zeros(kinds, dtype=np.bool_),
        heap_time=np.zeros(total + 1),
        heap_order=np.zeros(total + 1, dtype=np.int64),
        heap_job=np.zeros(total + 1, dtype=np.int64),
        slot_row=np.zeros(pods + 1, dtype=np.int32),
        slot_mask=np.zeros(pods + 1, dtype=np.int32),
        untouched=np.zeros(33, dtype=np.int64),
        prices=np.zeros(33, dtype=np.int64),
        totals=np.zeros(9, dtype=np.int64),
        time=np.zeros(3),
        samples=np.zeros((samples, 4)),
        sampled=np.zeros(1, dtype=np.int64),
    )


@jit.outer
def begin(run, nodes, rule, scored):  # type: ignore[no-untyped-def]
    """Read the fleet once."""
    rows.start(scored, nodes, rule)
    for n in range(len(nodes.cpu)):
        for g in range(nodes.gpus[n]):
            run.totals[FREE] += nodes.gpu[n, g]
        if scored.opens[n]:
            run.untouched[nodes.gpus[n]] += nodes.gpus[n] * rules.FULL


@jit.outer
def advance(run, jobs, classes, nodes, pods, rule, scored, fabric, counts, ganged, strict, steps):  # type: ignore[no-untyped-def]
    """Handle at most `steps` arrivals and ends; tell whether there is more to come."""
    for _ in range(steps):
        arrived = run.totals[ARRIVED]
        more = arrived < len(jobs.submit)
        if not more and run.totals[HEAP] == 0:
            return False
        room = True
        if more and (run.totals[HEAP] == 0 or jobs.submit[arrived] < run.heap_time[0]):
            room = False
            run.time[NOW] = max(run.time[NOW], jobs.submit[arrived])
            run.totals[ARRIVED] += 1
            _submit(run, jobs, classes, arrived)
        else:
            run.time[NOW] = run.heap_time[0]
            job = _pop(run)
            jobs.state[job] = FINISHED
            jobs.end[job] = run.time[NOW]
            run.totals[DONE] += 1
            _release(run, jobs, classes, nodes, pods, rule, scored, fabric, counts, job)
        run.totals[HANDLED] += 1
        if room:
            for c in range(len(run.blocked)):
                if run.blocked[c] and classes.whole[c] <= counts.free_in[0]:
                    run.blocked[c] = False
        _serve(run, jobs, classes, nodes, pods, rule, scored, fabric, counts, ganged, strict)
        if run.time[NOW] >= run.time[NEXT_SAMPLE]:
            _sample(run, nodes, rule)
    return True


@jit.inner
def _submit(run, jobs, classes, job):  # type: ignore[no-untyped-def]
    """Queue a job, or reject one that can never run."""
    c, q = jobs.kind[job], jobs.urgency[job]
    if classes.never[c]:
        jobs.state[job] = REJECTED
        run.totals[DONE] += 1
        return
    jobs.state[job] = PENDING
    run.totals[WAITING] += 1
    if run.head[c, q] == NOBODY:
        run.head[c, q] = job
    else:
        run.next[run.tail[c, q]] = job
    run.tail[c, q] = job


@jit.inner
def _serve(run, jobs, classes, nodes, pods, rule, scored, fabric, counts, ganged, strict):  # type: ignore[no-untyped-def]
    """Start whatever may start, in the order of urgency and submission."""
    while run.totals[WAITING]:
        c, q = _first(run, jobs, strict)
        if c < 0 or run.blocked[c]:
            return
        job = run.head[c, q]
        if _start(run, jobs, classes, nodes, pods, rule, scored, fabric, counts, ganged, job):
            run.head[c, q] = run.next[job]
            run.totals[WAITING] -= 1
        else:
            run.blocked[c] = True
            if strict:
                return


@jit.inner
def _first(run, jobs, strict):  # type: ignore[no-untyped-def]
    """Return class and urgency of the first waiting job; blocked classes are passed over unless the order is strict."""
    best = NOBODY
    urgency = NOBODY
    for c in range(len(run.blocked)):
        if run.blocked[c] and not strict:
            continue
        for q in range(run.head.shape[1]):
            job = run.head[c, q]
            if job != NOBODY:
                if best < 0 or q < urgency or (q == urgency and job < run.head[best, urgency]):
                    best = c
                    urgency = q
                break
    return best, urgency


@jit.inner
def _start(run, jobs, classes, nodes, pods, rule, scored, fabric, counts, ganged, job):  # type: ignore[no-untyped-def]
    """Place a job and take its devices; tell whether it fits."""
    c = jobs.kind[job]
    p = classes.pod[c]
    gang = classes.gang[c]
    if gang >= 0:
        gangs.refresh(ganged, fabric, nodes, pods, scored, gang)
        found, speed = gangs.choose(ganged, fabric, counts, nodes, pods, gang)
        if found == 0:
            return False
        jobs.level[job] = gangs.common_level(fabric, ganged.chosen[0], ganged.chosen[found - 1])
        for i in range(found):
            node = ganged.chosen[i]
            mask = gangs.mask_of(fabric, nodes, pods, p, node, pods.gpus[p])
            _take(run, nodes, pods, rule, scored, fabric, counts, jobs.slot[job] + i, fabric.row[node], p, mask)
        jobs.nodes[job] = found
        jobs.bandwidth[job] = speed
    else:
        row = _lone(run, nodes, pods, rule, scored, p)
        if row < 0:
            return False
        node = nodes.order[row]
        held = scored.gpu[p, row]
        if pods.kind[p] == rules.WHOLE:
            held = gangs.mask_of(fabric, nodes, pods, p, node, pods.gpus[p])
            if pods.gpus[p] > 1:
                jobs.bandwidth[job] = fabric.ring[fabric.start[fabric.shape[node]] + held]
        _take(run, nodes, pods, rule, scored, fabric, counts, jobs.slot[job], row, p, held)
        jobs.nodes[job] = 1
        jobs.level[job] = fabric.ancestor.shape[0] - 1
    run.totals[STARTS] += 1
    jobs.state[job] = RUNNING
    jobs.start[job] = run.time[NOW]
    _push(run, run.time[NOW] + jobs.duration[job], run.totals[STARTS], job)
    return True


@jit.inner
def _lone(run, nodes, pods, rule, scored, p):  # type: ignore[no-untyped-def]
    """Choose the row of a lone pod's node, -1 without room."""
    rows.refresh(scored, nodes, pods, rule, p)
    if rule.number == rules.RANDOM:
        return rows.draw(scored, nodes, pods, rule, p, run.totals[VERSION])
    rows.opening_prices(rule, run.totals[FREE], run.untouched, run.prices)
    return rows.choose(scored, nodes, pods, p, run.prices, run.untouched)


@jit.inner
def _take(run, nodes, pods, rule, scored, fabric, counts, slot, row, p, held):  # type: ignore[no-untyped-def]
    """Take a pod's resources and remember what it holds."""
    run.slot_row[slot] = row
    run.slot_mask[slot] = held
    _change(run, nodes, pods, rule, scored, fabric, counts, row, p, held, -1)


@jit.inner
def _release(run, jobs, classes, nodes, pods, rule, scored, fabric, counts, job):  # type: ignore[no-untyped-def]
    """Give back everything that a job holds."""
    c = jobs.kind[job]
    for i in range(classes.size[c]):
        slot = jobs.slot[job] + i
        row, held = run.slot_row[slot], run.slot_mask[slot]
        _change(run, nodes, pods, rule, scored, fabric, counts, row, classes.pod[c], held, +1)


@jit.inner
def _change(run, nodes, pods, rule, scored, fabric, counts, row, p, held, sign):  # type: ignore[no-untyped-def]
    """Add or subtract one pod and bring every total up to date."""
    nodes.cpu[row] += sign * pods.cpu[p]
    nodes.memory[row] += sign * pods.memory[p]
    nodes.pods[row] += sign
    run.totals[VERSION] += 1
    size = nodes.gpus[row]
    if pods.kind[p] == rules.SHARE:
        nodes.gpu[row, held] += sign * pods.milli[p]
        nodes.tags[row, 0] -= sign
    elif pods.kind[p] == rules.WHOLE:
        for g in range(size):
            if (held >> g) & 1:
                nodes.gpu[row, g] += sign * rules.FULL
        nodes.tags[row, pods.gpus[p]] -= sign
    need = pods.milli[p] * pods.gpus[p]
    run.totals[FREE] += sign * need
    run.totals[USED] -= sign * need
    opened = scored.opens[row]
    rows.changed(scored, nodes, rule, row)
    run.untouched[size] += (np.int64(scored.opens[row]) - np.int64(opened)) * size * rules.FULL
    free = 0
    for g in range(size):
        free += nodes.gpu[row, g] == rules.FULL
    tree.recount(fabric, counts, size, nodes.order[row], free)


@jit.inner
def _sample(run, nodes, rule):  # type: ignore[no-untyped-def]
    """Note time, GPU milli in use, waiting jobs and fragmentation."""
    run.time[NEXT_SAMPLE] = run.time[NOW] + run.time[INTERVAL]
    i = run.sampled[0]
    if i == len(run.samples):
        return
    fragments = 0
    for n in range(len(nodes.cpu)):
        fragments += rows.measure(nodes, rule.full, n)
    run.samples[i, 0] = run.time[NOW]
    run.samples[i, 1] = run.totals[USED]
    run.samples[i, 2] = run.totals[WAITING]
    run.samples[i, 3] = fragments
    run.sampled[0] += 1


@jit.inner
def _less(run, a, b):  # type: ignore[no-untyped-def]
    if run.heap_time[a] != run.heap_time[b]:
        return run.heap_time[a] < run.heap_time[b]
    return run.heap_order[a] < run.heap_order[b]


@jit.inner
def _swap(run, a, b):  # type: ignore[no-untyped-def]
    run.heap_time[a], run.heap_time[b] = run.heap_time[b], run.heap_time[a]
    run.heap_order[a], run.heap_order[b] = run.heap_order[b], run.heap_order[a]
    run.heap_job[a], run.heap_job[b] = run.heap_job[b], run.heap_job[a]


@jit.inner
def _push(run, time, order, job):  # type: ignore[no-untyped-def]
    """Add an end to the heap."""
    i = run.totals[HEAP]
    run.totals[HEAP] += 1
    run.heap_time[i] = time
    run.heap_order[i] = order
    run.heap_job[i] = job
    while i > 0 and _less(run, i, (i - 1) // 2):
        _swap(run, i, (i - 1) // 2)
        i = (i - 1) // 2


@jit.inner
def _pop(run):  # type: ignore[no-untyped-def]
    """Take the earliest end off the heap and return its job."""
    job = run.heap_job[0]
    run.totals[HEAP] -= 1
    last = run.totals[HEAP]
    _swap(run, 0, last)
    i = 0
    while True:
        child = 2 * i + 1
        if child >= last:
            return job
        if child + 1 < last and _less(run, child + 1, child):
            child += 1
        if not _less(run, child, i):
            return job
        _swap(run, child, i)
        i = child
