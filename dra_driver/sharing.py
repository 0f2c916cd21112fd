"""Sharing of a GPU among processes: lengths of time slices, and MPS control daemons as supervised children.

A daemon outlives the instance of the driver that started it where the pod shares the host's process ids, so that an
upgrade does not end running jobs; the next instance finds it by the lock that the daemon holds on its own files.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from dra_driver import edits, prepared

START_S = 10.0  # until the control daemon answers
STOP_S = 10.0  # until it ends by itself
COMMAND_S = 10.0
RESTART_S = (1.0, 2.0, 5.0, 10.0, 30.0)  # pauses before restarts; the last one repeats
MAX_OUTPUT = 4096

CONTAINER_PIPES = "/tmp/nvidia-mps"

log = structlog.get_logger()


class SharingError(RuntimeError):
    """A program of the GPU driver failed; the message names it and has its output."""


@dataclass(frozen=True, slots=True)
class Programs:
    """Programs of the GPU driver, as the driver sees them."""

    smi: Path = Path("/usr/bin/nvidia-smi")
    mps_control: Path = Path("/usr/bin/nvidia-cuda-mps-control")


EXCLUSIVE, DEFAULT = "EXCLUSIVE_PROCESS", "DEFAULT"


async def set_compute_mode(programs: Programs, gpu_uuid: str, mode: str) -> None:
    """Say how many processes may use a GPU: `EXCLUSIVE` lets only the MPS server in. A MIG device has no mode of its own."""
    if not gpu_uuid.startswith("MIG-"):
        await run((str(programs.smi), "-i", gpu_uuid, "-c", mode))


async def set_time_slices(programs: Programs, gpu_uuid: str, interval: int) -> None:
    """Set the length of the turns on a GPU, which several processes have to be let in for; NVML has no call for it."""
    await set_compute_mode(programs, gpu_uuid, DEFAULT)
    await run((str(programs.smi), "compute-policy", "-i", gpu_uuid, f"--set-timeslice={interval}"))


async def run(command: Sequence[str], text: str = "", env: dict[str, str] | None = None) -> str:
    """Run a program to its end and return its output.

    Raises
    ------
    SharingError
    """
    name = Path(command[0]).name
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
        child.kill()
        await child.wait()
        raise SharingError(f"{name}: no end after {COMMAND_S:.0f} s") from None
    output = said.decode(errors="replace")[:MAX_OUTPUT].strip()
    if child.returncode:
        raise SharingError(f"{' '.join(command)}: exit status {child.returncode}: {output}")
    return output


class Daemon:
    """One MPS control daemon and the folders through which processes reach it."""

    def __init__(self, name: str, folder: Path, programs: Programs) -> None:
        self.name, self.programs = name, programs
        self.pipes, self.logs, self.memory = folder / "pipe", folder / "log", folder / "shm"
        self._pid_file, self._gpus_file = folder / "pid", folder / "gpus"
        self._watcher: asyncio.Task[None] | None = None
        self._stopped = asyncio.Event()

    @property
    def running(self) -> bool:
        return self._watcher is not None and not self._watcher.done()

    @property
    def _env(self) -> dict[str, str]:
        return {"CUDA_MPS_PIPE_DIRECTORY": str(self.pipes), "CUDA_MPS_LOG_DIRECTORY": str(self.logs)}

    async def ensure(self, settings: prepared.Mps, uuids: Sequence[str]) -> None:
        """Start the daemon if it does not answer, and give it its settings.

        Raises
        ------
        SharingError
        """
        for folder in (self.pipes, self.logs, self.memory):
            folder.mkdir(parents=True, exist_ok=True)
        if not self.running:
            started = asyncio.get_running_loop().create_future()
            self._watcher = asyncio.create_task(self._supervise(settings, tuple(uuids), started))
            await started

    async def _supervise(self, settings: prepared.Mps, uuids: tuple[str, ...], started: asyncio.Future[None]) -> None:
        """Keep a daemon running until `stop`; the first start's failure is the caller's, later ones are tried again."""
        failures = 0
        while not self._stopped.is_set():
            try:
                pid = await self._start(settings, uuids)
            except SharingError as error:
                if not started.done():
                    started.set_exception(error)
                    return
                log.error("MPS control daemon does not start", daemon=self.name, error=str(error))
            else:
                failures = 0
                if not started.done():
                    started.set_result(None)
                await self._wait_for_end(pid)
            if self._stopped.is_set():
                return
            pause = RESTART_S[min(failures, len(RESTART_S) - 1)]
            failures += 1
            log.warning("MPS control daemon ended; it is started again", daemon=self.name, pause_s=pause)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopped.wait()

    async def _start(self, settings: prepared.Mps, uuids: tuple[str, ...]) -> int:
        """Return the process id of a daemon that answers: one that runs already, or a new one."""
        running = self._alive()
        if running and await self._answers():
            return running
        self._gpus_file.write_text("\n".join(uuids))  # before the first mode: `stop` gives back what is named here
        for uuid in uuids:
            await set_compute_mode(self.programs, uuid, EXCLUSIVE)
        try:
            child = await asyncio.create_subprocess_exec(
                str(self.programs.mps_control),
                "-f",
                env={**os.environ, **self._env, "CUDA_VISIBLE_DEVICES": ",".join(uuids)},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise SharingError(
                f"{self.programs.mps_control}: {error.strerror}; is the GPU driver installed there?"
            ) from error
        self._reaper = asyncio.create_task(child.wait())
        self._pid_file.write_text(str(child.pid))
        await self._until_it_answers(child)
        for command in commands(settings, uuids):
            await self._command(command)
        return child.pid

    async def _until_it_answers(self, child: asyncio.subprocess.Process) -> None:
        try:
            async with asyncio.timeout(START_S):
                while not await self._answers():
                    if child.returncode is not None:
                        raise SharingError(
                            f"{self.programs.mps_control}: exit status {child.returncode} at start; see {self.logs}"
                        )
                    await asyncio.sleep(0.05)
        except TimeoutError:
            child.kill()
            raise SharingError(
                f"{self.programs.mps_control}: no answer after {START_S:.0f} s; see {self.logs}"
            ) from None

    async def _answers(self) -> bool:
        try:
            await self._command("get_server_list")
        except SharingError:
            return False
        return True

    async def _command(self, text: str) -> str:
        return await run((str(self.programs.mps_control),), f"{text}\n", self._env)

    def _alive(self) -> int:
        """Return the process id of a daemon that runs already, of this instance or an earlier one, else 0."""
        try:
            pid = int(self._pid_file.read_text())
            program = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return 0
        return pid if self.programs.mps_control.name.encode() in program else 0

    async def _wait_for_end(self, pid: int) -> None:
        while self._alive() == pid and not self._stopped.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._stopped.wait()

    async def stop(self) -> None:
        """End the daemon, let all processes use its GPUs again, and forget its files.

        Raises
        ------
        SharingError
            A GPU keeps its mode; to be called again.
        """
        self._stopped.set()
        pid = self._alive()
        if pid:
            with contextlib.suppress(SharingError):
                await self._command("quit")
            await self._ended(pid)
        if self._watcher is not None:
            await self._watcher
        named = self._gpus_file.read_text().split() if self._gpus_file.exists() else []
        for uuid in named:
            await set_compute_mode(self.programs, uuid, DEFAULT)
        shutil.rmtree(self.pipes.parent, ignore_errors=True)

    async def _ended(self, pid: int) -> None:
        try:
            async with asyncio.timeout(STOP_S):
                while self._alive() == pid:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            log.warning("MPS control daemon does not quit; it is killed", daemon=self.name, pid=pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    async def leave(self) -> None:
        """Stop watching; the daemon goes on for the pods that use it."""
        self._stopped.set()
        if self._watcher is not None:
            await self._watcher


def commands(settings: prepared.Mps, uuids: Sequence[str]) -> list[str]:
    """Return the settings as commands of the control daemon, which counts devices as it sees them."""
    found = []
    if settings.active_thread_percentage:
        found.append(f"set_default_active_thread_percentage {settings.active_thread_percentage}")
    single = dict(settings.pinned_mib_of)
    for i, uuid in enumerate(uuids):
        limit = single.get(uuid, settings.pinned_mib)
        if limit:
            found.append(f"set_default_device_pinned_mem_limit {i} {limit}M")
    return found


class Daemons:
    """All MPS control daemons of the node, by name."""

    def __init__(self, folder: Path, on_host: str, programs: Programs) -> None:
        self.folder, self.on_host, self.programs = folder, on_host, programs
        self._running: dict[str, Daemon] = {}

    def _daemon(self, name: str) -> Daemon:
        return self._running.setdefault(name, Daemon(name, self.folder / name, self.programs))

    async def ensure(self, settings: prepared.Mps, uuids: Sequence[str]) -> None:
        """Make a daemon serve devices."""
        await self._daemon(settings.daemon).ensure(settings, uuids)

    async def stop(self, name: str) -> None:
        """End a daemon."""
        await self._daemon(name).stop()
        del self._running[name]

    def left(self, known: Collection[str]) -> list[str]:
        """Return the daemons of which there are files, without those that are known."""
        if not self.folder.is_dir():
            return []
        return sorted({path.name for path in self.folder.iterdir() if path.is_dir()} - {*known, *self._running})

    async def leave(self) -> None:
        """Stop watching all daemons."""
        for daemon in self._running.values():
            await daemon.leave()

    def edits(self, settings: prepared.Mps, milli: int) -> edits.Edits:
        """Return what a container needs to reach its daemon, limited to its part of a shared GPU."""
        env = [f"CUDA_MPS_PIPE_DIRECTORY={CONTAINER_PIPES}"]
        if milli < 1000:
            env.append(f"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE={max(1, milli // 10)}")
        folder = f"{self.on_host}/{settings.daemon}"
        pipes = edits.Mount(f"{folder}/pipe", CONTAINER_PIPES, edits.READ_WRITE)
        memory = edits.Mount(f"{folder}/shm", "/dev/shm", edits.READ_WRITE)
        return edits.Edits(tuple(env), (), (pipes, memory))
