"""A node on which the command cannot work: one sentence that names the object, exit code 1, nothing left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from scheduler.model import machines
from tests.hardware import library, machine, sysfs

pytestmark = pytest.mark.slow

LONG = "p" * 90
RM_MISMATCH, UNKNOWN = 18, 999


@pytest.fixture(scope="module")
def host() -> Iterator[Path]:
    """The files of an HGX H100, in a folder with a short name."""
    with tempfile.TemporaryDirectory(prefix="muster-") as folder:
        sysfs.render(machines.build("hgx-h100", "node-a"), Path(folder) / "root")
        yield Path(folder)


@pytest.fixture
def state(host: Path) -> Path:
    return machine.render(machines.build("hgx-h100", "node-a"), host)


def run(
    host: Path, *more: str, command: str = "run", nvml: str = "", named: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run the command with an API server that does not exist; later options win."""
    folders = ("root",) if command == "discover" else ("root", "registry", "plugins", "cdi", "kubeconfig")
    options = [f"--{name}={host / name}" for name in folders]
    argv = [
        sys.executable,
        "-c",
        "from dra_driver import cli; cli.main()",
        command,
        *(["--node-name=node-a"] if named else []),
        *options,
        *more,
    ]
    libraries = nvml or str(library.folder())
    environment = os.environ | {"LD_LIBRARY_PATH": libraries, "MUSTER_NVML_STATE": str(host / "nvml.state")}
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=180)


def told(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one sentence of a command that failed as it should."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    (last,) = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    return last


def test_without_the_library(host: Path, state: Path) -> None:
    sentence = told(run(host, command="discover", nvml="/nowhere"))
    assert sentence.startswith("Error: NVML: nvmlInit: NVML Shared Library Not Found; an NVIDIA GPU is at 0000:1b:00.0")
    assert sentence.endswith("install or repair its driver, or name the library with --library")


def test_with_a_library_that_is_not_there(host: Path, state: Path) -> None:
    done = run(host, "--json", "--library=/nowhere/libnvidia-ml.so.1", command="doctor")
    (found,) = [one for one in json.loads(done.stdout) if one["what"] == "hardware"]
    assert found["verdict"] == "fail" and found["found"].startswith("/nowhere/libnvidia-ml.so.1: cannot")


@pytest.mark.parametrize(
    ("function", "code", "message"),
    [
        ("nvmlInitWithFlags", RM_MISMATCH, "NVML: nvmlInit: RM has detected an NVML/RM version mismatch."),
        ("nvmlDeviceGetCount_v2", UNKNOWN, "NVML: discovery: Unknown Error"),
    ],
)
def test_with_a_library_that_fails(host: Path, state: Path, function: str, code: int, message: str) -> None:
    machine.rule(state, function, code=code)
    assert told(run(host, command="discover")).startswith(f"Error: {message}")


def test_with_a_folder_whose_sockets_have_too_long_paths(host: Path, state: Path) -> None:
    sentence = told(run(host, f"--plugins={host}/{LONG}"))
    assert f"{host}/{LONG}/gpu.muster.dev/dra.sock: " in sentence and "at most 107" in sentence
    assert sentence.endswith("move the folder") and not (host / LONG).exists()
    assert f"{host}/{LONG}" in told(run(host, f"--registry={host}/{LONG}"))


def test_without_a_kubeconfig(host: Path, state: Path) -> None:
    assert str(host / "kubeconfig") in told(run(host))


def test_the_doctor_names_a_damaged_checkpoint_and_show_prints_what_can_be_read(host: Path, state: Path) -> None:
    folder = host / "plugins/gpu.muster.dev"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "checkpoint.json").write_text('{"version":9,"checksum":"","contents":{}}')
    done = run(host, command="doctor")
    assert done.returncode == 1 and f"{folder}/checkpoint.json: version 9" in done.stdout
    (folder / "checkpoint.json").unlink()


def test_the_doctor_looks_at_the_hardware_and_needs_no_name_of_the_node(host: Path, state: Path) -> None:
    done = run(host, "--json", command="doctor", named=False)
    found = {one["what"]: one for one in json.loads(done.stdout)}
    assert (found["hardware"]["verdict"], found["cdi"]["verdict"]) == ("ok", "ok")
    assert "8 GPUs, 0 accelerators" in found["hardware"]["found"] and "driver 580.65.06" in found["hardware"]["found"]
    assert (found["kubelet"]["verdict"], found["server"]["verdict"]) == ("warn", "fail")
    assert done.returncode == 1 and "--kubeconfig" in found["server"]["remedy"]
