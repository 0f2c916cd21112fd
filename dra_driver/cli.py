"""The command ``muster-dra-driver``."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pydantic
import yaml
from click import core

from dra_driver import app, checkpoint, leaving, mig, sockets
from dra_driver.commands import doctor, health
from dra_driver.config import Config
from dra_driver.probe import host, late, pci, roots
from scheduler.apiserver import access

MAX_FILE = 1024 * 1024
STOPPING = (mig.HardwareError, sockets.SocketError, checkpoint.CheckpointError, access.KubeconfigError, OSError)
"""What keeps the driver from working and is told in a sentence; anything else is a defect and told with its traceback."""


def _file(context: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Take defaults from a YAML file; options and variables win."""
    if path is None:
        return
    if path.stat().st_size > MAX_FILE:
        raise click.BadParameter(f"{path}: more than {MAX_FILE} bytes")
    try:
        found = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise click.BadParameter(f"{path}: {error}") from error
    unknown = set(found) - set(Config.model_fields)
    if unknown:
        raise click.BadParameter(f"{path}: unknown settings {', '.join(sorted(unknown))}")
    context.default_map = {**(context.default_map or {}), **found}


def settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command an option for each setting; its variable is ``MUSTER_`` with the setting's name."""
    for name, field in reversed(Config.model_fields.items()):
        default = None if field.is_required() else field.default
        flag = f"--{name.replace('_', '-')}"
        declared = f"{flag}/--no-{name.replace('_', '-')}" if isinstance(default, bool) else flag
        command = click.option(
            declared,
            name,
            envvar=f"MUSTER_{name.upper()}",
            default=default,
            show_default=True,
        )(command)
    file = click.Path(exists=True, dir_okay=False, path_type=Path)
    return click.option(
        "--config", type=file, is_eager=True, expose_value=False, callback=_file, envvar="MUSTER_CONFIG"
    )(command)


def configured(values: dict[str, Any], here: str = "") -> Config:
    """Check the settings; `here` names the node where nothing is published under its name."""
    if values["node_name"] is None:
        if not here:
            raise click.UsageError("--node-name is missing: give the name of the Node object of this machine")
        values = {**values, "node_name": here}
    try:
        return Config.model_validate(values)
    except pydantic.ValidationError as error:
        said = "; ".join(f"--{str(e['loc'][0]).replace('_', '-')}: {e['msg']}" for e in error.errors())
        raise click.UsageError(said) from error


class Commands(click.Group):
    """Loads what only a person asks for when it is asked for: graphs and tables are not for the memory of `run`."""

    LATER = ("discover", "slices")

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *self.LATER])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.LATER:
            return super().get_command(ctx, cmd_name)
        found: click.Command = importlib.import_module(f"dra_driver.commands.{cmd_name}").command
        return found


@click.group(cls=Commands, context_settings={"max_content_width": 120})
@click.version_option(package_name="muster-scheduler")
def main() -> None:
    """Muster's DRA driver: GPUs, MIG devices, NICs and other accelerators of one node."""


@main.command()
@settings
def run(**values: Any) -> None:
    """Serve the kubelet of this node until SIGTERM."""
    config = configured(values)
    app.set_up_logs(config.log_level)
    with leaving.whatever_hangs():
        _serve(config)


def _serve(config: Config) -> None:
    try:
        _ = config.sockets, pci.mapping(config.accelerators or pci.MAPPING)  # told before anything is started
        root = roots.Root(config.root)
        probe = late.LateProbe(
            lambda: host.probe(root, config.node_name, config.library, config.accelerators, config.driver_root)
        )
        asyncio.run(app.run(config, probe))
    except (*STOPPING, ValueError) as error:
        raise click.ClickException(str(error)) from error
    except BaseExceptionGroup as group:
        known, others = group.split(STOPPING)
        if known is None or others is not None:
            raise
        raise click.ClickException("; ".join(str(error) for error in _leaves(known))) from group


def _leaves(group: BaseExceptionGroup[Any]) -> Iterator[BaseException]:
    """Yield the errors of a group and of the groups in it."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


@main.group("checkpoint")
def checkpoint_group() -> None:
    """What is prepared on this node."""


@checkpoint_group.command("show")
@settings
def show(**values: Any) -> None:
    """Print the checkpoint file, and say whether it is in order."""
    store = checkpoint.Store(configured(values, "this-node").folder)
    if not store.path.exists():
        raise click.ClickException(f"{store.path} does not exist; nothing was ever prepared")
    try:
        click.echo(checkpoint.show(store.path))
        store.read()
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error


@main.group("health", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
@settings
@click.pass_context
def health_group(context: click.Context, /, as_json: bool, **values: Any) -> None:
    """Print the faults of each GPU: how bad, since when, and what ends them."""
    if context.invoked_subcommand is None:
        health.show(configured(values, "this-node"), as_json)
        return
    for option in context.command.params:
        if context.get_parameter_source(str(option.name)) is core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{option.opts[0]} belongs after {context.invoked_subcommand}")


@health_group.command("clear")
@click.argument("gpu")
@click.option("--wait", "wait_s", type=click.FloatRange(0, 3600), default=60, show_default=True, help="Seconds.")
@settings
def clear(gpu: str, wait_s: float, **values: Any) -> None:
    """End the faults of GPU (name or UUID) that only events told, after a reset that the driver could not see."""
    health.clear(configured(values, "this-node"), gpu, wait_s)


@main.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="The findings as JSON.")
@settings
def doctor_command(as_json: bool, **values: Any) -> None:
    """Say what would keep the driver from working on this node; ends with 1 if anything would."""
    doctor.run(configured(values, "this-node"), as_json)
