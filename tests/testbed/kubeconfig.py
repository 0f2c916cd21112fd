"""The file by which clients find the API server and say who they are."""

from __future__ import annotations

from pathlib import Path

import yaml


def write(path: Path, server: str, ca: Path, token: str, namespace: str = "default") -> Path:
    """Write a kubeconfig with a bearer token, readable by its owner only."""
    text = yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "testbed",
            "clusters": [{"name": "testbed", "cluster": {"server": server, "certificate-authority": str(ca)}}],
            "users": [{"name": "testbed", "user": {"token": token}}],
            "contexts": [
                {"name": "testbed", "context": {"cluster": "testbed", "user": "testbed", "namespace": namespace}}
            ],
        }
    )
    path.touch(mode=0o600)
    path.write_text(text)
    return path
