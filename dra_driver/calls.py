"""The log of all gRPC calls: number, method, duration, outcome; at level debug also what is said."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import structlog

MAX_PAYLOAD = 4096

NUMBERS = itertools.count(1)
"""Of the calls of this process, whichever of its servers they reach."""

log = structlog.get_logger()

Context = grpc.aio.ServicerContext[Any, Any]


class Log(grpc.aio.ServerInterceptor):
    """Logs the calls of one server; what the handlers log meanwhile has the number of the call too."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Return the handler of a call, which logs."""
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            log.warning("a call of no method of ours", rpc=handler_call_details.method)
            return None
        coding = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        method = str(handler_call_details.method)
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(_single(method, handler.unary_unary), **coding)
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(_stream(method, handler.unary_stream), **coding)
        return handler


def _single(method: str, work: Callable[[Any, Context], Awaitable[Any]]) -> Callable[[Any, Context], Awaitable[Any]]:
    async def logged(request: Any, context: Context) -> Any:
        number, began = next(NUMBERS), time.monotonic()
        with structlog.contextvars.bound_contextvars(call=number, rpc=method):
            log.debug("request", payload=_Text(request))
            outcome = "failed"
            try:
                response = await work(request, context)
                outcome = "answered"
                log.debug("response", payload=_Text(response))
                return response
            except asyncio.CancelledError:
                outcome = "given up"
                raise
            finally:
                log.info("rpc ended", outcome=outcome, seconds=round(time.monotonic() - began, 4))

    return logged


def _stream(
    method: str, work: Callable[[Any, Context], AsyncIterator[Any]]
) -> Callable[[Any, Context], AsyncIterator[Any]]:
    async def logged(request: Any, context: Context) -> AsyncIterator[Any]:
        told, sent, began = {"call": next(NUMBERS), "rpc": method}, 0, time.monotonic()
        log.info("stream began", **told)
        log.debug("request", payload=_Text(request), **told)
        try:
            async for response in work(request, context):
                log.debug("response", payload=_Text(response), **told)
                sent += 1
                yield response
        finally:
            log.info("stream ended", messages=sent, seconds=round(time.monotonic() - began, 4), **told)

    return logged


class _Text:
    """A message as a text that is made only where it is written."""

    def __init__(self, message: Any) -> None:
        self._message = message

    def __str__(self) -> str:
        return str(self._message)[:MAX_PAYLOAD]

    __repr__ = __str__
