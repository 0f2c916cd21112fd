"""A testbed comes and goes and leaves nothing, also when it is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.testbed import build, cgroups, fixtures, process
from tests.testbed import home as homes

pytestmark = [pytest.mark.testbed, pytest.mark.slow, pytest.mark.xdist_group("lifecycle")]
ROOT = Path(__file__).parents[2]


def command(*args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "tests.testbed", *args]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, timeout=600, check=False)
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done


@pytest.fixture
def name() -> Iterator[str]:
    """A name that nobody uses; the cluster is ended when a test fails half-way."""
    fixtures.require(real_nodes=True)
    made = f"t{uuid.uuid4().hex[:6]}"
    yield made
    command("down", "--name", made, check=False)


def up(name: str, *args: str) -> dict[str, Any]:
    command("up", "--name", name, "--fleet", "none", "--controllers", "none", *args)
    state = homes.Home(name).read()
    assert state is not None
    return state


def left(state: dict[str, Any]) -> list[str]:
    """Return what is left of a cluster: processes, mounts, cgroups, files."""
    mark = state["folder"] + "/"
    found = [f"process {line[:150]}" for _, line in fixtures.command_lines() if mark in line]
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if mark in line]
    found += [str(top / one) for top in cgroups.hierarchies() for one in state["cgroups"] if (top / one).exists()]
    return found + [str(path) for path in Path(state["folder"]).parent.glob(f"{Path(state['folder']).name}*")]


def test_it_starts_says_how_to_use_it_and_leaves_nothing(name: str) -> None:
    state = up(name, "--nodes", "1")
    assert state["phase"] == "ready" and any("1 real nodes ready" in line for line in state["lines"])
    again = command("up", "--name", name)
    assert "runs already" in again.stdout and state["kubeconfig"] in again.stdout
    shell = command("env", "--name", name).stdout + "kubectl get nodes -o name"
    assert (
        subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=True).stdout.strip() == "node/real-0"
    )
    parts = {part["name"]: part for part in json.loads(command("status", "--json", "--name", name).stdout)["parts"]}
    assert {"etcd", "kube-apiserver", "kube-scheduler", "node-real-0"} <= set(parts)
    assert "kubelet" in command("logs", "--name", name, "node-real-0").stdout
    assert "ended in" in command("down", "--name", name).stdout
    assert not left(state)
    assert f"no cluster {name}" in command("down", "--name", name).stdout


def test_a_killed_testbed_leaves_no_process_mount_or_cgroup(name: str) -> None:
    state = up(name, "--nodes", "1")
    family = psutil.Process(state["pid"]).children(recursive=True)
    assert {one.name() for one in family} >= {"etcd", "kubelet", "containerd", "kube-apiserver"}
    os.kill(state["pid"], signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive
    for _ in process.until(5):
        if not [one for one in left(state) if "/sys/fs/cgroup" in one]:
            break
    told = command("status", "--name", name, check=False)
    assert told.returncode == 1 and "is gone" in told.stderr
    command("down", "--name", name)
    assert not left(state)


def test_two_clusters_run_at_the_same_time(name: str) -> None:
    one, two = up(name, "--nodes", "0"), up(f"{name}x", "--nodes", "0")
    try:
        assert one["server"] != two["server"]
        for state in (one, two):
            asked = ["--kubeconfig", state["kubeconfig"], "get", "--raw", "/readyz"]
            argv = [str(build.kubectl()), *asked]
            assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == "ok"
    finally:
        command("down", "--name", f"{name}x")
    assert not left(two)
    assert homes.Home(name).server() is not None


def test_a_start_that_is_interrupted_leaves_nothing(name: str) -> None:
    argv = [sys.executable, "-m", "tests.testbed", "up", "--name", name, "--nodes", "1", "--fleet", "none"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT) as running:
        home = homes.Home(name)
        for _ in process.until(60):
            state = home.read()
            if state and state.get("parts"):
                break
        assert state and "folder" in state
        running.send_signal(signal.SIGINT)
        running.wait(60)
        assert running.returncode == 130
    assert not left(state)


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("up", "--kubernetes", "1.21"), "is not one of the pinned versions"),
        (("up", "--controllers", "volcano"), "choose from jobset, kueue, lws"),
        (("up", "--fleet", "fleet_7"), "fleet_16"),
        (("status", "--name", "nobody"), "no cluster nobody"),
        (("env", "--name", "nobody"), "no cluster nobody"),
    ],
)
def test_a_wrong_word_gets_a_clear_answer(args: tuple[str, ...], told: str) -> None:
    done = command(*args, check=False)
    assert done.returncode in (1, 2) and told in done.stderr


def test_the_doctor_names_each_part() -> None:
    found = json.loads(command("doctor", "--json", check=False).stdout)
    assert {"Go", "root", "runc", "cgroups", "disk"} <= {one["what"] for one in found}
