"""The simulator's command over a live log."""

from pathlib import Path

import pytest

from scheduler.record import journal
from simulator import cli
from tests.record import test_replay


def test_the_same_decisions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test_replay.run(tmp_path, 1)
    assert cli.main(["replay", "--audit", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "log t1: 120 events" in out and "byte for byte" in out


def test_another_decision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test_replay.run(tmp_path, 1)
    path = journal.parts(tmp_path, "t1")[0]
    path.write_bytes(path.read_bytes().replace(b'"kind":"Wait"', b'"kind":"Wail"', 1))
    assert cli.main(["replay", "--audit", str(tmp_path)]) == 1
    assert "differs" in capsys.readouterr().out


def test_no_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["replay", "--audit", str(tmp_path)]) == 2
    assert "no decision log" in capsys.readouterr().err
