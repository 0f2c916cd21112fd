"""SIGKILL, and SIGSTOP for a while, at a moment that a test chooses."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.testbed import process
from tests.testbed.faults import rules

FAULT_POINT = "MUSTER_FAULT_POINT"  # name[:n]: the program kills itself when it reaches this point for the n-th time
POLL_S = 0.005


def at_point(name: str, time_of: int = 1) -> dict[str, str]:
    """Return the environment that makes one of our programs kill itself at a named point."""
    return {FAULT_POINT: f"{name}:{time_of}"}


def kill(part: process.Process) -> None:
    """Kill a program at once and wait until it is gone."""
    part.popen.send_signal(signal.SIGKILL)
    part.popen.wait(10)


def stop_for(part: process.Process, seconds: float) -> threading.Timer:
    """Stop a program now and let it go on after a while; returns at once."""
    os.kill(part.pid, signal.SIGSTOP)
    timer = threading.Timer(seconds, _go_on, [part])
    timer.daemon = True
    timer.start()
    return timer


def _go_on(part: process.Process) -> None:
    if part.running:
        os.kill(part.pid, signal.SIGCONT)


def at_log_line(
    part: process.Process, pattern: str, act: Callable[[process.Process], object], deadline_s: float
) -> str:
    """Wait for a line of a program's log that was written from now on, act, and return the line.

    Raises
    ------
    process.Failed
        No line matched within `deadline_s`, or the program ended before.
    """
    wanted = re.compile(pattern)
    with part.log.open(errors="replace") as log:
        log.seek(0, os.SEEK_END)
        ends = time.monotonic() + deadline_s
        while time.monotonic() < ends:
            line = log.readline()
            if line and wanted.search(line):
                act(part)
                return line.rstrip("\n")
            if not line:
                if not part.running:
                    raise process.Failed(f"{part.name} ended before a line matched {pattern!r}:\n{part.tail()}")
                time.sleep(POLL_S)
    raise process.Failed(f"{part.name}: no line matched {pattern!r} within {deadline_s:g} s:\n{part.tail()}")


@dataclass(slots=True)
class AtCall:
    """A hook for a proxy: acts on a program when the n-th matching request comes, before the server sees it."""

    match: rules.Match
    act: Callable[[], object]
    number: int = 1
    met: int = 0

    def __call__(self, asked: rules.Request) -> None:
        if self.match.fits(asked):
            self.met += 1
            if self.met == self.number:
                self.act()
