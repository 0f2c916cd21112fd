"""Calls of the library and their errors, which become `mig.HardwareError` or, where a GPU tells no such thing, a default."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pynvml  # type: ignore[import-untyped]

from dra_driver import mig

T = TypeVar("T")

UNTOLD = (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, pynvml.NVML_ERROR_NO_PERMISSION)
"""A GPU that does not tell something is no failure."""


@contextlib.contextmanager
def told(device_name: str, call: str) -> Iterator[None]:
    """Turn errors of the library into ours."""
    try:
        yield
    except pynvml.NVMLError as error:
        raise mig.HardwareError(f"{device_name}: {call}: {error}") from error


def asked(call: Callable[[], T], default: T) -> T:
    """Return what the GPU tells, or a default where it does not tell such things."""
    try:
        return call()
    except pynvml.NVMLError as error:
        if error.value in (*UNTOLD, pynvml.NVML_ERROR_INVALID_ARGUMENT):
            return default
        raise


def text(value: str | bytes) -> str:
    """Return a text of the library."""
    return value.decode() if isinstance(value, bytes) else value


def key(handle: Any) -> int:
    """Return what tells handles apart."""
    return ctypes.cast(handle, ctypes.c_void_p).value or 0
