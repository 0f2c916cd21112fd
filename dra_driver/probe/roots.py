"""Files of the host below a configurable root, read with bounds."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

MAX_BYTES = 1 << 20
MAX_LINKS = 16


@dataclass(frozen=True, slots=True)
class Root:
    """Where the driver sees the root of the host."""

    path: Path = Path("/")

    def at(self, *parts: str) -> Path:
        """Return a path below the root; `parts` are relative to it."""
        return self.path.joinpath(*(part.lstrip("/") for part in parts))

    def real(self, path: Path) -> Path:
        """Return a path without links. Links of sysfs are relative, so they stay below the root."""
        return Path(os.path.realpath(path))

    def inside(self, path: Path) -> Path:
        """Return what a link leads to, as the host sees it: an absolute one begins at the root.

        Raises
        ------
        OSError
            The links lead to each other.
        """
        for _ in range(MAX_LINKS):
            if not path.is_symlink():
                return path
            target = os.readlink(path)
            path = self.at(target) if target.startswith("/") else path.parent / target
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))


def text(path: Path) -> str:
    """Return a small file without blanks at its ends; "" where it is missing or does not answer."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES).decode(errors="replace").strip()
    except OSError:
        return ""


def number(path: Path, default: int = -1) -> int:
    """Return the number in a file, hexadecimal with ``0x``."""
    try:
        return int(text(path), 0)
    except ValueError:
        return default


def names(path: Path) -> list[str]:
    """Return what is in a folder, numbers inside of names in their order; nothing where it is missing."""
    try:
        return sorted(os.listdir(path), key=natural)
    except OSError:
        return []


def natural(name: str) -> tuple[tuple[int, str], ...]:
    """Return a key that sorts names as people count.

    Examples
    --------
    >>> sorted(["mlx5_10", "mlx5_9", "efa0"], key=natural)
    ['efa0', 'mlx5_9', 'mlx5_10']
    """
    parts: list[tuple[int, str]] = []
    word = ""
    for character in name + "\0":
        if word and word[-1].isdigit() != character.isdigit():
            parts.append((int(word), "") if word.isdigit() and word.isascii() else (-1, word))
            word = ""
        word += character
    return tuple(parts)


def members(cpulist: str) -> tuple[int, ...]:
    """Return the numbers of a list as the kernel writes it.

    Examples
    --------
    >>> members("0-3,8")
    (0, 1, 2, 3, 8)
    """
    found: list[int] = []
    for part in cpulist.split(","):
        first, _, last = part.strip().partition("-")
        if first:
            found += range(int(first), int(last or first) + 1)
    return tuple(found)
