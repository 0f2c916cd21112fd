"""TLS of the running scheduler: two ports that ask for different things, and certificates that change under way."""

import asyncio
import contextlib
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from scheduler import app, bad_input, config
from scheduler.apiserver import access, client
from scheduler.web import tls
from tests.testbed import ports
from tests.web import certificates, given

REFUSED = (aiohttp.ClientError, OSError)
VERBS = ("filter", "prioritize", "preempt")


@contextlib.asynccontextmanager
async def running(files: certificates.Files, **settings: str) -> AsyncIterator[tuple[str, str]]:
    """Run the servers of a scheduler that is not synced; yields the URLs of extender and webhook."""
    first, second = ports.one(), ports.one()
    known = config.Config(
        host="127.0.0.1",
        port=first,
        webhook_port=second,
        tls_certificate=str(files.certificate),
        tls_key=str(files.key),
        **settings,
    )
    webs = app.Scheduler(known, client.Client(access.Access("http://127.0.0.1:1")), "test").webs()
    tasks = [asyncio.create_task(one.serve()) for one in webs]
    try:
        async with asyncio.timeout(10):
            while not all(one.started for one in webs):
                await asyncio.sleep(0.01)
        yield f"https://127.0.0.1:{first}", f"https://127.0.0.1:{second}"
    finally:
        for one in webs:
            one.should_exit = True
        async with asyncio.timeout(15):
            await asyncio.gather(*tasks)


async def status(url: str, trust: ssl.SSLContext, body: bytes | None = None) -> int:
    """Ask over a connection of its own."""
    verb = "GET" if body is None else "POST"
    async with aiohttp.ClientSession() as session, session.request(verb, url, data=body, ssl=trust) as answer:
        return answer.status


def trusting(files: certificates.Files) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(files.authority))


def shown(files: certificates.Files, own: certificates.Files | None = None) -> ssl.SSLContext:
    """Return a client's context that trusts `files` and shows the certificate of `own`."""
    context = trusting(files)
    context.load_cert_chain((own or files).certificate, (own or files).key)
    return context


async def test_who_has_no_certificate_gets_the_webhook_and_never_the_extender(tmp_path: Path) -> None:
    files = certificates.write(tmp_path)
    asked = given.body(["n0"])
    async with running(files, client_ca=str(files.authority)) as (extender, hook):
        stranger = trusting(files)
        for path in ("/healthz", "/readyz", "/metrics", "/filter"):
            with pytest.raises(REFUSED):
                await status(extender + path, stranger, asked if path == "/filter" else None)
        assert await status(hook + "/healthz", stranger) == 200
        assert await status(hook + "/readyz", stranger) == 503, "nothing is synced"
        assert await status(hook + "/metrics", stranger) == 200
        assert await status(hook + "/mutate-pods", stranger, b"{") == 400
        for verb in VERBS:
            assert await status(f"{hook}/{verb}", shown(files), asked) == 404, "not even with a certificate"
            assert await status(f"{extender}/{verb}", shown(files), asked) == 503, "nothing is synced"
        assert await status(extender + "/mutate-pods", shown(files), b"{") == 404


async def test_without_an_authority_the_extender_asks_for_no_certificate(tmp_path: Path) -> None:
    files = certificates.write(tmp_path)
    async with running(files) as (extender, _):
        assert await status(extender + "/filter", trusting(files), given.body(["n0"])) == 503


async def test_new_files_are_taken_without_a_restart(tmp_path: Path) -> None:
    (tmp_path / "served").mkdir(), (tmp_path / "new").mkdir()
    files = certificates.write(tmp_path / "served")
    old = shown(files)
    async with running(files, client_ca=str(files.authority)) as urls:
        for url in urls:
            assert await status(url + "/healthz", old) == 200
        new = certificates.write(tmp_path / "new")
        shutil.copy(new.key, files.key)
        for url in urls:
            assert await status(url + "/healthz", old) == 200, "half a pair: the old one stays in force"
        shutil.copy(new.certificate, files.certificate)
        shutil.copy(new.authority, files.authority)
        for url in urls:
            assert await status(url + "/healthz", shown(new)) == 200
            with pytest.raises(REFUSED):
                await status(url + "/healthz", old)


async def test_an_authority_that_was_taken_away_lets_nobody_in(tmp_path: Path) -> None:
    (tmp_path / "served").mkdir(), (tmp_path / "new").mkdir()
    files, new = certificates.write(tmp_path / "served"), certificates.write(tmp_path / "new")
    authority = tmp_path / "clients.crt"
    shutil.copy(files.authority, authority)
    old = shown(files)
    async with running(files, client_ca=str(authority)) as (extender, _):
        assert await status(extender + "/healthz", old) == 200
        with pytest.raises(REFUSED):
            await status(extender + "/healthz", shown(files, new))
        shutil.copy(new.authority, authority)
        with pytest.raises(REFUSED):
            await status(extender + "/healthz", old)
        assert await status(extender + "/healthz", shown(files, new)) == 200


def visit(url: str, trust: ssl.SSLContext, session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool]:
    """Ask for /healthz, resuming a session if there is one; returns the session, and whether one was resumed."""
    host, port = url.removeprefix("https://").split(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        trust.wrap_socket(plain, server_hostname=host, session=session) as one,
    ):
        one.sendall(b"GET /healthz HTTP/1.1\r\nHost: muster\r\n\r\n")
        assert one.recv(1000).startswith(b"HTTP/1.1 200")
        return one.session, one.session_reused


async def test_a_session_is_not_resumed_where_certificates_are_asked_for(tmp_path: Path) -> None:
    files = certificates.write(tmp_path)
    trust = shown(files)
    async with running(files, client_ca=str(files.authority)) as (extender, hook):
        for url, reused in ((hook, True), (extender, False)):
            session, _ = await asyncio.to_thread(visit, url, trust, None)
            assert (await asyncio.to_thread(visit, url, trust, session))[1] is reused


def test_a_key_of_another_certificate_is_an_error_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    a, b = certificates.write(tmp_path / "a"), certificates.write(tmp_path / "b")
    for key, authority, named in ((b.key, None, a.certificate), (tmp_path / "no", None, "no"), (a.key, a.key, a.key)):
        with pytest.raises(bad_input.BadInput) as refused:
            tls.Renewed(tls.Tls(a.certificate, key, authority))
        assert str(named) in str(refused.value)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_both_versions_are_handed_over(tmp_path: Path, version: ssl.TLSVersion) -> None:
    (tmp_path / "served").mkdir(), (tmp_path / "new").mkdir()
    files, new = certificates.write(tmp_path / "served"), certificates.write(tmp_path / "new")
    async with running(files) as (_, hook):
        for one, name in ((new, "certificate"), (new, "key")):
            shutil.copy(getattr(one, name), getattr(files, name))
        trust = trusting(new)
        trust.minimum_version = trust.maximum_version = version
        assert await status(hook + "/healthz", trust) == 200


def test_one_port_for_both_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="webhook_port"):
        config.Config(tls_certificate="c", tls_key="k", port=9443, webhook_port=9443)
    config.Config(port=9443, webhook_port=9443)  # without a certificate there is one port only
