"""Which trace, fleet, policy, code and seeds made a result: enough to make it again."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path

from simulator.report import sheet

PACKAGES = ("scheduler", "simulator")
"""Packages whose source decides a result."""


@dataclass(frozen=True, slots=True)
class Input:
    """A file or a value that went in: its role, its name without directories, and its SHA-256."""

    role: str
    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Provenance:
    """Everything that determines a result; nothing that does not, so no clock time and no host."""

    inputs: tuple[Input, ...]
    config: tuple[tuple[str, str], ...]
    seeds: tuple[int, ...]
    version: str
    source_sha256: str

    def as_json(self) -> dict[str, object]:
        """Return plain values for result files."""
        return {
            "inputs": [{"role": i.role, "name": i.name, "sha256": i.sha256} for i in self.inputs],
            "config": dict(self.config),
            "seeds": list(self.seeds),
            "version": self.version,
            "source_sha256": self.source_sha256,
        }

    def sheet(self, digits: int = 64) -> sheet.Sheet:
        """Return the table that ends every report; terminals want fewer digits of the hashes."""
        rows = [(i.role, i.name, f"sha256 {i.sha256[:digits]}") for i in self.inputs]
        rows += [("option", name, value) for name, value in self.config]
        rows.append(("seeds", "", ", ".join(map(str, self.seeds))))
        rows.append(("code", f"muster-scheduler {self.version}", f"sha256 of source {self.source_sha256[:digits]}"))
        return sheet.sheet("Provenance", "<what|<name|<value", rows)


def file_input(role: str, path: Path) -> Input:
    """Hash a file."""
    with path.open("rb") as stream:
        return Input(role, path.name, hashlib.file_digest(stream, "sha256").hexdigest())


def text_input(role: str, name: str, text: str) -> Input:
    """Hash a value in its canonical text form."""
    return Input(role, name, hashlib.sha256(text.encode()).hexdigest())


def record(inputs: Iterable[Input], config: dict[str, object], seeds: Iterable[int]) -> Provenance:
    """Put inputs, options and seeds beside the version and the hash of the code that runs now."""
    options = tuple((name, str(value)) for name, value in config.items() if value is not None)
    return Provenance(tuple(inputs), options, tuple(seeds), metadata.version("muster-scheduler"), source_sha256())


def source_sha256() -> str:
    """Return one hash over the Python and YAML files of the packages that decide, by their relative names."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        root = Path(str(resources.files(package)))
        for file in sorted(p for p in root.rglob("*") if p.suffix in {".py", ".yaml"}):
            digest.update(f"{package}/{file.relative_to(root).as_posix()}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
