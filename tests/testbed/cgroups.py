"""The cgroup of a real node, in each hierarchy that the machine has (v1, hybrid or v2)."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
NEEDED = ("cpu", "cpuset", "memory", "pids")


def unified() -> bool:
    return (ROOT / "cgroup.controllers").exists()


def hierarchies() -> list[Path]:
    """Return the top of each hierarchy: one for v2, one for each controller for v1."""
    return [ROOT] if unified() else sorted(path for path in ROOT.iterdir() if (path / "cgroup.procs").exists())


def missing() -> list[str]:
    """Return the controllers that a kubelet needs and the machine lacks."""
    has = set((ROOT / "cgroup.controllers").read_text().split()) if unified() else {p.name for p in hierarchies()}
    return [name for name in NEEDED if name not in has]


def create(name: str) -> None:
    """Make a cgroup for a node; its cpuset is the machine's, which v1 does not inherit."""
    for top in hierarchies():
        folder = top / name
        if unified():
            for controller in NEEDED:
                with contextlib.suppress(OSError):  # it may be on already, or not delegated; `missing` has told
                    (top / "cgroup.subtree_control").write_text(f"+{controller}")
        folder.mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):
            if not unified() and (top / setting).exists():
                (folder / setting).write_text((top / setting).read_text())


def remove(name: str, deadline_s: float = 5.0) -> list[Path]:
    """Remove a cgroup and all below it, waiting for its last processes to be gone; return what could not be removed."""
    until = time.monotonic() + deadline_s
    while left := _remove_once(name):
        if time.monotonic() > until:
            return left
        time.sleep(0.05)
    return []


def _remove_once(name: str) -> list[Path]:
    left = []
    for top in hierarchies():
        for folder, _, _ in os.walk(top / name, topdown=False):
            try:
                Path(folder).rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                left.append(Path(folder))
    return left
