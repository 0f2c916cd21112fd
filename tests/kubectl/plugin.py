"""Runs the plugin as a user does: a process of its own, with its output in pipes."""

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

WAIT_S = 30.0


@dataclass(frozen=True)
class Said:
    """What a call came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = orjson.loads(self.out)
        return found


async def call(*arguments: str | Path, stdin: bytes = b"", program: tuple[str, ...] = (), **more: str) -> Said:
    argv = program or (sys.executable, "-m", "scheduler.kubectl.cli")
    pipe = asyncio.subprocess.PIPE
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MUSTER_", "KUBE"))}
    child = await asyncio.create_subprocess_exec(
        *argv, *map(str, arguments), stdin=pipe, stdout=pipe, stderr=pipe, env=clean | {"COLUMNS": "60"} | more
    )
    async with asyncio.timeout(WAIT_S):
        out, err = await child.communicate(stdin)
    return Said(child.returncode or 0, out.decode(), err.decode())
