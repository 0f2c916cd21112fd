"""Compiles the stand-in library into the user's cache, once for each source."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.hardware import state

SOURCES = Path(__file__).parent / "nvml"
NAME = "libnvidia-ml.so.1"


def compiler() -> list[str]:
    """Return the C compiler: the machine's, else the one that comes as a Python package."""
    found = next((one for one in ("gcc", "cc", "clang") if shutil.which(one)), None)
    return [found] if found else [sys.executable, "-m", "ziglang", "cc"]


def folder() -> Path:
    """Return the folder that has the library; compile it where it is missing."""
    header = state.header()
    text = header.encode() + b"".join(path.read_bytes() for path in sorted(SOURCES.iterdir()))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    found = cache / "muster-tests" / f"nvml-{hashlib.sha256(text).hexdigest()[:16]}"
    if (found / NAME).exists():
        return found
    found.mkdir(parents=True, exist_ok=True)
    trial = found / f".{os.getpid()}"
    trial.mkdir(exist_ok=True)
    (trial / "state.h").write_text(header)
    command = [*compiler(), "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-I{trial}"]
    made = trial / NAME
    subprocess.run([*command, f"-Wl,-soname,{NAME}", "-o", made, SOURCES / "nvml.c"], check=True, timeout=120)
    made.replace(found / NAME)
    return found
