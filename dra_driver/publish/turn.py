"""Which of the driver's instances on a node publishes: the one that started last, for as long as it lives.

During an upgrade two instances run, and their slices may differ: both publishing, each would undo the other's writes. The
right to publish is a lock of the kernel's, so it is free when its holder dies. Who starts asks for it by a second lock; the
holder looks at that and gives way, and takes the right again only when nobody has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import structlog

log = structlog.get_logger()

POLL_S = 0.2  # locks have no event that tells of them


class Turn:
    """One instance's view; `run` works until it is cancelled, which gives the right up."""

    def __init__(self, folder: Path, gained: Callable[[], None] = lambda: None) -> None:
        self._right, self._asking = folder / "publish.lock", folder / "publish.next"
        self._held: int | None = None
        self._asked: int | None = None
        self._new = True
        self._busy = asyncio.Lock()
        self._mine = asyncio.Event()
        self.gained = gained

    @property
    def mine(self) -> bool:
        return self._mine.is_set()

    @contextlib.asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Wait for the right and keep it to the end of the block."""
        while True:
            await self._mine.wait()
            async with self._busy:
                if self.mine:
                    yield
                    return

    async def run(self) -> None:
        try:
            while True:
                async with self._busy:
                    try:
                        self._look()
                    except OSError as error:
                        self._unlocked(error)
                await asyncio.sleep(POLL_S)
        finally:
            self._leave()

    def _look(self) -> None:
        if self._held is None:
            self._try()
        elif _is_locked(self._asking):
            os.close(self._held)
            self._held, self._new = None, False
            self._mine.clear()
            log.info("another instance of the driver publishes from now on")

    def _unlocked(self, error: OSError) -> None:
        """Publish without the lock where there can be none: two that write are better than none."""
        if not self.mine:
            log.error("slices are published without a lock", error=str(error))
            self._mine.set()
            self.gained()

    def _try(self) -> None:
        """Take the right if it is free; one that is new asks the holder for it, others wait for nobody else to ask."""
        if self._new and self._asked is None:
            self._asked = _locked(self._asking)
        if self._asked is None and _is_locked(self._asking):
            return
        self._held = _locked(self._right)
        if self._held is not None:
            self._forget_asking()
            self._mine.set()
            log.info("this instance of the driver publishes")
            self.gained()

    def _forget_asking(self) -> None:
        if self._asked is not None:
            os.close(self._asked)
        self._asked, self._new = None, False

    def _leave(self) -> None:
        self._forget_asking()
        if self._held is not None:
            os.close(self._held)
        self._held = None
        self._mine.clear()


def _locked(path: Path, how: int = fcntl.LOCK_EX) -> int | None:
    """Lock a file; returns a descriptor that holds it until it is closed, None where another has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _is_locked(path: Path) -> bool:
    descriptor = _locked(path, fcntl.LOCK_SH)
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is None
