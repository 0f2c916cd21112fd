"""Child processes that end with their parent, each with a log file and a deadline to become ready.

A child gets SIGKILL from the kernel when the thread that started it ends (`PR_SET_PDEATHSIG`), so a testbed that is
killed leaves none behind. Programs that make daemons of their own (containerd's shims) run under `node`, in a PID
namespace, where the end of the first process ends all.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h
_libc = ctypes.CDLL(None, use_errno=True)


class Failed(RuntimeError):
    """A part did not become ready, or ended by itself; the text holds the end of its log."""


class Process:
    """One running program: its `name`, its `log` file, the `popen` behind it."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.name, self.popen, self.log = name, popen, log
        self.began = time.monotonic()

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def running(self) -> bool:
        return self.popen.poll() is None

    def tail(self, lines: int = 25) -> str:
        return tail(self.log, lines)

    def stop(self, grace_s: float = 10.0) -> None:
        """Ask the program to end, and kill it when it does not within `grace_s`."""
        if self.running:
            self.popen.terminate()
            try:
                self.popen.wait(grace_s)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait(10)


class Group:
    """The parts of one cluster, stopped together in the reverse order of their start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts: dict[str, Process] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def start(
        self,
        name: str,
        argv: Sequence[str | Path],
        env: Mapping[str, str] | None = None,
        ready: Callable[[], bool] | None = None,
        deadline_s: float = 30.0,
        cwd: Path | None = None,
    ) -> Process:
        """Start a program and wait until `ready` says yes.

        Parameters
        ----------
        env : mapping, optional
            Added to the environment of this process.
        ready : callable, optional
            Asked every 50 ms; an `OSError` that it raises counts as no.

        Raises
        ------
        Failed
            The program ended, or was not ready within `deadline_s`.
        """
        if name in self.parts and self.parts[name].running:
            raise Failed(f"{name} runs already")
        if threading.current_thread() is not threading.main_thread():  # the child would die with this thread
            raise Failed(f"{name} has to be started by the main thread")
        log = self.folder / f"{name}.log"
        with log.open("ab") as out:
            popen = subprocess.Popen(
                [str(one) for one in argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=os.environ | dict(env or {}),
                cwd=cwd,
                preexec_fn=_die_with(os.getpid()),
            )
        part = self.parts[name] = Process(name, popen, log)
        if ready is not None:
            self.wait(part, ready, deadline_s)
        return part

    def wait(self, part: Process, ready: Callable[[], bool], deadline_s: float) -> None:
        for _ in until(deadline_s):
            if not part.running:
                raise Failed(f"{part.name} ended with code {part.popen.returncode}:\n{part.tail()}")
            with contextlib.suppress(OSError):
                if ready():
                    return
        raise Failed(f"{part.name} was not ready within {deadline_s:g} s:\n{part.tail()}")

    def dead(self) -> list[Process]:
        """Return the parts that ended by themselves."""
        return [part for part in self.parts.values() if not part.running]

    def stop(self, name: str) -> None:
        if name in self.parts:
            self.parts.pop(name).stop()

    def close(self) -> None:
        while self.parts:
            self.parts.popitem()[1].stop()


def until(deadline_s: float, pause_s: float = 0.05) -> Iterator[float]:
    """Yield the elapsed seconds again and again until the deadline has passed."""
    began = time.monotonic()
    while (spent := time.monotonic() - began) < deadline_s:
        yield spent
        time.sleep(pause_s)


def tail(log: Path, lines: int = 25) -> str:
    """Return the end of a log, empty where there is none."""
    with contextlib.suppress(OSError), log.open(errors="replace") as text:
        return "".join(collections.deque(text, lines)).rstrip()
    return ""


def _die_with(parent: int) -> Callable[[], None]:
    """Return what the child does between fork and exec: nothing that allocates or takes locks."""

    def ask() -> None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the request
            os._exit(1)

    return ask
