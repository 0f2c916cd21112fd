"""Kubeconfigs and service accounts of all kinds, against a server that asks for certificates."""

from __future__ import annotations

import base64
import contextlib
import json
import ssl
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from scheduler.apiserver import access, client, credentials
from tests.testbed import pki

Entry = dict[str, Any]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> pki.Authority:
    return pki.Authority(tmp_path_factory.mktemp("pki"))


def written(path: Path, cluster: Entry, user: Entry, name: str = "one") -> Path:
    content = {
        "current-context": name,
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
    }
    path.write_text(yaml.safe_dump(content))
    return path


@contextlib.asynccontextmanager
async def serving(authority: pki.Authority, seen: list[Entry]) -> AsyncIterator[str]:
    """Answer with what was seen of the caller: its certificate's name and its header."""

    async def handle(request: web.BaseRequest) -> web.Response:
        assert request.transport is not None
        certificate = request.transport.get_extra_info("peercert") or {}
        names = dict(pair for part in certificate.get("subject", ()) for pair in part)
        seen.append({"name": names.get("commonName", ""), "header": request.headers.get("Authorization", "")})
        return web.json_response(seen[-1])

    pair = authority.issue("server")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.ca)
    context.load_cert_chain(pair.cert, pair.key)
    context.verify_mode = ssl.CERT_OPTIONAL
    runner = web.ServerRunner(web.Server(handle), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    try:
        yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def asked(path: Path) -> Entry:
    async with await client.Client.connect(path) as api:
        found: Entry = await api.get("/")
        return found


@pytest.mark.parametrize("inline", [True, False])
async def test_client_certificates(authority: pki.Authority, tmp_path: Path, inline: bool) -> None:
    pair = authority.issue("alice")
    given = {"certificate-authority": authority.ca, "client-certificate": pair.cert, "client-key": pair.key}
    fields = {name: str(path) for name, path in given.items()}
    if inline:
        fields = {f"{name}-data": base64.b64encode(path.read_bytes()).decode() for name, path in given.items()}
    authority_field = {name: fields.pop(name) for name in list(fields) if name.startswith("certificate-authority")}
    async with serving(authority, []) as url:
        config = written(tmp_path / "config", {"server": url} | authority_field, fields)
        assert await asked(config) == {"name": "alice", "header": ""}
        assert (await asked(written(tmp_path / "other", {"server": url} | authority_field, {})))["name"] == ""


async def test_paths_start_at_the_folder_of_their_file(authority: pki.Authority, tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(authority.ca.read_bytes())
    (tmp_path / "token").write_text("abc\n")
    async with serving(authority, []) as url:
        config = written(
            tmp_path / "config", {"server": url, "certificate-authority": "ca.crt"}, {"tokenFile": "token"}
        )
        assert (await asked(config))["header"] == "Bearer abc"


async def test_a_server_of_another_authority_is_refused(authority: pki.Authority, tmp_path: Path) -> None:
    other = pki.Authority(tmp_path / "pki")
    async with serving(authority, []) as url:
        cluster = {"server": url, "certificate-authority": str(other.ca)}
        with pytest.raises(Exception, match="CERTIFICATE_VERIFY_FAILED"):
            await asked(written(tmp_path / "config", cluster, {"token": "t"}))
        config = written(tmp_path / "open", {"server": url, "insecure-skip-tls-verify": True}, {"token": "t"})
        assert (await asked(config))["header"] == "Bearer t"


async def test_the_name_of_the_server_may_be_given(authority: pki.Authority, tmp_path: Path) -> None:
    async with serving(authority, []) as url:
        cluster = {"server": url, "certificate-authority": str(authority.ca)}
        config = written(tmp_path / "right", cluster | {"tls-server-name": "localhost"}, {"token": "t"})
        assert (await asked(config))["header"] == "Bearer t"
        with pytest.raises(Exception, match="CERTIFICATE_VERIFY_FAILED"):
            await asked(written(tmp_path / "wrong", cluster | {"tls-server-name": "example.com"}, {"token": "t"}))


async def test_a_token_file_is_read_again_and_kept_while_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = credentials.TokenFile(tmp_path / "token")
    with pytest.raises(credentials.CredentialError, match=r"token file .*token cannot be used"):
        await found.header()
    found.path.write_text("one\n")
    assert await found.header() == "Bearer one"
    found.path.write_text("two")
    assert await found.header() == "Bearer one"
    monkeypatch.setattr(credentials, "REREAD_S", 0.0)
    assert await found.header() == "Bearer two"
    found.path.unlink()
    assert await found.header() == "Bearer two"


async def test_a_pod_has_its_service_account(authority: pki.Authority, tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(authority.ca.read_bytes())
    (tmp_path / "token").write_text("mine")
    async with serving(authority, []) as url:
        variables = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": url.rpartition(":")[2]}
        found = access.in_cluster(tmp_path, variables)
        async with client.Client(found) as api:
            assert (await api.get("/"))["header"] == "Bearer mine"
    assert access.in_cluster(tmp_path, variables | {"KUBERNETES_SERVICE_HOST": "fd00::1"}).server.startswith(
        "https://[fd00::1]:"
    )
    with pytest.raises(access.KubeconfigError, match="KUBERNETES_SERVICE_HOST"):
        access.in_cluster(tmp_path, {})


async def test_without_a_path_the_service_account_comes_before_the_users_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "ACCOUNT", tmp_path / "account")
    one = written(tmp_path / "one", {"server": "http://one"}, {"token": "1"}, "one")
    two = written(tmp_path / "two", {"server": "http://two"}, {"token": "2"}, "two")
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'none'}:{one}:{two}")
    assert (await access.find()).server == "http://one"
    assert (await access.find(context="two")).server == "http://two"
    (tmp_path / "account").mkdir()
    for name in ("token", "ca.crt"):
        (tmp_path / "account" / name).write_text("x")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    assert (await access.find()).server == "https://10.0.0.1:443"
    assert (await access.find(two)).server == "http://two"


def plugin(path: Path, status: Entry, version: str = credentials.VERSIONS[0], code: int = 0) -> Entry:
    """Write a program that counts its runs and prints a credential; return the user that names it."""
    said = json.dumps({"apiVersion": version, "kind": "ExecCredential", "status": status})
    path.with_suffix(".said").write_text(said)
    text = f"#!/bin/sh\necho $KUBERNETES_EXEC_INFO $1 $COLOUR >> {path}.runs\ncat {path}.said\nexit {code}\n"
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    asked = {"command": f"./{path.name}", "args": ["a"], "env": [{"name": "COLOUR", "value": "red"}]}
    return {"exec": asked | {"apiVersion": credentials.VERSIONS[0]}}


async def test_a_plugin_gives_a_token_until_it_ends(tmp_path: Path) -> None:
    cluster = {"server": "http://127.0.0.1:1"}
    lasting = plugin(tmp_path / "lasting", {"token": "t", "expirationTimestamp": "2999-01-01T00:00:00Z"})
    found = await access.read([written(tmp_path / "a", cluster, lasting)])
    assert [await found.credentials.header() for _ in range(2)] == ["Bearer t"] * 2
    runs = (tmp_path / "lasting.runs").read_text().splitlines()
    assert len(runs) == 1 and "ExecCredential" in runs[0] and runs[0].endswith(" a red")
    over = plugin(tmp_path / "over", {"token": "t", "expirationTimestamp": "2001-01-01T00:00:00Z"})
    found = await access.read([written(tmp_path / "b", cluster, over)])
    await found.credentials.header()
    assert len((tmp_path / "over.runs").read_text().splitlines()) == 2


async def test_a_plugin_gives_a_certificate(authority: pki.Authority, tmp_path: Path) -> None:
    pair = authority.issue("bob")
    user = plugin(
        tmp_path / "certified",
        {"clientCertificateData": pair.cert.read_text(), "clientKeyData": pair.key.read_text()},
    )
    async with serving(authority, []) as url:
        config = written(tmp_path / "config", {"server": url, "certificate-authority": str(authority.ca)}, user)
        assert await asked(config) == {"name": "bob", "header": ""}


@pytest.mark.parametrize(
    ("status", "version", "code", "said"),
    [
        ({"token": "t"}, credentials.VERSIONS[0], 3, "exec plugin .*plug ended with 3"),
        ({}, credentials.VERSIONS[0], 0, "neither a token nor a certificate"),
        ({"token": "t"}, "v9", 0, "apiVersion is 'v9'"),
        ({"token": "t", "expirationTimestamp": "soon"}, credentials.VERSIONS[0], 0, "no ExecCredential"),
    ],
)
async def test_plugins_that_fail_are_named(tmp_path: Path, status: Entry, version: str, code: int, said: str) -> None:
    user = plugin(tmp_path / "plug", status, version, code)
    with pytest.raises(credentials.CredentialError, match=said):
        await access.read([written(tmp_path / "config", {"server": "http://s"}, user)])


@pytest.mark.parametrize(
    ("cluster", "user", "said"),
    [
        ({"server": "s"}, {}, r"cluster 'one'\.server: 's' is no address"),
        (
            {"server": "https://s", "certificate-authority": "none.crt"},
            {},
            r"certificate-authority: .*none\.crt cannot",
        ),
        ({"server": "https://s"}, {"client-key-data": "%"}, r"user 'one'\.client-key-data: is no base64"),
        ({"server": "https://s"}, {"auth-provider": {"name": "gcp"}}, r"user 'one'\.auth-provider: not supported"),
        ({"server": "https://s"}, {"token": 5}, r"user 'one'\.token: must be a text, not int"),
        ({"server": "https://s"}, {"exec": {"command": "x"}}, r"exec\.apiVersion: None"),
        ({"server": "https://s"}, {"exec": {}}, r"exec\.command: missing"),
    ],
)
async def test_errors_name_file_and_field(tmp_path: Path, cluster: Entry, user: Entry, said: str) -> None:
    with pytest.raises(access.KubeconfigError, match=said):
        await access.read([written(tmp_path / "config", cluster, user)])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a", "no mapping at its top"),
        ("a: [", "kubeconfig .*config"),
        ("current-context: x", "contexts: none is called 'x'"),
    ],
)
async def test_a_file_that_is_none(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "config").write_text(text)
    with pytest.raises(access.KubeconfigError, match=said):
        await access.read([tmp_path / "config"])
    with pytest.raises(access.KubeconfigError, match="cannot be read"):
        await access.read([tmp_path / "none"])


