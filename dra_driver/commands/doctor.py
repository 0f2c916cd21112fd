"""The command ``doctor``: what would keep the driver from working on this node."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence

import click
import rich.console
import rich.table

from dra_driver import config as settings
from dra_driver import examination


def run(config: settings.Config, as_json: bool) -> None:
    """Print the findings; ends the process with 1 where one of them is a failure."""
    found = list(examination.examine(config))
    if as_json:
        click.echo(json.dumps([{**dataclasses.asdict(one), "verdict": one.verdict.value} for one in found], indent=1))
    else:
        rich.console.Console(width=200, highlight=False).print(_table(found))
    if any(one.verdict is examination.Verdict.FAIL for one in found):
        sys.exit(1)


def _table(found: Sequence[examination.Finding]) -> rich.table.Table:
    table = rich.table.Table("", "", "found", "remedy", box=None, pad_edge=False)
    for one in found:
        table.add_row(one.verdict.value, one.what, one.found, one.remedy)
    return table
