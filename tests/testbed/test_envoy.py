"""Envoy from its wheel carries requests, counts them, and says what is wrong with a configuration."""

from __future__ import annotations

import http.server
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.testbed import envoy, ports, process

pytestmark = pytest.mark.slow

TYPES = "type.googleapis.com/envoy.extensions.filters"


class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@pytest.fixture
def upstream() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hello)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[process.Group]:
    group = process.Group(tmp_path / "logs")
    yield group
    group.close()


def address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def proxy(port: int, upstream: int) -> dict[str, Any]:
    """Return a configuration with one listener and one upstream host."""
    router = {"@type": f"{TYPES}.http.router.v3.Router"}
    routes = [{"match": {"prefix": "/"}, "route": {"cluster": "hello"}}]
    connections = {
        "@type": f"{TYPES}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
    }
    chain = {"filters": [{"name": "http", "typed_config": connections}]}
    hosts = [{"lb_endpoints": [{"endpoint": {"address": address(upstream)}}]}]
    cluster = {
        "name": "hello",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "hello", "endpoints": hosts},
    }
    listener = {"name": "in", "address": address(port), "filter_chains": [chain]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def test_requests_reach_the_upstream_and_are_counted(parts: process.Group, tmp_path: Path, upstream: int) -> None:
    port = ports.one()
    running = envoy.start(parts, tmp_path, proxy(port, upstream))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as said:
        assert said.read() == b"hello"
    assert running.stats("http.in.downstream_rq_2xx") == {"http.in.downstream_rq_2xx": 1}
    assert f"127.0.0.1:{upstream}" in running.clusters()


def test_a_wrong_configuration_is_refused_with_envoys_own_words(parts: process.Group, tmp_path: Path) -> None:
    with pytest.raises(process.Failed, match="address is necessary"):
        envoy.start(parts, tmp_path, {"static_resources": {"listeners": [{"name": "bad"}]}})
