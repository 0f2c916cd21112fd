"""The command prints the matrix, JSON and DOT of a rendered machine."""

import json
from pathlib import Path

import click.testing
import pytest

from dra_driver.commands import discover
from scheduler.model import machines
from tests.hardware import library, machine, sysfs


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found = machines.build("dgx-1v", "node-a")
    monkeypatch.setenv("MUSTER_NVML_STATE", str(machine.render(found, tmp_path)))
    sysfs.render(found, tmp_path / "root")
    return ["--root", str(tmp_path / "root"), "--library", str(library.folder() / library.NAME)]


def run(arguments: list[str]) -> str:
    result = click.testing.CliRunner().invoke(discover.discover, arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_prints_the_matrix(arguments: list[str]) -> None:
    rows = {line.split()[0]: line.split()[1:] for line in run(arguments).splitlines()[1:]}
    assert rows["GPU0"][:12] == ["X", "NV1", "NV1", "NV2", "NV2", "SYS", "SYS", "SYS", "PIX", "PHB", "SYS", "SYS"]
    assert rows["NIC0"][0] == "PIX"


def test_prints_json_and_pictures(arguments: list[str]) -> None:
    assert len(json.loads(run([*arguments, "--json"]))["topology"]["gpus"]) == 8
    assert run([*arguments, "--dot"]).startswith('graph "node" {')
    assert "NUMA 1" in run([*arguments, "--tree"])


def test_says_that_there_is_no_driver(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUSTER_NVML_STATE")
    result = click.testing.CliRunner().invoke(discover.discover, arguments)
    assert result.exit_code == 1
    assert "NVML: nvmlInit: Driver Not Loaded" in result.output
