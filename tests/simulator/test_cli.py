"""The command line as a user meets it: exit codes, messages, results that are whole or say that they are not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from simulator import cli

KINDS = ((1, 1, ""), (2, 1, ""), (8, 1, ""), (8, 4, "rack"))
"""GPUs of a pod, pods, and the level that the pods must share."""

TRACE = "name,submit_s,duration_s,gpus,pods,required_level,tenant\n" + "".join(
    f"job-{i},{i * 30},{600 + 40 * i},{gpus},{pods},{level},t{i % 2}\n"
    for i, (gpus, pods, level) in enumerate(KINDS * 15)
)
FLEET = """\
apiVersion: muster.dev/v1alpha1
kind: Fleet
metadata: {name: tiny}
spec:
  levels: [rack]
  domains:
    - {name: rack, level: rack, count: 2, nodes: [{machine: hgx-h100, count: 4}]}
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "jobs.csv").write_text(TRACE)
    (tmp_path / "fleet.yaml").write_text(FLEET)
    return tmp_path


def call(*arguments: object) -> tuple[int, str, str]:
    """Run a command in this process; return exit code, stdout and stderr."""
    code = 0

    def run() -> None:
        nonlocal code
        code = cli.main([str(argument) for argument in arguments])

    runner = CliRunner()
    with runner.isolation() as (out, err, _):
        run()
        return code, out.getvalue().decode(), err.getvalue().decode()


def replay(files: Path, *more: object) -> tuple[int, str, str]:
    return call("replay", files / "jobs.csv", "--fleet", files / "fleet.yaml", *more)


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_has_help_with_an_example(name: str) -> None:
    code, out, _ = call(name, "--help")
    assert code == 0
    assert f"muster-sim {name}" in out


def test_help_lists_the_commands_without_loading_them() -> None:
    script = (
        "import sys; from simulator import cli; cli.main(['--help']); print([m for m in sys.modules if 'plotlib' in m])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.rstrip().endswith("[]")
    assert all(name in out for name in cli.COMMANDS)


def test_replay_prints_tables_and_json_that_agree(files: Path) -> None:
    code, out, _ = replay(files)
    assert code == 0
    assert "Wait by job size" in out
    code, out, err = replay(files, "--json")
    result = json.loads(out)
    assert (code, err) == (0, "")
    assert result["partial"] == ""
    assert result["gangs"]["total"] == result["gangs"]["whole"] == 15
    assert result["measures"]["jobs not finished"] == 0


def test_replay_writes_report_jobs_series_and_log(files: Path) -> None:
    out = files / "deep" / "out"
    assert replay(files, "--out", out)[0] == 0
    names = {path.name for path in out.iterdir()}
    assert names == {
        "decisions.jsonl",
        "jobs.csv",
        "jobs.parquet",
        "plots",
        "report.html",
        "result.json",
        "series.csv",
        "series.parquet",
    }
    jobs = pl.read_parquet(out / "jobs.parquet")
    assert jobs.equals(pl.read_csv(out / "jobs.csv", schema=jobs.schema))
    assert jobs.height == 60
    assert jobs.filter(pl.col("wait_s") > 0)["waited_for"].null_count() == 0, "a job waited without a reason"
    starts = [
        line
        for line in map(json.loads, (out / "decisions.jsonl").read_text().splitlines())
        if line["effect"] == "Start"
    ]
    assert len(starts) == 60
    assert (jobs["end_s"] >= jobs["start_s"]).all()
    assert [p.name for p in files.joinpath("deep").iterdir()] == ["out"], "temporary folders are left"


@pytest.mark.slow
def test_replay_is_byte_identical_across_processes_and_hash_seeds(files: Path) -> None:
    outs = []
    for seed in ("0", "1"):
        out = files / f"out-{seed}"
        command = [
            sys.executable,
            "-m",
            "simulator.cli",
            "replay",
            "jobs.csv",
            "--fleet",
            "fleet.yaml",
            "--out",
            str(out),
        ]
        subprocess.run(command, cwd=files, env=environment(PYTHONHASHSEED=seed), check=True, capture_output=True)
        outs.append({p.relative_to(out): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()})
    assert outs[0].keys() == outs[1].keys()
    assert [name for name in outs[0] if outs[0][name] != outs[1][name]] == []


def environment(**more: str) -> dict[str, str]:
    root = Path(cli.__file__).parents[1]
    return {**os.environ, "PYTHONPATH": str(root), **more}


BAD = [
    ("jobs.csv", TRACE.replace("job-3,90", "job-3,minus"), ["jobs.csv", "line 5", "submit_s", "minus"]),
    ("jobs.csv", TRACE.replace("job-3,90", "job-2,90"), ["jobs.csv", "line 5", "job-2"]),
    ("jobs.csv", TRACE.replace(",tenant\n", ",colour\n"), ["jobs.csv", "line 1", "colour", "known columns"]),
    ("jobs.csv", TRACE.replace("job-3,90,720,8", "job-3,90,720,-8"), ["jobs.csv", "line 5", "gpus", "-8"]),
    ("jobs.csv", "", ["jobs.csv", "empty"]),
    ("jobs.csv", "PAR1 and then nothing", ["jobs.csv"]),
    ("fleet.yaml", FLEET.replace("hgx-h100", "hgx-h1000"), ["fleet.yaml", "line 7", "machine", "hgx-h1000"]),
    ("fleet.yaml", FLEET.replace("count: 2", "colour: 2"), ["fleet.yaml", "line 7", "colour"]),
    ("fleet.yaml", FLEET + "  - [", ["fleet.yaml", "line"]),
]


@pytest.mark.parametrize(("name", "content", "words"), BAD)
def test_bad_input_gives_one_message_code_2_and_no_files(
    files: Path, name: str, content: str, words: list[str]
) -> None:
    (files / name).write_text(content)
    before = sorted(files.rglob("*"))
    code, out, err = replay(files, "--out", files / "out")
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    assert all(word in err for word in words), err
    assert sorted(files.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--policy", "nix"], "nix"),
        (["--queue", "lifo"], "lifo"),
        (["--load", "-1"], "--load"),
        (["--runtime", "magic"], "magic"),
        (["--quota", "absent.yaml"], "absent.yaml"),
        (["--out", "{files}"], "holds other files"),
        (["--out", "{files}/jobs.csv"], "is a file"),
        (["--head", "0"], "--head"),
    ],
)
def test_bad_options_are_told_before_anything_runs(files: Path, arguments: list[str], word: str) -> None:
    code, _, err = replay(files, *(argument.format(files=files) for argument in arguments))
    assert code == 2
    assert word in err
    assert "Traceback" not in err


