"""Hardware and versions: what every benchmark result stands beside."""

import os
import platform
from importlib import metadata
from pathlib import Path

PACKAGES = ("muster-scheduler", "numpy", "networkx", "numba", "scipy", "polars", "pydantic")


def hardware() -> dict[str, object]:
    """Return processor, cores that this process may use, and memory."""
    return {
        "cpu": _field(Path("/proc/cpuinfo"), "model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": _field(Path("/proc/meminfo"), "MemTotal"),
        "system": f"{platform.system()} {platform.release()}",
        "load_1min": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that carry the figures."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def _field(file: Path, name: str) -> str:
    """Return the first value of a ``name : value`` file, "" where the system has none."""
    if not file.exists():
        return ""
    values = (line.split(":", 1)[1].strip() for line in file.read_text().splitlines() if line.startswith(name))
    return next(values, "")
