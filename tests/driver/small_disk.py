"""Folders on a small disk of their own, which a test can fill up or make read-only."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.testbed import fixtures

SIZE_KIB = 256


@dataclass(frozen=True, slots=True)
class Disk:
    """A mounted file system."""

    path: Path

    def fill(self) -> None:
        """Leave no byte free."""
        with (self.path / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"\0" * 4096)

    def free(self) -> None:
        (self.path / "ballast").unlink()

    def read_only(self, yes: bool) -> None:
        _run("mount", "-o", f"remount,{'ro' if yes else 'rw'}", str(self.path))


@contextlib.contextmanager
def mounted(path: Path) -> Iterator[Disk]:
    """Mount an empty file system of `SIZE_KIB` on a folder; where that is not allowed, skip the test, or fail in CI."""
    path.mkdir(parents=True, exist_ok=True)
    lacking = pytest.fail if fixtures.REQUIRED else pytest.skip
    if os.geteuid() != 0:
        lacking("needs root to mount a file system")
    try:
        _run("mount", "-t", "tmpfs", "-o", f"size={SIZE_KIB}k", "muster-small", str(path))
    except subprocess.CalledProcessError as error:
        lacking(f"no file system can be mounted here: {error.stderr}")
    try:
        yield Disk(path)
    finally:
        _run("umount", "--lazy", str(path))


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, text=True, timeout=10)