def test_an_unknown_policy_key_names_file_line_and_field(files: Path) -> None:
    mine = files / "mine.yaml"
    text = call("policy", "show", "muster")[1]
    mine.write_text(text.replace("rule: opportunity-cost", "rule: opportunity-cost\n    colour: 3", 1))
    code, _, err = call("policy", "validate", mine)
    assert code == 2
    assert all(word in err for word in ("mine.yaml", "line", "colour"))
    mine.write_text(text)
    assert call("policy", "validate", mine)[0] == 0


def test_a_gang_larger_than_the_cluster_is_told_or_on_demand_refused_with_a_true_reason(files: Path) -> None:
    (files / "jobs.csv").write_text("name,submit_s,duration_s,gpus,pods\nhuge,0,60,8,999\nsmall,1,60,1,1\n")
    code, out, err = replay(files)
    assert (code, out) == (2, "")
    assert all(word in err for word in ("jobs.csv", "line 2", "gpus", "7992", "64 GPUs")), err
    code, out, _ = replay(files, "--json", "--keep-impossible")
    result = json.loads(out)
    assert code == 0
    assert "huge" in result["blocked"]
    assert "GangLargerThanCluster" in result["blocked"]["huge"]
    assert result["gangs"] == {"whole": 0, "reduced": 0, "refused": 1, "waiting": 0, "unexplained": 0, "total": 1}


def test_results_replace_older_results_but_nothing_else(files: Path) -> None:
    out = files / "out"
    assert replay(files, "--out", out)[0] == 0
    assert replay(files, "--out", out, "--head", 5)[0] == 0
    assert pl.read_parquet(out / "jobs.parquet").height == 5


@pytest.mark.slow
def test_interrupt_leaves_a_valid_partial_result_that_says_so(files: Path) -> None:
    out = files / "out"
    command = [
        sys.executable,
        "-m",
        "simulator.cli",
        "replay",
        "demo",
        "--fleet",
        "demo",
        "--validate",
        "--out",
        str(out),
    ]
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    part = files / ".out.part" / ""
    for _ in range(600):
        if any(part.glob(".decisions.jsonl.*")) and next(part.glob(".decisions.jsonl.*")).stat().st_size > 0:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "partial" in stderr
    assert "PARTIAL" in stdout
    result = json.loads((out / "result.json").read_text())
    assert "interrupted" in result["partial"]
    assert "Partial result" in (out / "report.html").read_text()
    names = {path.name for path in out.iterdir()}
    assert "jobs.partial.parquet" in names
    assert not {"jobs.parquet", "jobs.csv", "decisions.jsonl"} & names, "a partial file bears the name of a whole one"
    assert {"finished", "absent"} <= set(pl.read_parquet(out / "jobs.partial.parquet")["state"])


