"""The command prints the matrix, JSON and DOT of a rendered machine."""

import json
import xml.etree.ElementTree
from dataclasses import replace
from pathlib import Path

import click.testing
import pytest

from dra_driver.commands import discover
from scheduler.model import device, machines
from tests.hardware import library, machine, sysfs


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    card = device.Accelerator(0, "npu", "Gaudi3", "0000:e2:00.0", "", "pci0000:e0", 1)
    found = replace(machines.build("dgx-1v", "node-a"), accelerators=(card,))
    monkeypatch.setenv("MUSTER_NVML_STATE", str(machine.render(found, tmp_path)))
    sysfs.render(found, tmp_path / "root")
    return ["--root", str(tmp_path / "root"), "--library", str(library.folder() / library.NAME)]


def run(arguments: list[str]) -> str:
    result = click.testing.CliRunner().invoke(discover.command, arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_prints_the_matrix(arguments: list[str]) -> None:
    rows = {line.split()[0]: line.split()[1:] for line in run(arguments).splitlines()[1:] if line}
    assert rows["GPU0"][:12] == ["X", "NV1", "NV1", "NV2", "NV2", "SYS", "SYS", "SYS", "PIX", "PHB", "SYS", "SYS"]
    assert rows["NIC0"][0] == "PIX"
    assert rows["ACC0"][:5] == ["SYS", "SYS", "SYS", "SYS", "NODE"] and rows["ACC0"][-3:] == [
        "0000:e2:00.0",
        "npu",
        "Gaudi3",
    ]
    assert rows["GPU0"][13:15] == ["0-39", "0"] and rows["GPU7"][13:15] == ["40-79", "1"]


def test_prints_json_and_pictures(arguments: list[str]) -> None:
    assert len(json.loads(run([*arguments, "--json"]))["topology"]["gpus"]) == 8
    assert run([*arguments, "--dot"]).startswith('graph "node" {')
    tree = run([*arguments, "--tree"])
    assert "NUMA 1" in tree and "npu Gaudi3" in tree
    drawn = run([*arguments, "--svg"])
    assert drawn == run([*arguments, "--svg"]), "the same byte for byte"
    top = xml.etree.ElementTree.fromstring(drawn)
    texts = [one.text or "" for one in top.iter("{http://www.w3.org/2000/svg}text")]
    assert len([text for text in texts if text.startswith("NV")]) == 16 and "Gaudi3" in texts and "NUMA 1" in texts


def test_says_that_there_is_no_driver(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUSTER_NVML_STATE")
    result = click.testing.CliRunner().invoke(discover.command, arguments)
    assert result.exit_code == 1
    assert "NVML: nvmlInit: Driver Not Loaded" in result.output
