"""Threads for calls into the hardware, any of which may never return.

Each kind of work has its own, so that a GPU driver that hangs takes none from those who write files. The interpreter
would wait for them at its end; so whoever ends the process asks what is `under_way`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any, TypeVar

T = TypeVar("T")

LEAVE_S = 3.0
"""How long a driver that ends waits for calls into the hardware; none takes so long but one that hangs."""

_CALLS: dict[futures.Future[Any], str] = {}
"""Of this process, until they return."""


class Threads(futures.ThreadPoolExecutor):
    """An executor whose calls are known."""

    def __init__(self, count: int, name: str) -> None:
        super().__init__(count, name)
        self._mine: set[futures.Future[Any]] = set()

    def submit(self, call: Callable[..., T], /, *args: Any, **kwargs: Any) -> futures.Future[T]:
        """Start a call."""
        future = super().submit(call, *args, **kwargs)
        _CALLS[future] = _text(call, args)
        self._mine.add(future)
        future.add_done_callback(self._returned)
        return future

    def _returned(self, future: futures.Future[Any]) -> None:
        _CALLS.pop(future, None)
        self._mine.discard(future)

    async def close(self, within_s: float = LEAVE_S) -> bool:
        """Take no calls any more and give those that are under way some time; return whether all have returned."""
        self.shutdown(wait=False, cancel_futures=True)
        _, left = await asyncio.to_thread(futures.wait, self._mine.copy(), within_s)
        return not left


def _text(call: Callable[..., Any], args: Sequence[Any]) -> str:
    """Return the name of a call and the GPU that it is about."""
    about = [getattr(one, "gpu_uuid", one) for one in args]
    return " ".join([getattr(call, "__name__", repr(call)).strip("_"), *(one for one in about if isinstance(one, str))])


def under_way() -> list[str]:
    """Return the calls of this process that have not returned, each with the GPU that it is about."""
    return sorted(text for future, text in _CALLS.copy().items() if not future.done())
