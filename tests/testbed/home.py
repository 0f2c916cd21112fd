"""Where a named cluster lives, and the file by which other commands find it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True, slots=True)
class Home:
    """The folder of a named cluster; short, because paths of sockets are limited to 108 bytes."""

    name: str

    @property
    def folder(self) -> Path:
        return Path(tempfile.gettempdir()) / f"muster-{os.geteuid()}" / self.name

    @property
    def log(self) -> Path:
        return self.folder.parent / f"{self.name}.log"

    @property
    def _state(self) -> Path:
        return self.folder.parent / f"{self.name}.json"

    def write(self, state: dict[str, Any]) -> None:
        """Put a new state in place of the old one, at once."""
        self.folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = self._state.with_suffix(".new")
        new.write_text(json.dumps(state, indent=1))
        new.replace(self._state)

    def read(self) -> dict[str, Any] | None:
        """Return the state that was written last, or None for a cluster that is not there."""
        try:
            found: dict[str, Any] = json.loads(self._state.read_text())
        except FileNotFoundError:
            return None
        return found

    def server(self) -> psutil.Process | None:
        """Return the process that holds the cluster, if it lives; a reused process number is not taken for it."""
        state = self.read()
        try:
            found = psutil.Process(state["pid"]) if state else None
            return found if found and found.create_time() == state["born"] else None  # type: ignore[index]
        except psutil.NoSuchProcess:
            return None

    def forget(self) -> None:
        for path in (self._state, self.log):
            path.unlink(missing_ok=True)
        for path in (self.folder, self.folder.parent):
            if path.exists() and not any(path.iterdir()):
                path.rmdir()


def all_homes() -> Iterator[Home]:
    """Yield the clusters of this user."""
    for path in sorted((Path(tempfile.gettempdir()) / f"muster-{os.geteuid()}").glob("*.json")):
        yield Home(path.stem)
