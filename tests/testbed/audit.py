"""What one user asked of the API server, and what it was allowed: the server's own audit log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml


@dataclass(frozen=True, slots=True)
class Call:
    """One request, as a role names it; `resource` with its subresource.

    Attributes
    ----------
    reason : str
        Which binding allowed it.
    """

    verb: str
    group: str
    resource: str
    namespace: str
    name: str
    allowed: bool
    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class Audit:
    """The log of one user's requests."""

    folder: Path
    user: str

    @property
    def log(self) -> Path:
        return self.folder / "audit.log"

    def flags(self) -> list[str]:
        """Write the policy, and return what the API server is told."""
        policy = {
            "apiVersion": "audit.k8s.io/v1",
            "kind": "Policy",
            "omitStages": ["RequestReceived"],
            "rules": [{"level": "Metadata", "users": [self.user]}, {"level": "None"}],
        }
        path = self.folder / "audit-policy.yaml"
        path.write_text(yaml.safe_dump(policy))
        return [f"--audit-policy-file={path}", f"--audit-log-path={self.log}", "--audit-log-mode=blocking"]

    def calls(self) -> Iterator[Call]:
        """Yield the requests for resources so far; a watch comes twice, when it begins and when it ends."""
        for line in self.log.read_text().splitlines():
            told = json.loads(line)
            if found := told.get("objectRef"):
                notes = told.get("annotations") or {}
                part = f"/{found['subresource']}" if found.get("subresource") else ""
                yield Call(
                    told["verb"],
                    found.get("apiGroup", ""),
                    found["resource"] + part,
                    found.get("namespace", ""),
                    found.get("name", ""),
                    notes.get("authorization.k8s.io/decision") == "allow",
                    int((told.get("responseStatus") or {}).get("code", 0)),
                    notes.get("authorization.k8s.io/reason", ""),
                )
