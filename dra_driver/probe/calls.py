"""Calls of the library and their errors, which become `mig.HardwareError` or, where a GPU tells no such thing, a default."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pynvml  # type: ignore[import-untyped]

from dra_driver import mig
from dra_driver.probe import interface

T = TypeVar("T")

UNTOLD = (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, pynvml.NVML_ERROR_NO_PERMISSION)
"""A GPU that does not tell something is no failure."""

ENDED = (
    pynvml.NVML_ERROR_UNINITIALIZED,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
)
"""The GPU driver was unloaded or replaced under us: no call of this process will work again."""


def ours(device_name: str, call: str, error: pynvml.NVMLError) -> mig.HardwareError:
    """Return our error for one of the library."""
    kind = interface.SessionEnded if error.value in ENDED else mig.HardwareError
    return kind(f"{device_name}: {call}: {error}")


@contextlib.contextmanager
def told(device_name: str, call: str) -> Iterator[None]:
    """Turn errors of the library into ours."""
    try:
        yield
    except pynvml.NVMLError as error:
        raise ours(device_name, call, error) from error


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
