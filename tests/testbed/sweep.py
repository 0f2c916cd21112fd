"""Removes what a killed testbed could not: a small process that waits for the end of its parent.

Processes and mounts end by themselves (see `process` and `node`); cgroups and the folder are left to this one. It is in
a session of its own, so that Ctrl-C and the kill of a process group do not reach it.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import sys
from pathlib import Path

from tests.testbed import cgroups


def watch(folder: Path, groups: list[str], remove_folder: bool) -> None:
    """Start the sweeper for this process; it goes when we go, and does nothing where we cleaned up ourselves."""
    given = json.dumps({"pid": os.getpid(), "folder": str(folder), "cgroups": groups, "remove": remove_folder})
    argv = [sys.executable, "-m", "tests.testbed.sweep", given]
    quiet = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in (0, 1, 2)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    os.posix_spawn(sys.executable, argv, environment, file_actions=quiet, setsid=True)


def main() -> None:
    given = json.loads(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    wait_for_the_end(given["pid"])
    for name in given["cgroups"]:
        cgroups.remove(name)
    if given["remove"]:
        shutil.rmtree(given["folder"], ignore_errors=True)


def wait_for_the_end(pid: int) -> None:
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    select.select([handle], [], [])


if __name__ == "__main__":
    main()
