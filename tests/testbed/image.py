"""The two images of the testbed as one file that containerd imports: the test program, and the same as pause container."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

PAUSE = "localhost/pause:testbed"
TEST = "localhost/muster-test:latest"  # pods use imagePullPolicy: Never


def write(archive: Path, program: Path) -> None:
    """Write a docker archive: one layer with one static program, two configurations."""
    layer = _tar({"pod": (program.read_bytes(), 0o755), "tmp": (None, 0o1777), "etc": (None, 0o755)})
    digest = hashlib.sha256(layer).hexdigest()
    files: dict[str, tuple[bytes | None, int]] = {f"{digest}/layer.tar": (layer, 0o644)}
    manifest = []
    for tag, command in ((PAUSE, ["/pod", "pause"]), (TEST, ["/pod", "run"])):
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Entrypoint": command[:1], "Cmd": command[1:], "Env": ["PATH=/"], "WorkingDir": "/"},
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
                "history": [{"created_by": "muster testbed"}],
            }
        ).encode()
        name = f"{hashlib.sha256(config).hexdigest()}.json"
        files[name] = (config, 0o644)
        manifest.append({"Config": name, "RepoTags": [tag], "Layers": [f"{digest}/layer.tar"]})
    files["manifest.json"] = (json.dumps(manifest).encode(), 0o644)
    archive.write_bytes(_tar(files))


def _tar(files: dict[str, tuple[bytes | None, int]]) -> bytes:
    """Pack files (folders where the content is None) with fixed times, so that equal programs give equal images."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, (content, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.mode = mode
            entry.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            entry.size = len(content or b"")
            tar.addfile(entry, io.BytesIO(content or b""))
    return out.getvalue()
