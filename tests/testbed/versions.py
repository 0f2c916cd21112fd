"""What the testbed is made of, read from ``versions.toml`` and the lock files beside the harness."""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
HARNESS = HERE / "harness"
LOCKS = HARNESS / "locks"
PINS = tomllib.loads((HERE / "versions.toml").read_text())
NEWEST, FLOOR = "1.37.2", "1.34.4"


@dataclass(frozen=True, slots=True)
class Kubernetes:
    """One version, with the alpha and beta parts that the testbed turns on in it."""

    version: str
    gates: tuple[str, ...]
    apis: tuple[str, ...]

    @property
    def minor(self) -> int:
        return int(self.version.split(".")[1])


def kubernetes(version: str = "") -> Kubernetes:
    """Find a version by its number or by its beginning ("1.34"); the newest where none is named."""
    known = PINS["kubernetes"]
    wanted = (
        [one for one in known if one == version or one.startswith(version.rstrip(".") + ".")] if version else [NEWEST]
    )
    if not wanted:
        raise LookupError(f"Kubernetes {version} is not one of the pinned versions {', '.join(known)} (versions.toml)")
    pin = known[wanted[0]]
    return Kubernetes(wanted[0], tuple(pin["gates"]), tuple(pin["apis"]))


def locked(lock: str, module: str) -> str:
    """Return the version of a module in a lock file."""
    found = re.search(rf"(?m)^(?:require )?\s*{re.escape(module)} (v\S+)", (LOCKS / f"{lock}.mod").read_text())
    if found is None:
        raise LookupError(f"harness/locks/{lock}.mod does not name {module}")
    return found[1]


def cache() -> Path:
    """Return the folder for what is built once; beside the checkout where the user's cache cannot be written."""
    wanted = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "muster" / "testbed"
    try:
        wanted.mkdir(parents=True, exist_ok=True)
        (wanted / ".writable").touch()
    except OSError:
        wanted = HERE.parents[1] / "build" / "testbed"
        wanted.mkdir(parents=True, exist_ok=True)
    return wanted
