"""The driver's command with every fsync written down: ``python -m tests.bench.synced FILE run ...``."""

import os
import struct
import sys
import time
from pathlib import Path

from dra_driver import cli

ENTRY = struct.Struct("d")
"""Seconds of one fsync."""


def entries(path: Path, after: int = 0) -> list[float]:
    """Return the seconds of each fsync but of the first ones."""
    data = path.read_bytes()[after * ENTRY.size :]
    return [seconds for (seconds,) in ENTRY.iter_unpack(data)]


def main(path: str, *arguments: str) -> None:
    """Run the command; a line is appended before the driver goes on, so that who has its answer finds it."""
    log, real = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC), os.fsync

    def fsync(descriptor: int) -> None:
        began = time.perf_counter()
        real(descriptor)
        os.write(log, ENTRY.pack(time.perf_counter() - began))

    os.fsync = fsync
    cli.main(arguments, prog_name="muster-dra-driver")


if __name__ == "__main__":
    main(*sys.argv[1:])
