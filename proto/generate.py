"""Generate the Python code beside each ``.proto`` file, or check that it is what the installed compiler generates.

Run as ``python -m proto.generate [--check]`` from the root of the source tree.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
WELL_KNOWN = Path(grpc_tools.__file__).parent / "_proto"  # google/protobuf/*.proto
SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")


def sources() -> list[Path]:
    """Return the ``.proto`` files, relative to the root."""
    return sorted(path.relative_to(ROOT) for path in (ROOT / "proto").rglob("*.proto"))


def generate(into: Path) -> None:
    """Compile all sources; names of files and imports start at the root, so that messages of one package do not clash."""
    outputs = [f"--{kind}_out={into}" for kind in ("python", "pyi", "grpc_python")]
    failed = protoc.main(["protoc", f"-I{ROOT}", f"-I{WELL_KNOWN}", *outputs, *map(str, sources())])
    if failed:
        raise SystemExit(f"protoc ended with {failed}; see its message above")


def differences(generated: Path) -> list[str]:
    """Return a line for each committed file that is missing or not as generated."""
    found = []
    for source in sources():
        for suffix in SUFFIXES:
            name = source.with_name(source.stem + suffix)
            committed, fresh = ROOT / name, generated / name
            if not fresh.exists():
                continue
            if not committed.exists():
                found.append(f"{name}: missing")
            elif committed.read_bytes() != fresh.read_bytes():
                found.append(f"{name}: differs from what {source} generates")
    return found


def main() -> int:
    """Write the generated files, or with ``--check`` compare them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail on a difference")
    if not parser.parse_args().check:
        generate(ROOT)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        found = differences(Path(folder))
    for line in found:
        print(line, file=sys.stderr)
    if found:
        print("run: python -m proto.generate", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
