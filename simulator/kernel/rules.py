"""Cost of one pod on one node, compiled: twins of ``scheduler.placement.score``, integer for integer.

Rule numbers are those of ``arrays.RULE_NUMBERS``. ``scratch`` is a caller's buffer of one node's GPUs.
"""

import numpy as np

from simulator.kernel import arrays, frag, jit

FULL = 1000
MICRO = 1_000_000
STRANDED_SCALE = 1024
CPU_SCALE = 128_000
GPU_SCALE = 8_000

OPPORTUNITY = arrays.RULE_NUMBERS["opportunity-cost"]
FGD = arrays.RULE_NUMBERS["fgd"]
BEST_FIT = arrays.RULE_NUMBERS["best-fit"]
DOT_PRODUCT = arrays.RULE_NUMBERS["dot-product"]
CLUSTERING = arrays.RULE_NUMBERS["clustering"]
PACKING = arrays.RULE_NUMBERS["packing"]
RANDOM = arrays.RULE_NUMBERS["random"]
LEAST = arrays.RULE_NUMBERS["least-allocated"]
MOST = arrays.RULE_NUMBERS["most-allocated"]

CPU, SHARE, WHOLE = arrays.CPU, arrays.SHARE, arrays.WHOLE
_W = {name: i for i, name in enumerate(arrays.WEIGHT_NAMES)}
W_FRAGMENTATION, W_STRANDED, W_LEFT, W_OPEN = _W["fragmentation"], _W["stranded"], _W["left"], _W["open"]
W_VALUE, W_GPU_LEFT, W_PRESSURE, W_LEFT_CPU = _W["value"], _W["gpu_left"], _W["pressure"], _W["left_cpu"]
W_SCARCITY, W_BANDWIDTH = _W["scarcity"], _W["bandwidth"]


@jit.hot
def fits(nodes, pods, n, p):  # type: ignore[no-untyped-def]
    """Tell whether pod p fits on node n."""
    if not nodes.up[n] or nodes.pods[n] < 1 or nodes.cpu[n] < pods.cpu[p] or nodes.memory[n] < pods.memory[p]:
        return False
    if pods.kind[p] == CPU:
        return True
    need = pods.milli[p]
    found = 0
    for g in range(nodes.gpus[n]):
        if nodes.gpu[n, g] >= need and (pods.eligible[p, n] >> g) & 1:
            found += 1
    return found >= pods.gpus[p]


