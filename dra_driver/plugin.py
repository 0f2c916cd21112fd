"""The kubelet's calls: batches of claims, each with its own answer, within the kubelet's patience.

A call fails as a whole only when nothing can be said. Work that is not done at the deadline goes on, and the kubelet's
next call waits for the same work instead of starting it again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
import structlog

from dra_driver import cdi, claim, prepared, state
from proto.dra.v1 import dra_v1_pb2 as v1
from proto.dra.v1 import dra_v1_pb2_grpc as v1_grpc
from proto.dra.v1beta1 import dra_v1beta1_pb2 as v1beta1
from proto.dra.v1beta1 import dra_v1beta1_pb2_grpc as v1beta1_grpc

PATIENCE_S = 45.0  # of the kubelet, for one call
MARGIN_S = 2.0  # to write and send the answer

T = TypeVar("T")

log = structlog.get_logger()

Answer = prepared.Claim | str
"""A prepared claim, or why it is none."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call that ended, for metrics."""

    method: str
    seconds: float
    claims: int
    failed: int


class Plugin:
    """Answers batches; one for all versions of the service."""

    def __init__(
        self,
        own: state.State,
        *,
        prepared_claim: Callable[[prepared.Claim], None] = lambda entry: None,
        ended: Callable[[Call], None] = lambda call: None,
    ) -> None:
        self._state, self._prepared, self._ended = own, prepared_claim, ended
        self._preparing: dict[str, asyncio.Task[prepared.Claim]] = {}
        self._unpreparing: dict[str, asyncio.Task[None]] = {}
        self._calls: set[asyncio.Task[Any]] = set()

    def add(self, server: grpc.aio.Server, versions: Iterable[str] = ("v1", "v1beta1")) -> None:
        """Offer the service on a server."""
        if "v1" in versions:
            v1_grpc.add_DRAPluginServicer_to_server(_Servicer(self, v1, shares=True), server)
        if "v1beta1" in versions:
            v1beta1_grpc.add_DRAPluginServicer_to_server(_Servicer(self, v1beta1, shares=False), server)

    async def prepare(self, references: Sequence[Any], within_s: float = PATIENCE_S) -> dict[str, Answer]:
        """Return an answer for each claim, by UID. No claims at all are a probe and get no answers."""
        deadline = time.monotonic() + within_s - MARGIN_S
        valid, answers = _checked(references)
        found = await asyncio.gather(*(self._read(reference, deadline) for reference in valid))
        company = await self._company(found, deadline)
        tasks: dict[claim.Reference, asyncio.Task[prepared.Claim]] = {}
        for reference, wanted in zip(valid, found, strict=True):
            if isinstance(wanted, str):
                answers[reference.uid] = wanted
            elif reference.uid in self._unpreparing:  # joining an older prepare now would be undone right after it
                answers[reference.uid] = f"{reference}: is being unprepared; a later call prepares it"
            else:
                work = self._state.prepare(reference, wanted, alone=company is None)
                tasks[reference] = _joined(self._preparing, reference.uid, work)
        answers |= await self._answers(tasks, deadline, "prepared")
        if company is not None:
            answers |= await self._unordered(answers, company, deadline)
        for answer in answers.values():
            if isinstance(answer, prepared.Claim):
                self._prepared(answer)
        return answers

    async def unprepare(self, references: Sequence[Any], within_s: float = PATIENCE_S) -> dict[str, str]:
        """Return an error, or "", for each claim, by UID."""
        deadline = time.monotonic() + within_s - MARGIN_S
        valid, answers = _checked(references)
        tasks: dict[claim.Reference, asyncio.Task[None]] = {
            reference: _joined(self._unpreparing, reference.uid, self._state.unprepare(reference.uid))
            for reference in valid
        }
        done = await self._answers(tasks, deadline, "unprepared")
        return {uid: str(error) for uid, error in answers.items()} | {
            uid: answer if isinstance(answer, str) else "" for uid, answer in done.items()
        }

    async def answered(self, within_s: float) -> None:
        """Wait until all calls that are under way have their answer, or for some time."""
        if self._calls:
            await asyncio.wait(self._calls, timeout=within_s)

    async def stop(self, within_s: float) -> None:
        """Let work that is under way come to its end, for some time; what does not is continued at the next start."""
        tasks = [*self._preparing.values(), *self._unpreparing.values()]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=within_s)
            for task in late:
                task.cancel()

    async def _company(
        self, found: Sequence[claim.ResourceClaim | str | None], deadline: float
    ) -> list[prepared.Claim] | None:
        """Return None where a pod has one claim with GPUs at most, else those of its other claims that are prepared."""
        # A claim that cannot be read now may be prepared by the pod's next call.
        with_gpus = [wanted for wanted in found if isinstance(wanted, str) or self._state.may_have_gpus(wanted)]
        asked = [self._state.company(wanted) for wanted in with_gpus if isinstance(wanted, claim.ResourceClaim)]
        try:
            async with asyncio.timeout(max(0.1, deadline - time.monotonic())):
                others = [entry for some in await asyncio.gather(*asked) for entry in some]
        except (*state.EXPECTED, TimeoutError) as error:
            log.warning("GPUs are given in no order: the pod's claims are not known", error=str(error))
            return []
        return others if others or len(with_gpus) > 1 else None

    async def _unordered(
        self, answers: Mapping[str, Answer], company: Sequence[prepared.Claim], deadline: float
    ) -> dict[str, Answer]:
        """Take the order of the GPUs from claims that have it from an earlier call; return the answers where it stays."""
        batch = [entry for entry in answers.values() if isinstance(entry, prepared.Claim)]
        failed: dict[str, Answer] = {}
        ordered = [entry for entry in batch if entry.ordered]
        for other in {entry.uid: entry for entry in (*ordered, *company)}.values():
            try:
                async with asyncio.timeout(max(0.1, deadline - time.monotonic())):
                    await self._state.leave_order(other.uid)
            except (*state.EXPECTED, TimeoutError) as error:
                why = f"the order of GPUs of {other.reference}, which hides those of its pod's other claims, stays: {error}"
                failed |= {entry.uid: f"{entry.reference}: {why}" for entry in batch}
        return failed

    async def _read(self, reference: claim.Reference, deadline: float) -> claim.ResourceClaim | str | None:
        """Return the claim as it stands, or what is wrong with it."""
        try:
            async with asyncio.timeout(max(0.1, deadline - time.monotonic())):
                return await self._state.wanted(reference)
        except TimeoutError:
            return f"{reference}: the API server did not answer in time"
        except Exception as error:  # one claim that cannot be read must not fail the others of its pod
            return _told(reference, error)

    async def _answers(
        self, tasks: Mapping[claim.Reference, asyncio.Task[Any]], deadline: float, verb: str
    ) -> dict[str, Any]:
        """Wait for tasks until the deadline; return results, and errors as texts, by UID."""
        if not tasks:
            return {}
        await asyncio.wait(tasks.values(), timeout=max(0.1, deadline - time.monotonic()))
        return {reference.uid: _answer(reference, task, verb) for reference, task in tasks.items()}

    async def serve(
        self, method: str, context: grpc.aio.ServicerContext[Any, Any], claims: Sequence[Any]
    ) -> dict[str, Any]:
        """Carry out one call."""
        began = time.monotonic()
        if (call := asyncio.current_task()) is not None:
            self._calls.add(call)  # it ends when the answer is on its way
            call.add_done_callback(self._calls.discard)
        within_s = context.time_remaining() or PATIENCE_S
        work: Callable[..., Awaitable[dict[str, Any]]] = self.prepare if method == "prepare" else self.unprepare
        with structlog.contextvars.bound_contextvars(method=method):
            answers = await work(claims, min(within_s, PATIENCE_S))
            failed = {uid: answer for uid, answer in answers.items() if isinstance(answer, str) and answer}
            seconds = time.monotonic() - began
            for uid, error in failed.items():
                log.error("claim failed", claim=uid, error=error)
            log.info("call ended", claims=len(claims), failed=len(failed), seconds=round(seconds, 4))
        self._ended(Call(method, seconds, len(claims), len(failed)))
        return answers

    @property
    def driver(self) -> str:
        return self._state.parts.driver