async def test_a_request_without_credentials_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "token").touch()
    config = written(tmp_path / "config", {"server": "http://127.0.0.1:1"}, {"tokenFile": "token"})
    async with await client.Client.connect(config) as api:
        with pytest.raises(credentials.CredentialError, match="empty"):
            await api.get("/")


async def test_a_bundle_may_have_texts_and_must_have_a_certificate(authority: pki.Authority, tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text(f"# Autorité de certification\n{authority.ca.read_text()}\n# fin\n")
    async with serving(authority, []) as url:
        cluster = {"server": url, "certificate-authority": "ca.crt"}
        config = written(tmp_path / "config", cluster, {"token": "t"})
        assert (await asked(config))["header"] == "Bearer t"
        (tmp_path / "ca.crt").write_text("none")
        with pytest.raises(access.KubeconfigError, match="has no certificate in it"):
            await asked(config)
        config = written(tmp_path / "config", {"server": url}, {"client-certificate": "ca.crt", "client-key": "ca.crt"})
        with pytest.raises(access.KubeconfigError, match="our certificate"):
            await asked(config)


async def test_requests_go_through_a_proxy(tmp_path: Path) -> None:
    async def handle(request: web.BaseRequest) -> web.Response:
        return web.json_response({"asked": str(request.url)})

    runner = web.ServerRunner(web.Server(handle), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    cluster = {"server": "http://api.invalid:8080", "proxy-url": f"http://127.0.0.1:{runner.addresses[0][1]}"}
    assert await asked(written(tmp_path / "config", cluster, {})) == {"asked": "http://api.invalid:8080/"}
    await runner.cleanup()
