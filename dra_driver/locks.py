"""Locks on claims and GPUs that hold within this process and against another instance of the driver.

Claims on different GPUs are prepared side by side. An instance that dies lets go of its locks by itself, since they are
the kernel's.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import zlib
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

POLL_S = 0.02  # between two tries for a lock that the other instance holds; there is no event to wait for
CLAIM_FILES = 256  # claims share lock files, since there is no end of them


class Locks:
    """Named locks in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._here: dict[str, asyncio.Lock] = {}

    @contextlib.asynccontextmanager
    async def claim(self, uid: str) -> AsyncIterator[None]:
        """Hold a claim; take it before its devices."""
        async with self._held(f"claim-{zlib.crc32(uid.encode()) % CLAIM_FILES:03d}"):
            yield

    @contextlib.asynccontextmanager
    async def devices(self, names: Iterable[str]) -> AsyncIterator[None]:
        """Hold several devices; they are taken in sorted order, so that two holders never wait for each other."""
        async with contextlib.AsyncExitStack() as stack:
            for name in sorted(set(names)):
                await stack.enter_async_context(self._held(f"device-{_file_name(name)}"))
            yield

    @contextlib.asynccontextmanager
    async def _held(self, name: str) -> AsyncIterator[None]:
        async with self._here.setdefault(name, asyncio.Lock()):
            descriptor = await self._locked(name)
            try:
                yield
            finally:
                os.close(descriptor)

    async def _locked(self, name: str) -> int:
        """Lock the file of a lock; returns a descriptor that holds it until it is closed."""
        descriptor = os.open(self.folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    await asyncio.sleep(POLL_S)
                else:
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise


def _file_name(name: str) -> str:
    """Return a name that is one component of a path."""
    return "".join(c if c.isalnum() or c in "-." else "_" for c in name)
