"""A Prometheus server with a scrape configuration: the judge of what our metrics and alert rules really say.

Built from its module without the web interface and with the Kubernetes discovery only; that leaves out the clouds' SDKs,
three quarters of what it would compile.
"""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.testbed import build, ports, process

READY_S = 30.0


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running server; `url` is its base."""

    process: process.Process = field(repr=False)
    url: str

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Evaluate PromQL now; the samples as the HTTP API gives them."""
        return list(self._get("query", query=expression)["result"])

    def value(self, expression: str) -> float | None:
        """Return the value of the only sample, or None where there is none."""
        samples = self.query(expression)
        if len(samples) > 1:
            raise ValueError(f"{expression} has {len(samples)} samples, not one: sum them or name the labels")
        return float(samples[0]["value"][1]) if samples else None

    def targets(self) -> list[dict[str, Any]]:
        return list(self._get("targets", state="active")["activeTargets"])

    def alerts(self) -> list[dict[str, Any]]:
        return list(self._get("alerts")["alerts"])

    def _get(self, what: str, **params: str) -> Any:
        asked = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(params)}"
        with urllib.request.urlopen(asked, timeout=10.0) as said:
            return json.load(said)["data"]


def start(
    parts: process.Group,
    folder: Path,
    scrapes: Sequence[Mapping[str, Any]],
    rules: Sequence[Path] = (),
    every: str = "1s",
    name: str = "prometheus",
) -> Prometheus:
    """Start a server that scrapes by `scrapes` (entries of ``scrape_configs``) and evaluates the rule files."""
    folder.mkdir(parents=True, exist_ok=True)
    [port] = ports.free(1)
    config = {
        "global": {"scrape_interval": every, "evaluation_interval": every, "scrape_timeout": every},
        "rule_files": [str(path) for path in rules],
        "scrape_configs": [dict(one) for one in scrapes],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    url = f"http://127.0.0.1:{port}"
    argv = [build.binary("prometheus"), f"--config.file={folder / 'prometheus.yaml'}", "--log.level=warn"]
    argv += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}"]
    part = parts.start(name, argv, ready=lambda: _ready(url), deadline_s=READY_S)
    return Prometheus(part, url)


def static(job: str, *targets: str, **more: Any) -> dict[str, Any]:
    """Return a scrape of fixed addresses ("127.0.0.1:8080"); `more` are further fields of the scrape configuration."""
    return {"job_name": job, "static_configs": [{"targets": list(targets)}]} | more


def _ready(url: str) -> bool:
    with urllib.request.urlopen(f"{url}/-/ready", timeout=2.0) as said:
        return bool(said.status == 200)
