"""``muster-sim replay --audit``: decide again what a live scheduler decided, and compare."""

from pathlib import Path

import click

from scheduler.record import replay as record
from simulator.commands import console


def replay(folder: Path) -> int:
    """Replay the newest decision log of a folder; exit code 0 when every byte is the same, 1 otherwise."""
    found = record.replay(folder)
    click.echo(
        f"log {found.term}: {found.events} events, {found.starts} starts, {found.refusals} refusals, "
        f"{found.evictions} evictions"
    )
    if found.difference is None:
        click.echo("every decision came out as it was written, byte for byte")
        return 0
    console.terminal().print(
        f"line {found.difference.number} differs:\n  written {found.difference.written[:2000]}\n"
        f"  decided {found.difference.decided[:2000]}",
        markup=False,
    )
    return 1