def test_compare_pairs_the_seeds_and_names_the_first_divergent_decision(files: Path) -> None:
    more = [
        "--fleet",
        files / "fleet.yaml",
        "--policy",
        "muster",
        "--policy",
        "least-allocated",
        "--policy",
        "muster-2",
    ]
    (files / "muster-2.yaml").write_text(call("policy", "show", "muster")[1].replace("name: muster", "name: twin"))
    more[-1] = files / "muster-2.yaml"
    code, out, _ = call("compare", files / "jobs.csv", *more, "--seeds", 3, "--out", files / "cmp", "--json")
    result = json.loads(out)
    assert code == 0
    assert result["seeds"] == [0, 1, 2]
    assert all(len(samples) == 3 for samples in result["samples"].values())
    twin = result["divergences"][1]
    assert twin["first_divergent_decision"] is None
    assert twin["changed_jobs"] == []
    assert all(gap["mean"] == gap["low"] == gap["high"] == 0 for gap in result["differences"]["twin"].values())
    other = result["divergences"][0]["first_divergent_decision"]
    mine, theirs = other["lines"]
    assert mine["pods"] != theirs["pods"] or mine["gang"] != theirs["gang"] or mine["t"] != theirs["t"]
    assert {p.name for p in (files / "cmp").glob("*decisions*")} == {
        "muster-decisions.jsonl",
        "least-allocated-decisions.jsonl",
        "twin-decisions.jsonl",
    }


@pytest.mark.slow
def test_compiled_code_decides_as_the_engine(files: Path) -> None:
    measures = []
    for backend in ("numpy", "compiled"):
        code, out, err = replay(files, "--runtime", "none", "--backend", backend, "--json")
        assert code == 0, err
        measures.append(json.loads(out)["measures"])
    assert measures[0] == pytest.approx(measures[1])
    code, _, err = replay(files, "--backend", "compiled")
    assert code == 2
    assert "--backend compiled" in err


def test_compare_refuses_one_policy_and_two_of_one_name(files: Path) -> None:
    fleet = ["--fleet", files / "fleet.yaml"]
    assert call("compare", files / "jobs.csv", *fleet, "--policy", "muster")[0] == 2
    code, _, err = call("compare", files / "jobs.csv", *fleet, "--policy", "muster", "--policy", "muster")
    assert code == 2
    assert "same name" in err


def test_explain_tells_what_the_replay_decided(files: Path) -> None:
    assert replay(files, "--out", files / "out")[0] == 0
    log = [json.loads(line) for line in (files / "out" / "decisions.jsonl").read_text().splitlines()]
    for name in ("job-3", "job-42", "job-59"):
        code, out, _ = call("explain", files / "jobs.csv", "--fleet", files / "fleet.yaml", "--job", name, "--json")
        story = json.loads(out)
        start = next(line for line in log if line["gang"] == name and line["effect"] == "Start")
        assert code == 0
        assert story["placed"]
        assert story["history"] == [line for line in log if line["gang"] == name][: len(story["history"])]
        assert story["compared"][0]["domain"] == start["domain"]
        terms = story["compared"][0]["terms"]
        if "cost" in start["terms"]:  # a lone pod: the log has the sum, the story its parts
            assert "value" in terms and "cost" not in terms
            terms = {"cost": sum(terms.values())}
        assert terms == start["terms"], "deciding again gives another price"


def test_explain_of_an_unknown_job_names_near_ones(files: Path) -> None:
    code, _, err = call("explain", files / "jobs.csv", "--fleet", files / "fleet.yaml", "--job", "JOB-59x")
    assert code == 2
    assert "JOB-59x" in err
    code, _, err = call("explain", files / "jobs.csv", "--fleet", files / "fleet.yaml", "--job", "B-59")
    assert "job-59" in err


def test_fleet_export_loads_again_as_the_same_fleet(files: Path) -> None:
    for name in ("demo", files / "fleet.yaml"):
        copy = files / "copy.yaml"
        assert call("fleet", "export", name, "--output", copy)[0] == 0
        original, again = (call("fleet", "export", source, "--format", "json")[1] for source in (name, copy))
        assert json.loads(original) == json.loads(again)
        assert call("fleet", "show", name, "--json")[1] == call("fleet", "show", copy, "--json")[1]


def test_fleet_commands_show_tree_and_validate(files: Path) -> None:
    assert "8 × " not in call("fleet", "tree", files / "fleet.yaml")[1]
    assert "4 × hgx-h100" in call("fleet", "tree", files / "fleet.yaml")[1]
    assert "8 nodes, 64 GPUs" in call("fleet", "validate", files / "fleet.yaml")[1]
    assert call("fleet", "export", files / "fleet.yaml", "--format", "dot")[1].startswith("digraph")


def test_trace_converts_between_csv_and_parquet(files: Path) -> None:
    assert call("trace", "convert", files / "jobs.csv", files / "jobs.parquet")[0] == 0
    assert call("trace", "convert", files / "jobs.parquet", files / "again.csv")[0] == 0
    summaries = [json.loads(call("trace", "summary", files / f, "--json")[1]) for f in ("jobs.csv", "again.csv")]
    for made in summaries:
        del made["sha256"], made["name"]
    assert summaries[0] == summaries[1]
    assert call("trace", "convert", files / "jobs.csv", files / "jobs.txt")[0] == 2


def test_trace_generate_is_seeded(files: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert call("trace", "generate", "demo", files / f"{name}.csv", "--seed", seed)[0] == 0
    a, b, c = ((files / f"{name}.csv").read_bytes() for name in "abc")
    assert a == b != c
