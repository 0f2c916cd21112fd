"""Traces of gangs from admission to binding, for OpenTelemetry.

context  -- W3C trace context, and which trace a gang is in
spans    -- spans made of what the observer tells
exporter -- sends them by OTLP/HTTP; needs the packages of the extra `tracing`, as `spans` does
opening  -- starts all that where an endpoint is named
"""
