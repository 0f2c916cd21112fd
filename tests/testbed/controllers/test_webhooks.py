"""Webhooks by URL, and what of a project's objects is applied, on small objects of the same shape."""

from __future__ import annotations

import base64
import http.server
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.testbed import pki, ports
from tests.testbed.controllers import kueue, manifests, webhooks

SERVICE = {"name": "webhook-service", "namespace": "some-system"}


def registration(*names: str) -> manifests.Object:
    hooks = [{"name": name, "clientConfig": {"service": SERVICE | {"path": f"/mutate-{name}"}}} for name in names]
    return {"kind": "MutatingWebhookConfiguration", "metadata": {"name": "hooks"}, "webhooks": hooks}


def crd(strategy: str) -> manifests.Object:
    conversion: manifests.Object = {"strategy": strategy}
    if strategy == "Webhook":
        conversion["webhook"] = {"clientConfig": {"service": SERVICE | {"path": "/convert"}}}
    return {"kind": "CustomResourceDefinition", "metadata": {"name": strategy}, "spec": {"conversion": conversion}}


def test_admission_webhooks_keep_their_paths_and_get_the_bundle() -> None:
    [changed] = webhooks.by_url([registration("a", "b")], 9443, b"authority")
    configs = [hook["clientConfig"] for hook in changed["webhooks"]]
    assert [one["url"] for one in configs] == [
        "https://127.0.0.1:9443/mutate-a",
        "https://127.0.0.1:9443/mutate-b",
    ]
    assert all(base64.b64decode(one["caBundle"]) == b"authority" and "service" not in one for one in configs)


def test_conversion_webhooks_too_and_crds_without_one_stay() -> None:
    converted, plain = webhooks.by_url([crd("Webhook"), crd("None")], 9443, b"authority")
    config = converted["spec"]["conversion"]["webhook"]["clientConfig"]
    assert config["url"] == "https://127.0.0.1:9443/convert"
    assert plain == crd("None")


def test_the_given_objects_stay_as_they_are() -> None:
    given = [registration("a")]
    webhooks.by_url(given, 9443, b"authority")
    assert given == [registration("a")]


def test_what_needs_a_pod_is_left_out() -> None:
    kinds = ["Namespace", "Deployment", "ClusterRole", "Service", "Secret", "MutatingWebhookConfiguration"]
    kept = manifests.outside_pods([{"kind": kind} for kind in kinds])
    assert [one["kind"] for one in kept] == ["Namespace", "ClusterRole"]


def test_kueue_asks_only_for_the_integrations_in_use() -> None:
    hooks = registration("mpod.kb.io", "mjob.kb.io", "mjobset.kb.io", "mrayjob.kb.io", "mworkload.kb.io")
    [changed] = kueue._chosen(["batch/job"], [hooks])
    assert [hook["name"] for hook in changed["webhooks"]] == ["mjob.kb.io", "mworkload.kb.io"]


def test_an_unknown_integration_is_named() -> None:
    with pytest.raises(LookupError, match=r"ray\.io/rayjob"):
        kueue.start(None, frameworks=["ray.io/rayjob"])  # type: ignore[arg-type]


@pytest.fixture
def https(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A server that answers 404 to all, with a certificate laid out by `webhooks.certificates`."""
    authority = pki.Authority(tmp_path / "pki")
    folder = webhooks.certificates(authority, "some-webhook", tmp_path / "certs")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port, authority.ca
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_of_our_authority_is_listening(https: tuple[int, Path], tmp_path: Path) -> None:
    port, ca = https
    assert webhooks.listening(port, ca)
    assert not webhooks.listening(port, pki.Authority(tmp_path / "other").ca)
    assert not webhooks.listening(ports.one(), ca)
