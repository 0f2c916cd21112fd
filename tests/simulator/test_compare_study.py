"""The openb study: published table, conformance, cuts; on small lists of our own and, where present, the real table."""

import os
from pathlib import Path

import pytest

from scheduler import policies
from simulator import cli, published, study
from simulator.trace import job

GPUS = ((1, 1000), (1, 460), (1, 810), (0, 0), (1, 250), (2, 1000), (1, 1000))
"""GPUs and milli of a pod."""

TRACES = Path(os.environ.get("MUSTER_TRACES", Path(__file__).parents[3] / "shared" / "traces"))

TABLE = """\
workload,sc_policy,100_mean,130_mean,100_std,130_std
tiny,06-FGD,4.5,4.0,0.1,0.1
tiny,05-BestFit,7.5,7.0,0.1,0.1
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    nodes = [f"node-{i:02},{(64000, 96000)[i % 2]},393216,{(2, 8)[i % 2]},{('T4', 'G2')[i % 2]}" for i in range(24)]
    (tmp_path / study.NODE_LIST).write_text("\n".join(("sn,cpu_milli,memory_mib,gpu,model", *nodes)) + "\n")
    pods = [f"pod-{i:03},{4000 + 500 * (i % 9)},8192,{GPUS[i % 7][0]},{GPUS[i % 7][1]}" for i in range(210)]
    (tmp_path / "openb_pod_list_tiny.csv").write_text(
        "\n".join(("name,cpu_milli,memory_mib,num_gpu,gpu_milli", *pods)) + "\n"
    )
    (tmp_path / "published.csv").write_text(TABLE)
    return tmp_path


@pytest.mark.slow
def test_study_runs_every_policy_on_every_workload_and_seed(folder: Path) -> None:
    chosen = [policies.load(name) for name in ("fgd", "muster")]
    made = study.run(folder, chosen, range(42, 45))
    assert list(made.cells()) == [("tiny", "fgd"), ("tiny", "muster")]
    assert all(len(made.at("tiny", name, load)) == 3 for name in ("fgd", "muster") for load in study.LOADS)
    again = study.run(folder, chosen, range(42, 45))
    assert made.at("tiny", "muster", 130) == again.at("tiny", "muster", 130)


def test_a_policy_saves_nothing_against_itself(folder: Path) -> None:
    made = study.run(folder, [policies.load("fgd")], range(42, 46))
    share, interval = study.cut(made, "fgd", "fgd", 130, "tiny")
    assert (share, interval.half_width) == (0, 0)
    assert study.mean_cut(made, "fgd", "fgd", 130).mean == 0


def test_largest_deviation_names_the_workload() -> None:
    ours = {("a", "fgd", 100): [4.0, 5.0], ("b", "fgd", 100): [3.0], ("b", "fgd", 130): [99.0]}
    theirs = {("a", "fgd", 100): published.Cell(4.4, 0.1), ("b", "fgd", 100): published.Cell(3.5, 0.1)}
    assert published.largest_deviation(ours, theirs, "fgd", 100) == (-0.5, "b")
    with pytest.raises(ValueError, match="no published figure"):
        published.largest_deviation(ours, theirs, "fgd", 130)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("06-FGD", "07-FGD"), ["line 2", "sc_policy", "07-FGD"]),
        (("05-BestFit", "06-FGD"), ["line 3", "twice"]),
        (("7.5", "175"), ["line 3", "100_mean", "175"]),
        (("sc_policy", "policy"), ["line 1", "sc_policy"]),
    ],
)
def test_a_malformed_published_table_names_line_and_field(
    folder: Path, change: tuple[str, str], words: list[str]
) -> None:
    (folder / "published.csv").write_text(TABLE.replace(*change))
    with pytest.raises(job.TraceError) as caught:
        published.read(folder / "published.csv")
    assert all(word in str(caught.value) for word in ("published.csv", *words))


@pytest.mark.slow
def test_openb_table_prints_figures_deviations_and_refusals(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["openb-table", str(folder), "--seeds", "2", "--published", str(folder / "published.csv")]
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("Unallocated GPU (%)", "Conformance", "muster against fgd", "Refused pods"))
    assert cli.main(["openb-table", str(folder / "absent")]) == 2
    assert "not a folder" in capsys.readouterr().err
    assert cli.main([*arguments, "--workloads", "nix"]) == 2
    assert "nix" in capsys.readouterr().err


@pytest.mark.skipif(not (TRACES / "openb" / "published").is_dir(), reason="the published table is not here")
def test_the_real_published_table_reads() -> None:
    table = published.read(TRACES / "openb" / "published" / "unallocated_gpu_percent.csv")
    assert table["default", "fgd", 100].mean == pytest.approx(4.77, abs=0.01)
    assert {name for _, name, _ in table} == set(published.POLICIES.values())
