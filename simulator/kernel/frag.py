"""Fragmentation of one node, compiled: twin of ``scheduler.placement.score.fragmentation``."""

from simulator.kernel import jit

FULL = 1000


@jit.inner
def fragmentation(cpu, gpu, width, model, target):  # type: ignore[no-untyped-def]
    """Return the GPU of one node that the target can't use, milli-GPU times ``target.total``.

    Few GPUs of a node are partly used at a time, so the wholly free ones are counted and only the others looked at.
    """
    free = 0
    total = 0
    parts = 0
    for g in range(width):
        r = gpu[g]
        total += r
        if r == FULL:
            free += 1
        elif r > 0:
            parts += 1
    value = 0
    for m in range(len(target.cpu)):
        wasted = total
        if target.gpus[m] > 0 and target.cpu[m] <= cpu and (target.models[m] >> model) & 1:
            enough = free
            slivers = 0
            if parts:
                for g in range(width):
                    r = gpu[g]
                    if r < FULL:
                        if r >= target.milli[m]:
                            enough += 1
                        else:
                            slivers += r
            if enough >= target.gpus[m]:
                wasted = slivers
        value += target.weight[m] * wasted
    return value
