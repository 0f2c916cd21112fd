"""The demonstration needs nothing and leaves a report."""

import json
import time
from pathlib import Path

from scheduler.model import machines
from simulator import cli, demo


def test_demo_fleet_has_several_machines_and_an_nvl72_rack() -> None:
    kinds = [machine.machine for machine in demo.build().fleet.nodes()]
    assert len(set(kinds)) >= 2
    assert kinds.count("gb200-nvl72") == machines.TRAYS_PER_RACK


def test_demo_workload_mixes_gangs_shares_partitions_and_pools() -> None:
    trace = demo.build().trace(0)
    kinds = {role.request.kind.value for shape in trace.shapes for role in shape.gang.roles}
    assert {"share", "mig", "whole"} <= kinds
    assert max(shape.gang.size for shape in trace.shapes) >= 8
    assert {"chat", "agents"} <= set(trace.tenants)


def test_demo_writes_the_report_in_under_a_minute(tmp_path: Path) -> None:
    begin = time.perf_counter()
    assert cli.main(["demo", "--out", str(tmp_path / "demo"), "--seeds", "1", "--jobs", "300", "--json"]) == 0
    assert time.perf_counter() - begin < 60
    result = json.loads((tmp_path / "demo" / "result.json").read_text())
    assert result["policies"] == list(demo.POLICIES)
    report = (tmp_path / "demo" / "report.html").read_text()
    assert all(name in report for name in demo.POLICIES)
