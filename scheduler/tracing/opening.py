"""Starts tracing where an endpoint is named; the scheduler runs without the packages that it needs."""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import prometheus_client

from scheduler import bad_input

if TYPE_CHECKING:
    from scheduler.tracing import exporter

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def wanted(endpoint: str, environment: Mapping[str, str]) -> bool:
    """Tell whether spans are to be exported: an endpoint is named and nothing of ``OTEL_`` speaks against it."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if environment.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() == "none":
        return False
    return bool(endpoint or any(environment.get(name) for name in ENDPOINTS))


def begin(
    endpoint: str, identity: str, registry: prometheus_client.CollectorRegistry, environment: Mapping[str, str]
) -> "exporter.Tracing | None":
    """Start to export, None where nobody asks for it.

    Raises
    ------
    BadInput
        The packages are missing.
    """
    if not wanted(endpoint, environment):
        return None
    try:
        module = importlib.import_module("scheduler.tracing.exporter")
    except ModuleNotFoundError as error:
        raise bad_input.BadInput(
            f"traces need the package {error.name}, which is not installed",
            field="otlp_endpoint",
            remedy="install the extra `tracing`, or name no endpoint",
        ) from error
    found: exporter.Tracing = module.begin(endpoint, identity, registry)
    return found
