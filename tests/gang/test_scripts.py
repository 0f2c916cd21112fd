"""The decision machine by example: scripts of commands with the whole state after each.

`MUSTER_REWRITE=1` writes what the machine says into the scripts; read the difference before keeping it.
"""

import os
from pathlib import Path

import pytest

from tests.gang import script

FOLDER = Path(__file__).resolve().parents[1] / "scripts"
SCRIPTS = sorted(FOLDER.glob("*.txt"))


def replayed(text: str) -> str:
    """Run a script; return it with the answers that its commands get now."""
    session, out = script.Session(), []
    for block in text.strip().split("\n\n"):
        given = block.split("\n----", 1)[0]
        commands = [line for line in given.splitlines() if line and not line.startswith("#")]
        answers = [session.run(line) for line in commands]
        out.append("\n".join([given, "----", *answers]) if commands else given)
    return "\n\n".join(out) + "\n"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script_says_what_it_said(path: Path) -> None:
    text = path.read_text()
    now = replayed(text)
    if os.environ.get("MUSTER_REWRITE"):
        path.write_text(now)
    else:
        assert now == text


def test_scripts_exist() -> None:
    assert len(SCRIPTS) >= 12
