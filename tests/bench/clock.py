"""How long a call takes, without the noise of a shared machine."""

import gc
import statistics
import time
from collections.abc import Callable


def best_of(call: Callable[[], object], rounds: int = 5, warm: int = 1) -> float:
    """Return the fastest of some rounds, in seconds: other programs can only slow a call down."""
    for _ in range(warm):
        call()
    return min(_timed(call) for _ in range(rounds))


def median_of(call: Callable[[], object], rounds: int = 101, warm: int = 3) -> float:
    """Return the median of many short rounds, in seconds."""
    for _ in range(warm):
        call()
    return statistics.median(_timed(call) for _ in range(rounds))


def processor_of(call: Callable[[], object], rounds: int = 5) -> float:
    """Return the least processor time of some rounds, in seconds: what a call costs while others hold the cores."""
    taken = []
    for _ in range(rounds):
        begin = time.process_time()
        call()
        taken.append(time.process_time() - begin)
    return min(taken)


def _timed(call: Callable[[], object]) -> float:
    """Time one call with the garbage collector held off."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin
    finally:
        if collecting:
            gc.enable()
