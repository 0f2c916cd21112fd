"""Runs spread over processes: the same bytes for every number of workers and every hash seed, and a clean stop."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scheduler import policies
from simulator import cli, scenario, study, workers

RACKS = """\
apiVersion: muster.dev/v1alpha1
kind: Fleet
metadata: {name: tiny}
spec:
  levels: [rack]
  domains:
    - {name: rack, level: rack, count: 2, nodes: [{machine: hgx-h100, count: 2}]}
"""


def squared(item: int, stopped: workers.Stopped) -> int:
    """Answer, the later the earlier the item is."""
    time.sleep(0.05 * (item == 0))
    return item * item


def failing(item: int, stopped: workers.Stopped) -> int:
    if item == 3:
        raise ValueError("item 3 is bad")
    return item


def lingering(item: int, stopped: workers.Stopped) -> str:
    """Answer the first item at once; work on every other until told to stop."""
    while item and not stopped():
        time.sleep(0.01)
    return "stopped"


@pytest.mark.parametrize("count", [1, 3])
def test_answers_come_in_the_order_of_the_items(count: int) -> None:
    assert list(workers.answers(squared, range(7), count)) == [n * n for n in range(7)]
    assert list(workers.answers(squared, [], count)) == []


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_of_a_run_is_the_error_of_the_study(count: int) -> None:
    with pytest.raises(ValueError, match="item 3 is bad"):
        list(workers.answers(failing, range(6), count))


def test_a_stop_reaches_the_workers_and_the_runs_not_begun_are_none() -> None:
    found: list[str | None] = []
    for answer in workers.answers(lingering, range(40), 2, lambda: bool(found)):
        found.append(answer)
    begun = found.count("stopped")
    assert 1 <= begun < 39  # the second worker may not have begun when the first has answered
    assert found == ["stopped"] * begun + [None] * (40 - begun)


def test_a_stop_in_one_process_leaves_the_rest_none() -> None:
    asked = itertools.count()
    assert list(workers.answers(squared, range(4), 1, lambda: next(asked) >= 2)) == [0, 1, None, None]


# The commands.


def output(folder: Path, hash_seed: int, *words: object) -> bytes:
    """Run a command in a process of its own and return what it prints."""
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    line = [sys.executable, "-m", "simulator.cli", *map(str, words)]
    done = subprocess.run(line, env=environment, cwd=folder, capture_output=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """Write a node list and two small pod lists."""
    nodes = [f"node-{i:02},{(64000, 96000)[i % 2]},393216,{(2, 8)[i % 2]},{('T4', 'G2')[i % 2]}" for i in range(24)]
    (tmp_path / "openb_node_list_gpu_node.csv").write_text("\n".join(("sn,cpu_milli,memory_mib,gpu,model", *nodes)))
    for name, shares in (("tiny", (1000, 460, 810)), ("whole", (1000,))):
        pods = [f"pod-{i:03},{4000 + 500 * (i % 9)},8192,1,{shares[i % len(shares)]}" for i in range(150)]
        text = "\n".join(("name,cpu_milli,memory_mib,num_gpu,gpu_milli", *pods))
        (tmp_path / f"openb_pod_list_{name}.csv").write_text(text)
    return tmp_path


@pytest.mark.slow
def test_openb_table_prints_the_same_bytes_for_one_and_two_workers(lists: Path) -> None:
    words = ("openb-table", ".", "--seeds", 3, "--policies", "fgd,muster,random", "--json", "--workers")
    one = output(lists, 1, *words, 1)
    assert len(json.loads(one)["results"]) == 6
    assert output(lists, 2, *words, 2) == one


@pytest.mark.slow
def test_compare_writes_the_same_bytes_for_one_and_two_workers(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text(RACKS)
    jobs = [f"j{i},{i * 20},{300 + 70 * (i % 5)},{(1, 2, 8)[i % 3]},{1 + i % 2}" for i in range(40)]
    (tmp_path / "jobs.csv").write_text("\n".join(("name,submit_s,duration_s,gpus,pods", *jobs)) + "\n")
    words = ("compare", "jobs.csv", "--fleet", "fleet.yaml", "--policy", "muster", "--policy", "dra-first-fit")
    printed, left = [], []
    for count in (1, 2):
        out = tmp_path / f"out-{count}"
        printed.append(output(tmp_path, count, *words, "--seeds", 3, "--json", "--workers", count, "--out", out))
        left.append(tree(out))
    assert printed[0] == printed[1]
    assert left[0] == left[1]
    assert {"result.json", "muster-decisions.jsonl", "report.html", "muster-jobs.parquet"} <= set(left[0])


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_a_stopped_study_keeps_the_seeds_that_all_workloads_have(lists: Path, count: int) -> None:
    told: list[str] = []
    chosen = [policies.load("fgd"), policies.load("best-fit")]
    made = study.run(lists, chosen, range(42, 142), (), told.append, count, lambda: len(told) >= 5)
    done = len(told) // 2
    assert 2 <= done < 100
    assert made.partial == f"interrupted when {done} of 100 seeds were done"
    assert made.seeds == tuple(range(42, 42 + done))
    whole = study.run(lists, chosen, made.seeds)
    for cell in made.cells():
        assert made.at(*cell, 130) == whole.at(*cell, 130)
    assert "PARTIAL" in study.sheets(made, {})[0].title


@pytest.mark.slow
@pytest.mark.parametrize(("most", "done"), [(30, 3), (1, 0)])
def test_an_interrupted_table_says_that_it_is_partial(
    lists: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], most: int, done: int
) -> None:
    asked = itertools.count()
    stopped = contextlib.nullcontext(lambda: next(asked) >= most)
    monkeypatch.setattr(scenario, "interruptible", lambda: stopped)
    words = ["openb-table", str(lists), "--policies", "fgd,best-fit,random", "--workers", "1"]
    assert cli.main([*words, "--json"]) == 130
    out, error = capsys.readouterr()
    assert json.loads(out)["partial"] == f"interrupted when {done} of 10 seeds were done"
    assert json.loads(out)["provenance"]["seeds"] == list(range(42, 42 + done))
    assert "partial result" in error


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_ctrl_c_leaves_a_partial_comparison(tmp_path: Path, count: int) -> None:
    words = ("compare", "demo", "--fleet", "demo", "--policy", "muster", "--policy", "dra-first-fit", "--validate")
    out, line = tmp_path / "out", [sys.executable, "-m", "simulator.cli", *words, "--seeds", "9", "--json"]
    process = subprocess.Popen(
        [*line, "--workers", str(count), "--out", str(out)],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not any(log.stat().st_size for log in tmp_path.glob("muster-sim-*/.*jsonl*")):
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    printed, error = process.communicate(timeout=240)
    assert process.returncode == 130, error
    result = json.loads(printed)
    assert "interrupted" in result["partial"] and "partial result" in error
    assert json.loads((out / "result.json").read_text()) == result
    assert len(result["samples"]["muster"]) == len(result["seeds"]) < 9
    assert "Partial result" in (out / "report.html").read_text()
    assert not any(tmp_path.glob("muster-sim-*")), "a worker left its folder behind"