@jit.hot
def cost(rule, nodes, pods, n, p, before, scratch):  # type: ignore[no-untyped-def]
    """Return ``(cost, shared GPU)`` of pod p on node n, where it fits.

    `before` is the node's fragmentation now, for the rules that read it: over the popular target for FGD, over the
    whole one for the opportunity cost.
    """
    if rule.number == OPPORTUNITY:
        return _opportunity(rule, nodes, pods, n, p, before, scratch)
    if rule.number == FGD:
        return _fgd(rule, nodes, pods, n, p, before, scratch)
    if rule.number == RANDOM:
        return 0, -1  # drawn when a node is chosen, see `rows.choose`
    gpu = _best_fit_gpu(nodes, pods, n, p)
    free = 0
    for g in range(nodes.gpus[n]):
        free += nodes.gpu[n, g]
    need = pods.milli[p] * pods.gpus[p]
    if rule.number == BEST_FIT:
        left = 100 * (nodes.cpu[n] - pods.cpu[p]) + 1600 * (free - need)
        return -((200 * CPU_SCALE - left) // (2 * CPU_SCALE)), gpu
    if rule.number == DOT_PRODUCT:
        scale = CPU_SCALE * CPU_SCALE
        product = nodes.cpu[n] * pods.cpu[p] + free * need * (scale // (GPU_SCALE * GPU_SCALE))
        return -((100 * scale - 50 * product) // scale), gpu
    if rule.number == CLUSTERING:
        return _clustering(nodes, pods, n, p, free), gpu
    if rule.number == PACKING:
        return _packing(nodes, pods, n, p, gpu), gpu
    if rule.number == LEAST or rule.number == MOST:
        return _allocated(rule.number, nodes, pods, n, p, free - need), gpu
    return _first_fit(nodes, pods, n, p)


@jit.hot
def _best_fit_gpu(nodes, pods, n, p):  # type: ignore[no-untyped-def]
    """Return the GPU with the least sufficient residual, -1 for pods that share none."""
    if pods.kind[p] != SHARE:
        return -1
    best = 1 << 30
    chosen = 0
    for g in range(nodes.gpus[n]):
        r = nodes.gpu[n, g]
        if r >= pods.milli[p] and r < best and (pods.eligible[p, n] >> g) & 1:
            best = r
            chosen = g
    return chosen


@jit.hot
def _first_fit(nodes, pods, n, p):  # type: ignore[no-untyped-def]
    """Return the node's number and its first sufficient GPU."""
    if pods.kind[p] == SHARE:
        for g in range(nodes.gpus[n]):
            if nodes.gpu[n, g] >= pods.milli[p] and (pods.eligible[p, n] >> g) & 1:
                return nodes.order[n], g
    return nodes.order[n], -1


@jit.hot
def _clustering(nodes, pods, n, p, free):  # type: ignore[no-untyped-def]
    if pods.kind[p] == CPU:
        return 0
    kinds = 0
    for t in range(nodes.tags.shape[1]):
        kinds += nodes.tags[n, t] > 0
    own = nodes.tags[n, pods.gpus[p] if pods.kind[p] == WHOLE else 0] > 0
    used = 25 * (GPU_SCALE - free) // GPU_SCALE
    if own:
        return -(used + (75 if kinds == 1 else 50))
    return -(used + (25 if kinds == 0 else 0))


@jit.hot
def _packing(nodes, pods, n, p, gpu):  # type: ignore[no-untyped-def]
    if pods.kind[p] == CPU:
        return 0
    size = nodes.gpus[n]
    whole = 0
    for g in range(size):
        whole += nodes.gpu[n, g] == FULL
    if whole == size:
        return -max(33 - size, size)
    if pods.kind[p] == WHOLE:
        return -max(50 - pods.gpus[p], 33)
    residual = nodes.gpu[n, gpu]
    if residual == FULL:
        return -49
    return -max(100 - residual // 100, 50)


@jit.hot
def _allocated(number, nodes, pods, n, p, gpu_left):  # type: ignore[no-untyped-def]
    """kube-scheduler's two strategies over CPU, memory and, where asked for, GPUs."""
    total = 0
    resources = 3 if pods.gpus[p] else 2
    for r in range(resources):
        if r == 0:
            capacity, left = nodes.cpu_capacity[n], nodes.cpu[n] - pods.cpu[p]
        elif r == 1:
            capacity, left = nodes.memory_capacity[n], nodes.memory[n] - pods.memory[p]
        else:
            capacity, left = nodes.gpus[n] * FULL, gpu_left
        if capacity > 0:
            total += (left if number == LEAST else capacity - left) * 100 // capacity
    return -(total // resources)


@jit.inner
def random_gpu(rule, nodes, pods, n, p, version):  # type: ignore[no-untyped-def]
    """Draw the GPU that a pod of the random rule shares, -1 for pods that share none."""
    if pods.kind[p] != SHARE:
        return -1
    width = nodes.gpu.shape[1]
    best = np.int64(0x7FFFFFFFFFFFFFFF)
    chosen = 0
    for g in range(nodes.gpus[n]):
        if nodes.gpu[n, g] >= pods.milli[p] and (pods.eligible[p, n] >> g) & 1:
            order = np.int64(mix(rule.seed + 1, version, nodes.order[n] * width + g) >> np.uint64(1))
            if order < best:
                best = order
                chosen = g
    return chosen


@jit.inner
def mix(seed, version, number):  # type: ignore[no-untyped-def]
    """Hash integers; twin of ``score.tables.mix``."""
    x = np.uint64(number) + np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)
    x += np.uint64(version) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@jit.inner
def _take_whole(gpu, width, count, scratch):  # type: ignore[no-untyped-def]
    """Copy a node's GPUs with the first `count` free ones taken."""
    for g in range(width):
        r = gpu[g]
        if count and r == FULL:
            r = 0
            count -= 1
        scratch[g] = r


@jit.hot
def _fgd(rule, nodes, pods, n, p, before, scratch):  # type: ignore[no-untyped-def]
    width, model, cpu = nodes.gpus[n], nodes.model[n], nodes.cpu[n] - pods.cpu[p]
    if pods.kind[p] != SHARE:
        _take_whole(nodes.gpu[n], width, pods.gpus[p], scratch)
        after = frag.fragmentation(cpu, scratch, width, model, rule.popular)
        return -np.searchsorted(rule.thresholds, before - after, side="right"), -1
    need = pods.milli[p]
    for g in range(width):
        scratch[g] = nodes.gpu[n, g]
    best = -1
    chosen = -1
    for g in range(width):
        r = nodes.gpu[n, g]
        if r >= need and (pods.eligible[p, n] >> g) & 1:
            if _seen_eligible(nodes.gpu[n], pods.eligible[p, n], g, r):
                continue  # an equal GPU of lower index had the same score
            scratch[g] = r - need
            after = frag.fragmentation(cpu, scratch, width, model, rule.popular)
            scratch[g] = r
            score = np.searchsorted(rule.thresholds, before - after, side="right")
            if score > best:
                best = score
                chosen = g
    return -best, chosen


@jit.hot
def stranded(kappa, cpu, free):  # type: ignore[no-untyped-def]
    """Return the free GPU that the CPU can't feed, micro-GPU; twin of ``opportunity.stranded``."""
    if len(kappa) == 0:
        return 0
    total = 0
    for q in range(len(kappa)):
        over = 1000 * STRANDED_SCALE * free - cpu * kappa[q]
        if over > 0:
            total += over
    return total // (len(kappa) * STRANDED_SCALE)


@jit.hot
def _opportunity(rule, nodes, pods, n, p, before, scratch):  # type: ignore[no-untyped-def]
    weight, width, model = rule.weight, nodes.gpus[n], nodes.model[n]
    cpu = nodes.cpu[n]
    left_cpu = cpu - pods.cpu[p]
    free = 0
    whole = 0
    for g in range(width):
        r = nodes.gpu[n, g]
        free += r
        whole += r == FULL
    need = pods.milli[p] * pods.gpus[p]
    value = weight[W_STRANDED] * (stranded(rule.kappa, left_cpu, free - need) - stranded(rule.kappa, cpu, free))
    if pods.kind[p] == CPU:
        value += weight[W_LEFT_CPU] * 125 * free
        if weight[W_FRAGMENTATION]:
            after = frag.fragmentation(left_cpu, nodes.gpu[n], width, model, rule.full)
            value += _growth(rule, before, after)
        return value, -1
    value += weight[W_LEFT] * 125 * (free - need) + weight[W_PRESSURE] * rule.pressure[n] * need
    if whole == width:
        value += weight[W_OPEN] * MICRO
    if pods.kind[p] == WHOLE:
        value += weight[W_VALUE] * pods.gpus[p] * (rule.residual[FULL] - rule.residual[0])
        value += weight[W_BANDWIDTH] * 1000 * pods.gpus[p] * _shortfall(rule, nodes, pods, n, p)
        if weight[W_FRAGMENTATION]:
            _take_whole(nodes.gpu[n], width, pods.gpus[p], scratch)
            value += _growth(rule, before, frag.fragmentation(left_cpu, scratch, width, model, rule.full))
        return value, -1
    price, gpu = _cheapest_share(rule, nodes, pods, n, p, before, scratch)
    return value + price, gpu


@jit.hot
def _shortfall(rule, nodes, pods, n, p):  # type: ignore[no-untyped-def]
    """Return by how many per mille the best ring on node n falls short of the fleet's best; twin of `opportunity`."""
    if pods.best[p] == 0:
        return 0
    free = 0
    for g in range(nodes.gpus[n]):
        if nodes.gpu[n, g] == FULL and (pods.eligible[p, n] >> g) & 1:
            free |= 1 << g
    shape = nodes.shape[n]
    speed = max(0, rule.peak[rule.peak_start[shape] + pods.gpus[p] * rule.peak_masks[shape] + free])
    return 1000 - min(1000, 1000 * speed // pods.best[p])


@jit.hot
def _growth(rule, before, after):  # type: ignore[no-untyped-def]
    return rule.weight[W_FRAGMENTATION] * (1000 * (after - before) // max(1, rule.full.total))


@jit.hot
def _cheapest_share(rule, nodes, pods, n, p, before, scratch):  # type: ignore[no-untyped-def]
    """Return the price and index of the cheapest GPU for a shared pod, lowest index first."""
    weight, width = rule.weight, nodes.gpus[n]
    need = pods.milli[p]
    for g in range(width):
        scratch[g] = nodes.gpu[n, g]
    best = np.int64(0x7FFFFFFFFFFFFFFF)
    chosen = -1
    for g in range(width):
        r = nodes.gpu[n, g]
        if r < need or not (pods.eligible[p, n] >> g) & 1 or _seen_eligible(nodes.gpu[n], pods.eligible[p, n], g, r):
            continue
        price = weight[W_VALUE] * (rule.residual[r] - rule.residual[r - need]) + weight[W_GPU_LEFT] * 1000 * (r - need)
        if weight[W_FRAGMENTATION]:
            scratch[g] = r - need
            after = frag.fragmentation(nodes.cpu[n] - pods.cpu[p], scratch, width, nodes.model[n], rule.full)
            scratch[g] = r
            price += _growth(rule, before, after)
        if price < best:
            best = price
            chosen = g
    return best, chosen


@jit.inner
def _seen_eligible(gpu, eligible, g, r):  # type: ignore[no-untyped-def]
    """Tell whether an eligible GPU of lower index has the same residual."""
    for i in range(g):
        if gpu[i] == r and (eligible >> i) & 1:
            return True
    return False
