"""MPS control daemons: started or taken over, supervised, given their settings, and ended.

A daemon that answers on its pipes is taken over by whichever instance of the driver needs it, so that an upgrade starts
no second one. A daemon ends with the container or the unit that started it; then the instance that supervises it starts
it anew. Processes that computed through the old one fail and have to be started again by their pods.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Collection, Sequence
from pathlib import Path

import structlog

from dra_driver import edits, prepared
from dra_driver.programs import DEFAULT, EXCLUSIVE, TOP, Programs, SharingError, run, set_compute_mode

START_S = 10.0  # until the control daemon answers
STOP_S = 10.0  # until it ends by itself
WATCH_S = 1.0
RESTART_S = (1.0, 2.0, 5.0, 10.0, 30.0)  # pauses before restarts; the last one repeats
MEMORY_MIB = 64  # what a container has as /dev/shm without MPS

CONTAINER_PIPES = "/tmp/nvidia-mps"

# Everything is mounted in a namespace of the program's own. A root that is not ours may be read-only, but has a /tmp.
ENTER = """
root=$1 pipes=$2 logs=$3 memory=$4; shift 4
if [ -n "$memory" ]; then mount --bind "$memory" "$root/dev/shm"; fi
if [ "$root" = / ]; then exec "$@"; fi
mount -t tmpfs -o size=1m,mode=755 muster-mps "$root/tmp"
mkdir "$root/tmp/nvidia-mps" "$root/tmp/nvidia-mps-log"
mount --bind "$pipes" "$root/tmp/nvidia-mps"
mount --bind "$logs" "$root/tmp/nvidia-mps-log"
exec chroot "$root" "$@"
"""

log = structlog.get_logger()


class Daemon:
    """One MPS control daemon and the folders through which processes reach it.

    Attributes
    ----------
    memory : Path
        Memory that the daemon's servers and their clients share: a file system of its own, as large as `memory_mib`, so
        that no client can fill the driver's disk. Without a size, or where nothing can be mounted, there is none.
    """

    def __init__(self, name: str, folder: Path, programs: Programs, memory_mib: int = MEMORY_MIB) -> None:
        self.name, self.programs, self._memory_mib = name, programs, memory_mib
        self.pipes, self.logs, self.memory = folder / "pipe", folder / "log", folder / "shm"
        self._gpus_file = folder / "gpus"
        self._settings, self._uuids = prepared.Mps(name), tuple[str, ...]()
        self._child: subprocess.Popen[bytes] | None = None  # not the loop's kind, which is killed when the loop ends
        self._watcher: asyncio.Task[None] | None = None
        self._changing, self._leaving = asyncio.Lock(), asyncio.Event()

    @property
    def _env(self) -> dict[str, str]:
        pipes, logs = str(self.pipes), str(self.logs)
        if self.programs.root != TOP:
            pipes, logs = CONTAINER_PIPES, f"{CONTAINER_PIPES}-log"
        return {"CUDA_MPS_PIPE_DIRECTORY": pipes, "CUDA_MPS_LOG_DIRECTORY": logs}

    def _control(self, *args: str) -> tuple[str, ...]:
        """Return the command that runs the control program where it sees the daemon's folders."""
        memory = str(self.memory) if self.memory.is_mount() else ""
        program = (str(self.programs.mps_control), *args)
        if self.programs.root == TOP and not memory:
            return program
        enter = ("unshare", "--mount", "--propagation", "slave", "sh", "-ec", ENTER, "mps")
        return (*enter, str(self.programs.root), str(self.pipes), str(self.logs), memory, *program)

    async def ensure(self, settings: prepared.Mps, uuids: Sequence[str]) -> None:
        """Make a daemon answer with these settings, and keep it so until `stop` or `leave`; after a failure too.

        Raises
        ------
        SharingError
        """
        self._settings, self._uuids = settings, tuple(uuids)
        try:
            await self._bring_up()
        finally:
            if self._watcher is None or self._watcher.done():
                self._leaving = asyncio.Event()
                self._watcher = asyncio.create_task(self._supervise(self._leaving))

    async def _supervise(self, leaving: asyncio.Event) -> None:
        """Start the daemon whenever it does not run; never cancelled, which may lose a program that is just started."""
        failures = 0
        while not await self._ended(leaving):
            pause = RESTART_S[min(failures, len(RESTART_S) - 1)]
            log.warning("MPS control daemon does not run; it is started", daemon=self.name, pause_s=pause)
            if await _set_within(leaving, pause):
                return
            try:
                await self._bring_up()
            except (SharingError, OSError) as error:
                failures += 1
                log.error("MPS control daemon does not start", daemon=self.name, error=str(error))
            else:
                failures = 0

    async def _ended(self, leaving: asyncio.Event) -> bool:
        """Wait until the daemon does not run; return whether it is to be left alone."""
        while not leaving.is_set() and (self._child.poll() is None if self._child else await self._answers()):
            await _set_within(leaving, WATCH_S)
        return leaving.is_set()

    async def _bring_up(self) -> None:
        """Take over the daemon that answers, or start one; give it its settings in either case."""
        async with self._changing:
            for folder in (self.pipes, self.logs, self.memory):
                folder.mkdir(parents=True, exist_ok=True)
            await self._share_memory()
            running = await self._answers()
            if running and self._named() != list(self._uuids):
                await self._quit()  # it serves devices that are gone
                running = False
            # Before the first mode: `stop` gives back what is named here.
            self._gpus_file.write_text("\n".join(self._uuids))
            for uuid in self._uuids:
                await set_compute_mode(self.programs, uuid, EXCLUSIVE)
            if not running:
                await self._start()
            for command in commands(self._settings, self._uuids):
                await self._command(command)

    async def _share_memory(self) -> None:
        if not self._memory_mib or self.memory.is_mount():
            return
        options = f"size={self._memory_mib}m,mode=1777,nosuid,nodev,noexec"
        try:
            await run(("mount", "-t", "tmpfs", "-o", options, "muster-mps", str(self.memory)))
        except SharingError as error:
            log.warning("MPS and its clients share no memory", daemon=self.name, error=str(error))

    async def _start(self) -> None:
        child = self._child = self._spawn()
        try:
            async with asyncio.timeout(START_S):
                while not await self._answers():  # another instance's daemon may answer: ours ends then
                    if child.poll() is not None:
                        raise SharingError(
                            f"{self.programs.mps_control}: exit status {child.returncode} at start; see {self.logs}"
                        )
                    await asyncio.sleep(0.05)
        except TimeoutError:
            child.kill()
            raise SharingError(
                f"{self.programs.mps_control}: no answer after {START_S:.0f} s; see {self.logs}"
            ) from None
        if child.poll() is not None:
            self._child = None

    def _spawn(self) -> subprocess.Popen[bytes]:
        try:
            child = subprocess.Popen(
                self._control("-f"),
                env={**os.environ, **self._env, "CUDA_VISIBLE_DEVICES": ",".join(self._uuids)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise SharingError(
                f"{self.programs.mps_control}: {error.strerror}; is the GPU driver installed there?"
            ) from error
        threading.Thread(target=child.wait, name=f"mps {self.name}", daemon=True).start()  # so that it is no zombie
        return child

    async def _answers(self) -> bool:
        try:
            await self._command("get_server_list")
        except SharingError:
            return False
        return True

    async def _command(self, text: str) -> str:
        return await run(self._control(), f"{text}\n", self._env)

    def _named(self) -> list[str]:
        """Return the devices that the daemon serves, or that may still have its mode."""
        return self._gpus_file.read_text().split() if self._gpus_file.exists() else []

    async def stop(self) -> None:
        """End the daemon, let all processes use its GPUs again, and forget its files.

        Raises
        ------
        SharingError
            The daemon stays, or a GPU keeps its mode; to be called again.
        """
        await self.leave()
        async with self._changing:
            await self._quit()
            for uuid in self._named():
                await set_compute_mode(self.programs, uuid, DEFAULT)
            if self.memory.is_mount():
                await run(("umount", "--lazy", str(self.memory)))
            shutil.rmtree(self.pipes.parent, ignore_errors=True)

    async def _quit(self) -> None:
        """End the daemon.

        Raises
        ------
        SharingError
            It was started by another instance and goes on.
        """
        try:
            await self._command("quit")
        except SharingError as error:
            log.info("no MPS control daemon takes a quit", daemon=self.name, answer=str(error))
        child, self._child = self._child, None
        try:
            async with asyncio.timeout(STOP_S):
                while child.poll() is None if child is not None else await self._answers():
                    await asyncio.sleep(0.05)
        except TimeoutError:
            if child is None:
                raise SharingError(f"{self.programs.mps_control}: the daemon {self.name} does not quit") from None
            log.warning("MPS control daemon does not quit; it is killed", daemon=self.name, pid=child.pid)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await asyncio.to_thread(child.wait)

    async def leave(self) -> None:
        """Stop watching; the daemon goes on for the pods that use it."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            self._leaving.set()
            await asyncio.wait([watcher])


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


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

    def __init__(self, folder: Path, on_host: str, programs: Programs, memory_mib: int = MEMORY_MIB) -> None:
        self.folder, self.on_host, self.programs, self._memory_mib = folder, on_host, programs, memory_mib
        self._running: dict[str, Daemon] = {}

    def _daemon(self, name: str) -> Daemon:
        return self._running.setdefault(name, Daemon(name, self.folder / name, self.programs, self._memory_mib))

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
        return sorted({path.name for path in self.folder.iterdir() if path.is_dir()} - set(known))

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
        mounts = [edits.Mount(f"{folder}/pipe", CONTAINER_PIPES, edits.READ_WRITE)]
        if (self.folder / settings.daemon / "shm").is_mount():
            mounts.append(edits.Mount(f"{folder}/shm", "/dev/shm", edits.READ_WRITE))
        return edits.Edits(tuple(env), (), tuple(mounts))
