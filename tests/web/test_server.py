"""The server: connections stay, bad input is a 400 with a sentence, never a 500."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import given as over
from hypothesis import strategies as st

from scheduler.web import server, tls, wire
from tests.testbed import ports
from tests.web import certificates, given

NAMES = ["n-0", "n-1", "n-2"]


@contextlib.asynccontextmanager
async def asking(face: server.Face) -> AsyncIterator[aiohttp.ClientSession]:
    async with given.listening(face) as url, aiohttp.ClientSession(url) as session:
        yield session


async def test_the_verbs_answer_what_kube_scheduler_reads() -> None:
    decided = dataclasses.replace(given.decided(), plans={"planned": "n-1"})
    async with asking(server.Face(lambda: decided)) as session:
        async with session.post("/filter", data=given.body(NAMES, 1, "planned")) as answer:
            assert answer.status == 200 and answer.headers["content-type"] == "application/json"
            assert int(answer.headers["content-length"]) > 0
            assert (await answer.json())["NodeNames"] == ["n-1"]
        async with session.post("/prioritize", data=given.body(NAMES, 1)) as answer:
            scores = {one["Host"]: one["Score"] for one in await answer.json()}
            assert sorted(scores) == NAMES and sorted(scores.values()) == [10, 20, 30]
        asked = json.loads(given.body([], 1)) | {"NodeNameToMetaVictims": {"n-0": {"Pods": None}}}
        async with session.post("/preempt", json=asked) as answer:
            assert await answer.json() == {"NodeNameToMetaVictims": {"n-0": {"Pods": [], "NumPDBViolations": 0}}}


async def test_recorded_requests_pass() -> None:
    decided = given.decided()
    async with asking(server.Face(lambda: decided)) as session:
        for minor in (34, 37):
            for verb in ("filter", "prioritize"):
                recorded = given.golden(f"extender-{verb}-1.{minor}.json")
                async with session.post(f"/{verb}", json=recorded) as answer:
                    assert answer.status == 200, await answer.text()


async def test_no_piece_of_an_answer_waits_for_an_acknowledgement() -> None:
    """Linux delays those by 40 ms, which each pod would take at least."""
    one = server.listening(server.Face(lambda: None), "127.0.0.1", ports.one())
    serving = asyncio.create_task(one.serve())
    try:
        async with asyncio.timeout(10):
            while not one.started:
                await asyncio.sleep(0.01)
            _, writer = await asyncio.open_connection(one.config.host, one.config.port)
            while not one.server_state.connections:
                await asyncio.sleep(0.01)
        [connection] = one.server_state.connections
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        writer.close()
    finally:
        one.should_exit = True
        await serving


async def test_one_connection_serves_many_requests_refused_ones_too() -> None:
    decided = given.decided()
    async with given.listening(server.Face(lambda: decided)) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
        for body, status in ((given.body(NAMES, 1), b"200"), (b"{", b"400")) * 3:
            head = f"POST /filter HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            told = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            assert told.split()[1] == status
            length = next(int(line[15:]) for line in told.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(length)
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize("body", [b"", b"{", b'{"Pod":{"metadata":{}}}', given.body([""]), given.body(NAMES, "-3")])
async def test_bad_input_is_a_400_with_a_sentence(body: bytes) -> None:
    decided = given.decided()
    async with asking(server.Face(lambda: decided)) as session, session.post("/filter", data=body) as answer:
        assert answer.status == 400 and len((await answer.json())["Error"]) > 10


async def test_a_huge_body_is_refused_before_it_is_read_and_while_it_is() -> None:
    decided = given.decided()
    async with given.listening(server.Face(lambda: decided)) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
        writer.write(b"POST /filter HTTP/1.1\r\nHost: x\r\nContent-Length: 17000000000\r\n\r\n")
        assert b" 400 " in await asyncio.wait_for(reader.readline(), 5)
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
        writer.write(b"POST /filter HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(17):
                writer.write(b"100000\r\n" + b" " * 0x100000 + b"\r\n")
                await writer.drain()
        assert b" 400 " in await asyncio.wait_for(reader.readline(), 5)
        writer.close()


async def test_not_ready_until_synced_then_ready_and_measured() -> None:
    found: list[object] = []
    async with asking(server.Face(lambda: found[0] if found else None)) as session:  # type: ignore[arg-type, return-value]
        for path, status in (("/healthz", 200), ("/readyz", 503)):
            async with session.get(path) as answer:
                assert answer.status == status
        async with session.post("/filter", data=given.body(NAMES)) as answer:
            assert answer.status == 503
        found.append(given.decided())
        async with session.get("/readyz") as answer:
            assert answer.status == 200
        async with session.post("/filter", data=given.body(NAMES)) as answer:
            assert answer.status == 200
        async with session.get("/metrics") as answer:
            text = await answer.text()
        assert 'muster_extender_duration_seconds_count{verb="filter"} 1.0' in text
        assert 'muster_extender_answers_total{code="503",verb="filter"} 1.0' in text


async def test_a_port_that_is_taken_is_an_error_that_names_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(OSError, match=f"127.0.0.1 port {port}: Address already in use"):
            await server.listening(server.Face(lambda: None), "127.0.0.1", port).serve()


async def test_tls_asks_for_a_client_certificate(tmp_path: Path) -> None:
    files = certificates.write(tmp_path)
    decided = given.decided()
    face = server.Face(lambda: decided)
    async with given.listening(face, tls.Tls(files.certificate, files.key, files.authority)) as url:
        known = ssl.create_default_context(cafile=str(files.authority))
        known.load_cert_chain(files.certificate, files.key)
        stranger = ssl.create_default_context(cafile=str(files.authority))
        async with aiohttp.ClientSession() as session:
            async with session.post(f"{url}/filter", data=given.body(NAMES), ssl=known) as answer:
                assert answer.status == 200
            with pytest.raises((aiohttp.ClientError, OSError)):
                await session.post(f"{url}/filter", data=given.body(NAMES), ssl=stranger)


FUZZED = st.binary(max_size=400) | st.builds(
    lambda body, at, with_: body[:at] + with_ + body[at + 1 :],
    st.just(given.body(NAMES, 1)),
    st.integers(0, 200),
    st.binary(max_size=3),
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@over(st.lists(st.tuples(st.sampled_from(server.VERBS), FUZZED), min_size=20, max_size=40))
def test_no_bytes_make_a_500(requests: list[tuple[str, bytes]]) -> None:
    async def ask() -> None:
        decided = given.decided()
        async with asking(server.Face(lambda: decided)) as session:
            for verb, body in requests:
                async with session.post(f"/{verb}", data=body) as answer:
                    assert answer.status in (200, 400), (verb, body, await answer.text())

    asyncio.run(ask())


def test_the_bound_of_the_body_is_16_mib() -> None:
    assert wire.MAX_BYTES == 16 << 20
