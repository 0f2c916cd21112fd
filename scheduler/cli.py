"""The command ``muster-scheduler``."""

import asyncio
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
import pydantic
import structlog
import yaml

from scheduler import app, bad_input
from scheduler import config as configs
from scheduler.apiserver import access, errors

MAX_FILE = 1 << 20
STOPPING = (bad_input.BadInput, access.KubeconfigError, errors.ApiError, TimeoutError, OSError)
"""What keeps the scheduler from working and is told in a sentence; anything else is a defect and keeps its traceback."""


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
    unknown = set(found) - set(configs.Config.model_fields)
    if unknown:
        raise click.BadParameter(f"{path}: unknown settings {', '.join(sorted(unknown))}")
    context.default_map = {**(context.default_map or {}), **found}


def settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command an option for each setting."""
    for name, field in reversed(configs.Config.model_fields.items()):
        flag = f"--{name.replace('_', '-')}"
        declared = f"{flag}/--no-{name.replace('_', '-')}" if field.annotation is bool else flag
        choice = click.Choice(get_args(field.annotation)) if get_origin(field.annotation) is Literal else None
        command = click.option(
            declared,
            name,
            envvar=f"MUSTER_{name.upper()}",
            default=field.default,
            type=choice,
            show_default=True,
            help=field.description,
        )(command)
    file = click.Path(exists=True, dir_okay=False, path_type=Path)
    return click.option(
        "--config",
        type=file,
        is_eager=True,
        expose_value=False,
        callback=_file,
        envvar="MUSTER_CONFIG",
        help="YAML file of settings; options and variables win.",
    )(command)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="muster-scheduler", prog_name="muster-scheduler")
def group() -> None:
    """Place gangs of GPU pods on the right devices of a cluster, beside a stock kube-scheduler."""


@group.command()
@settings
def run(**values: Any) -> None:
    """Run the scheduler until SIGTERM."""
    try:
        found = configs.Config.model_validate(values)
    except pydantic.ValidationError as error:
        raise click.UsageError("; ".join(_fault(fault) for fault in error.errors())) from error
    log_to_stderr(found.log_level)
    asyncio.run(app.main(found))


def _fault(fault: Any) -> str:
    option = "--" + str(fault["loc"][0]).replace("_", "-") + ": " if fault["loc"] else ""
    return f"{option}{fault['msg']}"


def log_to_stderr(level: str) -> None:
    """Log lines of JSON, which every log collector reads."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    try:
        group.main(args=arguments, prog_name="muster-scheduler", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        return 130
    except ExceptionGroup as found:
        known, defects = found.split(STOPPING)
        if defects is not None:
            raise defects from None
        return _tell(known.exceptions if known else ())
    except STOPPING as error:
        return _tell((error,))
    return 0


def _tell(problems: Sequence[BaseException]) -> int:
    """Say in a sentence what keeps the scheduler from working."""
    for one in problems:
        if isinstance(one, ExceptionGroup):
            _tell(one.exceptions)
        else:
            click.echo(f"muster-scheduler: {str(one) or type(one).__name__}", err=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
