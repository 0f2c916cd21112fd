"""``muster-sim``: the command group, its exit codes, and how bad input is told.

Exit codes: 0 done, 2 bad input (one message, nothing half-written), 130 interrupted with a result that says so.
"""

import importlib
import os
import sys
from collections.abc import Sequence

import click

from simulator.commands import console

COMMANDS = {
    "replay": ("replay", "Replay a trace on a fleet: where every job went, and why what waited had to wait."),
    "compare": ("compare", "Compare policies on the same jobs and seeds, with confidence intervals."),
    "explain": ("explain", "Explain one job's decision: score terms, runner-up domains, refusals."),
    "openb-table": ("openb_table", "Run the published openb packing experiment beside its published table."),
    "fleet": ("fleet", "Show, draw, export or validate a fleet."),
    "trace": ("trace", "Summarise, convert or generate traces."),
    "policy": ("policy", "List, show or validate scoring policies."),
    "demo": ("demo", "Replay a built-in fleet and workload under three policies and write the report."),
}


class Commands(click.Group):
    """Loads a command's module when it is called: help stays quick though plots and tables are heavy to import."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the manual."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module that holds the command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"simulator.commands.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, words) for name, (_, words) in COMMANDS.items()])


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="muster-scheduler", prog_name="muster-sim")
def group() -> None:
    """Replay traces on a fleet with the very engine that places gangs on a live cluster.

    \b
    muster-sim demo
    muster-sim replay cluster04.csv --fleet fleet.yaml --out out/
    muster-sim compare cluster04.csv --fleet fleet.yaml --policy muster --policy fgd --seeds 10
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        code = group.main(args=arguments, prog_name="muster-sim", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return 2
    except console.BAD_INPUT as error:
        click.echo(f"muster-sim: {console.words(error)}", err=True)
        return 2
    except console.Interrupted:
        return 130
    except (click.Abort, KeyboardInterrupt):
        click.echo("muster-sim: interrupted; nothing was written", err=True)
        return 130
    except BrokenPipeError:
        # The reader of our output went away (`| head`): point stdout elsewhere so that the exit does not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    sys.exit(main())