class _Servicer:
    """One version of the service; only v1 knows share ids."""

    def __init__(self, plugin: Plugin, messages: Any, *, shares: bool) -> None:
        self._plugin, self._messages, self._shares = plugin, messages, shares

    async def NodePrepareResources(  # noqa: N802 (the name of the call)
        self, request: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> Any:
        answers = await self._plugin.serve("prepare", context, request.claims)
        response = self._messages.NodePrepareResourcesResponse()
        for uid, answer in answers.items():
            if isinstance(answer, str):
                response.claims[uid].error = answer
            else:
                response.claims[uid].devices.extend(self._devices(answer))
        return response

    async def NodeUnprepareResources(  # noqa: N802 (the name of the call)
        self, request: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> Any:
        answers = await self._plugin.serve("unprepare", context, request.claims)
        response = self._messages.NodeUnprepareResourcesResponse()
        for uid, error in answers.items():
            response.claims[uid].error = error
        return response

    def _devices(self, entry: prepared.Claim) -> Iterable[Any]:
        for held, ids in zip(entry.devices, cdi.ids(entry, self._plugin.driver), strict=True):
            message = self._messages.Device(
                request_names=[held.base_request], pool_name=held.pool, device_name=held.name, cdi_device_ids=ids
            )
            if self._shares and held.share_id:
                message.share_id = held.share_id
            yield message


def _checked(references: Sequence[Any]) -> tuple[list[claim.Reference], dict[str, Answer]]:
    """Return the claims that a call names, each once, and an answer for each that cannot be one."""
    valid: dict[str, claim.Reference] = {}
    answers: dict[str, Answer] = {}
    for named in references:
        try:
            valid[named.uid] = claim.reference(named.namespace, named.name, named.uid)
        except claim.ClaimError as error:
            answers[named.uid] = str(error)
    return list(valid.values()), answers


def _joined(running: dict[str, asyncio.Task[T]], uid: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Return the task that works on a claim already, or start one."""
    if uid in running:
        work.close()
        return running[uid]
    task = running[uid] = asyncio.create_task(work)
    task.add_done_callback(lambda done: running.pop(uid, None))
    return task


def _answer(reference: claim.Reference, task: asyncio.Task[Any], verb: str) -> Any:
    """Return what a task made, or the text of its error."""
    if not task.done():
        return f"{reference}: not {verb} within the deadline; the work goes on and the next call waits for it"
    if task.cancelled():
        return f"{reference}: not {verb}: the driver is stopping; the next instance continues"
    error = task.exception()
    return task.result() if error is None else _told(reference, error)


def _told(reference: claim.Reference, error: BaseException) -> str:
    """Return the text of an error, which begins with the name of the claim."""
    if not isinstance(error, state.EXPECTED):
        log.error("defect of the driver", claim=str(reference), exc_info=error)
        return f"{reference}: defect of the driver: {type(error).__name__}: {error}"
    text = str(error) or type(error).__name__
    return text if text.startswith(f"{reference}:") else f"{reference}: {text}"
