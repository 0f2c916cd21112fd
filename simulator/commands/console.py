"""What the commands share: which errors are the user's, the terminal, and JSON on stdout."""

import json
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

import click
import pydantic
import yaml
from rich import console as rich_console

from simulator import workers
from simulator.report import sheet, tables

BAD_INPUT = (ValueError, OSError, pydantic.ValidationError, yaml.YAMLError)
"""Errors that input causes. Readers raise subclasses of ValueError with file, line and field in the message;
a broken invariant of ours is an AssertionError and keeps its traceback."""


class InputError(ValueError):
    """Input that a command refuses; the message names file, field and remedy."""


class Interrupted(Exception):
    """A command was interrupted and has put out a partial result that says so."""


def words(error: BaseException) -> str:
    """Return one message for one error: what is wrong, where, and what was found."""
    match error:
        case pydantic.ValidationError():
            return "; ".join(_fault(fault) for fault in error.errors())
        case OSError() if error.filename:
            return f"{error.filename}: {error.strerror or error}"
        case yaml.MarkedYAMLError() if error.problem_mark:
            mark = error.problem_mark
            return f"{mark.name}, line {mark.line + 1}: {error.problem}; write valid YAML"
    return str(error) or type(error).__name__


def _fault(fault: Any) -> str:
    """Return one pydantic fault as ``spec.pods.rule: message, got 'x'``."""
    place = ".".join(str(part) for part in fault["loc"])
    return f"{place or 'document'}: {fault['msg'].lower()}, got {str(fault['input'])[:60]!r}"


def refuse(message: str) -> NoReturn:
    """Stop with exit code 2 and this message."""
    raise InputError(message)


def terminal() -> rich_console.Console:
    """Return the console for tables on stdout; a pipe gets 100 columns and no colour."""
    return rich_console.Console(width=None if sys.stdout.isatty() else 100, highlight=False)


def progress() -> rich_console.Console:
    """Return the console for people on stderr; nothing is written there when it is no terminal."""
    return rich_console.Console(stderr=True, quiet=not sys.stderr.isatty())


def show(sheets: Iterable[sheet.Sheet]) -> None:
    """Print tables on stdout."""
    tables.show(terminal(), sheets)


def put_json(value: Any) -> None:
    """Print one JSON document with sorted keys on stdout, for programs."""
    click.echo(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False))


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on stdout instead of tables."
)

workers_option = click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    default=workers.default,
    show_default="cores",
    help="Processes, at most one per run; the result is the same for any number.",
)
