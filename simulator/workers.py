"""Runs on several processes: one answer per run, in the order of the runs, whatever their number.

Processes are spawned, never forked: a fork would copy locks that threads of NumPy and polars hold.
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from multiprocessing.synchronize import Event
from typing import Any, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Stopped = Callable[[], bool]
Work = Callable[[Item, Stopped], Answer]
"""Makes one run; must be picklable, and when `Stopped` says so it may end early with what it has."""

LOOK_S = 0.1
"""Seconds between two looks whether to stop."""


def never() -> bool:
    """Say that nobody asked to stop."""
    return False


def default() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def answers(
    work: Work[Item, Answer], items: Sequence[Item], count: int = 1, stopped: Stopped = never
) -> Iterator[Answer | None]:
    """Yield the answer to every item in the order of `items`; None for each that was not begun before the stop.

    Parameters
    ----------
    count : int
        Processes; 1 works in this one. Never more than there are items.
    """
    count = min(count, len(items))
    if count > 1:
        yield from _spread(work, items, count, stopped)
    else:
        for item in items:
            yield None if stopped() else work(item, stopped)


def _spread(work: Work[Item, Answer], items: Sequence[Item], count: int, stopped: Stopped) -> Iterator[Answer | None]:
    """Give the items to spawned processes, and pass a stop on to them."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pool = futures.ProcessPoolExecutor(count, mp_context=context, initializer=_begin, initargs=(work, stop))
    try:
        for coming in [pool.submit(_answer, item) for item in items]:
            done = False
            while not done:
                if stopped():  # also when answers come faster than looks
                    stop.set()
                done = bool(futures.wait([coming], timeout=LOOK_S).done)
            yield coming.result()
    finally:
        stop.set()  # whoever stops reading, by an error or a second Ctrl-C, waits for no more than a look
        pool.shutdown(cancel_futures=True)


_work: Callable[[Any, Stopped], Any]
_stop: Event


def _begin(work: Work[Item, Answer], stop: Event) -> None:
    """Prepare a spawned process; Ctrl-C reaches it too, but only its parent decides."""
    global _work, _stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _work, _stop = work, stop


def _answer(item: Any) -> Any:
    """Work on one item in a spawned process."""
    return None if _stop.is_set() else _work(item, _stop.is_set)
