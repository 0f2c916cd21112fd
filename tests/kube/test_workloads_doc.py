"""docs/workloads.md: its examples are parts of files that are run, its names exist, and its commands work."""

from __future__ import annotations

import asyncio
import re
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from scheduler import config
from scheduler.model import names, wishes
from scheduler.web import tls

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/workloads.md").read_text()
EXAMPLES = ROOT / "deploy/scheduler/examples"
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.M | re.S)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: Path(block.splitlines()[0]).name)
def test_each_example_is_a_part_of_a_file(block: str) -> None:
    first, *lines = block.splitlines()
    file = ROOT / first.removeprefix("# ")
    assert file.parent == EXAMPLES, f"{first}: the first line names the file"
    assert "\n".join(lines) in file.read_text(), f"{file.name} has it otherwise"


def test_each_file_is_shown() -> None:
    shown = {Path(block.splitlines()[0].removeprefix("# ")).name for block in BLOCKS}
    assert shown == {one.name for one in EXAMPLES.iterdir()}


def test_every_word_of_ours_is_one() -> None:
    known = {*wishes.READ, *wishes.WRITTEN, names.GATE, names.MANAGED, names.OWNED, "muster.dev/gpu"}
    known |= {"muster.dev/rack", "muster.dev/block", names.DOMAIN, "muster.dev/v"}  # the last is of an apiVersion
    assert set(re.findall(r"(?<![a-z.])muster\.dev/[a-z-]*[a-z]", TEXT)) <= known
    told = {names.GANG_NAME, names.GANG_SIZE, names.RANK, names.ROLE, names.MIN_MEMBER, names.EXPECTED_S}
    told |= {names.REQUIRED_LEVEL, names.PREFERRED_LEVEL, names.SEGMENT_SIZE, names.SEGMENT_LEVEL}
    for one in told | {names.SPREAD_LEVEL, names.SPREAD_MAX, names.PREEMPTIBLE, names.TENANT}:
        assert one in TEXT


def test_every_option_and_file_exists() -> None:
    options = {one.replace("-", "_") for one in re.findall(r"`--([a-z-]+)[ `]", TEXT)} - {"config"}
    assert options and options <= set(config.Config.model_fields)
    for path in re.findall(r"deploy/[\w/.-]+|tests/[\w/.-]+", TEXT):
        assert (ROOT / path.rstrip(".")).exists(), path


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """The folder in which the commands of the text were run."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    [commands] = re.findall(r"^```sh\n# certificates\n(.*?)^```$", TEXT, re.M | re.S)
    done = subprocess.run(
        ["bash", "-euc", commands], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return tmp_path


async def test_the_certificates_of_the_text_serve_the_extender(made: Path) -> None:
    """kube-scheduler's certificate is let in; the server's own, of the same authority, is not one of a client."""
    context = tls.Renewed(tls.Tls(made / "tls.crt", made / "tls.key", made / "ca.crt")).context()
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await said(port, made, "client") == b"ok"
        for stranger in ("tls", ""):
            assert await said(port, made, stranger) == b""


async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"ok")
    writer.close()


async def said(port: int, folder: Path, name: str) -> bytes:
    """Return what the server says to whoever shows a certificate, b"" for a refusal; its name is checked."""
    trust = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    if name:
        trust.load_cert_chain(folder / f"{name}.crt", folder / f"{name}.key")
    host = "muster-scheduler.muster-system.svc"
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust, server_hostname=host)
    try:
        async with asyncio.timeout(10):
            return await reader.read(10)
    except (ssl.SSLError, ConnectionError):
        return b""  # with TLS 1.3 the refusal comes after the client's part of the handshake
    finally:
        writer.close()
