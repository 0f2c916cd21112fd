"""Programs of the GPU driver, run where their libraries are: below the root of the GPU driver."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

COMMAND_S = 10.0
MAX_OUTPUT = 4096

TOP = Path("/")
EXCLUSIVE, DEFAULT = "EXCLUSIVE_PROCESS", "DEFAULT"


class SharingError(RuntimeError):
    """A program of the GPU driver failed; the message names it and has its output."""


@dataclass(frozen=True, slots=True)
class Programs:
    """Where the programs are.

    Attributes
    ----------
    smi, mps_control : Path
        As seen from `root`.
    root : Path
        What the programs take for the root: their loader and libraries are the host's, not those of our container.
    """

    smi: Path = Path("/usr/bin/nvidia-smi")
    mps_control: Path = Path("/usr/bin/nvidia-cuda-mps-control")
    root: Path = TOP

    def command(self, program: Path, *args: str) -> tuple[str, ...]:
        """Return the command that runs a program below the root."""
        enter = () if self.root == TOP else ("chroot", str(self.root))
        return (*enter, str(program), *args)


def of_host(root: Path, host_root: str, driver_root: str) -> Programs:
    """Return the programs of the GPU driver at `driver_root`, which is below the host's `root`.

    A tree that the host itself calls by that name is no other root: its programs run as they are.
    """
    driver = root / driver_root.lstrip("/")
    if Path(host_root) == root and driver == root:
        return Programs(driver / "usr/bin/nvidia-smi", driver / "usr/bin/nvidia-cuda-mps-control")
    return Programs(root=driver)


async def set_compute_mode(programs: Programs, gpu_uuid: str, mode: str) -> None:
    """Say how many processes may use a GPU: `EXCLUSIVE` lets only the MPS server in. A MIG device has no mode of its own."""
    if not gpu_uuid.startswith("MIG-"):
        await run(programs.command(programs.smi, "-i", gpu_uuid, "-c", mode))


async def set_time_slices(programs: Programs, gpu_uuid: str, interval: int) -> None:
    """Set the length of the turns on a GPU, which several processes have to be let in for; NVML has no call for it."""
    await set_compute_mode(programs, gpu_uuid, DEFAULT)
    await run(programs.command(programs.smi, "compute-policy", "-i", gpu_uuid, f"--set-timeslice={interval}"))


async def run(command: Sequence[str], text: str = "", env: Mapping[str, str] | None = None) -> str:
    """Run a program to its end and return its output.

    Raises
    ------
    SharingError
    """
    try:
        child = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=None if env is None else {**os.environ, **env},
        )
    except OSError as error:
        raise SharingError(f"{command[0]}: {error.strerror}; is the GPU driver installed there?") from error
    try:
        async with asyncio.timeout(COMMAND_S):
            said, _ = await child.communicate(text.encode())
    except TimeoutError:
        raise SharingError(f"{' '.join(command)}: no end after {COMMAND_S:.0f} s") from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    output = said.decode(errors="replace")[:MAX_OUTPUT].strip()
    if child.returncode:
        raise SharingError(f"{' '.join(command)}: exit status {child.returncode}: {output}")
    return output
