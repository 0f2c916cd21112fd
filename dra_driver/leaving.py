"""The end of the process where calls into the hardware never return: the interpreter would wait for them for ever."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator

import click
import structlog

from dra_driver import threads

log = structlog.get_logger()


@contextlib.contextmanager
def whatever_hangs() -> Iterator[None]:
    """Leave the process at the end of the block if calls hang, with what ended the block told as it would be without them."""
    try:
        yield
    except BaseException as error:
        if threads.under_way():
            _leave(_told(error))
        raise
    if threads.under_way():
        _leave(0)


def _told(error: BaseException) -> int:
    """Tell an error and return the exit code that it stands for."""
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    traceback.print_exception(error)
    return 1


def _leave(code: int) -> None:
    """End the process below the calls; sockets are closed and records written."""
    log.error("calls into the hardware do not return; the process ends without them", calls=threads.under_way())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
