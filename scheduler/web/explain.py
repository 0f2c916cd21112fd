"""Questions over HTTP: routes that read, answers with a type of their own, and errors as problem documents (RFC 9457).

Who answers is passed in. A question says its path, its parameters and the type of its answer; the routes and the OpenAPI
document are both made from that, so that they can't differ.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec
import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from scheduler import bad_input
from scheduler.web import server, wire

MAX_MANIFEST = 1024 * 1024
"""Bytes of a manifest."""

MAX_TEXT = 253
"""Characters of a name in a path or a query: the longest name that an object can have."""

PROBLEM = "application/problem+json"

log = structlog.get_logger()


Result = TypeVar("Result")


class NotFound(LookupError):
    """There is no such object; the message names it and says where to look."""


class NotSynced(RuntimeError):
    """The state is not read yet."""


class Busy(RuntimeError):
    """Somebody else's question is being answered."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """What may be asked with a question.

    Attributes
    ----------
    kind : type
        `str` or `int`.
    default : str or int or None
        None for a part of the path.
    most : int
        The largest number.
    """

    name: str
    text: str
    kind: type[str] | type[int] = str
    default: str | int | None = None
    most: int = 0

    @property
    def in_path(self) -> bool:
        """Return whether it is a part of the path."""
        return self.default is None


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as it came: parameters checked, the body of a POST at most `MAX_MANIFEST` bytes."""

    words: Mapping[str, str] = field(default_factory=dict)
    numbers: Mapping[str, int] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Question:
    """One route.

    Attributes
    ----------
    path : str
        With the names of parameters in braces.
    answer : type
        A msgspec Struct.
    ask : callable
        Raises `NotFound`, `NotSynced`, `Busy`, or ValueError for what can't be read.
    reads : str
        What the body is, for people; "" for a GET.
    """

    path: str
    name: str
    text: str
    answer: type[msgspec.Struct]
    ask: Callable[[Asked], Awaitable[msgspec.Struct]]
    parameters: tuple[Parameter, ...] = ()
    reads: str = ""

    @property
    def method(self) -> str:
        """Return GET or POST."""
        return "POST" if self.reads else "GET"

    def route(self, problem: Callable[[int, str], msgspec.Struct]) -> Route:
        """Return the route; `problem` makes the body of an error from status and detail."""

        async def answered(request: Request) -> Response:
            return await _answer(self, problem, request)

        return Route(self.path, answered, methods=[self.method])


def routes(questions: Sequence[Question], problem: Callable[[int, str], msgspec.Struct]) -> tuple[Route, ...]:
    """Return the routes of questions."""
    return tuple(one.route(problem) for one in questions)


async def _answer(question: Question, problem: Callable[[int, str], msgspec.Struct], request: Request) -> Response:
    """Read, ask, answer; what goes wrong becomes a status and a sentence."""
    try:
        return _json(await question.ask(await _asked(question, request)), 200)
    except NotFound as error:
        return _json(problem(404, str(error)), 404)
    except (wire.BadRequest, bad_input.BadInput) as error:
        return _json(problem(400, str(error)), 400)
    except ClientDisconnect:
        return _json(problem(400, "the client closed the connection before its body was whole"), 400)
    except (NotSynced, Busy) as error:
        return _json(problem(503, str(error)), 503, {"Retry-After": "1"})


def _json(value: Any, status: int, headers: Mapping[str, str] | None = None) -> Response:
    kind = "application/json" if status == HTTPStatus.OK else PROBLEM
    return Response(msgspec.json.encode(value), status, headers, kind)


async def _asked(question: Question, request: Request) -> Asked:
    """Check what was asked.

    Raises
    ------
    BadRequest
        Unknown, repeated or malformed parameters, or a body that is too large.
    """
    known = {one.name: one for one in question.parameters if not one.in_path}
    for name in request.query_params:
        if name not in known:
            listed = ", ".join(known) or "none"
            raise wire.BadRequest(f"query parameter {name[:40]!r} is unknown; {question.path} has {listed}")
    words: dict[str, str] = {}
    numbers: dict[str, int] = {}
    for one in question.parameters:
        text = _text(one, request)
        if one.kind is int:
            numbers[one.name] = _number(one, text)
        else:
            words[one.name] = text
    body = bytes(await server.read_body(request, MAX_MANIFEST)) if question.reads else b""
    return Asked(words, numbers, body)


def _text(one: Parameter, request: Request) -> str:
    """Return a parameter as it was written, or its default."""
    if one.in_path:
        found = [str(request.path_params[one.name])]
    else:
        found = request.query_params.getlist(one.name) or [str(one.default)]
    if len(found) > 1:
        raise wire.BadRequest(f"query parameter {one.name} is given {len(found)} times; give it once")
    if len(found[0]) > MAX_TEXT:
        raise wire.BadRequest(f"{one.name} has {len(found[0])} characters; names have at most {MAX_TEXT}")
    return found[0]


def _number(one: Parameter, text: str) -> int:
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= 10 else -1
    if not 0 <= number <= one.most:
        raise wire.BadRequest(f"{one.name} is {text[:20]!r}; write a whole number from 0 to {one.most}")
    return number


@dataclass(slots=True, eq=False)
class OneAtATime:
    """Lets one costly question be answered at a time, off the loop, and refuses others after a short wait."""

    wait_s: float = 5.0
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def run(self, job: Callable[[], Result]) -> Result:
        """Run a job in a thread.

        Raises
        ------
        Busy
        """
        try:
            async with asyncio.timeout(self.wait_s):
                await self._lock.acquire()
        except TimeoutError:
            raise Busy("another question is being answered; ask again in a second") from None
        try:
            return await asyncio.to_thread(job)
        finally:
            self._lock.release()
