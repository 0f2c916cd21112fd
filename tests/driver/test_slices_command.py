"""The command slices prints what is published."""

import json
from pathlib import Path

import pytest
from click import testing

from dra_driver import cli
from scheduler.model import machines
from tests.hardware import library, machine, sysfs


@pytest.mark.parametrize("kind", ["dgx-1v", "hgx-h100"])
def test_it_prints_every_gpu(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = machines.build(kind, "node-a")
    sysfs.render(built, tmp_path / "root")
    monkeypatch.setenv("MUSTER_NVML_STATE", str(machine.render(built, tmp_path)))
    given = [
        "--root",
        str(tmp_path / "root"),
        "--library",
        str(library.folder() / library.NAME),
        "--node-name",
        "node-a",
    ]
    run = testing.CliRunner().invoke
    found = run(cli.main, ["slices", "--dry-run", "--json", *given])
    assert found.exit_code == 0, found.output
    names = {one["name"] for item in json.loads(found.stdout) for one in item["spec"]["devices"]}
    assert {gpu.name for gpu in built.gpus} <= names
    text = run(cli.main, ["slices", "--dry-run", *given]).stdout
    assert all(f"  {name}: " in text for name in names)
    assert run(cli.main, ["slices", *given]).exit_code == 2
